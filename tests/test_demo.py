import subprocess
import sys

import pytest

from medi_monai.demo import main
from medi_monai.utils.errors import InputError


def test_the_demo_says_where_it_looks_for_the_bundle(tmp_path):
    with pytest.raises(InputError, match="--bundle_root is the folder"):
        main(["--bundle_root", str(tmp_path)])


@pytest.mark.parametrize("module", ["medi_monai", "medi_monai.demo"])
def test_help_answers_before_anything_heavy_is_imported(module):
    code = (
        "import runpy, sys\n"
        "sys.argv = [sys.argv[1], '--help']\n"
        "try:\n    runpy.run_module(sys.argv[0], run_name='__main__')\n"
        "except SystemExit:\n    print([name for name in ('torch', 'numpy', 'pandas', 'monai') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: ") and done.stdout.endswith("[]\n")

from pathlib import Path

import pytest

from medi_monai.runs.option_tables import OPTIONS_PAGE, main, options_page
from medi_monai.utils.errors import InputError

BUNDLES = sorted((Path(__file__).parents[2] / "bundles").glob("*/"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.name)
def test_the_docs_have_the_options_as_they_are_declared(bundle):
    written = (bundle / OPTIONS_PAGE).read_text(encoding="utf-8")
    assert written == options_page(bundle), "run: python -m medi_monai.runs.option_tables"
    assert "| `seed` | `0` |" in written


def test_without_a_bundle_it_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no folder `bundles`"):
        main([])

"""Folders of runs from the command line, whose processes end with them."""

import subprocess
import sys

import pytest

#: a process that begins a run as the command line does, and ends before it has written anything, or after
RUN = """
import sys
from pathlib import Path
sys.argv[0] = "monai/bundle/__main__.py"
from medi_monai.utils.run_dir import begin_run
begin_run(sys.argv[1], sys.argv[1] + "/model")
for name in sys.argv[2:]:
    Path(sys.argv[1], name).write_text("x")
"""


@pytest.mark.parametrize(("before", "written", "after"), [
    ((), (), set()),
    ((), ("model/a.pt",), {"new", "new/.run.lock", "new/model", "new/model/.run.lock", "new/model/a.pt"}),
    (("new",), (), {"new", "new/.run.lock"}),
    (("new", "new/model"), (), {"new", "new/.run.lock", "new/model", "new/model/.run.lock"}),
])  # fmt: skip
def test_a_run_that_wrote_nothing_removes_the_folders_it_created(tmp_path, before, written, after):
    for name in before:
        (tmp_path / name).mkdir()
    subprocess.run([sys.executable, "-c", RUN, str(tmp_path / "new"), *written], check=True)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")} == after

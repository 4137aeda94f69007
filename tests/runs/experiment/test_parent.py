"""The process from which runs are forked does not clear its modules; its copies end as usual."""

import subprocess
import sys

END = """
import os, sys
import medi_monai.runs.experiment.parent
class Late:
    def __del__(self, write=os.write):
        write(1, b"cleared ")
sys.late = Late()
if os.fork() == 0:
    sys.exit(3)
os.write(1, b"code %d " % os.waitstatus_to_exitcode(os.wait()[1]))
"""


def test_it_ends_at_once_and_its_copies_as_usual():
    done = subprocess.run([sys.executable, "-c", END], capture_output=True, text=True, check=True)
    assert done.stdout == "cleared code 3 "

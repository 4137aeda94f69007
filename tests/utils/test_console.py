import os
import signal
import subprocess
import sys

import pytest

WRITES = """
import sys, pathlib
from medi_monai.utils.console import keep_console
keep_console()
for number in range(5000):
    print("line", number, flush=True)
    print("bar", number, file=sys.stderr)
pathlib.Path(sys.argv[1]).write_text("went on")
"""


def python(code, *arguments):
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.mark.parametrize("redirect", ["| head -1", "2>&1 | head -1", ">&-", ">&- 2>&-", "> /dev/full 2>&1"])
def test_a_console_that_is_closed_or_full_ends_no_run(tmp_path, redirect):
    if "full" in redirect and not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full")
    command = " ".join(f"'{word}'" for word in python(WRITES, tmp_path / "end"))
    command = f"({command}; echo $? > '{tmp_path / 'code'}') {redirect}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (tmp_path / "end").read_text() == "went on"
    assert (tmp_path / "code").read_text() == "0\n"
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


STOPS = """
import signal, sys
from medi_monai.utils.console import stop_like_ctrl_c
stop_like_ctrl_c()
try:
    signal.raise_signal(int(sys.argv[1]))
    print("ignored")
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize(
    ("number", "shell", "printed"),
    [
        (signal.SIGINT, "", "stopped"),
        (signal.SIGTERM, "", "stopped"),
        (signal.SIGHUP, "", "stopped"),
        (signal.SIGXCPU, "", "stopped"),
        (signal.SIGHUP, "trap '' HUP; ", "ignored"),
        (signal.SIGINT, "trap '' INT; ", "ignored"),
    ],
)
def test_signals_stop_a_run_as_ctrl_c_does_unless_they_are_ignored(number, shell, printed):
    command = " ".join(f"'{word}'" for word in python(STOPS, int(number)))
    done = subprocess.run(["bash", "-c", f"{shell}{command}"], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{printed}\n", done.stderr


OUT_OF_TIME = """
import time
from medi_monai.utils.console import stop_like_ctrl_c
stop_like_ctrl_c()
try:
    while True:
        pass
except KeyboardInterrupt:
    # the signal comes each second
    end = time.process_time() + 1.5
    while time.process_time() < end:
        pass
    print("saved")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_the_limit_of_cpu_time_stops_a_run_once():
    command = " ".join(f"'{word}'" for word in python(OUT_OF_TIME))
    done = subprocess.run(["bash", "-c", f"ulimit -S -t 5; {command}"], capture_output=True, text=True, timeout=100)
    assert done.stdout == "saved\n" and "the limit of CPU time" in done.stderr, done.stderr

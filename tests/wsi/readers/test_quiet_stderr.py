import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from medi_monai.utils.optional import quiet_stderr


def printed(capfd, work):
    work()
    os.write(2, b"still heard\n")
    return capfd.readouterr().err


def test_standard_error_is_silent_within_and_heard_after(capfd):
    def work():
        with quiet_stderr():
            os.write(2, b"not heard\n")
            with quiet_stderr():
                os.write(2, b"not heard either\n")
            os.write(2, b"nor this\n")
        with pytest.raises(ZeroDivisionError), quiet_stderr():
            raise ZeroDivisionError

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert printed(capfd, work) == "still heard\n"
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_threads_that_silence_standard_error_at_once_give_it_back(capfd):
    # the second would take the silence of the first for what was there, and restore it for good
    barrier = threading.Barrier(2)

    def work(delay):
        barrier.wait()
        time.sleep(delay)
        with quiet_stderr():
            time.sleep(0.05)

    def run():
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(work, (0, 0.02)))

    assert printed(capfd, run) == "still heard\n"

import math
import time

import pytest

from medi_monai.utils.workers import map_processes


def test_results_come_in_the_order_of_the_jobs():
    assert list(map_processes(math.sqrt, [9.0, 1.0, 4.0], 2, "taking roots", "root")) == [3.0, 1.0, 2.0]


def test_an_error_drops_the_jobs_not_yet_begun():
    start = time.perf_counter()
    with pytest.raises(ValueError):
        # a negative time to sleep is the error, and the others would take a minute
        list(map_processes(time.sleep, [-1.0, *[1.0] * 60], 1, "sleeping", "nap"))
    assert time.perf_counter() - start < 20


def test_closing_drops_the_jobs_not_yet_begun():
    start = time.perf_counter()
    results = map_processes(time.sleep, [0.01, *[1.0] * 60], 1, "sleeping", "nap")
    next(results)
    results.close()
    assert time.perf_counter() - start < 20

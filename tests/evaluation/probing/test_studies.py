"""Statistics of the probes in simulated studies; ``tests/benchmarks/bench_statistics.py`` has many more of them."""

from dataclasses import replace

import numpy as np
import pytest
from simulated_studies import DEMO, FEW, NULLS, study

ONE_DRAWN = replace(DEMO, draws=4, patients=3, images=4, generated=8)


@pytest.mark.parametrize(("design", "null"), [(FEW, "trainings"), (ONE_DRAWN, "sets"), (ONE_DRAWN, "halves")])
def test_intervals_contain_no_difference_where_there_is_none(design, null):
    assert null in NULLS
    found = [study(design, null, seed) for seed in range(16)]
    for figure in ("balanced_accuracy", "worst_group_accuracy"):
        rows = [one[figure] for one in found]
        # of 16 intervals with a level of 0.95, at most three miss in 99 % of simulations
        assert sum(low <= 0 <= high for low, high in (row.difference.ci95 for row in rows)) >= 13
        deviation = np.std([row.difference.value for row in rows], ddof=1)
        assert 0.6 < np.mean([row.standard_error for row in rows]) / deviation < 2.2


def test_a_planted_difference_is_found():
    found = [study(replace(DEMO, wrong=0.8), "trainings", seed) for seed in range(6)]
    rows = [one["balanced_accuracy"] for one in found]
    assert np.mean([row.difference.value for row in rows]) > 0.08
    assert sum(row.p_value < 0.05 for row in rows) >= 4

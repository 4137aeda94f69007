"""Choosing among generated or real images: counts by hand."""

import numpy as np
import pandas as pd
import pytest

from medi_monai.alignment import make_target
from medi_monai.cohort import Cohort
from medi_monai.engines.alternatives import largest_subset, resampled_cohort
from medi_monai.utils.errors import InputError

VALUES = {"sex": ("female", "male")}


def target(female):
    return make_target({"female": female, "male": 1 - female}, VALUES)


@pytest.mark.parametrize(
    ("counts", "female", "expected"),
    [((20, 80), 0.5, (20, 20)), ((20, 80), 0.25, (20, 60)), ((20, 80), 0.1, (9, 79)), ((5, 5), 1.0, (5, 0))],
)
def test_the_largest_subset_has_the_shares_and_no_row_twice(counts, female, expected):
    groups = np.random.default_rng(0).permutation(np.repeat([0, 1], counts))
    chosen = largest_subset(groups, target(female), seed=3)
    assert tuple(np.bincount(groups[chosen], minlength=2)) == expected
    assert len(set(chosen)) == len(chosen) and (np.diff(chosen) > 0).all()


def test_unread_rows_are_never_chosen_and_a_missing_subgroup_is_said():
    groups = np.array([-1, 0, 1, -1, 1])
    assert set(largest_subset(groups, target(0.5), 0)) <= {1, 2, 4}
    with pytest.raises(InputError, match="'female'"):
        largest_subset(np.array([1, 1]), target(0.5), 0)


def test_rare_rows_in_training_are_repeated_evenly(tmp_path):
    table = pd.DataFrame({"image": [f"{row}.png" for row in range(11)], "sex": ["female"] * 2 + ["male"] * 8 + [""]})
    found = resampled_cohort(Cohort(table, tmp_path), target(0.5), seed=1).table
    assert dict(found["sex"].value_counts()) == {"female": 5, "male": 5}
    assert sorted(found.loc[found["sex"] == "female", "image"].value_counts()) == [2, 3]
    assert found.loc[found["sex"] == "male", "image"].is_unique
    with pytest.raises(InputError, match="'female'"):
        resampled_cohort(Cohort(table[2:10], tmp_path), target(0.5))

import math

import numpy as np
import pandas as pd
import pytest

from medi_monai.evaluation.alignment.pairs import _dealt, consistency, same_noise
from medi_monai.evaluation.alignment.predictions import ArmPredictions


def test_the_same_noise_is_that_of_prompt_number_and_seed():
    before = pd.DataFrame({"caption": ["a", "a", "b"], "number": ["0", "1", "0"], "seed": ["0", "0", "0"]})
    after = pd.DataFrame({"caption": ["b", "a", "a"], "number": ["0", "1", "0"], "seed": ["0", "1", "0"]})
    first, second = same_noise(before, after, "caption")
    assert sorted(zip(first.tolist(), second.tolist())) == [(0, 2), (2, 0)]
    assert len(same_noise(before.drop(columns="number"), after, "caption")[0]) == 0


def test_consistency_by_hand():
    def arm(codes, features):
        return ArmPredictions({"judge": {"shade": np.array(codes)}}, np.array(features, np.float32))

    before = arm([0, 0, 1], [[1, 0], [0, 1], [1, 0]])
    after = arm([0, 1, 1], [[1, 0], [1, 0], [0.6, 0.8]])
    rows = np.arange(3), np.arange(3)
    made = consistency(before, after, rows, "judge", "shade")
    assert (made["num_stayed"], made["num_changed"]) == (2, 1)
    assert made["stayed"]["value"] == pytest.approx(0.8) and made["stayed"]["n"] == 2
    half = 1.959964 * np.std([1, 0.6], ddof=1) / math.sqrt(2)
    assert made["stayed"]["ci95"] == pytest.approx([0.8 - half, 0.8 + half])
    assert made["changed"]["value"] == pytest.approx(0) and made["changed"]["ci95"] is None
    others = [np.dot(before.features[i], after.features[j]) for i in range(3) for j in range(3) if i != j]
    assert made["unrelated"]["value"] == pytest.approx(np.mean(others))


def test_pictures_are_dealt_evenly():
    assert _dealt(np.array([96, 1]), 12) == [11, 1] and _dealt(np.array([50, 50]), 12) == [6, 6]
    assert _dealt(np.array([2, 3]), 12) == [2, 3] and _dealt(np.array([9] * 12), 12) == [1] * 12
    assert _dealt(np.array([], int), 12) == []

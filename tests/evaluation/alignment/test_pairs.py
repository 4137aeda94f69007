import math

import numpy as np
import pandas as pd
import pytest

from medi_monai.evaluation.alignment.pairs import _dealt, consistency, same_noise, standardized
from medi_monai.evaluation.alignment.predictions import ArmPredictions


def test_the_same_noise_is_that_of_prompt_number_and_seed():
    before = pd.DataFrame({"caption": ["a", "a", "b"], "number": ["0", "1", "0"], "seed": ["0", "0", "0"]})
    after = pd.DataFrame({"caption": ["b", "a", "a"], "number": ["0", "1", "0"], "seed": ["0", "1", "0"]})
    first, second = same_noise(before, after, "caption")
    assert sorted(zip(first.tolist(), second.tolist())) == [(0, 2), (2, 0)]
    assert len(same_noise(before.drop(columns="number"), after, "caption")[0]) == 0


def test_consistency_by_hand():
    before, after = (ArmPredictions({"judge": {"shade": np.array(codes)}}) for codes in ([0, 0, 1], [0, 1, 1]))
    # only directions count
    features = np.array([[1, 0], [0, 2], [3, 0]], float), np.array([[5, 0], [1, 0], [0.6, 0.8]])
    rows = np.arange(3), np.arange(3)
    made = consistency((before, after), features, rows, "judge", "shade")
    assert (made["num_stayed"], made["num_changed"]) == (2, 1)
    assert made["stayed"]["value"] == pytest.approx(0.8) and made["stayed"]["n"] == 2
    half = 1.959964 * np.std([1, 0.6], ddof=1) / math.sqrt(2)
    assert made["stayed"]["ci95"] == pytest.approx([0.8 - half, 0.8 + half])
    assert made["changed"]["value"] == pytest.approx(0) and made["changed"]["ci95"] is None
    first, second = (vectors / np.linalg.norm(vectors, axis=1)[:, None] for vectors in features)
    others = [np.dot(first[i], second[j]) for i in range(3) for j in range(3) if i != j]
    assert made["unrelated"]["value"] == pytest.approx(np.mean(others))


def test_standardized_features_of_unrelated_images_have_no_similarity():
    rng = np.random.default_rng(0)
    # positive features of very different scales, one of them constant, as of any encoder
    scales = np.array([1e-3, 1.0, 50.0, 0.0])
    before, noise = (5 * scales + rng.normal(size=(2000, 4)) * scales for _ in range(2))
    made = standardized({"before": before, "after": before + 0.01 * scales, "noise": noise}, "before")
    assert made["before"].shape == (2000, 3)
    assert np.abs(made["before"].mean(0)).max() < 1e-9 and made["before"].std(0) == pytest.approx(1)

    def cosine(first, second):
        return ((first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)).mean()

    raw = {"before": before, "noise": noise}
    assert cosine(raw["before"], raw["noise"]) > 0.9
    assert abs(cosine(made["before"], made["noise"])) < 0.05 and cosine(made["before"], made["after"]) > 0.99


def test_pictures_are_dealt_evenly():
    assert _dealt(np.array([96, 1]), 12) == [11, 1] and _dealt(np.array([50, 50]), 12) == [6, 6]
    assert _dealt(np.array([2, 3]), 12) == [2, 3] and _dealt(np.array([9] * 12), 12) == [1] * 12
    assert _dealt(np.array([], int), 12) == []

import math
from itertools import combinations

import numpy as np
import pytest

from medi_monai.evaluation.diversity import feature_spread, relative_variance


def test_the_spread_of_features_is_the_mean_over_pairs():
    features = np.random.default_rng(0).normal(size=(40, 5))
    spread = feature_spread(features)
    assert spread["value"] == pytest.approx(np.mean([np.linalg.norm(a - b) for a, b in combinations(features, 2)]))
    # by the jackknife
    left = [np.mean([np.linalg.norm(a - b) for a, b in combinations(np.delete(features, i, 0), 2)]) for i in range(40)]
    error = math.sqrt(39 / 40 * np.sum((np.array(left) - np.mean(left)) ** 2))
    assert spread["ci95"][1] - spread["value"] == pytest.approx(1.96 * error, rel=0.1)
    assert feature_spread(features[:1]) == {"value": None, "ci95": None, "n": 1}


def variance(value):
    return {"pixel_variance": {"value": value, "ci95": None, "n": 9}}


def test_the_relative_variance_is_the_mean_ratio_to_real_images():
    by_group = {
        0: {"real": variance(100.0), "a": variance(50.0)},
        1: {"real": variance(10.0), "a": variance(12.0)},
        2: {"real": variance(None), "a": variance(3.0)},
    }
    assert relative_variance(by_group, "a") == {"value": pytest.approx((0.5 + 1.2) / 2), "ci95": None, "n": 2}
    assert relative_variance({2: by_group[2]}, "a")["value"] is None

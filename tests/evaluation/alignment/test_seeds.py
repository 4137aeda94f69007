import math

import numpy as np
import pytest
from scipy import stats

from medi_monai.evaluation.alignment.seeds import expand_seeds, pool_figures, pool_seeds
from medi_monai.metrics import interval_around
from medi_monai.utils.errors import InputError


def figure(value, half):
    return {"value": value, "ci95": [value - half, value + half], "n": 10}


def test_lists_of_folders_are_seeds():
    folders, seeds = expand_seeds({"before": "b", "after": ["a", "c", "d"], "resampled": "r"})
    assert folders == {"before": "b", "after": "a", "after 2": "c", "after 3": "d", "resampled": "r"}
    assert seeds == {"after": ["after", "after 2", "after 3"]}
    assert expand_seeds({"before": ["b"], "after": ["a"]}) == ({"before": "b", "after": "a"}, {})
    for given, message in (
        ({"after": []}, "different folders"),
        ({"after": ["a", "a"]}, "different folders"),
        ({"before": ["a", "b"]}, "give one folder"),
    ):
        with pytest.raises(InputError, match=message):
            expand_seeds(given)


def test_the_interval_by_hand():
    values, error = [0.4, 0.5, 0.6], 0.02
    made = pool_figures([figure(value, 1.959964 * error) for value in values])
    between, within = np.var(values, ddof=1) / 3, error**2
    df = (between + within) ** 2 / (between**2 / 2)
    half = stats.t.ppf(0.975, df) * math.sqrt(between + within)
    assert made["value"] == pytest.approx(0.5) and made["ci95"] == pytest.approx([0.5 - half, 0.5 + half])
    # seeds that agree leave the interval of a single one
    same = pool_figures([figure(0.5, 0.1)] * 4)
    assert same["ci95"] == pytest.approx([0.4, 0.6])


def test_ratios_are_averaged_as_logarithms():
    made = pool_figures([{"value": 0.5, "ci95": [0.25, 1.0]}, {"value": 2.0, "ci95": [1.0, 4.0]}], is_ratio=True)
    assert made["value"] == pytest.approx(1) and made["ci95"][0] * made["ci95"][1] == pytest.approx(1)
    assert made["ci95"][1] > 4


def test_undefined_figures_stay_so():
    assert pool_figures([figure(0.5, 0.1), {"value": None, "ci95": None}]) == {"value": None, "ci95": None}
    assert pool_figures([figure(0.5, 0.1), {"value": 0.6, "ci95": None}]) == {"value": 0.55, "ci95": None}


def test_intervals_cover_the_mean_of_all_seeds():
    """Seeds and real images are drawn anew: the interval covers in 95 % of studies, and that of one seed in few."""
    rng, spread, noise, num = np.random.default_rng(0), 0.3, 0.1, 5
    covered, alone = [], []
    for _ in range(400):
        shared = rng.normal(0, noise)
        own = rng.normal(0, spread, num) + shared
        low, high = pool_figures([figure(value, 1.959964 * noise) for value in own])["ci95"]
        covered.append(low <= 0 <= high)
        single = interval_around(own[0], rng.normal(0, noise, 200))
        alone.append(single[0] <= 0 <= single[1])
    assert np.mean(covered) > 0.93 and np.mean(alone) < 0.7


def test_every_figure_of_an_arm_is_pooled_in_place():
    seeds = {"after": ["after", "after 2"]}
    figures = {
        "part": "sex",
        "proportions": {arm: {"sex": {"f": figure(value, 0.1)}} for arm, value in
                        (("before", 0.2), ("after", 0.4), ("after 2", 0.6))},
        "fidelity": {"all": {"counts": {"before": 5, "after": 6, "after 2": 8},
                             "arms": {arm: {"ratio": {"value": value, "ci95": None, "n": 3}} for arm, value in
                                      (("before", 1.0), ("after", 0.5), ("after 2", 2.0))}}},
        "by_prompt": [{"arms": {"before": {"few": False}, "after": {"few": True}, "after 2": {"few": False}}}],
        "notes": ["one"],
    }  # fmt: skip
    made = pool_seeds(figures, seeds)
    share = made["proportions"]["after"]["sex"]["f"]
    assert (
        share["value"] == pytest.approx(0.5) and share["n"] == 20 and list(made["proportions"]) == ["before", "after"]
    )
    assert made["proportions"]["before"] == figures["proportions"]["before"]
    assert made["fidelity"]["all"]["arms"]["after"]["ratio"]["value"] == pytest.approx(1)
    assert made["fidelity"]["all"]["counts"] == {"before": 5, "after": 14}
    assert made["by_prompt"] == [{"arms": {"before": {"few": False}, "after": {"few": False}}}]
    assert made["notes"] == ["one"] and made["part"] == "sex"
    assert pool_seeds(figures, {}) == figures

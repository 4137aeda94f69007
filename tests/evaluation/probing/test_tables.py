import numpy as np
import pandas as pd
import pytest

from medi_monai.evaluation.probing.scoring import COUNTED, FIGURES
from medi_monai.evaluation.probing.tables import _arm, _comparisons, _correlation, _curves, long_table
from medi_monai.metrics import holm

PATIENTS, DRAWS, REPLICATES = 30, 10, 40


def draws(effect=0.0, seed=0, noise=0.01, by_patient=0.002):
    """One arm: a figure of every draw that patients add up to, and an effect that all or few patients have."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(99).random(PATIENTS) / PATIENTS
    own = rng.standard_normal(PATIENTS) * by_patient
    found = []
    for _ in range(DRAWS):
        gain = base + own + effect / PATIENTS + rng.standard_normal(PATIENTS) * noise / PATIENTS
        value = float(gain.sum())
        spread = [value + float(rng.choice(own, PATIENTS).sum() - own.sum()) for _ in range(REPLICATES)]
        found.append(
            {
                "figures": dict.fromkeys(FIGURES, value),
                "replicates": dict.fromkeys(COUNTED, spread),
                "gain": {f"p{n}": float(one) for n, one in enumerate(gain)},
                "worst_group": {"group": ["A", "n"], "n": 12, "num_groups": 3, "num_too_small": 1},
                "per_center": {"n": {"value": value, "n": 5, "num_classes": 2}},
                "per_class": {"A": {"value": None, "n": 0}},
                "demographics": {
                    "sex": {"equal_opportunity": None, "equalized_odds": value, "groups": {"f": 3, "m": 4}}
                },
                "num_real": 10,
                "num_added": 0,
                "c": 1.0,
                "converged": True,
            }
        )
    return found


def test_null_arms_are_alike_and_a_planted_effect_is_found():
    found = _comparisons({"medi": draws(0.3), "real": draws(seed=1), "cls": draws(0.3, seed=2)}, "medi")
    rows = {(row["figure"], row["arms"][1]): row for row in found}
    assert set(rows) == {(figure, arm) for figure in FIGURES for arm in ("real", "cls")}
    effect, null = rows["balanced_accuracy", "real"], rows["balanced_accuracy", "cls"]
    assert effect["p_value"] < 0.01 and effect["difference"]["value"] == pytest.approx(0.3, abs=0.05)
    assert effect["difference"]["ci95"][0] > 0.2
    assert effect["p_value"] == max(effect["p_draws"], effect["p_patients"]) and effect["num_patients"] == PATIENTS
    assert null["p_value"] > 0.05 and null["difference"]["ci95"][0] < 0 < null["difference"]["ci95"][1]
    assert rows["mcc", "cls"]["p_value"] > 0.05 and rows["mcc", "real"]["p_value"] < 0.01
    for figure in FIGURES:
        expected = holm([rows[figure, arm]["p_value"] for arm in ("real", "cls")])
        assert [rows[figure, arm]["p_holm"] for arm in ("real", "cls")] == expected
    assert "p_patients" not in rows["auroc", "real"]


def test_a_difference_that_a_few_patients_make_in_every_draw_is_no_effect():
    # draws agree to the last digit, for the same test patients are in all of them
    first, second = draws(seed=1, noise=0.0, by_patient=0.0), draws(seed=1, noise=0.0, by_patient=0.0)
    for draw in first:
        draw["gain"] = {**draw["gain"], "p0": draw["gain"]["p0"] + 0.1}
        draw["figures"] = {name: value + 0.1 for name, value in draw["figures"].items()}
    row = _comparisons({"medi": first, "real": second}, "medi")[0]
    assert row["p_draws"] < 0.01 and row["p_patients"] == 1.0 and row["p_value"] == 1.0


def test_p_values_of_null_arms_are_uniform_enough():
    p = [_comparisons({"a": draws(seed=2 * n), "b": draws(seed=2 * n + 1)}, "a")[0]["p_value"] for n in range(40)]
    assert np.mean(np.array(p) < 0.05) < 0.15 and np.mean(p) > 0.3


def test_one_draw_and_one_arm_have_no_test():
    row = _comparisons({"medi": draws()[:1], "real": draws(seed=1)[:1]}, "medi")[0]
    assert row["p_value"] is None and row["p_holm"] is None and row["difference"]["value"] is not None
    assert _comparisons({"medi": draws()}, "medi") == []


def test_figures_have_intervals_over_patients_and_draws_and_what_is_missing_stays_so():
    arm = draws()
    arm[0]["figures"]["mcc"] = None
    found = _arm(arm, 77)
    values = [draw["figures"]["balanced_accuracy"] for draw in arm]
    pooled = np.concatenate([draw["replicates"]["balanced_accuracy"] for draw in arm])
    assert found["balanced_accuracy"]["value"] == pytest.approx(np.mean(values))
    assert found["balanced_accuracy"]["ci95"] == pytest.approx(np.quantile(pooled, [0.025, 0.975]))
    assert found["auroc"]["ci95"] == pytest.approx(np.quantile(values, [0.025, 0.975])) and found["auroc"]["n"] == 77
    assert found["mcc"]["repeats"][0] is None and found["mcc"]["value"] == pytest.approx(np.mean(values[1:]))
    assert found["per_class"]["A"] == {"value": None, "n": 0}
    assert found["demographics"]["sex"]["equal_opportunity"] == {"value": None, "ci95": None, "n": 7}
    table = long_table({"arms": {"real": found}, "sweeps": {}})
    assert len(table) == len(FIGURES) + 2 + 2 and table["value"].isna().sum() == 2


def test_the_worst_group_is_named_with_its_own_count():
    arm = draws()
    for number, draw in enumerate(arm):
        group = ["B", "s"] if number < 6 else ["A", "n"]
        draw["worst_group"] = {**draw["worst_group"], "group": group, "n": 31 if number < 6 else 999}
    assert _arm(arm, 1)["worst_group_accuracy"]["group"] == "B · s"
    assert _arm(arm, 1)["worst_group_accuracy"]["n"] == 31
    for draw in arm:
        draw["worst_group"] = {**draw["worst_group"], "group": None, "n": 0}
        draw["figures"]["worst_group_accuracy"] = None
    none = _arm(arm, 1)["worst_group_accuracy"]
    assert none["group"] is None and none["value"] is None and none["n"] == 0


def test_curves_have_a_row_per_point_and_arm():
    records = [
        {
            "sweep": "ratio",
            "point": point,
            "arms": {
                "medi": {
                    "figures": {"balanced_accuracy": value, "worst_group_accuracy": None},
                    "num_real": 4,
                    "num_added": 8,
                }
            },
        }
        for point, value in ((1.0, 0.5), (0.5, 0.2), (1.0, 0.7))
    ]
    rows = _curves(records, "ratio")
    assert [row["point"] for row in rows] == [0.5, 1.0] and rows[1]["n"] == 2
    assert rows[1]["balanced_accuracy"] == pytest.approx(0.6) and rows[1]["balanced_accuracy_range"] == [0.5, 0.7]
    assert rows[1]["worst_group_accuracy"] is None and rows[1]["worst_group_accuracy_range"] is None
    assert _curves(records, "num_centers") == []


def test_the_average_drop_is_that_of_each_draw():
    rng = np.random.default_rng(0)
    value = {(s, r, level): rng.random() for s in "xy" for r in range(3) for level in (0.0, 0.5, 1.0)}
    records = [
        {
            "sweep": "correlation",
            "point": level,
            "repeat": r,
            "square": s,
            "num_test": 40,
            "num_test_known": 10 + r,
            "arms": {"medi": {"figures": {"balanced_accuracy": one}}},
        }
        for (s, r, level), one in value.items()
    ]
    found = _correlation(records)
    drops = [np.mean([value[s, r, 0.5], value[s, r, 1.0]]) / value[s, r, 0.0] - 1 for s in "xy" for r in range(3)]
    assert found["arms"]["medi"]["average_performance_drop"]["value"] == pytest.approx(np.mean(drops))
    curve = pd.Series([point["value"] for point in found["arms"]["medi"]["curve"]], found["levels"])
    assert curve[0.5] == pytest.approx(np.mean([value[s, r, 0.5] for s in "xy" for r in range(3)]))
    assert (found["num_squares"], found["num_test"], found["num_test_known"]) == (2, 80, 22)
    assert _correlation([]) == {"levels": [], "arms": {}, "num_squares": 0}

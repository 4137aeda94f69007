import math

import numpy as np
import pandas as pd
import pytest

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.functional.targets import parts_of
from medi_monai.evaluation.alignment.shares import (
    change_of_distance,
    shares_by_prompt,
    shares_of_part,
)

VALUES = ("dark", "bright")


def test_the_correction_undoes_known_mistakes():
    (part,) = parts_of(make_target({"dark": 0.5, "bright": 0.5}, {"shade": VALUES}))
    # of 600 images, 300 truly dark: 10 % of dark and 20 % of bright ones are misread
    held_out = {"shade": {"values": ["bright", "dark"], "confusion": [[80, 20], [10, 90]]}}
    made = shares_of_part(np.array([330, 270]), part, held_out)
    assert made["total_variation"]["value"] == pytest.approx(0.05)
    assert made["corrected"]["proportions"]["dark"]["value"] == pytest.approx(0.5)
    assert made["corrected"]["total_variation"]["value"] == pytest.approx(0, abs=1e-9)


def test_images_of_few_patients_give_a_wider_interval():
    (part,) = parts_of(make_target({"dark": 0.5, "bright": 0.5}, {"shade": VALUES}))
    accuracy = {"values": list(VALUES), "confusion": [[320, 80], [40, 360]]}
    widths = []
    for effect in (None, 1.0, 16.0):
        made = shares_of_part(np.array([330, 270]), part, {"shade": {**accuracy, "design_effect": effect}})
        low, high = made["corrected"]["proportions"]["dark"]["ci95"]
        widths.append(high - low)
        assert made["corrected"]["confusion_n"] == [400, 400]
    few = {"shade": {"values": list(VALUES), "confusion": [[20, 5], [2.5, 22.5]]}}
    assert widths[0] == widths[1] < 0.7 * widths[2]
    # 400 images of this effect are 25 independent ones
    low, high = shares_of_part(np.array([330, 270]), part, few)["corrected"]["proportions"]["dark"]["ci95"]
    assert widths[2] == pytest.approx(high - low, rel=0.05)


def test_a_joint_target_has_marginals_and_joint_mistakes():
    shares = {"dark|small": 0.1, "dark|large": 0.2, "bright|small": 0.3, "bright|large": 0.4}
    parts = parts_of(make_target(shares, {"shade": VALUES, "size": ("small", "large")}))
    assert [part.name for part in parts] == ["shade", "size", "shade|size"]
    assert parts[0].target == pytest.approx([0.3, 0.7]) and parts[1].target == pytest.approx([0.4, 0.6])
    assert parts[2].values == tuple(shares) and parts[2].target == pytest.approx(list(shares.values()))
    codes = {"shade": np.array([0, 1, 1, -1]), "size": np.array([1, 0, 1, 1])}
    assert parts[2].join(codes).tolist() == [1, 2, 3, -1]
    held_out = {
        "shade": {"values": list(VALUES), "confusion": [[45, 5], [10, 40]]},
        "size": {"values": ["small", "large"], "confusion": [[70, 30], [20, 80]]},
    }
    truth = parts[2].target
    read = np.zeros(4)
    for i, j in np.ndindex(4, 4):
        first, second = (held_out[name]["confusion"] for name in ("shade", "size"))
        read[j] += truth[i] * first[i // 2][j // 2] / 50 * second[i % 2][j % 2] / 100
    made = shares_of_part(np.round(10_000 * read).astype(int), parts[2], held_out)
    found = [one["value"] for one in made["corrected"]["proportions"].values()]
    assert found == pytest.approx(truth, abs=2e-3) and made["corrected"]["confusion_n"] == [50] * 4


def test_the_change_of_distance_has_an_interval_of_the_right_width():
    (part,) = parts_of(make_target("uniform", {"shade": VALUES}))
    made = change_of_distance(np.array([400, 100]), np.array([300, 200]), part)
    error = math.sqrt(0.8 * 0.2 / 500 + 0.6 * 0.4 / 500)
    assert made["value"] == pytest.approx(-0.2)
    assert made["ci95"] == pytest.approx([-0.2 - 1.96 * error, -0.2 + 1.96 * error], abs=0.008)
    assert change_of_distance(np.array([0, 0]), np.array([1, 2]), part) == {"value": None, "ci95": None, "n": 0}


def test_prompts_with_few_images_are_named_and_left_out_of_the_mean():
    (part,) = parts_of(make_target("uniform", {"shade": VALUES}))
    table = pd.DataFrame({"caption": ["many"] * 40 + ["few"] * 3})
    codes = {"shade": np.array([0] * 30 + [1] * 10 + [0] * 3)}
    made = shares_by_prompt({"before": table}, {"before": codes}, [part], "caption")["shade"]
    many, few = (row["arms"]["before"] for row in made["prompts"])
    assert (many["n"], many["few"], few["n"], few["few"]) == (40, False, 3, True)
    assert made["mean"]["before"]["value"] == pytest.approx(0.25) and made["mean"]["before"]["n"] == 1
    # E |X/40 - 1/2| of a fair coin
    expected = sum(math.comb(40, k) / 2**40 * abs(k / 40 - 0.5) for k in range(41))
    assert made["mean"]["before"]["by_chance"] == pytest.approx(expected, rel=0.1)

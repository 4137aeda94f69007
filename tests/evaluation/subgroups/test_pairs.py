import math

import numpy as np
import pandas as pd
import pytest

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.functional.targets import parts_of
from medi_monai.evaluation.subgroups.pairs import consistency, obedience, same_noise
from medi_monai.evaluation.subgroups.shares import Looked


def test_the_same_noise_is_that_of_prompt_number_and_seed():
    before = pd.DataFrame({"caption": ["a", "a", "b"], "number": ["0", "1", "0"], "seed": ["0", "0", "0"]})
    after = pd.DataFrame({"caption": ["b", "a", "a"], "number": ["0", "1", "0"], "seed": ["0", "1", "0"]})
    first, second = same_noise(before, after, "caption")
    assert sorted(zip(first.tolist(), second.tolist())) == [(0, 2), (2, 0)]
    assert len(same_noise(before.drop(columns="number"), after, "caption")[0]) == 0


def test_consistency_by_hand():
    def arm(codes, features):
        return Looked({"judge": {"shade": np.array(codes)}}, np.array(features, np.float32))

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


def test_obedience_counts_pairs_and_leaves_out_prompts_that_name_none():
    (part,) = parts_of(make_target("uniform", {"sex": ("female", "male")}))
    captions = ["a woman", "a man", "a man", "somebody"]
    table = pd.DataFrame({"caption": captions, "number": ["0", "0", "1", "0"]})
    words = {"sex": {"female": "woman", "male": ["man", "gentleman"]}}
    read = {"before": {"sex": np.array([0, 1, 1, 1])}, "after": {"sex": np.array([1, 1, 1, 0])}}
    made = obedience({"before": table, "after": table}, read, [part], words, "caption")["sex"]
    assert made["before"]["share"]["value"] == 1 and made["before"]["left_out"] == 1
    assert made["after"]["share"]["value"] == pytest.approx(2 / 3) and made["after"]["by_value"]["female"]["value"] == 0
    assert made["after"]["ratio"]["value"] == pytest.approx(2 / 3) and made["after"]["ratio"]["n"] == 3

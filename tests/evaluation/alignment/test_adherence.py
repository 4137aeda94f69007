import numpy as np
import pandas as pd
import pytest

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.functional.targets import parts_of
from medi_monai.evaluation.alignment.adherence import prompt_adherence

VALUES = ("dark", "bright")


def test_prompt_adherence_counts_pairs_and_leaves_out_prompts_that_name_none():
    (part,) = parts_of(make_target("uniform", {"sex": ("female", "male")}))
    captions = ["a woman", "a man", "a man", "somebody"]
    table = pd.DataFrame({"caption": captions, "number": ["0", "0", "1", "0"]})
    words = {"sex": {"female": "woman", "male": ["man", "gentleman"]}}
    read = {"before": {"sex": np.array([0, 1, 1, 1])}, "after": {"sex": np.array([1, 1, 1, 0])}}
    made = prompt_adherence({"before": table, "after": table}, read, [part], words, "caption")["sex"]
    assert made["before"]["share"]["value"] == 1 and made["before"]["left_out"] == 1
    assert made["after"]["share"]["value"] == pytest.approx(2 / 3) and made["after"]["by_value"]["female"]["value"] == 0
    assert made["after"]["ratio"]["value"] == pytest.approx(2 / 3) and made["after"]["ratio"]["n"] == 3

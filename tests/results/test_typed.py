from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from medi_monai.results import Figure, plain, typed
from medi_monai.results.typed import Result
from medi_monai.utils.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Ratio(Figure):
    ratio: Figure


@dataclass(frozen=True)
class Arms(Result):
    arms: Mapping[str, Ratio]
    names: tuple[str, ...] = ()


CONTENT = {"arms": {"a": {"value": 0.1, "ci95": [0.0, 0.3], "n": 9, "ratio": {"value": None}}}, "names": ["x"]}


def test_mappings_become_results_down_to_the_leaves_and_back():
    results = typed(Arms, CONTENT)
    assert results == Arms({"a": Ratio(0.1, (0.0, 0.3), 9, ratio=Figure(None))}, ("x",))
    assert typed(Arms, plain(results)) == results


def test_arrays_and_results_within_mappings_are_taken():
    figure = Ratio(0.1, (0.0, 0.3), 9, ratio=Figure(np.float64(2)))
    assert typed(Arms, {"arms": {"a": figure}, "names": np.array(["x"])}).arms["a"].ratio.value == 2


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"valeu": 0.1}, "arms.a.valeu"),
        ({"ratio": {"value": 1, "n": 1.5}}, "arms.a.ratio.n"),
        ({"value": "high"}, "arms.a.value"),
        ({"ratio": 1.0}, "arms.a.ratio"),
    ],
)
def test_what_is_no_result_is_refused_with_its_place(change, where):
    wrong = {**CONTENT, "arms": {"a": {**CONTENT["arms"]["a"], **change}}}
    with pytest.raises(InputError, match=f"^x.json is not of the type Arms: {where}: "):
        typed(Arms, wrong, "x.json")
    with pytest.raises(InputError, match="arms: "):
        typed(Arms, {})

"""The answer follows the figures: what is revealed more, which neighbors share, and what is certainly lost."""

import pytest

from medi_monai.evaluation.verdicts.shortcuts import above_chance, shortcut_conclusions
from medi_monai.results import Figure
from medi_monai.results.diagnostics import CorrelationSweep, RobustnessIndex, Shortcut
from medi_monai.results.measures import ProbeAccuracy
from medi_monai.results.probing import Comparison, RepeatedFigure, TestSet, TrainingSet
from medi_monai.results.shortcuts import DomainAccuracy, UnseenAccuracy


def accuracy(value, low=None, high=None, num_values=2):
    interval = None if low is None else (low, high)
    return ProbeAccuracy(value, interval, 100, chance=None if value is None else 1 / num_values, num_values=num_values)


def shortcut(label, center, index=0.4):
    return Shortcut(label, center, RobustnessIndex(index, 11, 3, 60), CorrelationSweep())


def unseen(low=0.1, high=0.3, value=0.2, **changes):
    test = TestSet(10, 5, 0, (), "combinations not seen in training", "patient", 5)
    part = DomainAccuracy(RepeatedFigure(0.7, (0.6, 0.8), 10), test)
    drop = Comparison("balanced_accuracy", ("in_domain", "unseen"), Figure(value, (low, high), 12), p_value=0.01)
    given = {"in_domain": part, "unseen": part, "drop": drop, **changes}
    return UnseenAccuracy(**given, training=TrainingSet(50, 20, 10, ("A", "B")), split_scheme="auto", chance=0.5)


def conclusions(*arguments, **changes):
    return {
        item.name: item for item in shortcut_conclusions("tumor", "hospital", shortcut(*arguments), unseen(**changes))
    }


def test_accuracies_of_columns_with_other_numbers_of_values_share_a_scale():
    assert above_chance(accuracy(0.75, 0.5, 1.0)) == Figure(0.5, (0.0, 1.0), 100)
    assert above_chance(accuracy(0.25, num_values=4)).value == 0 and above_chance(accuracy(None)).value is None


@pytest.mark.parametrize(
    "label, center, level, says",
    [
        (accuracy(0.7, 0.65, 0.75), accuracy(0.9, 0.85, 0.95), "warning", "reveal hospital more than tumor"),
        (accuracy(0.9, 0.85, 0.95), accuracy(0.7, 0.65, 0.75), "note", "reveal hospital, but less than tumor"),
        (accuracy(0.7, 0.6, 0.8), accuracy(0.75, 0.7, 0.8), "warning", "reveal hospital about as much as tumor"),
        (accuracy(0.9, 0.8, 1.0), accuracy(0.52, 0.45, 0.6), "ok", "hospital cannot be predicted reliably"),
        # two thirds of the way from chance beat one half, though the accuracy is lower
        (accuracy(0.75, 0.74, 0.76), accuracy(0.7, 0.69, 0.71, 10), "warning", "reveal hospital more than tumor"),
        (accuracy(0.9, 0.8, 1.0), accuracy(None), "note", "accuracy of a probe for hospital is undefined"),
    ],
)
def test_what_is_revealed_more_comes_first(label, center, level, says):
    first = shortcut_conclusions("tumor", "hospital", shortcut(label, center), unseen())[0]
    assert first.level == level and says in first.text and first.name == "probe"


def test_neighbors_and_losses_are_judged():
    both = accuracy(0.8, 0.7, 0.9), accuracy(0.8, 0.7, 0.9)
    found = conclusions(*both, 0.4)
    assert found["robustness"].level == "warning" and ", k = 11:" in found["robustness"].text
    assert "40% share tumor" in found["robustness"].text
    assert found["drop"].level == "warning" and "loses accuracy" in found["drop"].text
    assert conclusions(*both, 0.8)["robustness"].level == "note"
    assert "undefined" in conclusions(*both, None)["robustness"].text
    unclear = conclusions(*both, low=-0.1)["drop"]
    assert unclear.level == "note" and unclear.text.startswith("It is not certain that a probe")
    none = conclusions(*both, unseen=None, drop=None)["drop"]
    assert none.level == "note" and "the split holds out none" in none.text
    assert "too few patients" in conclusions(*both, in_domain=None, drop=None)["drop"].text

"""Two encoders: where their differences agree, and what the verdict says of it."""

import copy
import math

import pytest
from result_contents import arms_content, comparison, figure, probe_content

from medi_monai.evaluation.verdicts.second_encoder import compare_encoders, second_findings
from medi_monai.results import plain, typed
from medi_monai.results.experiment import SecondEncoderResults
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults

NAMES = ("real", "reweighted", "coral", "cls", "medi")


def probe(best="coral", **differences):
    """A probing with (difference, p value) of MeDi minus the other arms, and a best baseline."""
    content = copy.deepcopy(probe_content(NAMES))
    rows = {name: differences.get(name, (0.1, 0.001)) for name in NAMES[:-1]}
    content["comparisons"] = [
        {**comparison("balanced_accuracy", name, 0.1), "difference": figure(value), "p_holm": p, "p_equivalence": 0.9}
        for name, (value, p) in rows.items()
    ]
    for name in ("reweighted", "coral"):
        content["arms"][name]["balanced_accuracy"]["value"] = 0.7 if name == best else 0.6
    return typed(ProbeResults, content)


def fidelity(ratio=0.5, p=0.001, arms=("cls", "medi")):
    """An evaluation with the ratio of MeDi's distance to that of the class-only arm."""
    content = arms_content()
    sign = 1 if arms[0] == "medi" else -1
    low, value, high = sorted(sign * math.log(ratio * factor) for factor in (0.8, 1, 1.2))
    log_ratio = {"difference": figure(value, low, high, 24), "p_value": p, "n": 24}
    content["comparisons"] = [{"arms": arms, "combinations": "all", "ratio_of_means": None, "log_ratio": log_ratio}]
    return typed(ArmsMetrics, content)


def compared(first, second, **of):
    rows = compare_encoders((of.get("before", fidelity()), first), (of.get("after", fidelity()), second))
    return {(row.figure, row.arms[1]): row for row in rows}


def finding(first, second, after=None):
    given = (fidelity(), first), (after or fidelity(), second)
    rows = compare_encoders(*given)
    told, *warnings = second_findings(SecondEncoderResults("lite", given[1][0], second, {}, rows, {}), first)
    assert warnings == []
    return told


@pytest.mark.parametrize(
    ("first", "second", "agreement"),
    [
        ((0.1, 0.001), (0.02, 0.04), "same"),
        ((-0.1, 0.001), (-0.02, 0.04), "same"),
        ((0.1, 0.2), (0.05, 0.3), "same"),
        ((0.1, 0.001), (0.05, 0.06), "significance"),
        ((0.1, 0.2), (0.05, 0.01), "significance"),
        ((0.1, 0.001), (-0.05, 0.06), "direction"),
        ((0.1, 0.001), (-0.1, 0.001), "opposite"),
        ((0.1, 0.5), (-0.1, 0.5), "neither"),
        ((0.0, 0.5), (-0.1, 0.5), "same"),
        ((None, None), (0.1, 0.001), "undefined"),
        ((0.1, 0.001), (None, None), "undefined"),
    ],
)
def test_agreement_is_of_direction_and_significance(first, second, agreement):
    row = compared(probe(real=first), probe(real=second))["balanced_accuracy", "real"]
    assert row.agreement == agreement and row.arms == ("medi", "real")
    assert (row.first.difference.value, row.second.p_value) == (first[0], second[1])


def test_the_best_baseline_of_either_encoder_is_compared():
    assert [*compared(probe(), probe())] == [
        ("balanced_accuracy", "real"),
        ("balanced_accuracy", "cls"),
        ("balanced_accuracy", "coral"),
        ("frechet_distance", "cls"),
    ]
    both = compared(probe(), probe("reweighted"))
    assert ("balanced_accuracy", "coral") in both and ("balanced_accuracy", "reweighted") in both


def test_a_smaller_distance_is_better_in_any_order_of_the_arms():
    for arms in (("cls", "medi"), ("medi", "cls")):
        row = compared(probe(), probe(), before=fidelity(0.5, 0.001, arms), after=fidelity(1.5, 0.2, arms))
        row = row["frechet_distance", "cls"]
        assert (row.first.effect, row.second.effect, row.agreement) == ("better", "uncertain", "direction")
        assert math.exp(row.first.difference.value) == pytest.approx(0.5)
        assert math.exp(row.first.difference.ci95[1]) == pytest.approx(0.6)
    assert compared(probe(), probe(), after=fidelity(2, 0.01))["frechet_distance", "cls"].second.effect == "worse"


def test_agreement_is_said_with_the_figures_of_the_second_encoder():
    told = finding(probe(), probe(real=(0.08, 0.01)))
    assert told.level == "ok" and told.name == "second_encoder"
    assert told.text.startswith("With the second encoder, lite: consistent with metadata helping")
    assert "MeDi − Real: +0.080 balanced accuracy (p = 0.01)" in told.text
    assert "Fréchet distance of MeDi: 0.50 times that of Class-only (p = 0.001)" in told.text
    assert told.text.endswith("Both encoders agree on the direction and significance of each difference.")


def test_disagreement_is_a_warning_that_names_the_differences():
    told = finding(probe(), probe(real=(0.01, 0.6), cls=(-0.1, 0.001)), fidelity(1.1, 0.4))
    assert told.level == "warning"
    assert "MeDi − Class-only: significant in opposite directions" in told.text
    assert "MeDi − Real: in the same direction, but significant with only one encoder" in told.text
    assert "Fréchet distance: in opposite directions, significant with only one encoder" in told.text
    assert "CORAL: s" not in told.text


def test_chance_is_no_disagreement():
    told = finding(probe(real=(0.01, 0.6)), probe(real=(-0.01, 0.6)))
    assert told.level == "note" and "significant with neither encoder" in told.text


def test_warnings_about_the_second_probing_alone_are_told_with_its_option():
    content = plain(probe())
    content["arms"]["medi"]["training"]["c"] = 0.01
    content["settings"]["c_values"] = [0.01, 0.1, 1.0]
    second = typed(ProbeResults, content)
    _, *warnings = second_findings(SecondEncoderResults("lite", fidelity(), second, {}, (), {}), probe())
    (warning,) = warnings
    assert warning.level == "warning" and warning.text.startswith("Second encoder: The best C lies at the edge")
    assert "MeDi" in warning.text and "--second_c_values" in warning.text

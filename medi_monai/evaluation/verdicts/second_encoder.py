"""Verdict on two encoders: whether the differences between arms have the same direction and significance by both."""

from __future__ import annotations

import math
from typing import Literal

from medi_monai.evaluation.verdicts.metadata import (
    Effect,
    effect_of,
    main_answer,
    main_comparisons,
    protocol_findings,
)
from medi_monai.report.words import arm_title, number, p_statement, signed
from medi_monai.results import Figure, Finding
from medi_monai.results.experiment import Agreement, EncoderComparison, EncoderDifference, SecondEncoderResults
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ALPHA, Comparison, ProbeResults
from medi_monai.utils.text import listed

__all__ = ["compare_encoders", "second_findings"]

SIGNIFICANT = ("better", "worse")
#: agreement of differences in opposite directions, by the number of those that are significant
OPPOSITE: tuple[Agreement, ...] = ("neither", "direction", "opposite")
#: what an agreement of :class:`EncoderComparison` says of differences, in words
DISAGREEMENTS: dict[Agreement, str] = {
    "opposite": "significant in opposite directions",
    "direction": "in opposite directions, significant with only one encoder",
    "significance": "in the same direction, but significant with only one encoder",
    "neither": "in opposite directions, significant with neither encoder",
    "undefined": "undefined with one of the encoders",
}


def compare_encoders(
    first: tuple[ArmsMetrics, ProbeResults],
    second: tuple[ArmsMetrics, ProbeResults],
    focus: str = "medi",
    rival: str = "cls",
) -> tuple[EncoderComparison, ...]:
    """Compare the differences that the verdict rests on by two encoders.

    These are the differences in balanced accuracy between the focus and real images alone, the rival, and the best
    baseline without generated images (that of either encoder, if they are not the same), and the difference in Fréchet
    distance between the focus and the rival.

    Args:
        first: results of evaluation and probing with the first encoder.
        second: those with the second one.
        focus: arm conditioned on metadata.
        rival: arm conditioned on the class only.
    """
    (rows, others, best), (second_rows, _, second_best) = (
        main_comparisons(probe, rival) for _, probe in (first, second)
    )
    names = [name for name in dict.fromkeys([*others, *best, *second_best]) if name in rows and name in second_rows]
    compared = [
        _compared("balanced_accuracy", (focus, name), _of_accuracy(rows[name]), _of_accuracy(second_rows[name]))
        for name in names
    ]
    if all({focus, rival} <= fidelity.arms.keys() for fidelity, _ in (first, second)):
        distances = [_of_distance(fidelity, focus, rival) for fidelity, _ in (first, second)]
        compared.append(_compared("frechet_distance", (focus, rival), *distances))
    return tuple(compared)


def second_findings(second: SecondEncoderResults, probe: ProbeResults) -> list[Finding]:
    """Return the answer by the second encoder, where the encoders disagree, and warnings about its probing alone.

    A disagreement about a significant difference is a warning, because the effect depends on the features.

    Args:
        second: results with the second encoder.
        probe: results of the probing with the first encoder.
    """
    rows = second.comparisons
    answer = main_answer(second.probe)[1]
    head = f"With the second encoder, {second.name}: {answer[0].lower()}{answer[1:]}"
    shown = "; ".join(_shown(row) for row in rows)
    disagreeing = {name: [_pair(row) for row in rows if row.agreement == name] for name in DISAGREEMENTS}
    texts = [f"{listed(pairs)}: {DISAGREEMENTS[name]}" for name, pairs in disagreeing.items() if pairs]
    ending = "Both encoders agree on the direction and significance of each difference."
    if texts:
        ending = f"The encoders disagree: {'; '.join(texts)}."
    figures = {_pair(row): row.second.difference for row in rows}
    kinds = {name for name, pairs in disagreeing.items() if pairs}
    level = "ok" if not kinds else "note" if kinds == {"neither"} else "warning"
    finding = Finding(level, f"{head} {shown}. {ending}", figures, "second_encoder")
    known, found = ([row.text for row in protocol_findings(of, "--second_c_values")] for of in (probe, second.probe))
    return [finding, *(Finding("warning", f"Second encoder: {text}") for text in found if text not in known)]


def _of_accuracy(row: Comparison) -> EncoderDifference:
    return EncoderDifference(row.difference, row.p_holm, effect_of(row))


def _of_distance(fidelity: ArmsMetrics, focus: str, rival: str) -> EncoderDifference:
    row = fidelity.comparison(focus, rival)
    given, p_value = row.log_ratio.difference, row.log_ratio.p_value
    if row.arms[0] != focus:
        given = _negative(given)
    effect: Effect = "uncertain"
    if p_value is not None and p_value < ALPHA and given.value is not None:
        # a smaller distance is better
        effect = "better" if given.value < 0 else "worse"
    return EncoderDifference(given, p_value, effect)


def _negative(figure: Figure) -> Figure:
    low, high = figure.ci95 or (None, None)
    interval = None if low is None or high is None else (-high, -low)
    return Figure(None if figure.value is None else -figure.value, interval, figure.n)


def _compared(
    figure: Literal["balanced_accuracy", "frechet_distance"],
    arms: tuple[str, str],
    first: EncoderDifference,
    second: EncoderDifference,
) -> EncoderComparison:
    values = [of.difference.value for of in (first, second)]
    num_significant = sum(of.effect in SIGNIFICANT for of in (first, second))
    agreement: Agreement = "same" if num_significant != 1 else "significance"
    if values[0] is None or values[1] is None:
        agreement = "undefined"
    elif values[0] * values[1] < 0:
        agreement = OPPOSITE[num_significant]
    return EncoderComparison(figure, arms, first, second, agreement)


def _pair(row: EncoderComparison) -> str:
    focus, other = map(arm_title, row.arms)
    return f"{focus} − {other}" if row.figure == "balanced_accuracy" else "Fréchet distance"


def _shown(row: EncoderComparison) -> str:
    value, p_value = row.second.difference.value, p_statement(row.second.p_value)
    if value is None:
        return f"{_pair(row)}: undefined"
    if row.figure == "balanced_accuracy":
        return f"{_pair(row)}: {signed(value)} balanced accuracy ({p_value})"
    focus, other = map(arm_title, row.arms)
    return f"Fréchet distance of {focus}: {number(math.exp(value), 2)} times that of {other} ({p_value})"

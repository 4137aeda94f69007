"""The section on the second encoder: differences between arms, distances and shortcut figures by both encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from medi_monai.report.blocks.arms import arm_title
from medi_monai.report.page import Page
from medi_monai.report.words import DASH, figure_text, number, p_statement, percent_text, share_table, signed, span
from medi_monai.results.experiment import EncoderComparison, EncoderDifference, ExperimentResults, SecondEncoderResults
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults
from medi_monai.utils.text import listed, plural

__all__ = ["add_second_encoder", "distance_sentence", "second_sentence"]

DIFFERENCES = "Differences between arms: 95% confidence intervals; p values corrected for the number of arms (accuracy)"
#: words for the agreement of a difference
AGREEMENTS = {
    "same": "agree",
    "significance": "same direction, significant with only one",
    "direction": "opposite directions, significant with only one",
    "opposite": "opposite directions, both significant",
    "neither": "opposite directions, neither significant",
    "undefined": DASH,
}


def second_sentence(second: SecondEncoderResults | None) -> str:
    """Return one sentence for the answer of a page: the differences by the second encoder; empty without one."""
    if second is None:
        return ""
    rows = [
        row
        for row in second.comparisons
        if row.figure == "balanced_accuracy" and row.second.difference.value is not None
    ]
    differences = listed(
        f"{arm_title(row.arms[0])} − {arm_title(row.arms[1])} {signed(row.second.difference.value, 2)} "
        f"({p_statement(row.second.p_value)})"
        for row in rows
    )
    same = sum(row.agreement == "same" for row in rows)
    agree = "all" if same == len(rows) else f"{same} of {len(rows)}"
    return (
        f"With a second encoder, {second.name}: {differences}; {agree} agree with the first one in direction and "
        "significance."
    )


def distance_sentence(second: SecondEncoderResults | None) -> str:
    """Return one sentence with the Fréchet distances by the second encoder; empty without one."""
    if second is None:
        return ""
    arms = ", ".join(
        f"{arm_title(arm)} {figure_text(of_arm.frechet_distance.mean)}" for arm, of_arm in second.fidelity.arms.items()
    )
    floor = figure_text(second.fidelity.real.floor.frechet_distance)
    return (
        f"Mean Fréchet distance with the second encoder, {second.name}: {arms}; real images of other patients {floor}."
    )


def add_second_encoder(page: Page, results: ExperimentResults) -> None:
    """Add the section on the second encoder; nothing without one.

    Args:
        page: page to extend.
        results: results of the experiment.
    """
    second = results.second
    if second is None:
        return
    names = _titles(results.fidelity, second)
    page.section(
        "Second encoder",
        f"Distances and classifiers are computed from the features of an encoder. All stages that use features were "
        f"repeated with {second.name}; probing used {plural(second.probe.num_repeats, 'draw')} of training patients "
        f"instead of {results.probe.num_repeats}. An effect that only one encoder shows depends on its features.",
    )
    rows = {_title(row): _difference_row(row, names) for row in second.comparisons}
    page.table(share_table(rows, "difference"), DIFFERENCES)
    metrics = dict(zip(names, (results.fidelity, second.fidelity)))
    page.table(share_table(_distance_rows(metrics), "images"), "Mean Fréchet distance to real images")
    if len(results.trainings) > 1:
        ranges = (f"{arm_title(arm)} {_range(values)}" for arm, values in second.frechet_distances.items())
        page.text(f"Range over the trainings with {second.name}: {', '.join(ranges)}.")
    probes = dict(zip(names, (results.probe, second.probe)))
    page.table(share_table(_accuracy_rows(probes), "training data"), "Balanced accuracy")
    page.table(
        share_table(_shortcut_rows(probes), "figure"), f"What the features reveal about the {second.probe.center}"
    )
    for title, target in second.links.items():
        page.link(title, target)


def _titles(first: ArmsMetrics, second: SecondEncoderResults) -> tuple[str, str]:
    names = str(first.encoder.get("name", "first encoder")), second.name
    # the same network with other settings
    return names if names[0] != names[1] else (f"{names[0]} (first)", f"{names[1]} (second)")


def _title(row: EncoderComparison) -> str:
    focus, other = map(arm_title, row.arms)
    if row.figure == "balanced_accuracy":
        return f"{focus} − {other}, balanced accuracy"
    return f"{focus} / {other}, Fréchet distance"


def _difference_row(row: EncoderComparison, names: tuple[str, str]) -> dict[str, str]:
    shown = {name: _difference_text(row.figure, of) for name, of in zip(names, (row.first, row.second))}
    return {**shown, "agreement": AGREEMENTS[row.agreement]}


def _difference_text(figure: str, given: EncoderDifference) -> str:
    difference = given.difference
    if difference.value is None:
        return DASH
    if figure == "balanced_accuracy":
        text = ("+" if difference.value > 0 else "") + figure_text(difference, 3)
    else:
        # geometric mean, over combinations, of the ratio of the distances
        edges = [math.exp(edge) for edge in difference.ci95] if difference.ci95 else None
        text = number(math.exp(difference.value), 2) + span(edges, 2)
    return f"{text}, {p_statement(given.p_value)}"


def _distance_rows(metrics: Mapping[str, ArmsMetrics]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {"Real images of other patients": {}}
    for name, of_encoder in metrics.items():
        floor = of_encoder.real.floor.frechet_distance
        rows["Real images of other patients"] |= {name: figure_text(floor), f"{name}, ratio to real": number(1.0, 2)}
        for arm, of_arm in of_encoder.arms.items():
            value = of_arm.frechet_distance.mean
            ratio = value.value / floor.value if value.value is not None and floor.value else None
            row = {name: figure_text(value), f"{name}, ratio to real": number(ratio, 2)}
            rows.setdefault(arm_title(arm), {}).update(row)
    return rows


def _accuracy_rows(probes: Mapping[str, ProbeResults]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, probe in probes.items():
        for arm, of_arm in probe.arms.items():
            rows.setdefault(arm_title(arm, probe.generated), {})[name] = figure_text(of_arm.balanced_accuracy, 3)
    return rows


def _shortcut_rows(probes: Mapping[str, ProbeResults]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for name, probe in probes.items():
        shortcut = probe.shortcut
        accuracies = {probe.label: shortcut.label_probe_accuracy, probe.center: shortcut.center_probe_accuracy}
        shown = {
            f"{column} predicted from real images, balanced accuracy (chance {number(accuracy.chance, 2)})": number(
                accuracy.value, 3
            )
            for column, accuracy in accuracies.items()
        }
        shown["robustness index (1: features show only the class)"] = number(shortcut.robustness_index.value, 3)
        shown["clustering score (1: clusters are classes, −1: centers)"] = number(shortcut.clustering_score.value, 3)
        for arm, curve in shortcut.correlation.arms.items():
            title = (
                f"change in accuracy as class and {probe.center} become correlated, {arm_title(arm, probe.generated)}"
            )
            shown[title] = percent_text(curve.average_performance_drop)
        for title, text in shown.items():
            rows.setdefault(title, {})[name] = text
    return rows


def _range(values: tuple[float | None, ...]) -> str:
    known = [value for value in values if value is not None]
    return f"{number(min(known))} to {number(max(known))}" if known else DASH

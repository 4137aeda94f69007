"""Conclusions about shortcuts in features, from the figures by rule."""

from __future__ import annotations

from medi_monai.report.words import figure_text, number, p_statement
from medi_monai.results import Figure, Finding
from medi_monai.results.diagnostics import RobustnessIndex, Shortcut
from medi_monai.results.measures import ProbeAccuracy
from medi_monai.results.shortcuts import UnseenAccuracy

__all__ = ["above_chance", "shortcut_conclusions"]


def above_chance(accuracy: ProbeAccuracy) -> Figure:
    """Return an accuracy on a scale from chance to 1, to compare columns with different numbers of values.

    Args:
        accuracy: balanced accuracy with its chance.

    Returns:
        ``(accuracy - chance) / (1 - chance)`` with its interval: 0 at chance, 1 if all are right.
    """
    chance = accuracy.chance
    if accuracy.value is None or chance is None:
        return Figure(None, None, accuracy.n)
    low, high = accuracy.ci95 or (accuracy.value, accuracy.value)
    value, low, high = ((edge - chance) / (1 - chance) for edge in (accuracy.value, low, high))
    return Figure(value, (low, high) if accuracy.ci95 else None, accuracy.n)


def shortcut_conclusions(label: str, center: str, shortcut: Shortcut, unseen: UnseenAccuracy) -> tuple[Finding, ...]:
    """Return the conclusions: whether the center can be read, which of both neighbors share, and what it costs.

    Args:
        label: column of the class.
        center: column of the center.
        shortcut: figures of the center.
        unseen: accuracies in domain and on unseen combinations.
    """
    return (
        *_probe_conclusions(label, center, shortcut),
        *_robustness_conclusion(label, center, shortcut.robustness_index),
        _drop_conclusion(label, center, unseen),
    )


def _probe_conclusions(label: str, center: str, shortcut: Shortcut) -> tuple[Finding, ...]:
    of_label, of_center = shortcut.label_probe_accuracy, shortcut.center_probe_accuracy
    first, second = above_chance(of_center), above_chance(of_label)
    if first.value is None or second.value is None:
        lacking = center if first.value is None else label
        text = f"The accuracy of a probe for {lacking} is undefined: too few of its values have several patients."
        return (Finding("note", text, name="probe"),)
    figures = (
        f"Balanced accuracy of linear probes on other patients: {center} {_with_chance(of_center)}; {label} "
        f"{_with_chance(of_label)}."
    )
    low, high = first.ci95 or (first.value, first.value)
    low_label, high_label = second.ci95 or (second.value, second.value)
    values = {"center": first.value, "label": second.value}
    if low <= 0:
        level, said = "ok", f"{center} cannot be predicted reliably from the features."
    elif low > high_label:
        level, said = "warning", f"The features reveal {center} more than {label}."
    elif high < low_label:
        level, said = "note", f"The features reveal {center}, but less than {label}."
    else:
        level, said = "warning", f"The features reveal {center} about as much as {label}."
    return Finding(level, said, values, "probe"), Finding(level, figures, values, "probe_accuracy")


def _with_chance(accuracy: ProbeAccuracy) -> str:
    return f"{figure_text(accuracy, 3)}, chance {number(accuracy.chance, 3)}"


def _robustness_conclusion(label: str, center: str, index: RobustnessIndex) -> tuple[Finding, ...]:
    if index.value is None:
        text = f"The robustness index is undefined: no two values of {label} share two values of {center}."
        return (Finding("note", text, name="robustness"),)
    text = (
        f"Robustness index {figure_text(index.figure, 2)}, k = {index.k}: of the nearest neighbors that share only "
        f"{label} or only {center}, {index.value:.0%} share {label}."
    )
    level = "warning" if index.value < 0.5 else "note"
    return (Finding(level, text, {"value": index.value, "k": index.k}, "robustness"),)


def _drop_conclusion(label: str, center: str, unseen: UnseenAccuracy) -> Finding:
    drop = unseen.drop
    if drop is None or drop.difference.value is None or unseen.in_domain is None or unseen.unseen is None:
        reason = "the split holds out none" if unseen.unseen is None else "too few patients are left for a comparison"
        text = f"The accuracy that a probe for {label} loses on unseen combinations was not measured: {reason}."
        return Finding("note", text, name="drop")
    before, after = (figure_text(part.balanced_accuracy, 3) for part in (unseen.in_domain, unseen.unseen))
    interval, value = drop.difference.ci95, drop.difference.value
    lost = interval is not None and interval[0] > 0
    text = (
        f"{'A' if lost else 'It is not certain that a'} probe for {label} loses accuracy on combinations of {label} "
        f"and {center} that are missing from training: balanced accuracy {before} in domain, {after} on these "
        f"combinations; difference {figure_text(drop.difference, 3)}, {p_statement(drop.p_value)}."
    )
    return Finding("warning" if lost else "note", text, {"drop": value}, "drop")

"""Verdict on the metadata experiment, as sentences; *no effect* is a possible answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medi_monai.report.evaluation_page import untrained_text
from medi_monai.report.words import arm_title, number, settings_findings
from medi_monai.results import Figure, Finding
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import Comparison, ProbeResults
from medi_monai.utils.text import plural

__all__ = ["verdict"]

ALPHA = 0.05
#: difference in balanced accuracy up to which no effect is claimed, regardless of its p value
TRIFLE = 0.01
#: number of test patients below which there is a warning
FEW_PATIENTS = 20


def verdict(fidelity: ArmsMetrics, probe: ProbeResults, focus: str = "medi", rival: str = "cls") -> list[Finding]:
    """Return the findings of the experiment; the answer is first, unless errors invalidate it.

    An effect on a classifier is claimed only if the corrected p value is below 0.05, the 95 % interval of the
    difference excludes 0, and the difference is larger than 0.01.

    Args:
        fidelity: results of the evaluation.
        probe: results of the probing.
        focus: arm conditioned on metadata.
        rival: arm conditioned on the class only.
    """
    findings = _void(fidelity, probe)
    findings += _probe_findings(probe, focus, rival)
    findings += _fidelity_findings(fidelity, focus, rival)
    findings += _shortcut_findings(probe)
    findings += _sampling_findings(fidelity, focus)
    warnings = [*fidelity.warnings, *(row for row in probe.warnings if row not in fidelity.warnings)]
    findings += [finding for finding in warnings if finding.level != "error"]
    return findings + _protocol_findings(probe)


def _void(fidelity: ArmsMetrics, probe: ProbeResults) -> list[Finding]:
    """Return the errors that make any effect meaningless; they precede all other findings."""
    findings = [finding for finding in (*fidelity.warnings, *probe.warnings) if finding.level == "error"]
    if fidelity.untrained_arms:
        precisions = {arm: fidelity.arms[arm].precision.mean for arm in fidelity.untrained_arms}
        findings.insert(0, Finding("error", untrained_text(fidelity), precisions, "not_trained"))
    return findings


def _probe_findings(probe: ProbeResults, focus: str, rival: str) -> list[Finding]:
    compared = {row.arms[1]: row for row in probe.comparisons if row.figure == "balanced_accuracy"}
    others = [name for name in ("real", rival) if name in compared]
    if not others:
        return [Finding("warning", "No comparison: there is no other arm.")]
    effects = {name: _effect(compared[name]) for name in others}
    level, answer = _answer(effects)
    differences = {name: compared[name].difference for name in others}
    sentences = "; ".join(_difference(compared[name], focus, name).removesuffix(".") for name in others)
    findings = [Finding(level, f"{answer} {sentences}. Tested on {probe.test.what}.", differences)]
    baselines = [name for name in compared if name not in others]
    if baselines:
        best = max(baselines, key=lambda name: probe.arms[name].balanced_accuracy.value or 0.0)
        findings.append(_baseline_finding(compared[best], focus, best))
    return [*findings, _worst_group_finding(probe, focus, others)]


def _answer(effects: dict[str, int]) -> tuple[str, str]:
    if all(effect > 0 for effect in effects.values()):
        return "ok", "Metadata help: images generated with metadata improve the classifier."
    if any(effect < 0 for effect in effects.values()):
        return "error", "Generated images reduce accuracy."
    if any(effect > 0 for effect in effects.values()):
        improved = " and ".join(arm_title(name) for name, effect in effects.items() if effect > 0)
        return "warning", f"Mixed result: accuracy improves over {improved} only."
    return "note", "No effect: any difference made by the generated images is too small or too uncertain to claim."


def _baseline_finding(row: Comparison, focus: str, baseline: str) -> Finding:
    effect = _effect(row)
    words = {1: "is better than", 0: "does not differ significantly from", -1: "is worse than"}[effect]
    text = (
        f"{arm_title(focus)} {words} the best baseline without generated images, {arm_title(baseline)}. "
        f"{_difference(row, focus, baseline)}"
    )
    return Finding({1: "ok", 0: "note", -1: "warning"}[effect], text, {baseline: row.difference})


def _worst_group_finding(probe: ProbeResults, focus: str, others: Sequence[str]) -> Finding:
    worst_groups = {name: probe.arms[name].worst_group_accuracy for name in (focus, *others)}
    if any(worst.value is None for worst in worst_groups.values()):
        return Finding("note", "Worst-group accuracy is undefined: no group has enough test images.")
    text = ", ".join(
        f"{arm_title(name)} {worst.value:.2f} ({worst.group}, {worst.n} images)" for name, worst in worst_groups.items()
    )
    rows = [probe.comparison("worst_group_accuracy", name) for name in others]
    effects = [_effect(row) if row else 0 for row in rows]
    certain = [name for name, effect in zip(others, effects) if effect]
    ending = "no difference is significant"
    if certain:
        ending = f"only the difference from {' and '.join(map(arm_title, certain))} is significant"
    if len(certain) == len(others):
        ending = "the differences are significant" if len(others) > 1 else "the difference is significant"
    level = "warning" if any(effect < 0 for effect in effects) else "ok" if all(effects) else "note"
    figures = {name: Figure(worst.value, worst.ci95, worst.n) for name, worst in worst_groups.items()}
    return Finding(level, f"Worst-group accuracy: {text}; {ending}.", figures)


def _fidelity_findings(fidelity: ArmsMetrics, focus: str, rival: str) -> list[Finding]:
    if focus not in fidelity.arms:
        return []
    mine = fidelity.arms[focus].frechet_distance
    if rival not in fidelity.arms or mine.mean.value is None:
        text = (
            f"Fréchet distance to real images: {arm_title(focus)} {_number(mine.mean)}; real images of other patients "
            f"{_number(mine.floor)}."
        )
        return [Finding("note", text, {focus: mine.mean, "floor": mine.floor})]
    theirs = fidelity.arms[rival].frechet_distance
    text = (
        f"Mean Fréchet distance to real images: {arm_title(focus)} {_number(mine.mean)}, {arm_title(rival)} "
        f"{_number(theirs.mean)}; real images of other patients {_number(mine.floor)}."
    )
    if mine.unseen.value is not None:
        text += f" For combinations not in training: {_number(mine.unseen)} and {_number(theirs.unseen)}."
    test = fidelity.comparison(focus, rival).log_ratio
    text += f" Paired test over {plural(test.n, 'combination')}: {_p(test.p_value)}."
    certain = test.p_value is not None and test.p_value < ALPHA
    nearer = theirs.mean.value is not None and mine.mean.value < theirs.mean.value
    figures = {focus: mine.mean, rival: theirs.mean, "floor": mine.floor}
    return [Finding("ok" if certain and nearer else "warning" if certain else "note", text, figures)]


def _shortcut_findings(probe: ProbeResults) -> list[Finding]:
    findings, accuracy = [], probe.shortcut.center_probe_accuracy
    if accuracy.value is not None:
        text = (
            f"The {probe.center} can be predicted from the features of real images with a balanced accuracy of "
            f"{accuracy.value:.2f} (chance {accuracy.chance:.2f})."
        )
        findings.append(Finding("note", text, {probe.center: accuracy}))
    arms = probe.shortcut.correlation.arms
    drops = {arm: curve.average_performance_drop.value for arm, curve in arms.items()}
    known = {arm: drop for arm, drop in drops.items() if drop is not None}
    if known and len(known) == len(drops):
        shown = ", ".join(f"{arm_title(arm)} {number(100 * drop, 1)}%" for arm, drop in known.items())
        text = f"Mean change in balanced accuracy as {probe.center} and class become correlated in training: {shown}."
        findings.append(Finding("note", text, known))
    return findings


def _sampling_findings(fidelity: ArmsMetrics, focus: str) -> list[Finding]:
    findings = settings_findings(fidelity.settings_that_differ)
    held_out = fidelity.real.memorization
    if focus in fidelity.copying_arms and held_out:
        copies = fidelity.arms[focus].memorization.copies
        text = (
            f"{arm_title(focus)} reproduces training images: {copies.value:.1%} of its images are copies, "
            f"versus {held_out.copies.value:.1%} of held-out real images."
        )
        findings.append(Finding("error", text, {focus: copies, "held_out": held_out.copies}))
    return findings


def _protocol_findings(probe: ProbeResults) -> list[Finding]:
    texts = []
    others = sum(row.figure == "balanced_accuracy" for row in probe.comparisons)
    # smallest possible p value of the sign-flip test over draws, corrected for the number of comparisons
    if others and others * 2 / 2**probe.num_repeats >= ALPHA:
        texts.append(
            f"With {plural(probe.num_repeats, 'draw')} and {plural(others, 'comparison')}, no corrected p "
            f"value can fall below {ALPHA}, so "
            "no effect can be claimed. Increase --num_repeats."
        )
    if probe.test.patients < FEW_PATIENTS:
        texts.append(
            f"The test images come from only {plural(probe.test.patients, 'patient')}, so results may differ for "
            "others."
        )
    strongest, weakest = min(probe.c_values), max(probe.c_values)
    # a mean over draws is at an edge if all of them are, but for rounding
    edge = [
        arm_title(arm)
        for arm, results in probe.arms.items()
        if any(math.isclose(results.training.c, value) for value in (strongest, weakest))
    ]
    if edge and strongest < weakest:
        texts.append(
            f"The best C lies at the edge of its range for {', '.join(edge)}: extend the range with --c_values."
        )
    unfinished = [arm_title(arm) for arm, results in probe.arms.items() if results.training.converged < 1]
    if unfinished:
        texts.append(f"Some probes did not converge: {', '.join(unfinished)}.")
    return [Finding("warning", text) for text in texts]


def _effect(row: Comparison) -> int:
    difference, p_value = row.difference, row.p_holm
    if p_value is None or p_value >= ALPHA or difference.value is None or difference.ci95 is None:
        return 0
    if abs(difference.value) <= TRIFLE:
        return 0
    low, high = difference.ci95
    return 1 if low > 0 else -1 if high < 0 else 0


def _difference(row: Comparison, focus: str, other: str) -> str:
    difference, pair = row.difference, f"{arm_title(focus)} − {arm_title(other)}"
    if difference.value is None:
        return f"{pair}: undefined."
    low, high = (_signed(edge) for edge in difference.ci95 or (None, None))
    return f"{pair}: {_signed(difference.value)} balanced accuracy (95% CI {low} to {high}, {_p(row.p_holm)})."


def _signed(value: float | None) -> str:
    text = number(value, 3)
    return f"+{text}" if value is not None and value > 0 and float(text) else text


def _number(figure: Figure) -> str:
    return "–" if figure.value is None else f"{figure.value:.2f}"


def _p(value: float | None) -> str:
    return "p undefined" if value is None else f"p = {value:.2g}" if value >= 0.001 else "p < 0.001"

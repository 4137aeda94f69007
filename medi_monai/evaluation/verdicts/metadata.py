"""Verdict on the metadata experiment, as sentences; *no effect* is a possible answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from medi_monai.evaluation.probing.arms import RECOLORED
from medi_monai.report.evaluation_page import untrained_text
from medi_monai.report.words import arm_title, number, p_statement, settings_findings, signed
from medi_monai.results import Figure, Finding
from medi_monai.results.experiment import ENOUGH_TRAININGS, TrainingSummary
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ALPHA, Comparison, ProbeResults
from medi_monai.utils.text import plural

__all__ = [
    "Effect",
    "effect_of",
    "main_answer",
    "main_comparisons",
    "protocol_findings",
    "trainings_findings",
    "verdict",
]

#: what a comparison shows
Effect: TypeAlias = Literal["better", "worse", "equivalent", "uncertain"]
BETTER: Effect = "better"
WORSE: Effect = "worse"
EQUIVALENT: Effect = "equivalent"
UNCERTAIN: Effect = "uncertain"
IMPROVE = "images generated with metadata improve the classifier"
#: number of test patients below which there is a warning
FEW_PATIENTS = 20


def verdict(fidelity: ArmsMetrics, probe: ProbeResults, focus: str = "medi", rival: str = "cls") -> list[Finding]:
    """Return the findings of the experiment; the answer is first, unless errors invalidate it.

    An effect on a classifier is claimed if the corrected p value is below 0.05, unless the difference is certain to be
    within the margin of equivalence, which is no effect. That metadata help is claimed only if the arm is better than
    real images alone, than the class-only model, and than the best baseline without generated images. The verdict on
    a single training is never more than *consistent with*.

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
    return findings + protocol_findings(probe)


def trainings_findings(trainings: Sequence[TrainingSummary]) -> list[Finding]:
    """Return how much trainings differ in their Fréchet distance or, with a single one, that this is unknown."""
    if len(trainings) == 1:
        text = (
            "Each model was trained once. Another training would give different results, and how different is not "
            f"known: repeat with --num_trainings {ENOUGH_TRAININGS} or more."
        )
        return [Finding("note", text)]
    ranges = {}
    for arm in trainings[0].arms:
        values = [of.arms[arm].frechet_distance for of in trainings]
        known = [value for value in values if value is not None]
        if known:
            ranges[arm] = f"{arm_title(arm)} {sum(known) / len(known):.2f} ({min(known):.2f} to {max(known):.2f})"
    text = f"Mean Fréchet distance over {len(trainings)} trainings (lowest to highest): {', '.join(ranges.values())}."
    return [Finding("note", text)] if ranges else []


def _void(fidelity: ArmsMetrics, probe: ProbeResults) -> list[Finding]:
    """Return the errors that make any effect meaningless; they precede all other findings."""
    findings = [finding for finding in (*fidelity.warnings, *probe.warnings) if finding.level == "error"]
    if fidelity.untrained_arms:
        precisions = {arm: fidelity.arms[arm].precision.mean for arm in fidelity.untrained_arms}
        findings.insert(0, Finding("error", untrained_text(fidelity), precisions, "not_trained"))
    return findings


def main_comparisons(probe: ProbeResults, rival: str = "cls") -> tuple[dict[str, Comparison], list[str], list[str]]:
    """Return the comparisons that decide the answer.

    Args:
        probe: results of the probing.
        rival: arm conditioned on the class only.

    Returns:
        The differences in balanced accuracy by the other arm; those of real images alone and of the rival; and, in a
        list, the best baseline without generated images, if there is one.
    """
    compared = {row.arms[1]: row for row in probe.comparisons if row.figure == "balanced_accuracy"}
    others = [name for name in ("real", rival) if name in compared]
    best = [probe.best_baseline] if probe.best_baseline in compared else []
    return compared, others, best


def main_answer(probe: ProbeResults, rival: str = "cls") -> tuple[str, str]:
    """Return level and text of the answer that the probing gives; see :func:`verdict`."""
    compared, others, best = main_comparisons(probe, rival)
    effects = {name: effect_of(compared[name]) for name in (*others, *best)}
    return _answer(effects, best, probe)


def _probe_findings(probe: ProbeResults, focus: str, rival: str) -> list[Finding]:
    compared, others, best = main_comparisons(probe, rival)
    if not others:
        return [Finding("warning", "No comparison: there is no other arm.")]
    level, answer = main_answer(probe, rival)
    differences = {name: compared[name].difference for name in others}
    sentences = "; ".join(_difference(compared[name], focus, name).removesuffix(".") for name in others)
    findings = [Finding(level, f"{answer} {sentences}. Tested on {probe.test.what}.", differences)]
    rivals = dict.fromkeys(best, "the best baseline without generated images")
    control = f"{focus}_permuted"
    if control in compared:
        rivals[control] = "the control"
    findings += [_rival_finding(compared[name], focus, name, what) for name, what in rivals.items()]
    findings += _recoloring_finding(probe, compared)
    return [*findings, _worst_group_finding(probe, focus, others)]


def _answer(effects: Mapping[str, str], best: Sequence[str], probe: ProbeResults) -> tuple[str, str]:
    generated = [effect for name, effect in effects.items() if name not in best]
    better = [arm_title(name) for name, effect in effects.items() if effect == BETTER]
    if all(effect == BETTER for effect in effects.values()):
        level, head, text = "ok", ("Metadata help", "metadata helping"), f"{IMPROVE}."
    elif WORSE in generated:
        level, head, text = "error", ("Generated images do harm", "harm"), "generated images reduce accuracy."
    elif better:
        level, head = "warning", ("Mixed result", "")
        higher = [arm_title(name) for name, effect in effects.items() if effect == WORSE]
        unclear = [arm_title(name) for name, effect in effects.items() if effect not in (BETTER, WORSE)]
        text = f"{arm_title(probe.focus)} is more accurate than {' and '.join(better)}"
        text += f", but not shown to be more accurate than {' and '.join(unclear)}" if unclear else ""
        text += f", but less accurate than {' and '.join(higher)}." if higher else "."
    elif set(generated) == {EQUIVALENT}:
        level, head = "note", ("No effect", "no effect")
        text = "the classifier is as accurate with the generated images as without."
    else:
        level, head = "note", ("Not decided", "")
        text = "the effect of the generated images is too uncertain to call."
    if probe.num_trainings == 1:
        start = f"Consistent with {head[1]}" if head[1] else head[0]
        return level, f"{start} (one training): {text}"
    return level, f"{head[0]}: {text}"


def _rival_finding(row: Comparison, focus: str, rival: str, what: str) -> Finding:
    effect = effect_of(row)
    words = {
        BETTER: "is better than",
        WORSE: "is worse than",
        EQUIVALENT: "is equivalent to",
        UNCERTAIN: "does not differ significantly from",
    }[effect]
    text = f"{arm_title(focus)} {words} {what}, {arm_title(rival)}. {_difference(row, focus, rival)}"
    return Finding({BETTER: "ok", WORSE: "warning"}.get(effect, "note"), text, {rival: row.difference})


def _recoloring_finding(probe: ProbeResults, compared: Mapping[str, Comparison]) -> list[Finding]:
    """Return whether real images recolored to the stain of other centers are as good as generated ones."""
    recolored = [name for name in RECOLORED if name in compared]
    if not recolored:
        return []
    best = max(recolored, key=lambda name: probe.arms[name].balanced_accuracy.value or 0.0)
    effect = effect_of(compared[best])
    answer = {
        BETTER: "Recoloring real images to the stain of other centers is not enough",
        UNCERTAIN: "It is not decided whether recoloring real images to the stain of other centers is enough",
    }.get(effect, "Recoloring real images to the stain of other centers is enough")
    text = f"{answer}. {_difference(compared[best], probe.focus, best)}"
    return [Finding("ok" if effect == BETTER else "note", text, {best: compared[best].difference})]


def _worst_group_finding(probe: ProbeResults, focus: str, others: Sequence[str]) -> Finding:
    worst_groups = {name: probe.arms[name].worst_group_accuracy for name in (focus, *others)}
    if any(worst.value is None for worst in worst_groups.values()):
        return Finding("note", "Worst-group accuracy is undefined: no group has enough test images.")
    text = ", ".join(
        f"{arm_title(name)} {worst.value:.2f} ({worst.group}, {worst.n} images)" for name, worst in worst_groups.items()
    )
    rows = [probe.comparison("worst_group_accuracy", name) for name in others]
    effects = [effect_of(row) if row else UNCERTAIN for row in rows]
    certain = [name for name, effect in zip(others, effects) if effect in (BETTER, WORSE)]
    ending = "no difference is significant"
    if certain:
        ending = f"only the difference from {' and '.join(map(arm_title, certain))} is significant"
    if len(certain) == len(others):
        ending = "the differences are significant" if len(others) > 1 else "the difference is significant"
    level = "warning" if WORSE in effects else "ok" if set(effects) == {BETTER} else "note"
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
    text += f" Paired test over {plural(test.n, 'combination')}: {p_statement(test.p_value)}."
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
    correlation = probe.shortcut.correlation
    drops = {arm: curve.average_performance_drop.value for arm, curve in correlation.arms.items()}
    known = {arm: drop for arm, drop in drops.items() if drop is not None}
    if known and len(known) == len(drops):
        shown = ", ".join(f"{arm_title(arm)} {number(100 * drop, 1)}%" for arm, drop in known.items())
        text = f"Mean change in balanced accuracy as {probe.center} and class become correlated in training: {shown}."
        if correlation.left_out:
            left_out = " and ".join(arm_title(arm) for arm in correlation.left_out)
            text += (
                f" Not measured for {left_out}: their generators were trained on images that the correlated training "
                "sets withhold, or have no record of training."
            )
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


def protocol_findings(probe: ProbeResults, option: str = "--c_values") -> list[Finding]:
    """Return warnings about the protocol of a probing, ``option`` being that with its values of C."""
    texts = []
    if any(row.p_value is None for row in probe.comparisons if row.figure == "balanced_accuracy"):
        texts.append(
            f"With {plural(probe.num_repeats, 'draw')} of training patients and {plural(probe.test.num_units, 'test')} "
            f"{probe.test.unit}{'s' * (probe.test.num_units != 1)}, differences have no p value, so no effect can be "
            "claimed. Increase --num_repeats, or test on more patients."
        )
    if probe.test.unit == "patient" and any(not group.seen for group in probe.test.groups):
        texts.append(
            "There are too few test combinations to resample them: intervals hold for other patients with these "
            "combinations, not for other combinations."
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
        texts.append(f"The best C lies at the edge of its range for {', '.join(edge)}: extend the range with {option}.")
    unfinished = [arm_title(arm) for arm, results in probe.arms.items() if results.training.converged < 1]
    if unfinished:
        texts.append(f"Some probes did not converge: {', '.join(unfinished)}.")
    return [Finding("warning", text) for text in texts]


def effect_of(row: Comparison) -> Effect:
    """Return what a comparison shows: ``better``, ``worse``, ``equivalent`` or ``uncertain``."""
    if row.p_equivalence is not None and row.p_equivalence < ALPHA:
        return EQUIVALENT
    if not row.significant or row.difference.value is None:
        return UNCERTAIN
    return BETTER if row.difference.value > 0 else WORSE


def _difference(row: Comparison, focus: str, other: str) -> str:
    difference, pair = row.difference, f"{arm_title(focus)} − {arm_title(other)}"
    if difference.value is None:
        return f"{pair}: undefined."
    low, high = (signed(edge) for edge in difference.ci95 or (None, None))
    return f"{pair}: {signed(difference.value)} balanced accuracy (95% CI {low} to {high}, {p_statement(row.p_holm)})."


def _number(figure: Figure) -> str:
    return "–" if figure.value is None else f"{figure.value:.2f}"

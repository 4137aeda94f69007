"""Verdict on an alignment, and the findings that support it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medi_monai.networks.encoders import same_encoder
from medi_monai.report.words import arm_title, figure_text, number, settings_findings, signed, span
from medi_monai.results import Figure, Finding
from medi_monai.results.alignment import AlignmentMetrics, AlignmentVerdict, Answer, TuningCurve
from medi_monai.utils.text import plural

__all__ = ["CurveRise", "alignment_verdict", "cautions", "curve_rises", "verdict_by_arm"]

#: number of images below which intervals are wider than the tolerance
FEW_IMAGES = 500
#: balanced accuracy below which a judge is considered unreliable
LOW_ACCURACY = 0.75
#: smallest decrease of the guide's distance that counts
TRIFLE = 0.02
#: allowed loss of quality, as ratios to before tuning: at most this Fréchet distance, and at least this diversity and
#: prompt adherence. For distance and diversity, whole intervals have to keep these margins (non-inferiority)
WORST_DISTANCE, LEAST_DIVERSITY, LEAST_PROMPT_ADHERENCE = 1.1, 0.9, 0.95
#: smallest allowed mean similarity of pairs that kept their subgroup
LEAST_CONSISTENCY = 0.9


@dataclass(frozen=True)
class CurveRise:
    """A rise of the distance to the target during the tuning, according to the judge.

    Attributes:
        least: smallest distance, reached at ``step``.
        step: update with the smallest distance.
        kept: distance at ``kept_step``.
        kept_step: update whose weights were kept.
    """

    least: float
    step: int
    kept: float
    kept_step: int


def verdict_by_arm(metrics: AlignmentMetrics) -> dict[str, AlignmentVerdict]:
    """Return the verdict of every arm except ``before``."""
    return {arm: alignment_verdict(metrics, arm) for arm in metrics.proportions if arm != "before"}


def alignment_verdict(metrics: AlignmentMetrics, arm: str = "after") -> AlignmentVerdict:
    """Return the verdict on one arm.

    Possible answers, in the order in which they are considered:

    - ``undecided``: no image was classified, or the judge classifies an attribute at chance level.
    - ``met``: the distance to the target, corrected for the judge's misclassification if its error rates are known, is
      within the tolerance.
    - ``fooled the guide``: the distance fell according to the guide but rose according to the judge, either from before
      to after or, on the curves of the tuning, from its minimum to the kept update.
    - ``no effect``: the interval of the change in the judge's distance includes 0.
    - ``missed``: the distance changed, but is not within the tolerance.
    - ``quality lost``: replaces ``met`` if a measure of quality is worse than allowed, and significantly so.
    - ``quality not shown``: replaces ``met`` if a measure of quality may be worse than allowed. Of the Fréchet distance
      and the diversity within subgroups, the whole interval has to be within the allowed loss (non-inferiority).

    Args:
        metrics: metrics of the evaluation.
        arm: name of the arm.

    Returns:
        The verdict; its first finding states the answer, the others concern quality.
    """
    answer, finding = _target_answer(metrics, arm)
    quality = [_fidelity_finding(metrics, arm), _diversity_finding(metrics, arm), *_pair_findings(metrics, arm)]
    quality += _prompt_adherence_findings(metrics, arm)
    if metrics.judge.at_chance:
        # quality is not reported as ok if the judge, which defines the subgroups, is at chance level
        quality = [replace(finding, level="note") if finding.level == "ok" else finding for finding in quality]
    levels = {finding.level for finding in quality}
    lost = "error" in levels
    if answer == "met" and lost:
        answer = "quality lost"
        finding = Finding("error", f"The target is met, but quality is lost. {finding.text}", finding.figures)
    elif answer == "met" and "warning" in levels:
        answer, text = "quality not shown", "The target is met, but quality has not been shown to be preserved."
        finding = Finding("warning", f"{text} {finding.text}", finding.figures)
    return AlignmentVerdict(answer, lost, (finding, *quality))


def _target_answer(metrics: AlignmentMetrics, arm: str) -> tuple[Answer, Finding]:
    distance, before = (metrics.distance_to_target[name][metrics.part] for name in (arm, "before"))
    raw, base = distance.total_variation, before.total_variation
    used, how = raw, "not corrected for misclassification"
    if distance.corrected and distance.corrected.total_variation.value is not None and before.corrected:
        used, base = distance.corrected.total_variation, before.corrected.total_variation
        how = "corrected for misclassification"
    if used.value is None:
        return "undecided", Finding(
            "warning", f"Undecided: no image of the arm {arm_title(arm)!r} could be classified."
        )
    if metrics.judge.at_chance:
        text = f"Undecided: the judge classifies {' and '.join(metrics.judge.at_chance)} at chance level."
        return "undecided", Finding("error", text)
    text = (
        f"Distance of {metrics.part} to the target (total variation, {how}): {arm_title('before')} "
        f"{figure_text(base, 3)}, {arm_title(arm)} {figure_text(used, 3)}; {plural(raw.n or 0, 'image')}."
    )
    if used is not raw:
        text += f" Without correction: {figure_text(before.total_variation, 3)} and {figure_text(raw, 3)}."
    answer, level, start, ending = _answer(metrics, arm, used)
    return answer, Finding(level, f"{start} {text}{ending}", {"before": base, arm: used})


def _answer(metrics: AlignmentMetrics, arm: str, distance: Figure) -> tuple[Answer, str, str, str]:
    """Return the answer, the level of its finding, and the text before and after the distances."""
    tolerance, points = metrics.tolerance, f"{100 * metrics.tolerance:g} percentage points"
    if distance.value is not None and distance.value <= tolerance:
        certain = distance.ci95 is not None and distance.ci95[1] <= tolerance
        ending = f" The interval extends beyond {number(tolerance, 2)}; more images are needed to be certain."
        return "met", "ok", f"The target is met: shares are within {points} of it.", "" if certain else ending
    fooled = _fooled(metrics, arm)
    if fooled:
        return "fooled the guide", "error", f"The tuning exploits weaknesses of the guide classifier: {fooled}", ""
    change = _change(metrics.change, arm, metrics.part)
    if change is None or change.ci95 is None or change.ci95[0] <= 0 <= change.ci95[1]:
        return "no effect", "warning", "No effect: the distance to the target did not change significantly.", ""
    closer = change.value is not None and change.value < 0
    start = (
        f"The target is missed: shares are more than {points} from it, "
        f"{'but closer' if closer else 'and farther away'} than before alignment."
    )
    return "missed", "warning", start, ""


def _change(changes: Mapping[str, Mapping[str, Figure]], arm: str, part: str) -> Figure | None:
    return changes[arm][part] if arm in changes else None


def _fooled(metrics: AlignmentMetrics, arm: str) -> str:
    guide = metrics.readers.get("guide")
    change = _change(metrics.change, arm, metrics.part)
    by_guide = _change(guide.change, arm, metrics.part) if guide else None
    fell = by_guide is not None and _below(by_guide, -TRIFLE)
    if by_guide and fell and change and change.ci95 and change.ci95[0] > 0:
        return (
            f"the distance changes by {signed(by_guide.value, 2)} according to the guide, but by "
            f"{signed(change.value, 2)}{span(change.ci95, 3)} according to the judge."
        )
    rise = curve_rises(metrics.curve, metrics.tolerance) if arm == "after" else None
    if rise:
        return (
            f"during tuning, the judge's distance fell to {number(rise.least, 2)} by update {rise.step} and rose "
            f"to {number(rise.kept, 2)} by update {rise.kept_step}, while the guide's distance kept falling."
        )
    return ""


def curve_rises(curve: TuningCurve | None, tolerance: float) -> CurveRise | None:
    """Find a rise of the judge's distance that the guide does not show.

    Args:
        curve: validations during the tuning, or None.
        tolerance: smallest rise that counts.

    Returns:
        The rise from the minimum to the kept update; None if it is not above the tolerance, if the guide's distance
        rose as well, or if the curve lacks either classifier.
    """
    rows = [row for row in curve.rows if row.step <= curve.kept_step] if curve else []
    if not rows or not all({"judge", "guide"} <= set(row.classifiers) for row in rows):
        return None
    judge, guide = ([row.classifiers[name].distance for row in rows] for name in ("judge", "guide"))
    least = judge.index(min(judge))
    if judge[-1] - judge[least] <= tolerance or guide[-1] > guide[least]:
        return None
    return CurveRise(judge[least], rows[least].step, judge[-1], rows[-1].step)


def _fidelity_finding(metrics: AlignmentMetrics, arm: str) -> Finding:
    ratios = {
        "all images" if group == "all" else group: fidelity.arms[arm].ratio
        for group, fidelity in metrics.fidelity.items()
        if _is_wanted(metrics, group)
    }
    if all(ratio.value is None for ratio in ratios.values()):
        return Finding("warning", "Fréchet distances could not be compared: too few images.")
    limits = {name: 1.0 if name == "all images" else WORST_DISTANCE for name in ratios}
    lost = [
        name
        for name, ratio in ratios.items()
        if ratio.value is not None and ratio.value > limits[name] and ratio.ci95 and ratio.ci95[0] > 1
    ]
    within = [name for name, ratio in ratios.items() if ratio.ci95 and ratio.ci95[1] <= WORST_DISTANCE]
    words = "; ".join(f"{name} {figure_text(ratio)}" for name, ratio in ratios.items())
    text = f"Fréchet distance, ratio to before alignment: {words}."
    margin = f"the upper limit of the interval has to be at most {WORST_DISTANCE:.2f}"
    return _graded("Worse Fréchet distance", lost, within, margin, text, ratios)


def _is_wanted(metrics: AlignmentMetrics, group: str) -> bool:
    # a subgroup with a target share of 0 has no images to compare
    return metrics.target.target.get(group, 1.0) > 0


def _below(figure: Figure, limit: float) -> bool:
    return figure.value is not None and figure.value < limit


def _diversity_finding(metrics: AlignmentMetrics, arm: str) -> Finding:
    ratios = {
        (group, title): measure.ratio
        for group, by_name in metrics.diversity.items()
        if _is_wanted(metrics, group)
        for title, measure in (("structure", by_name[arm].ms_ssim), ("features", by_name[arm].features))
    }
    if all(ratio.value is None for ratio in ratios.values()):
        return Finding("warning", "Diversity within subgroups could not be compared: too few images.")
    words = "; ".join(f"{group} {figure_text(ratio)} ({title})" for (group, title), ratio in ratios.items())
    named = {f"{group} ({title})": ratio for (group, title), ratio in ratios.items()}
    lost = [
        name
        for name, ratio in named.items()
        if _below(ratio, LEAST_DIVERSITY) and (ratio.ci95 is None or ratio.ci95[1] < 1)
    ]
    within = [name for name, ratio in named.items() if ratio.ci95 and ratio.ci95[0] >= LEAST_DIVERSITY]
    text = f"Diversity within subgroups, ratio to before alignment: {words}."
    margin = f"the lower limit of the interval has to be at least {LEAST_DIVERSITY:.2f}"
    return _graded("Lower diversity", lost, within, margin, text, named)


def _graded(
    what: str, lost: Sequence[str], within: Sequence[str], margin: str, text: str, figures: Mapping[str, Figure]
) -> Finding:
    """Return an error if a ratio is worse for certain, and a warning if one is not within the margin for certain.

    Args:
        what: name of the loss.
        lost: names of the ratios that are worse than allowed and whose interval excludes no change.
        within: names of the ratios whose whole interval keeps the margin, which are shown to be non-inferior.
        margin: the margin in words.
        text: all ratios in words.
        figures: all ratios by name.
    """
    unsure = [name for name in figures if name not in (*lost, *within)]
    start = f"{what}: {', '.join(lost)}. " if lost else ""
    start += f"{what} not ruled out ({margin}): {', '.join(unsure)}. " if unsure else ""
    return Finding("error" if lost else "warning" if unsure else "ok", start + text, figures)


def _pair_findings(metrics: AlignmentMetrics, arm: str) -> list[Finding]:
    pairs = metrics.consistency.get(arm)
    if pairs is None or pairs.stayed.value is None:
        return []
    stayed = pairs.stayed
    low = _below(stayed, LEAST_CONSISTENCY)
    lost = low and stayed.ci95 is not None and stayed.ci95[1] < LEAST_CONSISTENCY
    changed = "no pair changed it"
    if pairs.changed.n:
        changed = f"pairs that changed it {figure_text(pairs.changed, 3)} ({plural(pairs.changed.n, 'pair')})"
    text = (
        f"Cosine similarity ({metrics.encoder['name']}) of images from the same noise before and after: pairs that "
        f"kept their subgroup {figure_text(stayed, 3)} ({plural(stayed.n or 0, 'pair')}), {changed}; images from "
        f"different noise {number(pairs.unrelated.value, 3)}."
    )
    figures = {"stayed": stayed, "changed": pairs.changed, "unrelated": pairs.unrelated}
    return [Finding("error" if lost else "warning" if low else "ok", text, figures)]


def _prompt_adherence_findings(metrics: AlignmentMetrics, arm: str) -> list[Finding]:
    findings = []
    for name, by_arm in metrics.named_prompts.items():
        if arm not in by_arm or by_arm[arm].ratio.value is None:
            continue
        ratio, shares = by_arm[arm].ratio, {of_arm: by_arm[of_arm].share for of_arm in ("before", arm)}
        low = _below(ratio, LEAST_PROMPT_ADHERENCE)
        lost = low and ratio.ci95 is not None and ratio.ci95[1] < 1
        text = (
            f"Prompts that name {name}, images predicted as requested: {arm_title('before')} "
            f"{figure_text(shares['before'], 3)}, {arm_title(arm)} {figure_text(shares[arm], 3)}; "
            f"ratio {figure_text(ratio, 3)}."
        )
        chance, interval = 1 / max(len(by_arm["before"].by_value), 1), shares["before"].ci95
        blind = interval is not None and interval[0] <= chance
        if blind:
            text += f" Before alignment, the model followed such prompts no better than chance ({chance:.2f})."
        level = "error" if lost else "warning" if low or blind else "ok"
        findings.append(Finding(level, text, {**shares, "ratio": ratio}))
    return findings


def cautions(metrics: AlignmentMetrics) -> tuple[Finding, ...]:
    """Return findings about the limitations of the conclusions."""
    findings = [Finding("warning", sentence) for sentence in metrics.notes]
    findings += _judge_findings(metrics)
    findings += [_encoder_finding(metrics), _seeds_finding(metrics)]
    counts = {arm: by_part[metrics.part].total_variation.n or 0 for arm, by_part in metrics.distance_to_target.items()}
    few = ", ".join(f"{arm_title(arm)} ({n:,})" for arm, n in counts.items() if n < FEW_IMAGES)
    if few:
        findings.append(Finding("warning", f"Fewer than {FEW_IMAGES} images, so intervals are wide: {few}."))
    if metrics.curve and metrics.curve.kept_step == 0:
        text = "No update reduced the distance to the target: the original weights were kept."
        findings.append(Finding("warning", text))
    if "after" in metrics.consistency and metrics.consistency["after"].num_pairs == 0:
        text = "Consistency could not be measured: no images before and after share prompt, number, and seed."
        findings.append(Finding("warning", text))
    return (*findings, *settings_findings(metrics.settings_that_differ), *_copies(metrics))


def _encoder_finding(metrics: AlignmentMetrics) -> Finding:
    name, other = metrics.encoder["name"], metrics.regularizer
    text = f"Distances, diversity and consistency are measured with the encoder {name}"
    if other is None:
        return Finding("note", f"{text}.")
    if same_encoder(metrics.encoder, other):
        text += ", which also regularized the tuning and therefore favors it: choose another with --encoder, such as "
        return Finding("warning", f"{text}efficientnet_lite0 (pip install medi_monai[lite]).")
    return Finding("note", f"{text}, which took no part in the tuning; its consistency loss used {other['name']}.")


def _seeds_finding(metrics: AlignmentMetrics) -> Finding:
    seeds = metrics.seeds.get("after")
    if seeds is None:
        text = (
            "The tuning was run with one seed: intervals do not include the variance between seeds, and another seed "
            "may give different results."
        )
        return Finding("note", text)
    ratios = "; ".join(
        f"{'all images' if group == 'all' else group} {', '.join(number(ratio, 2) for ratio in of_group)}"
        for group, of_group in seeds.frechet_ratio.items()
    )
    text = (
        f"The tuning was run with {len(seeds.distance_to_target)} seeds: figures after alignment are means, and their "
        "intervals include the variance between seeds. Fréchet distance of each seed, ratio to before alignment: "
        f"{ratios}."
    )
    return Finding("note", text)


def _judge_findings(metrics: AlignmentMetrics) -> list[Finding]:
    findings, held_out = [], metrics.judge.held_out
    for attribute, accuracies in held_out.items():
        accuracy = accuracies.balanced_accuracy
        text = (
            f"a balanced accuracy of {figure_text(accuracy, 3)} on {accuracies.n:,} held-out images "
            f"(chance {accuracies.chance:.2f})"
        )
        if attribute in metrics.judge.at_chance:
            sentence = f"Do not rely on these results: the judge classifies {attribute} at chance level, with {text}."
            findings.append(Finding("error", sentence))
        elif _below(accuracy, LOW_ACCURACY):
            findings.append(Finding("warning", f"The judge often misclassifies {attribute}: {text}."))
    unmeasured = [name for name in metrics.target.attributes if name not in held_out]
    if unmeasured:
        text = (
            f"The judge's accuracy for {', '.join(unmeasured)} was not measured: shares are not corrected for "
            "misclassification."
        )
        findings.append(Finding("warning", text))
    return findings


def _copies(metrics: AlignmentMetrics) -> list[Finding]:
    held_out = metrics.memorization.get("held_out")
    return [
        Finding(
            "error",
            f"{arm_title(arm)} reproduces training images: share of copies {figure_text(memory.copies, 3)}, "
            f"versus {figure_text(held_out.copies, 3)} of held-out real images.",
        )
        for arm, memory in metrics.memorization.items()
        if held_out and arm != "held_out" and memory.reproduces_training_images(held_out)
    ]

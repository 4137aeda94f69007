"""Findings of an alignment, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from medi_monai.metrics.memorization import reproduces_training_images
from medi_monai.report.words import arm_title, differing_settings, edges_of, figure_text, known, number, span
from medi_monai.results import Figure, Finding
from medi_monai.results.metrics import AlignmentVerdict

__all__ = ["ANSWERS", "alignment_verdict", "cautions", "curve_rises", "verdict_by_arm"]

ANSWERS = ("met", "missed", "no effect", "fooled the guide", "quality lost", "undecided")

#: fewer images give intervals wider than the tolerance
FEW_IMAGES = 500
#: a judge who is right less often, by the mean over the values
LOW_ACCURACY = 0.75
#: by how much a guide's distance has to fall before it counts as fallen
TRIFLE = 0.02
#: what a subgroup may lose: Fréchet distance times this at most, diversity and prompt adherence times these at least
WORST_DISTANCE, LEAST_DIVERSITY, LEAST_PROMPT_ADHERENCE = 1.1, 0.9, 0.95
LEAST_CONSISTENCY = 0.9


def alignment_verdict(content: Mapping[str, Any], arm: str = "after") -> AlignmentVerdict:
    """The answer for one arm, the findings that it rests on, the answer first.

    - ``met``: the distance to the target, behind the judge's mistakes where they are known, is within the tolerance.
    - ``fooled the guide``: it is not, the guide's distance fell, and the judge's rose, from before to after or from
      its least to the kept update of the curves.
    - ``no effect``: the interval of the change in the judge's distance reaches 0.
    - ``missed``: it changed, and is not within the tolerance.
    - ``undecided``: the judge reads an attribute at chance level, or there is no image.
    - ``quality lost``: in place of ``met`` where a measure of quality is worse than allowed and its interval excludes
      what it was before.

    Args:
        content: of ``metrics.json``.
        arm: whose.

    Returns:
        The verdict, its findings with the answer first.
    """
    name = content["part"]
    answer, finding = _of_target(content, arm, name)
    quality = [*_of_fidelity(content, arm), *_of_diversity(content, arm), *_of_pairs(content, arm)]
    quality += _of_prompt_adherence(content, arm)
    if content["judge"]["at_chance"]:
        # what rests on who cannot read is not in order
        quality = [replace(finding, level="note") if finding.level == "ok" else finding for finding in quality]
    lost = any(finding.level == "error" for finding in quality)
    if lost and answer == "met":
        answer = "quality lost"
        finding = Finding("error", f"The target is met, but quality is lost. {finding.text}", finding.figures)
    return AlignmentVerdict(answer, lost, [finding, *quality])


def _of_target(content: Mapping[str, Any], arm: str, name: str) -> tuple[str, Finding]:
    tolerance = content["settings"]["tolerance"]
    distance = content["distance_to_target"][arm][name]
    corrected = (distance.get("corrected") or {}).get("total_variation") or {}
    raw = distance["total_variation"]
    used = corrected if known(corrected.get("value")) is not None else raw
    was = content["distance_to_target"]["before"][name]
    base = was["corrected"]["total_variation"] if used is corrected else was["total_variation"]
    if known(used["value"]) is None:
        return "undecided", Finding(
            "warning", f"Undecided: no image of the arm {arm_title(arm)!r} could be classified."
        )
    if content["judge"]["at_chance"]:
        text = f"Undecided: the judge classifies {' and '.join(content['judge']['at_chance'])} at chance level."
        return "undecided", Finding("error", text)
    how = "corrected for misclassification" if used is corrected else "not corrected for misclassification"
    change = content["change"].get(arm, {}).get(name) or {}
    text = (
        f"Distance of {name} to the target (total variation, {how}): {arm_title('before')} {figure_text(base, 3)}, "
        f"{arm_title(arm)} {figure_text(used, 3)}; {raw['n']:,} images."
    )
    if used is corrected:
        text += f" Without correction: {figure_text(was['total_variation'], 3)} and {figure_text(raw, 3)}."
    figures = {"before": Figure.of(base), arm: Figure.of(used)}
    if used["value"] <= tolerance:
        edges = edges_of(used)
        sure = edges is not None and edges[1] <= tolerance
        ending = (
            ""
            if sure
            else f" The interval extends beyond {number(tolerance, 2)}; more images are needed to be certain."
        )
        return "met", Finding(
            "ok",
            f"The target is met: shares are within {100 * tolerance:g} percentage points of it. {text}{ending}",
            figures,
        )
    fooled = _fooled(content, arm, name, change)
    if fooled:
        return "fooled the guide", Finding(
            "error", f"The tuning exploits weaknesses of the guide classifier: {fooled} {text}", figures
        )
    edges = edges_of(change)
    if edges is None or edges[0] <= 0 <= edges[1]:
        return "no effect", Finding(
            "warning", f"No effect: the distance to the target did not change significantly. {text}", figures
        )
    closer = known(change.get("value")) is not None and change["value"] < 0
    start = (
        f"The target is missed: shares are more than {100 * tolerance:g} percentage points from it, "
        f"{'but closer' if closer else 'and farther away'} than before alignment."
    )
    return "missed", Finding("warning", f"{start} {text}", figures)


def _fooled(content: Mapping[str, Any], arm: str, name: str, change: Mapping[str, Any]) -> str:
    by_guide = ((content["readers"].get("guide") or {}).get("change") or {}).get(arm, {}).get(name) or {}
    edges, fell = edges_of(change), known(by_guide.get("value"))
    if fell is not None and fell < -TRIFLE and edges is not None and edges[0] > 0:
        return (
            f"by the guide's predictions the distance changes by {_signed(fell)}, by the judge's by "
            f"{_signed(change['value'])}{span(edges, 3)}."
        )
    rise = curve_rises(content.get("curve"), content["settings"]["tolerance"]) if arm == "after" else None
    if rise:
        return (
            f"during tuning, the judge's distance fell to {number(rise['least'], 2)} by update {rise['step']} and rose "
            f"to {number(rise['kept'], 2)} by update {rise['kept_step']}, while the guide's distance kept falling."
        )
    return ""


def curve_rises(curve: Mapping[str, Any] | None, tolerance: float) -> dict[str, Any] | None:
    """Whether the judge's distance rose from its least up to the kept update by more than the tolerance.

    The guide's has to have gone on falling meanwhile; with None, or without both curves, there is nothing to say.
    """
    rows = [row for row in (curve or {}).get("rows", ()) if row["step"] <= (curve or {})["kept_step"]]
    if not rows or not all("judge" in row and "guide" in row for row in rows):
        return None
    least, kept = min(rows, key=lambda row: row["judge"]["distance"]), rows[-1]
    rise = kept["judge"]["distance"] - least["judge"]["distance"]
    if rise <= tolerance or kept["guide"]["distance"] > least["guide"]["distance"]:
        return None
    return {
        "least": least["judge"]["distance"],
        "step": least["step"],
        "kept": kept["judge"]["distance"],
        "kept_step": kept["step"],
    }


def _of_fidelity(content: Mapping[str, Any], arm: str) -> list[Finding]:
    worse: list[str] = []
    unsure: list[str] = []
    words = []
    ratios: dict[str, Figure] = {}
    for group, compared in content["fidelity"].items():
        ratio = compared["arms"][arm]["ratio"]
        if known(ratio["value"]) is None:
            continue
        ratios[group] = Figure.of(ratio)
        name = "all images" if group == "all" else group
        words.append(f"{name} {figure_text(ratio)}")
        limit = 1.0 if group == "all" else WORST_DISTANCE
        edges = edges_of(ratio)
        if ratio["value"] > limit:
            (worse if edges and edges[0] > 1 else unsure).append(name)
    if not words:
        return [Finding("warning", "Fréchet distances could not be compared: too few images.")]
    text = f"Fréchet distance, ratio to before alignment: {'; '.join(words)}."
    return [_graded("Worse Fréchet distance", worse, unsure, text, ratios)]


def _of_diversity(content: Mapping[str, Any], arm: str) -> list[Finding]:
    less: list[str] = []
    unsure: list[str] = []
    words = []
    ratios: dict[str, Figure] = {}
    for group, by_name in content["diversity"].items():
        for measure, title in (("ms_ssim", "structure"), ("features", "features")):
            ratio = by_name[arm][measure]["ratio"]
            if known(ratio["value"]) is None:
                continue
            words.append(f"{group} {figure_text(ratio)} ({title})")
            ratios[f"{group} ({title})"] = Figure.of(ratio)
            edges = edges_of(ratio)
            if ratio["value"] < LEAST_DIVERSITY:
                (less if edges is None or edges[1] < 1 else unsure).append(f"{group} ({title})")
    if not words:
        return [Finding("warning", "Diversity within subgroups could not be compared: too few images.")]
    text = f"Diversity within subgroups, ratio to before alignment: {'; '.join(words)}."
    return [_graded("Lower diversity", less, unsure, text, ratios)]


def _graded(
    what: str, certain: Sequence[str], unsure: Sequence[str], text: str, figures: Mapping[str, Figure]
) -> Finding:
    # beyond what is allowed: an error where the interval excludes what it was before, else a warning
    start = f"{what}: {', '.join(certain)}. " if certain else ""
    start += f"{what}, not significant: {', '.join(unsure)}. " if unsure else ""
    return Finding("error" if certain else "warning" if unsure else "ok", start + text, figures)


def _of_pairs(content: Mapping[str, Any], arm: str) -> list[Finding]:
    pairs = content["consistency"].get(arm) or {}
    stayed, edges = pairs.get("stayed") or {}, edges_of(pairs.get("stayed"))
    if known(stayed.get("value")) is None:
        return []
    low = stayed["value"] < LEAST_CONSISTENCY
    lost = low and edges is not None and edges[1] < LEAST_CONSISTENCY
    moved = f"{figure_text(pairs['changed'], 3)} ({pairs['changed']['n']:,} pairs)"
    changed = f"pairs that changed it {moved}" if pairs["changed"]["n"] else "no pair changed it"
    text = (
        "Cosine similarity of images from the same noise before and after: pairs that kept their subgroup "
        f"{figure_text(stayed, 3)} ({stayed['n']:,} pairs), {changed}; images from different noise "
        f"{number(pairs['unrelated']['value'], 3)}."
    )
    figures = {name: Figure.of(pairs[name]) for name in ("stayed", "changed", "unrelated")}
    return [Finding("error" if lost else "warning" if low else "ok", text, figures)]


def _of_prompt_adherence(content: Mapping[str, Any], arm: str) -> list[Finding]:
    findings = []
    for name, by_arm in (content.get("named_prompts") or {}).items():
        if arm not in by_arm:
            continue
        ratio, edges = by_arm[arm]["ratio"], edges_of(by_arm[arm]["ratio"])
        if known(ratio["value"]) is None:
            continue
        low = ratio["value"] < LEAST_PROMPT_ADHERENCE
        lost = low and edges is not None and edges[1] < 1
        text = (
            f"Prompts that name {name}, images predicted as requested: {arm_title('before')} "
            f"{figure_text(by_arm['before']['share'], 3)}, {arm_title(arm)} {figure_text(by_arm[arm]['share'], 3)}; "
            f"ratio {figure_text(ratio, 3)}."
        )
        chance, before = 1 / max(len(by_arm["before"]["by_value"]), 1), edges_of(by_arm["before"]["share"])
        blind = before is not None and before[0] <= chance
        if blind:
            text += f" Before alignment the model did not follow such prompts better than chance ({chance:.2f})."
        figures = {**{name: Figure.of(by_arm[name]["share"]) for name in ("before", arm)}, "ratio": Figure.of(ratio)}
        findings.append(Finding("error" if lost else "warning" if low or blind else "ok", text, figures))
    return findings


def cautions(content: Mapping[str, Any]) -> list[Finding]:
    """What limits the conclusions."""
    findings = [Finding("warning", sentence) for sentence in content["notes"]]
    for attribute, accuracies in content["judge"]["held_out"].items():
        accuracy, chance = accuracies["balanced_accuracy"], accuracies["chance"]
        text = (
            f"a balanced accuracy of {figure_text(accuracy, 3)} on {accuracies['n']:,} held-out images "
            f"(chance {chance:.2f})"
        )
        if attribute in content["judge"]["at_chance"]:
            sentence = f"Do not rely on these results: the judge classifies {attribute} at chance level, with {text}."
            findings.append(Finding("error", sentence))
        elif accuracy["value"] < LOW_ACCURACY:
            findings.append(Finding("warning", f"The judge often misclassifies {attribute}: {text}."))
    unmeasured = [name for name in content["target"]["attributes"] if name not in content["judge"]["held_out"]]
    if unmeasured:
        text = (
            f"The judge's accuracy for {', '.join(unmeasured)} was not measured: shares are not corrected for "
            "misclassification."
        )
        findings.append(Finding("warning", text))
    counts = {
        arm: distances[content["part"]]["total_variation"]["n"]
        for arm, distances in content["distance_to_target"].items()
    }
    few = ", ".join(f"{arm_title(arm)} ({n:,})" for arm, n in counts.items() if n < FEW_IMAGES)
    if few:
        findings.append(Finding("warning", f"Fewer than {FEW_IMAGES} images, so intervals are wide: {few}."))
    if (content.get("curve") or {}).get("kept_step") == 0:
        text = "No update reduced the distance to the target: the original weights were kept."
        findings.append(Finding("warning", text))
    pairs = content["consistency"].get("after")
    if pairs and pairs["stayed"]["n"] + pairs["changed"]["n"] == 0:
        text = "Consistency could not be measured: no images before and after share prompt, number, and seed."
        findings.append(Finding("warning", text))
    if content["settings_that_differ"]:
        findings.append(Finding("warning", differing_settings(content["settings_that_differ"])))
    return findings + _copies(content)


def _copies(content: Mapping[str, Any]) -> list[Finding]:
    memory: Mapping[str, Any] = content["memorization"]
    base, findings = memory.get("held_out"), []
    for arm, figures in memory.items():
        if arm != "held_out" and reproduces_training_images(figures, base):
            text = (
                f"{arm_title(arm)} reproduces training images: share of copies {figure_text(figures['copies'], 3)}, "
                f"versus {figure_text(memory['held_out']['copies'], 3)} of held-out real images."
            )
            findings.append(Finding("error", text))
    return findings


def _signed(value: float) -> str:
    return f"+{number(value, 2)}" if value > 0 else number(value, 2)


def verdict_by_arm(content: Mapping[str, Any], arms: Sequence[str]) -> dict[str, AlignmentVerdict]:
    """The verdict of every arm but ``before``."""
    return {arm: alignment_verdict(content, arm) for arm in arms if arm != "before"}

"""The answer of an alignment: a figure of shares and distances by arm, and what it means in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from medi_monai.report.blocks.arms import arm_looks, arm_title, arm_words
from medi_monai.report.blocks.forest import Forest, ForestCell, ForestColumn, ForestRow
from medi_monai.report.words import figure_text, percent_text
from medi_monai.results import Figure
from medi_monai.results.alignment import AlignmentMetrics, Answer

__all__ = ["ANSWERS", "ARMS", "FEW_VALUES", "alignment_sentences", "forest_caption", "share_forest", "target_text"]

#: arms on which the page focuses
ARMS = ("before", "after")
#: maximum number of values whose shares are listed in the answer
FEW_VALUES = 4
#: sentence for each verdict
ANSWERS: Mapping[Answer, str] = {
    "met": "The target is met.",
    "missed": "The target is missed.",
    "no effect": "Alignment had no significant effect.",
    "fooled the guide": "The target is missed: the tuning exploited weaknesses of the guide classifier.",
    "quality lost": "The target is met, but image quality is lost.",
    "quality not shown": "The target is met, but image quality has not been shown to be preserved.",
    "undecided": "The result is undecided.",
}


def target_text(share: float) -> str:
    """Format the target share of a value as a percentage."""
    return f"{100 * share:.3g}%"


def alignment_sentences(metrics: AlignmentMetrics) -> list[str]:
    """Return the verdict, the shares before and after, and what happened to the quality of images."""
    verdict = metrics.verdict["after"]
    quality = "Image quality, diversity, and prompt adherence are within the allowed limits."
    if verdict.quality_lost:
        quality = "Image quality, diversity, or prompt adherence is significantly worse: see Findings."
    elif any(finding.level == "warning" for finding in verdict.findings[1:]):
        quality = "Image quality, diversity, or prompt adherence may be worse than allowed: see Findings."
    if "after" not in metrics.seeds:
        quality += " The model was tuned once; another tuning may give different results."
    shares = " ".join(_shares_sentence(metrics, attribute) for attribute in metrics.target.parts)
    return [ANSWERS[verdict.answer], shares, quality]


def _shares_sentence(metrics: AlignmentMetrics, attribute: str) -> str:
    target = metrics.target.parts[attribute]
    if len(target) > FEW_VALUES:
        predicted = [metrics.distance_to_target[arm][attribute] for arm in ARMS]
        corrected = [row.correction for row in predicted if row.correction]
        before, after = (
            figure_text(row.total_variation, 3) for row in (corrected if len(corrected) == len(ARMS) else predicted)
        )
        return f"Distance of {attribute} to the target (total variation): {before} before and {after} after alignment."
    shares = _shares(metrics, attribute)
    texts = "; ".join(
        f"{value} {percent_text(shares['before'][value])} before and {percent_text(shares['after'][value])} after "
        f"alignment (target {target_text(share)})"
        for value, share in target.items()
    )
    return f"Shares, {'' if _is_corrected(metrics, attribute) else 'not '}corrected for misclassification: {texts}."


def _is_corrected(metrics: AlignmentMetrics, attribute: str) -> bool:
    return all(metrics.distance_to_target[arm][attribute].correction for arm in ARMS)


def _shares(metrics: AlignmentMetrics, attribute: str) -> dict[str, Mapping[str, Figure]]:
    """Return the shares of each arm, corrected for misclassification if they are for both main arms."""
    if not _is_corrected(metrics, attribute):
        return {arm: by_part[attribute] for arm, by_part in metrics.proportions.items()}
    corrections = {arm: distances[attribute].correction for arm, distances in metrics.distance_to_target.items()}
    return {arm: correction.proportions if correction else {} for arm, correction in corrections.items()}


def share_forest(metrics: AlignmentMetrics, attribute: str) -> Forest:
    """Return shares and the Fréchet distance relative to before alignment, by arm, as a forest plot.

    Of two values, the share of the first is shown, because that of the other follows from it.

    Args:
        metrics: results of the evaluation.
        attribute: attribute, or joint distribution of several, with at most :data:`FEW_VALUES` values.
    """
    target, shares = metrics.target.parts[attribute], _shares(metrics, attribute)
    values = list(target)[:1] if len(target) == 2 else list(target)
    colors = {arm: color for arm, (color, _) in arm_looks(list(shares)).items()}
    rows = [
        ForestRow(
            arm_title(arm),
            colors[arm],
            [*(_share_cell(shares[arm].get(value), arm == "after") for value in values), _distance_cell(metrics, arm)],
            "" if arm in ARMS else "alternatives",
            arm_words(arm),
        )
        for arm in shares
    ]
    training = metrics.training.get(attribute)
    if training:
        cells = [*(_share_cell(training.get(value), False) for value in values), ForestCell()]
        rows.append(ForestRow("Real training images", "#5f6368", cells, "for reference", reference=True))
    columns = [
        ForestColumn.of(f"share of {value}, 95% interval", [row.cells[place] for row in rows], target[value])
        for place, value in enumerate(values)
    ]
    columns.append(ForestColumn.of("Fréchet distance, relative to before", [row.cells[-1] for row in rows], 1.0))
    return Forest(columns, rows, "images")


def _share_cell(share: Figure | None, strong: bool) -> ForestCell:
    return ForestCell(share, percent_text(share), strong) if share else ForestCell()


def _distance_cell(metrics: AlignmentMetrics, arm: str) -> ForestCell:
    arms = metrics.fidelity["all"].arms
    if arm == "before" or arm not in arms:
        return ForestCell()
    return ForestCell(arms[arm].ratio, figure_text(arms[arm].ratio, 2), arm == "after")


def forest_caption(metrics: AlignmentMetrics, attribute: str) -> str:
    """Return the caption of :func:`share_forest`."""
    corrected = "corrected" if _is_corrected(metrics, attribute) else "not corrected"
    return (
        f"Left: shares of {attribute} predicted by the judge, {corrected} for its errors; the dotted line is the "
        "target. Right: Fréchet distance of all images to real ones, divided by that before alignment; below 1 is "
        "closer."
    )

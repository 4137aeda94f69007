"""The section on alternatives to the tuning: how close each gets to the target, what it preserves, and its cost."""

from __future__ import annotations

from collections.abc import Mapping

from medi_monai.report.page import Page
from medi_monai.report.sections import StageTime
from medi_monai.report.words import DASH, arm_title, duration_text, figure_text, number, share_table
from medi_monai.results import Figure
from medi_monai.results.alignment import AlignmentMetrics, ArmCost, Selection

__all__ = ["add_alternatives", "lower_distances", "stages_of"]

OWN = ("before", "after")
WORDS = {
    "retrained": "Retrained: the original model, trained further on real images resampled to the target shares.",
    "resampled": "Resampled: images of the original model, selected so that the guide predicts the target shares. "
    "Several images are generated for each one kept. They come from different noise, so there are no pairs.",
    "prompted": "Prompts that name it: images of the original model from the same noise. Each prompt is replaced by "
    "one that names a subgroup, with the shares of the target. If the attribute may be named, this is the simplest "
    "method.",
    "debiased": "Debiased text embeddings: images of the original model from the same noise, without training. The "
    "directions that reveal the attribute are projected out of the embedding of each prompt, and the mean of a "
    "subgroup is put in their place, with the shares of the target.",
}
BUDGET = "Retraining uses as many forward and backward passes as the tuning was allowed."
#: relative difference in forward and backward passes below which two arms count as having equal compute
ROUNDING = 0.05
#: cost of an arm for which none was recorded
UNKNOWN = ArmCost({})


def add_alternatives(page: Page, metrics: AlignmentMetrics) -> None:
    """Add a section with the verdict on every alternative and a table of all arms; nothing without alternatives."""
    others = [arm for arm in metrics.proportions if arm not in OWN]
    left_out = {arm: cost.left_out for arm, cost in metrics.costs.items() if cost.left_out}
    if not others and not left_out:
        return
    same = _same_budget(metrics)
    page.section("Alternatives at equal compute" if same else "Alternatives")
    page.text("\n".join([*(WORDS[arm] for arm in [*others, *left_out] if arm in WORDS), *([BUDGET] if same else ())]))
    for arm in others:
        page.notice(f"{arm_title(arm)}. {metrics.verdict[arm].findings[0].text}")
    lower = lower_distances(metrics)
    if lower:
        page.text(lower)
    for arm, why in left_out.items():
        page.notice(f"{arm_title(arm)}: not reported, because {why}.", "warning")
    columns = {arm: _column(metrics, arm) for arm in metrics.proportions}
    rows = {
        name: {arm_title(arm): cells[name] for arm, cells in columns.items()} for name in next(iter(columns.values()))
    }
    if not metrics.costs:
        rows = {name: cells for name, cells in rows.items() if name not in ("run time", "forward and backward passes")}
    page.table(share_table(rows, "all arms"), "Distance to the target, quality, and cost")


def lower_distances(metrics: AlignmentMetrics) -> str:
    """Return a sentence for each alternative whose Fréchet distance is below that of the tuned model; empty if none is.

    Distances are compared as ratios to ``before``, because each of these has an equal number of images on both sides.
    """
    sentences = []
    for arm in metrics.proportions:
        if arm in OWN:
            continue
        lower = []
        for group, fidelity in metrics.fidelity.items():
            own, tuned = (fidelity.arms[name].ratio.value for name in (arm, "after"))
            if own is not None and tuned is not None and own < tuned:
                name = "all images" if group == "all" else group
                lower.append(f"{name} {number(own, 2)} ({number(tuned, 2)})")
        if lower:
            sentences.append(
                f"{arm_title(arm)} has a lower Fréchet distance than the tuned model, relative to before alignment "
                f"(tuned model in parentheses): {', '.join(lower)}."
            )
    return "\n".join(sentences)


def _same_budget(metrics: AlignmentMetrics) -> bool:
    tuned, retrained = (metrics.costs.get(arm, UNKNOWN) for arm in ("after", "retrained"))
    allowed, spent = tuned.gradient_images_allowed, retrained.gradient_images
    return bool(allowed and spent and abs(spent / allowed - 1) < ROUNDING)


def _column(metrics: AlignmentMetrics, arm: str) -> dict[str, str]:
    cost, distance = metrics.costs.get(arm, UNKNOWN), metrics.distance_to_target[arm][metrics.part]
    pairs, all_images = metrics.consistency.get(arm), metrics.fidelity["all"].arms[arm]
    changes = [figure_text(all_images.ratio), _largest_distance(metrics, arm), _least_diversity(metrics, arm)]
    if arm == "before":
        changes = [DASH] * 3
    return {
        "verdict": metrics.verdict[arm].answer if arm in metrics.verdict else DASH,
        "distance to the target": figure_text(distance.total_variation, 3),
        "distance to the target, corrected": figure_text(
            distance.correction.total_variation if distance.correction else None, 3
        ),
        "similarity to the image before, subgroup kept": figure_text(pairs.stayed if pairs else None, 3),
        "similarity to the image before, subgroup changed": figure_text(pairs.changed if pairs else None, 3),
        "Fréchet distance": figure_text(all_images.frechet_distance),
        "Fréchet distance, ratio to before": changes[0],
        "Fréchet distance in subgroups, largest ratio": changes[1],
        "diversity in subgroups, smallest ratio": changes[2],
        "images kept": _kept(metrics.chosen.get(arm)),
        "forward and backward passes": _passes(cost),
        "run time": duration_text(cost.seconds),
    }


def _largest_distance(metrics: AlignmentMetrics, arm: str) -> str:
    ratios = {group: fidelity.arms[arm].ratio for group, fidelity in metrics.fidelity.items() if group != "all"}
    return _extreme(ratios, largest=True)


def _least_diversity(metrics: AlignmentMetrics, arm: str) -> str:
    ratios = {}
    for group, by_arm in metrics.diversity.items():
        ratios[f"{group}, structure"] = by_arm[arm].ms_ssim.ratio
        ratios[f"{group}, features"] = by_arm[arm].features.ratio
    return _extreme(ratios, largest=False)


def _extreme(ratios: Mapping[str, Figure], largest: bool) -> str:
    values = {name: ratio.value for name, ratio in ratios.items() if ratio.value is not None}
    if not values:
        return DASH
    name = (max if largest else min)(values, key=values.__getitem__)
    return f"{figure_text(ratios[name])}, {name}"


def _kept(selection: Selection | None) -> str:
    if selection is None:
        return "all"
    return f"{selection.images:,} of {selection.of:,} ({100 * selection.images / selection.of:.0f}%)"


def _passes(cost: ArmCost) -> str:
    spent, allowed = cost.gradient_images, cost.gradient_images_allowed
    if spent is None:
        return DASH
    return f"{spent:,}" + (f" of {allowed:,} allowed" if allowed and allowed != spent else "")


def stages_of(costs: Mapping[str, ArmCost]) -> dict[str, StageTime]:
    """Return the stages of all arms by name, each with its run time and the arms that need it."""
    stages: dict[str, StageTime] = {}
    for arm, cost in costs.items():
        for stage, seconds in cost.stages.items():
            known = stages.get(stage, StageTime(seconds))
            stages[stage] = StageTime(known.seconds, (*known.needed_for, arm))
    return stages

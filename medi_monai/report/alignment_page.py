"""The page of an evaluated alignment: shares of subgroups compared with the target, and changes in image quality."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from medi_monai.report.alignment_plots import curve_plot, has_prompts, proportion_bars
from medi_monai.report.alternatives_table import add_alternatives, stages_of
from medi_monai.report.blocks.alignment_answer import (
    ARMS,
    FEW_VALUES,
    alignment_sentences,
    forest_caption,
    share_forest,
    target_text,
)
from medi_monai.report.blocks.gallery import Gallery
from medi_monai.report.page import Page
from medi_monai.report.sections import (
    Closest,
    add_classifiers,
    add_findings,
    add_memorization,
    add_provenance,
    add_run_time,
    fidelity_row,
)
from medi_monai.report.words import DASH, DEMO, arm_title, figure_text, number, percent_text, share_table, short
from medi_monai.results import Figure, Finding
from medi_monai.results.alignment import AlignmentMetrics, PromptRow, TuningCurve
from medi_monai.utils.text import plural

__all__ = ["Pairs", "write_alignment_page"]

#: for ``stayed`` and ``changed``, pairs of images from the same noise, ``(H, W, 3)`` uint8 each, by subgroup
Pairs: TypeAlias = Mapping[str, Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]]

MOST_PROMPTS, MOST_SUBGROUPS = 40, 24
#: number of matched images below which the page shows a warning
FEW_MATCHED = 50


RUN_TIME = (
    "Stages that ran at the same time slowed each other down, so the total can exceed the run time of the experiment. "
    "Training of the model and of the judge is shared by all arms and not included."
)


def write_alignment_page(
    metrics: AlignmentMetrics, pairs: Pairs, closest: Closest, path: str | os.PathLike, mpp: float | None = None
) -> Path:
    """Write the page of an evaluated alignment.

    Args:
        metrics: results of the evaluation, with the verdict.
        pairs: pairs of images from the same noise before and after alignment, by whether the predicted subgroup
            changed.
        closest: for each arm and for held-out real images, the images most similar to training images.
        path: file to write.
        mpp: microns per pixel of the images, for scale bars; None if unknown.

    Returns:
        ``path``.
    """
    names = " and ".join(metrics.target.attributes)
    target = ", ".join(f"{value} {target_text(share)}" for value, share in metrics.target.target.items())
    lead = (
        f"Shares of {names} in generated images before and after alignment. Target: {target}. Images are classified by "
        "the judge, a classifier that was not used for the tuning."
    )
    page = Page(f"Alignment of {names}", f"{DEMO} {lead}" if metrics.demo else lead)
    _add_answer(page, metrics)
    _add_pairs(page, pairs, mpp)
    add_findings(page, [*metrics.verdict["after"].findings, *_warnings(metrics, errors=False)])
    page.glossary()
    with page.folded_sections():
        add_alternatives(page, metrics)
        _add_shares(page, metrics)
        _add_curves(page, metrics.curve)
        _add_consistency(page, metrics)
        _add_fidelity(page, metrics)
        _add_diversity(page, metrics)
        _add_prompt_adherence(page, metrics)
        _add_prompts(page, metrics)
        add_memorization(page, metrics.memorization, closest, metrics.copy_search, mpp)
        _add_classifiers(page, metrics)
        add_run_time(page, stages_of(metrics.costs), RUN_TIME)
        add_provenance(page, metrics.settings, metrics.digests, metrics.encoder)
    return page.write(path)


def _warnings(metrics: AlignmentMetrics, errors: bool) -> list[Finding]:
    return [warning for warning in metrics.warnings if (warning.level == "error") is errors]


def _add_answer(page: Page, metrics: AlignmentMetrics) -> None:
    # reasons not to rely on the results come first
    for warning in _warnings(metrics, errors=True):
        page.notice(warning.text, "error")
    for attribute, target in metrics.target.parts.items():
        if len(target) <= FEW_VALUES:
            page.forest(share_forest(metrics, attribute), forest_caption(metrics, attribute))
    page.answer(alignment_sentences(metrics), metrics.verdict["after"].findings[0].level)


def _add_shares(page: Page, metrics: AlignmentMetrics) -> None:
    page.section(
        "Predicted shares and distance to the target",
        "Corrected shares take the judge's error rates on held-out real images into account, assuming that they also "
        "apply to generated images. In parentheses: 95% confidence intervals.",
    )
    for attribute, target in metrics.target.parts.items():
        rows: dict[str, dict[str, Any]] = {"Target": {value: target_text(share) for value, share in target.items()}}
        if attribute in metrics.training:
            rows["Real training images"] = _share_row(metrics.training[attribute])
        for arm, proportions in metrics.proportions.items():
            title, shares = arm_title(arm), proportions[attribute]
            num_images = next(iter(shares.values())).n
            rows[title] = {**_share_row(shares), "images": num_images}
            corrected = metrics.distance_to_target[arm][attribute].corrected
            if corrected and corrected.undefined:
                page.notice(f"{title}, {attribute}: not corrected, because {corrected.undefined}.", "warning")
            elif corrected:
                rows[f"{title}, corrected"] = {**_share_row(corrected.proportions), "images": num_images}
        if len(target) <= MOST_SUBGROUPS:
            page.figure(
                proportion_bars(metrics, attribute),
                f"Shares of {attribute} with 95% confidence intervals; black lines mark the target.",
            )
        page.table(share_table(rows, "images"), f"Shares of {attribute}")
        _add_distances_to_target(page, metrics, attribute)


def _share_row(shares: Mapping[str, Figure]) -> dict[str, str]:
    return {value: percent_text(share) for value, share in shares.items()}


def _add_distances_to_target(page: Page, metrics: AlignmentMetrics, attribute: str) -> None:
    rows = {}
    for arm, distances in metrics.distance_to_target.items():
        distance, correction = distances[attribute], distances[attribute].correction
        change = metrics.change[arm][attribute] if arm in metrics.change else None
        rows[arm_title(arm)] = {
            "total variation, judge": figure_text(distance.total_variation, 3),
            "total variation, judge, corrected": figure_text(correction.total_variation if correction else None, 3),
            **{
                f"total variation, {name}": figure_text(shares.distance_to_target[arm][attribute].total_variation, 3)
                for name, shares in metrics.readers.items()
            },
            "KL divergence, judge": figure_text(distance.kl, 3),
            "KL divergence, judge, corrected": figure_text(correction.kl if correction else None, 3),
            "change in total variation, judge": figure_text(change, 3),
        }
    page.table(share_table(rows, "images"), f"Distance of {attribute} to the target (smaller is better)")


def _add_curves(page: Page, curve: TuningCurve | None) -> None:
    if curve is None or not curve.rows:
        return
    page.section("Distance to the target during tuning")
    page.figure(
        curve_plot(curve),
        "Distance of the mean predicted probabilities to the target, always for the same prompts and noise. The tuning "
        "minimizes the guide's distance, the validation classifier selects the weights (dashed line), and the judge is "
        "independent of both. If only the guide's distance falls, the tuning exploits weaknesses of the guide."
        + (
            " Right: mean of the distances of single prompts, by which weights are selected here. It does not reach "
            "zero, because each prompt has few images."
            if has_prompts(curve)
            else ""
        ),
    )


def _add_pairs(page: Page, pairs: Pairs, mpp: float | None) -> None:
    page.section("Images from the same noise before and after alignment")
    for kind, words in (("stayed", "kept"), ("changed", "changed")):
        shown = pairs.get(kind) or {}
        if not shown:
            page.text(f"No pair {words} its predicted subgroup.")
            continue
        page.text(
            f"Pairs that {words} their predicted subgroup; each column has the same noise and prompt. In parentheses: "
            "number of such pairs."
        )
        page.gallery(_pair_gallery(shown, mpp))


def _add_consistency(page: Page, metrics: AlignmentMetrics) -> None:
    page.section("Similarity to images before alignment")
    rows = {
        arm_title(arm): {
            "all pairs": figure_text(consistency.all, 3),
            "subgroup kept": figure_text(consistency.stayed, 3),
            "pairs, kept": consistency.num_stayed,
            "subgroup changed": figure_text(consistency.changed, 3),
            "pairs, changed": consistency.num_changed,
            "different noise": number(consistency.unrelated.value, 3),
        }
        for arm, consistency in metrics.consistency.items()
        if arm in ARMS or consistency.num_pairs
    }
    page.table(
        share_table(rows, "images"),
        f"Cosine similarity ({metrics.encoder['name']}, features standardized over the images before alignment) to the "
        "image from the same noise before alignment",
    )
    _add_clip_scores(page, metrics)


def _add_clip_scores(page: Page, metrics: AlignmentMetrics) -> None:
    if not any(score.n for score in metrics.clip_score.values()):
        page.text("CLIP score: not reported, because no CLIP model was given.")
        return
    changes = {arm: consistency.score_change for arm, consistency in metrics.consistency.items()}
    rows = {
        arm_title(arm): {
            "CLIP score": figure_text(score, 3),
            "change for the same noise": figure_text(changes.get(arm), 3),
        }
        for arm, score in metrics.clip_score.items()
    }
    page.table(share_table(rows, "images"), "CLIP score: cosine similarity of image and prompt")


def _pair_gallery(pairs: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], mpp: float | None) -> Gallery:
    shown = [(group, pair) for group, of_group in pairs.items() for pair in of_group]
    rows = [arm_title(arm) for arm in ARMS]
    cells = {(row, column): [pair[nth]] for nth, row in enumerate(rows) for column, (_, pair) in enumerate(shown)}
    columns = [[f"pair {number}"] for number in range(1, len(shown) + 1)]
    return Gallery(rows, columns, cells, [group for group, _ in shown], mpp=mpp)


def _add_fidelity(page: Page, metrics: AlignmentMetrics) -> None:
    page.section(
        "Fidelity and diversity",
        "All images are compared with real images in the proportions of the target, and images predicted to be in a "
        "subgroup with real images of that subgroup. Real images are split in halves by patient, and every arm is "
        "compared with the same half using the same number of images. The first row compares real images of different "
        "patients. Ratio: Fréchet distance relative to before alignment.",
    )
    for group, fidelity in metrics.fidelity.items():
        title = "All images" if group == "all" else group
        counts = ", ".join(f"{arm_title(name)} {count:,}" for name, count in fidelity.counts.items())
        if not fidelity.matched:
            page.notice(f"{title}: not reported, too few images ({counts}).", "warning")
            continue
        if fidelity.matched < FEW_MATCHED:
            page.notice(
                f"{title}: only {plural(fidelity.matched, 'image')} could be matched, so results are rough.", "warning"
            )
        rows = {"Real images of other patients": fidelity_row(fidelity.floor)}
        for arm, figures in fidelity.arms.items():
            rows[arm_title(arm)] = {**fidelity_row(figures), "ratio": figure_text(figures.ratio)}
        single = "; all real images are of one patient" if fidelity.one_patient else ""
        page.table(
            share_table(rows, "images"),
            f"{title}: {fidelity.matched:,} matched images (available: {counts}{single})",
        )


def _add_diversity(page: Page, metrics: AlignmentMetrics) -> None:
    rows = {
        f"{group}, {'Real images' if arm == 'reference' else arm_title(arm)}": {
            "images": diversity.features.n,
            "1 − MS-SSIM": figure_text(diversity.ms_ssim, 3),
            "1 − MS-SSIM, ratio": figure_text(diversity.ms_ssim.ratio),
            "feature distance": figure_text(diversity.features),
            "feature distance, ratio": figure_text(diversity.features.ratio),
        }
        for group, by_arm in metrics.diversity.items()
        for arm, diversity in by_arm.items()
    }
    page.table(
        share_table(rows, "subgroup"),
        "Diversity: mean difference between two images of a subgroup (larger is more diverse), with the ratio to "
        "before alignment",
    )


def _add_prompt_adherence(page: Page, metrics: AlignmentMetrics) -> None:
    if not metrics.named_prompts:
        return
    page.section(
        "Prompt adherence",
        "Among images from prompts that name the attribute: the share for which the judge predicts the requested "
        "value, not corrected for misclassification. The ratio is to before alignment, for pairs from the same noise.",
    )
    for attribute, by_arm in metrics.named_prompts.items():
        rows = {
            arm_title(arm): {
                "predicted as requested": percent_text(adherence.share),
                **{f"requested {value}": percent_text(share) for value, share in adherence.by_value.items()},
                "ratio": figure_text(adherence.ratio, 3),
                "images": adherence.share.n,
                "excluded (no value named)": adherence.left_out,
            }
            for arm, adherence in by_arm.items()
        }
        page.table(share_table(rows, "images"), f"Requested {attribute}")


def _add_prompts(page: Page, metrics: AlignmentMetrics) -> None:
    page.section("Results by prompt")
    by_prompt = metrics.by_prompt[metrics.part]
    means = {
        arm_title(arm): {
            "mean total variation": figure_text(mean, 3),
            "expected by chance": number(mean.by_chance, 3),
            "prompts": mean.n,
        }
        for arm, mean in by_prompt.mean.items()
    }
    page.table(
        share_table(means, "images"),
        f"Mean distance to the target over prompts with at least {by_prompt.least_images} images. Expected by "
        "chance: mean distance of the same number of draws from the target",
    )
    prompts = sorted(by_prompt.prompts, key=lambda prompt: -max(shares.n for shares in prompt.arms.values()))
    page.table(
        pd.DataFrame([_prompt_row(prompt) for prompt in prompts]),
        f"Shares of {metrics.part} and distance to the target (total variation) by prompt",
        MOST_PROMPTS,
    )


def _prompt_row(prompt: PromptRow) -> dict[str, str]:
    row = {"prompt": short(prompt.prompt, 120)}
    for arm, shares in prompt.arms.items():
        title, distance = arm_title(arm), figure_text(shares.total_variation, 2)
        if arm not in ARMS:
            row[f"{title}: distance"] = f"{distance}, {plural(shares.n, 'image')}"
            continue
        texts = [f"{value} {percent_text(share, False)}" for value, share in shares.proportions.items()]
        row[f"{title}: images"] = f"{shares.n:,} (few)" if shares.few else f"{shares.n:,}"
        row[f"{title}: shares"] = ", ".join(texts) if shares.n and len(texts) <= FEW_VALUES else DASH
        row[f"{title}: distance"] = distance
    return row


def _add_classifiers(page: Page, metrics: AlignmentMetrics) -> None:
    held_out = {"judge": metrics.judge.held_out, **{name: other.held_out for name, other in metrics.readers.items()}}
    add_classifiers(
        page,
        {
            f"{name}, {attribute}": by_attribute.get(attribute)
            for name, by_attribute in held_out.items()
            for attribute in metrics.target.attributes
        },
        "On real images of patients that were not used for training. The tuning follows the guide, the validation "
        "classifier selects the weights, and the judge, whose weights differ from both, measures the results.",
    )

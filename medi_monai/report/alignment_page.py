"""The page of the evaluation of an alignment: shares of subgroups beside the target, and what happened to quality."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from medi_monai.report.alignment_plots import corrected_distance, curve_plot, has_prompts, proportion_bars
from medi_monai.report.alternatives_table import add_alternatives, stages_of
from medi_monai.report.grids import labeled_grid
from medi_monai.report.page import Page
from medi_monai.report.sections import (
    DISTANCES,
    QUALITY,
    Closest,
    add_classifiers,
    add_findings,
    add_memorization,
    add_provenance,
    add_run_time,
    distance_row,
)
from medi_monai.report.words import arm_title, figure_text, number, percent_text, share_table, short

__all__ = ["ANSWERS", "Pairs", "write_alignment_page"]

#: ``stayed`` and ``changed`` to a title and its pairs of the same noise, ``(H, W, 3)`` uint8 each
Pairs: TypeAlias = Mapping[str, Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]]

MOST_PROMPTS, MOST_SUBGROUPS, PICTURE = 40, 24, 64
#: values whose shares the answer spells out
FEW_VALUES = 4
#: the arms that the page is about
ARMS = ("before", "after")
#: fewer matched images call for a warning
FEW_MATCHED = 50
#: verdicts as sentences
ANSWERS = {
    "met": "The target is met.",
    "missed": "The target is missed.",
    "no effect": "Alignment had no significant effect.",
    "fooled the guide": "The target is missed: the tuning exploited weaknesses of the guide classifier.",
    "quality lost": "The target is met, but image quality is lost.",
    "undecided": "The result is undecided.",
}


def write_alignment_page(content: Mapping[str, Any], pairs: Pairs, closest: Closest, path: str | os.PathLike) -> Path:
    """Write the page.

    Args:
        content: of ``metrics.json``.
        pairs: pictures of the same noise before and after, by whether their predicted subgroup changed.
        closest: the closest training images of each arm and of held-out real images.
        path: of the page.

    Returns:
        ``path``.
    """
    names = " and ".join(content["target"]["attributes"])
    target = ", ".join(f"{value} {100 * share:.3g}%" for value, share in content["target"]["target"].items())
    page = Page(
        f"Alignment of {names}",
        f"Shares of {names} in generated images before and after alignment. Target: {target}. Images are classified by "
        "the judge, a classifier that was not used for the tuning.",
    )
    _add_answer(page, content)
    add_findings(page, [*content["verdict"]["after"]["findings"], *_warnings(content, errors=False)])
    add_alternatives(page, content)
    _add_shares(page, content)
    _add_curves(page, content)
    _add_pairs(page, content, pairs)
    _add_fidelity(page, content)
    _add_prompt_adherence(page, content)
    _add_prompts(page, content)
    add_memorization(page, content["memorization"], closest)
    _add_classifiers(page, content)
    add_run_time(page, stages_of(content.get("costs") or {}), RUN_TIME)
    add_provenance(page, content["settings"], content["digests"], content["encoder"])
    return page.write(path)


RUN_TIME = (
    "Stages that ran at the same time slowed each other down, so the total can exceed the run time of the experiment. "
    "Training of the model and of the judge is shared by all arms and not included."
)


def _warnings(content: Mapping[str, Any], errors: bool) -> list[Mapping[str, Any]]:
    return [warning for warning in content["warnings"] if (warning["level"] == "error") is errors]


def _add_answer(page: Page, content: Mapping[str, Any]) -> None:
    # whether the results can be relied on comes before the results
    for warning in _warnings(content, errors=True):
        page.notice(warning["text"], "error")
    verdict = content["verdict"]["after"]
    levels = [finding["level"] for finding in verdict["findings"]]
    quality = "No loss of image quality, diversity, or prompt adherence was found."
    if verdict["quality_lost"]:
        quality = "Image quality, diversity, or prompt adherence is significantly worse: see Findings."
    elif "warning" in levels[1:]:
        quality = "Image quality, diversity, or prompt adherence may be worse, but not significantly: see Findings."
    page.answer([ANSWERS[verdict["answer"]], _shares_sentence(content), quality], levels[0])
    for attribute, target in content["target"]["parts"].items():
        if len(target) <= MOST_SUBGROUPS:
            page.figure(
                proportion_bars(content, attribute),
                f"Shares of {attribute} with 95% confidence intervals; black lines mark the target.",
            )


def _shares_sentence(content: Mapping[str, Any]) -> str:
    sentences = []
    for attribute, target in content["target"]["parts"].items():
        corrected = [content["distance_to_target"][arm][attribute].get("corrected") or {} for arm in ARMS]
        usable = all(shares.get("proportions") and not shares.get("undefined") for shares in corrected)
        before, after = (
            shares["proportions"] if usable else content["proportions"][arm][attribute]
            for arm, shares in zip(ARMS, corrected)
        )
        if len(target) <= FEW_VALUES:
            shares = "; ".join(
                f"{value} {percent_text(before[value])} before and {percent_text(after[value])} after alignment "
                f"(target {100 * share:.3g}%)"
                for value, share in target.items()
            )
            note = "corrected for misclassification" if usable else "not corrected for misclassification"
            sentences.append(f"Shares, {note}: {shares}.")
            continue
        distances = [content["distance_to_target"][arm][attribute] for arm in ARMS]
        chosen = [
            corrected_distance(row).get("total_variation") if usable else row["total_variation"] for row in distances
        ]
        sentences.append(
            f"Distance of {attribute} to the target (total variation): {figure_text(chosen[0], 3)} before and "
            f"{figure_text(chosen[1], 3)} after alignment."
        )
    return " ".join(sentences)


def _add_shares(page: Page, content: Mapping[str, Any]) -> None:
    page.section(
        "Predicted shares and distance to the target",
        "Corrected shares take the judge's error rates on held-out real images into account, assuming that they also "
        "apply to generated images. In brackets: 95% confidence intervals.",
    )
    for attribute, target in content["target"]["parts"].items():
        rows: dict[str, dict[str, Any]] = {"Target": {value: f"{100 * share:.3g}%" for value, share in target.items()}}
        trained = content["training"].get(attribute)
        if trained:
            rows["Real training images"] = {value: percent_text(figure) for value, figure in trained.items()}
        for arm, proportions in content["proportions"].items():
            title, shares = arm_title(arm), proportions[attribute]
            num_images = next(iter(shares.values()))["n"]
            rows[title] = {**{value: percent_text(figure) for value, figure in shares.items()}, "images": num_images}
            corrected = content["distance_to_target"][arm][attribute].get("corrected") or {}
            if corrected.get("undefined"):
                page.notice(f"{title}, {attribute}: not corrected, because {corrected['undefined']}.", "warning")
                continue
            behind = {value: percent_text(figure) for value, figure in (corrected.get("proportions") or {}).items()}
            rows[f"{title}, corrected"] = {**behind, "images": num_images}
        page.table(share_table(rows, "images"), f"Shares of {attribute}")
        _add_distances_to_target(page, content, attribute)


def _add_distances_to_target(page: Page, content: Mapping[str, Any], attribute: str) -> None:
    rows = {}
    for arm, distances in content["distance_to_target"].items():
        distance = distances[attribute]
        corrected = corrected_distance(distance)
        row = {
            "total variation, judge": figure_text(distance["total_variation"], 3),
            "total variation, judge, corrected": figure_text(corrected.get("total_variation"), 3),
        }
        for name, reader in content["readers"].items():
            row[f"total variation, {name}"] = figure_text(
                reader["distance_to_target"][arm][attribute]["total_variation"], 3
            )
        row["KL divergence, judge"] = figure_text(distance["kl"], 3)
        row["KL divergence, judge, corrected"] = figure_text(corrected.get("kl"), 3)
        row["change in total variation, judge"] = figure_text(content["change"].get(arm, {}).get(attribute), 3)
        rows[arm_title(arm)] = row
    page.table(share_table(rows, "images"), f"Distance of {attribute} to the target (smaller is better)")


def _add_curves(page: Page, content: Mapping[str, Any]) -> None:
    curve = content.get("curve")
    if not curve or not curve["rows"]:
        return
    page.section("Distance to the target during tuning")
    page.figure(
        curve_plot(curve),
        "Distance of the mean predicted probabilities to the target, always for the same prompts and noise. The tuning "
        "minimizes the guide's distance, the validation classifier selects the weights (dashed line), and the judge is "
        "independent of both. If only the guide's distance falls, the tuning exploits weaknesses of the guide."
        + (
            " Right: mean of the distances of single prompts, which selects the weights here. It does not reach zero, "
            "because each prompt has few images."
            if has_prompts(curve)
            else ""
        ),
    )


def _add_pairs(page: Page, content: Mapping[str, Any], pairs: Pairs) -> None:
    page.section("Images from the same noise before and after alignment")
    for kind, words in (("stayed", "kept"), ("changed", "changed")):
        shown = pairs.get(kind) or {}
        if not shown:
            page.text(f"No pair {words} its predicted subgroup.")
            continue
        page.text(f"Pairs that {words} their predicted subgroup; each column has the same noise and prompt.")
        page.figures([(_pair_grid(of_group), group) for group, of_group in shown.items()])
    rows = {}
    for arm, figures in content["consistency"].items():
        if arm not in ARMS and not figures["num_stayed"] + figures["num_changed"]:
            continue
        rows[arm_title(arm)] = {
            "all pairs": figure_text(figures["all"], 3),
            "subgroup kept": figure_text(figures["stayed"], 3),
            "pairs, kept": figures["num_stayed"],
            "subgroup changed": figure_text(figures["changed"], 3),
            "pairs, changed": figures["num_changed"],
            "different noise": number((figures["unrelated"] or {}).get("value"), 3),
        }
    page.table(
        share_table(rows, "images"),
        "Cosine similarity of CLIP image features to the image from the same noise before alignment",
    )
    if not any(figure["n"] for figure in content["clip_score"].values()):
        page.text("CLIP similarity and CLIP score: not reported, because no CLIP model was given.")
        return
    scores = {
        arm_title(arm): {
            "CLIP score": figure_text(figure, 3),
            "change for the same noise": figure_text(content["consistency"].get(arm, {}).get("score_change"), 3),
        }
        for arm, figure in content["clip_score"].items()
    }
    page.table(share_table(scores, "images"), "CLIP score: cosine similarity of image and prompt")


def _pair_grid(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    cells = {(row, ""): [pair[nth] for pair in pairs] for nth, row in enumerate(ARMS)}
    return labeled_grid(cells, list(ARMS), [""], "", (1, len(pairs)), PICTURE)


def _add_fidelity(page: Page, content: Mapping[str, Any]) -> None:
    page.section(
        "Fidelity and diversity",
        "All images are compared with real images in the proportions of the target; images predicted to be in a "
        "subgroup with real images of that subgroup. Real images are split in halves by patient, and every arm is "
        "compared with the same half using the same number of images. The first row compares real images of different "
        "patients. Ratio: Fréchet distance relative to before alignment.",
    )
    for group, fidelity in content["fidelity"].items():
        title = "All images" if group == "all" else group
        counts = ", ".join(f"{arm_title(name)} {count:,}" for name, count in fidelity["counts"].items())
        if not fidelity["matched"]:
            page.notice(f"{title}: not reported, too few images ({counts}).", "warning")
            continue
        if fidelity["matched"] < FEW_MATCHED:
            page.notice(
                f"{title}: only {fidelity['matched']:,} images could be matched, so results are rough.", "warning"
            )
        heads = {**DISTANCES, **QUALITY}
        rows: dict[str, dict[str, Any]] = {"Real images of other patients": distance_row(fidelity["floor"], heads)}
        for arm, figures in fidelity["arms"].items():
            rows[arm_title(arm)] = {**distance_row(figures, heads), "ratio": figure_text(figures["ratio"])}
        single = "; all real images are of one patient" if fidelity["one_patient"] else ""
        page.table(
            share_table(rows, "images"),
            f"{title}: {fidelity['matched']:,} matched images (available: {counts}{single})",
        )
    rows = {}
    for group, by_arm in content["diversity"].items():
        for arm, figures in by_arm.items():
            rows[f"{group}, {'Real images' if arm == 'reference' else arm_title(arm)}"] = {
                "images": figures["features"]["n"],
                "1 − MS-SSIM": figure_text(figures["ms_ssim"], 3),
                "1 − MS-SSIM, ratio": figure_text(figures["ms_ssim"]["ratio"]),
                "feature distance": figure_text(figures["features"]),
                "feature distance, ratio": figure_text(figures["features"]["ratio"]),
            }
    page.table(
        share_table(rows, "subgroup"),
        "Diversity: mean difference between two images of a subgroup (larger is more diverse), with the ratio to "
        "before alignment",
    )


def _add_prompt_adherence(page: Page, content: Mapping[str, Any]) -> None:
    if not content["named_prompts"]:
        return
    page.section(
        "Prompt adherence",
        "Images from prompts that name the attribute: share in which the judge predicts the requested value, not "
        "corrected for misclassification. Ratio to before alignment, for pairs from the same noise.",
    )
    for attribute, by_arm in content["named_prompts"].items():
        rows = {
            arm_title(arm): {
                "predicted as requested": percent_text(figures["share"]),
                **{f"requested {value}": percent_text(share) for value, share in figures["by_value"].items()},
                "ratio": figure_text(figures["ratio"], 3),
                "images": figures["share"]["n"],
                "excluded (no value named)": figures["left_out"],
            }
            for arm, figures in by_arm.items()
        }
        page.table(share_table(rows, "images"), f"Requested {attribute}")


def _add_prompts(page: Page, content: Mapping[str, Any]) -> None:
    page.section("Results by prompt")
    attribute = content["part"]
    by_prompt = content["by_prompt"][attribute]
    means = {
        arm_title(arm): {
            "mean total variation": figure_text(figure, 3),
            "expected by chance": number(figure["by_chance"], 3),
            "prompts": figure["n"],
        }
        for arm, figure in by_prompt["mean"].items()
    }
    page.table(
        share_table(means, "images"),
        f"Mean distance to the target over prompts with at least {by_prompt['least_images']} images; expected by "
        "chance: mean distance of equally many draws from the target",
    )
    prompts = sorted(by_prompt["prompts"], key=lambda row: -max(cell["n"] for cell in row["arms"].values()))
    rows = []
    for prompt in prompts:
        row: dict[str, Any] = {"prompt": short(prompt["prompt"], 120)}
        for arm, cell in prompt["arms"].items():
            title, distance = arm_title(arm), figure_text(cell["total_variation"], 2)
            if arm not in ARMS:
                row[f"{title}: distance"] = f"{distance}, {cell['n']:,} images"
                continue
            shares = ", ".join(f"{value} {percent_text(share, False)}" for value, share in cell["proportions"].items())
            row[f"{title}: images"] = f"{cell['n']:,} (few)" if cell["few"] else f"{cell['n']:,}"
            row[f"{title}: shares"] = shares if cell["n"] and len(cell["proportions"]) <= FEW_VALUES else "–"
            row[f"{title}: distance"] = distance
        rows.append(row)
    page.table(
        pd.DataFrame(rows),
        f"Shares of {attribute} and distance to the target (total variation) by prompt",
        MOST_PROMPTS,
    )


def _add_classifiers(page: Page, content: Mapping[str, Any]) -> None:
    rows = {}
    for name, reader in {"judge": content["judge"], **content["readers"]}.items():
        for attribute in content["target"]["attributes"]:
            rows[f"{name}, {attribute}"] = reader["held_out"].get(attribute) or {}
    add_classifiers(
        page,
        rows,
        "On real images of patients not used for training. The tuning follows the guide; the validation classifier "
        "selects the weights; the judge measures the results and has different weights from both.",
    )

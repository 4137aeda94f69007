"""The evaluation of an alignment as one page: do subgroups meet the target, what did it cost, and who says so."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from medi_monai.report.alignment_plots import corrected_distance, curve_plot, has_prompts, proportion_bars
from medi_monai.report.alternatives_table import add_alternatives
from medi_monai.report.evaluation_page import Closest, add_closest
from medi_monai.report.grids import labeled_grid
from medi_monai.report.page import Page
from medi_monai.report.words import (
    add_encoder,
    add_settings,
    edges_of,
    figure_text,
    known,
    number,
    share_table,
    short,
)

__all__ = ["Pairs", "write_alignment_page"]

#: ``stayed`` and ``changed`` to a title and its pairs of the same noise, ``(H, W, 3)`` uint8 each
Pairs: TypeAlias = Mapping[str, Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]]

MOST_PROMPTS, MOST_PARTS, PICTURE = 40, 24, 64
#: the arms that the page is about
ARMS = ("before", "after")
#: fewer matched images call for a warning
FEW_MATCHED = 50


def write_alignment_page(content: Mapping[str, Any], pairs: Pairs, closest: Closest, path: str | os.PathLike) -> Path:
    """Write the page.

    Args:
        content: of ``metrics.json``, also after a way through JSON.
        pairs: pictures of the same noise before and after, by what became of their subgroup.
        closest: the closest training images of each arm and of held-out real images.
        path: of the page.

    Returns:
        ``path``.
    """
    name = " and ".join(content["target"]["attributes"])
    wanted = ", ".join(f"{value} {100 * share:.3g} %" for value, share in content["target"]["target"].items())
    lead = f"Do generated images have the shares of {name} that were asked for, and what did it cost? Target: {wanted}."
    page = Page("Subgroups before and after alignment", lead)
    _add_answer(page, content)
    add_alternatives(page, content)
    _add_readings(page, content)
    _add_curves(page, content)
    _add_pairs(page, content, pairs)
    _add_quality(page, content)
    _add_named(page, content)
    _add_prompts(page, content)
    _add_memory(page, content, closest)
    _add_classifiers(page, content)
    page.section("What the images were read with, and settings")
    add_encoder(page, content["encoder"])
    add_settings(page, content["settings"])
    add_settings(page, content["digests"], "What was compared, by digest")
    return page.write(path)


def _add_answer(page: Page, content: Mapping[str, Any]) -> None:
    page.section("The answer")
    # whether anything can be believed comes before what is said
    for one in content["warnings"]:
        if one["level"] == "error":
            page.notice(one["text"], "error")
    after = content["verdict"]["after"]
    for place, one in enumerate(after["findings"]):
        page.notice(f"Verdict: {after['answer']}. {one['text']}" if place == 0 else one["text"], one["level"])
    page.text(_shares_in_words(content))
    for one in content["warnings"]:
        if one["level"] != "error":
            page.notice(one["text"], one["level"])
    for part, target in content["target"]["parts"].items():
        if len(target) <= MOST_PARTS:
            page.figure(
                proportion_bars(content, part),
                f"Shares of {part} with 95 % intervals; the black line is the target. Left as the judge reads the "
                "images; right, where they are known, behind its own mistakes.",
            )


def _shares_in_words(content: Mapping[str, Any]) -> str:
    sentences = []
    for part, target in content["target"]["parts"].items():
        behind = [content["distance_to_target"][arm][part].get("corrected") or {} for arm in ("before", "after")]
        usable = all(one.get("proportions") and not one.get("undefined") for one in behind)
        before, after = (
            one["proportions"] if usable else content["proportions"][arm][part]
            for arm, one in zip(("before", "after"), behind)
        )
        words = [
            f"{value} {_percent(before[value])} before, {_percent(after[value])} after, {100 * share:.3g} % wanted"
            for value, share in target.items()
        ]
        if len(target) <= MOST_PARTS:
            sentences.append(f"{part}, {'corrected' if usable else 'as read'}: {'; '.join(words)}.")
    return "\n".join(sentences)


def _percent(one: Mapping[str, Any]) -> str:
    value, edges = known(one["value"]), edges_of(one)
    if value is None:
        return figure_text(one)
    return f"{100 * value:.1f} %" + (f" ({100 * edges[0]:.1f} to {100 * edges[1]:.1f})" if edges else "")


def _add_readings(page: Page, content: Mapping[str, Any]) -> None:
    page.section(
        "What is read in the images",
        "The judge had no say in the tuning. Corrected: the shares behind the mistakes that it makes on held-out "
        "real images, which it is taken to make on generated ones as well. In brackets: the 95 % interval (Wilson's, "
        "or of a bootstrap over images, and for corrected figures over the held-out images too).",
    )
    for part, target in content["target"]["parts"].items():
        rows: dict[str, dict[str, Any]] = {"target": {value: number(share, 3) for value, share in target.items()}}
        trained = content["training"].get(part)
        if trained:
            rows["real images in training"] = {value: figure_text(one, 3) for value, one in trained.items()}
        for arm, read in content["proportions"].items():
            rows[arm] = {value: figure_text(one, 3) for value, one in read[part].items()}
            rows[arm]["images"] = next(iter(read[part].values()))["n"]
            behind = content["distance_to_target"][arm][part].get("corrected") or {}
            if behind.get("undefined"):
                page.notice(f"{arm}, {part}: not corrected, for {behind['undefined']}.", "warning")
                continue
            rows[f"{arm}, corrected"] = {
                **{value: figure_text(one, 3) for value, one in (behind.get("proportions") or {}).items()},
                "images": rows[arm]["images"],
            }
        page.table(share_table(rows, "images"), f"Shares of {part}")
        _add_distances(page, content, part)


def _add_distances(page: Page, content: Mapping[str, Any], part: str) -> None:
    rows = {}
    for arm, distances in content["distance_to_target"].items():
        one = distances[part]
        row = {"total variation, judge": figure_text(one["total_variation"], 3)}
        behind = corrected_distance(one)
        row["total variation, judge, corrected"] = figure_text(behind.get("total_variation"), 3)
        for name, read in content["readers"].items():
            row[f"total variation, {name}"] = figure_text(read["distance_to_target"][arm][part]["total_variation"], 3)
        row["Kullback–Leibler, judge"] = figure_text(one["kl"], 3)
        row["Kullback–Leibler, judge, corrected"] = figure_text(behind.get("kl"), 3)
        row["change of total variation, judge"] = figure_text(content["change"].get(arm, {}).get(part), 3)
        rows[arm] = row
    page.table(share_table(rows, "images"), f"Distance of {part} to the target, smaller is better")


def _add_curves(page: Page, content: Mapping[str, Any]) -> None:
    curve = content.get("curve")
    if not curve or not curve["rows"]:
        return
    page.section("The tuning, as three classifiers saw it")
    page.figure(
        curve_plot(curve),
        "Distance of the mean probabilities to the target, on the same prompts and noise at every look. The guide is "
        "what the tuning minimizes, the validation classifier decides which weights are kept (dashed line), the "
        "judge has no say. A guide that falls alone is being fooled."
        + (
            " The target was that of each prompt by itself: on the right the mean of the distances of prompts, which "
            "the kept weights are chosen by. It does not reach zero, for a prompt has few images in a look."
            if has_prompts(curve)
            else ""
        ),
    )


def _add_pairs(page: Page, content: Mapping[str, Any], pairs: Pairs) -> None:
    page.section("The same noise, before and after")
    for kind in ("stayed", "changed"):
        shown = pairs.get(kind) or {}
        if not shown:
            page.text(f"No pair of the same noise {kind}.")
            continue
        heading = "kept their subgroup" if kind == "stayed" else "changed it"
        page.text(f"Pairs that {heading}, as the judge reads them; above each other: same noise, same prompt.")
        page.figures([(_side_by_side(of_way), way) for way, of_way in shown.items()])
    rows = {}
    for arm, one in content["consistency"].items():
        if arm not in ARMS and not one["num_stayed"] + one["num_changed"]:
            continue
        rows[arm] = {
            "all": figure_text(one["all"], 3),
            "stayed": figure_text(one["stayed"], 3),
            "pairs that stayed": one["num_stayed"],
            "changed": figure_text(one["changed"], 3),
            "pairs that changed": one["num_changed"],
            "other noise": number((one["unrelated"] or {}).get("value"), 3),
        }
    page.table(share_table(rows, "images"), "Cosine of CLIP image features with the image before, on the same noise")
    scores = {
        arm: {
            "CLIP score": figure_text(one, 3),
            "change on the same noise": figure_text(content["consistency"].get(arm, {}).get("score_change"), 3),
        }
        for arm, one in content["clip_score"].items()
    }
    if any(one["n"] for one in content["clip_score"].values()):
        page.table(share_table(scores, "images"), "CLIP score: cosine of image and prompt")
    else:
        page.text("No CLIP model was given: there is neither a cosine nor a CLIP score.")


def _side_by_side(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    cells = {(row, ""): [pair[place] for pair in pairs] for place, row in enumerate(("before", "after"))}
    return labeled_grid(cells, ["before", "after"], [""], "", (1, len(pairs)), PICTURE)


def _add_quality(page: Page, content: Mapping[str, Any]) -> None:
    page.section(
        "Quality, in all and within subgroups",
        "All: real images in the shares of the target, against all images of an arm. Within a subgroup: real ones of "
        "it, against generated ones that the judge reads as it. Real images are halved by patient; every arm, and "
        "the floor (real images of other patients), is compared with the same half at the same number of images. "
        "Ratio: Fréchet distance by that before, with an interval of replicates paired by the real images.",
    )
    for group, one in content["fidelity"].items():
        title = "all images" if group == "all" else group
        counts = ", ".join(f"{name} {count:,}" for name, count in one["counts"].items())
        if not one["matched"]:
            page.notice(f"{title}: too few images for a distance ({counts}).", "warning")
            continue
        if one["matched"] < FEW_MATCHED:
            page.notice(f"{title}: only {one['matched']:,} images could be matched; the figures say little.", "warning")
        rows: dict[str, dict[str, Any]] = {"floor (real images)": _distances(one["floor"])}
        for arm, figures in one["arms"].items():
            rows[arm] = {
                **_distances(figures),
                "ratio to before": figure_text(figures["ratio"]),
                "n": figures["frechet_distance"]["n"],
            }
        single = "; the real ones are of a single patient, halved by image" if one["one_patient"] else ""
        page.table(share_table(rows, "images"), f"{title}: {one['matched']:,} matched images of {counts}{single}")
    rows = {}
    for group, by_name in content["diversity"].items():
        for name, one in by_name.items():
            label = "real images" if name == "reference" else name
            rows[f"{group}, {label}"] = {
                "images": one["features"]["n"],
                "1 − MS-SSIM": figure_text(one["ms_ssim"], 3),
                "times before": figure_text(one["ms_ssim"]["ratio"]),
                "feature distance": figure_text(one["features"]),
                "feature distance, times before": figure_text(one["features"]["ratio"]),
            }
    page.table(share_table(rows, "subgroup"), "Diversity: how unlike each other two images of a subgroup are")


def _distances(figures: Mapping[str, Any]) -> dict[str, str]:
    names = {"frechet_distance": "Fréchet distance", "kernel_distance": "kernel distance"}
    shares = {name: name for name in ("precision", "recall", "density", "coverage")}
    return {title: figure_text(figures[name]) for name, title in {**names, **shares}.items()}


def _add_named(page: Page, content: Mapping[str, Any]) -> None:
    if not content["named_prompts"]:
        return
    page.section(
        "Prompts that name the attribute",
        "The share of images that the judge reads as the prompt asks for, and the ratio to before over pairs of the "
        "same noise. The judge's own mistakes are in every row.",
    )
    for name, by_arm in content["named_prompts"].items():
        rows = {
            arm: {
                "read as asked": figure_text(one["share"], 3),
                **{f"asked for {value}": figure_text(part, 3) for value, part in one["by_value"].items()},
                "ratio to before": figure_text(one["ratio"], 3),
                "images": one["share"]["n"],
                "prompts that name none": one["left_out"],
            }
            for arm, one in by_arm.items()
        }
        page.table(share_table(rows, "images"), f"{name} read as asked")


def _add_prompts(page: Page, content: Mapping[str, Any]) -> None:
    page.section("Prompt by prompt")
    part = content["part"]
    given = content["by_prompt"][part]
    means = {
        arm: {
            "mean total variation": figure_text(one, 3),
            "by chance alone": number(one["by_chance"], 3),
            "prompts": one["n"],
        }
        for arm, one in given["mean"].items()
    }
    page.table(
        share_table(means, "images"),
        f"Mean over the prompts with {given['least_images']} images or more in the arm, before and after; by chance "
        "alone: what as many draws from the target itself are apart from it",
    )
    prompts = sorted(given["prompts"], key=lambda row: -max(one["n"] for one in row["arms"].values()))
    rows = []
    for row in prompts:
        found: dict[str, Any] = {"prompt": short(row["prompt"], 120)}
        for arm, one in row["arms"].items():
            if arm not in ARMS:
                found[f"{arm}: distance"] = f"{figure_text(one['total_variation'], 2)}, {one['n']:,} images"
                continue
            shares = ", ".join(f"{value} {number(share['value'], 2)}" for value, share in one["proportions"].items())
            found[f"{arm}: images"] = f"{one['n']:,} (few)" if one["few"] else f"{one['n']:,}"
            found[f"{arm}: shares"] = shares if one["n"] and len(one["proportions"]) <= 4 else "–"
            found[f"{arm}: distance"] = figure_text(one["total_variation"], 2)
        rows.append(found)
    page.table(pd.DataFrame(rows), f"Shares of {part} and total variation from the target by prompt", MOST_PROMPTS)


def _add_memory(page: Page, content: Mapping[str, Any], closest: Closest) -> None:
    page.section("Do training images come back?")
    limit = max((one.get("limit", 0.9) for one in content["memorization"].values()), default=0.9)
    rows = {}
    for name, one in content["memorization"].items():
        rows["held-out real images" if name == "held_out" else name] = {
            "copies of training images": figure_text(one["copies"], 3),
            "nearer to training than to validation": figure_text(one.get("nearer"), 3),
            "distance to training, times held-out": number(one["ratio"]),
            "highest correlation": number(one["correlation"], 3),
        }
    page.table(share_table(rows, "images"))
    page.text(
        f"A copy is an image that correlates by more than {number(limit, 3)} with a training image, turned or "
        "mirrored: 0.9, or what 99 % of held-out real images stay below, for heads of one kind resemble each other. "
        "Nearer to training images than to as many of the validation is one half of images where nothing was memorized."
    )
    arms = dict.fromkeys(content["proportions"])
    add_closest(page, {"arms": arms}, closest)


def _add_classifiers(page: Page, content: Mapping[str, Any]) -> None:
    page.section("Who read the images")
    rows = {}
    for name, read in {"judge": content["judge"], **content["readers"]}.items():
        for attribute in content["target"]["attributes"]:
            one = read["held_out"].get(attribute) or {}
            row = {"balanced accuracy": figure_text(one.get("balanced_accuracy"), 3), "chance": one.get("chance")}
            row |= {f"recall, {value}": figure_text(part, 3) for value, part in (one.get("recall") or {}).items()}
            rows[f"{name}, {attribute}"] = {
                **row,
                "held-out images": one.get("n"),
                "patients": one.get("num_patients"),
            }
    page.table(share_table(rows, "classifier"), "Accuracy on real images of patients who were not in training")
    page.text("The judge is none of the others, by the digest of its weights.")

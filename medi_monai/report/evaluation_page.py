"""The run ``evaluation`` as one page: how near generated images come to real ones, and what is read in them."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.metrics.memorization import reproduces_training_images
from medi_monai.report.page import Page
from medi_monai.report.plots import combination_dots, distance_distribution, distance_heat_maps
from medi_monai.report.words import (
    add_encoder,
    add_settings,
    edges_of,
    figure_text,
    known,
    listed,
    number,
    p_text,
    settings_notice,
    share_table,
    span,
)

__all__ = ["Closest", "add_closest", "add_fidelity", "write_evaluation_page"]

#: arm, and ``held_out``, to its closest pairs: generated and training image ``(H, W, 3)`` uint8, their correlation
Closest: TypeAlias = Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, float]]]

#: combinations that the plot of dots shows; of more the page has their distribution and the worst of them
MOST_DOTS, MOST_WORST = 60, 30
#: rows, columns and panels of the heat maps
MOST_SIDE, MOST_PANELS = 40, 7
#: fewer combinations, or matched images in the middle one of them, call for a warning
FEW_COMBINATIONS, FEW_IMAGES = 8, 50
MOST_PAIRS, THUMBNAIL, MOST_ROWS = 6, 88, 60
REAL, SMALL_REAL = "floor (real images)", "real images"
SHARES = ("precision", "recall", "density", "coverage")


def write_evaluation_page(content: Mapping[str, Any], closest: Closest, path: str | os.PathLike) -> Path:
    """Write the page of an evaluation.

    Args:
        content: of ``metrics.json``, also after a way through JSON.
        closest: the closest pairs of each arm and of held-out real images.
        path: of the page.

    Returns:
        ``path``.
    """
    columns = [content["label"], *content["attributes"]]
    lead = f"Generated images of {listed(content['arms'])} beside real ones, by combination of {' × '.join(columns)}."
    page = Page("Fidelity of generated images", lead)
    add_fidelity(page, content, closest)
    page.section("Settings of the evaluation")
    add_settings(page, content["settings"])
    add_settings(page, content.get("digests") or {}, "What was compared, by digest")
    return page.write(path)


def add_fidelity(page: Page, content: Mapping[str, Any], closest: Closest) -> Page:
    """Add the sections of an evaluation to a page; arguments as of :func:`write_evaluation_page`."""
    page.section("How near generated images come to real ones")
    settings_notice(page, content["settings_that_differ"])
    rows = _combinations(content)
    _add_cautions(page, content, rows)
    page.text(
        "The floor is the distance between real images of one combination and real images of the same combination "
        "from other patients: a generator that does not know the very patients it is compared with cannot be expected "
        "below it. Real images are halved by patient; every arm, and "
        "the floor, is compared with the same half at the same number of images (n is matched), for distances fall as "
        "n grows. Means weigh all combinations alike. Seen combinations were in training, unseen ones were not. "
        "In brackets: the 95 % interval."
    )
    _add_distances(page, content)
    _add_shares(page, content)
    _add_reading(page, content)
    _add_combinations(page, content, rows)
    _add_labels(page, content)
    _add_comparisons(page, content)
    add_closest(page, content, closest)
    page.section("What the images were read with")
    add_encoder(page, content["encoder"])
    return page


def _combinations(content: Mapping[str, Any]) -> pd.DataFrame:
    """One row per combination: its values, ``name``, ``seen``, ``n``, ``floor`` and the distance in each arm."""
    columns, arms = [content["label"], *content["attributes"]], content["arms"]
    parts = {arm: figures["frechet_distance"]["by_combination"] for arm, figures in arms.items()}
    first: list[dict[str, Any]] = next(iter(parts.values()), [])
    places = [f"value {place}" for place in range(len(columns))]
    found = []
    for nth, row in enumerate(first):
        values = [str(row[column]) for column in columns]
        found.append(
            {**dict(zip(places, values)), "name": " · ".join(values), "seen": bool(row["seen"]), "n": row["n"] or 0}
            | {
                "one patient": bool(row.get("one_patient")),
                "floor": known(row["floor"]),
                **{arm: known(part[nth]["value"]) for arm, part in parts.items()},
            }
        )
    frame = pd.DataFrame(found, columns=[*places, "name", "seen", "n", "one patient", "floor", *parts])
    return frame.astype(dict.fromkeys(("floor", *parts), float))


def _add_cautions(page: Page, content: Mapping[str, Any], rows: pd.DataFrame) -> None:
    usable = rows[rows["n"] > 0]
    least = content["settings"].get("min_images")
    for part, chosen in (("", usable), ("unseen ", usable[~usable["seen"]])):
        if chosen.empty:
            page.notice(f"No {part}combination has enough images: this page has no figure of them.", "warning")
        elif len(chosen) < FEW_COMBINATIONS:
            page.notice(
                f"Only {len(chosen)} {part}combination{'s' * (len(chosen) > 1)} could be compared: intervals over so "
                "few say little.",
                "warning",
            )
    if len(usable) and usable["n"].median() < FEW_IMAGES:
        page.notice(
            f"Few images could be matched: {usable['n'].median():.0f} in the middle combination, {usable['n'].min():,} "
            "at least. Distances are biased upward at such counts; compare arms with each other and with the floor, "
            "not with figures of other studies.",
            "warning",
        )
    if len(usable) < len(rows):
        page.notice(
            f"{len(rows) - len(usable):,} of {len(rows):,} combinations have fewer than {least} images in a half of "
            "the real ones or in an arm: they have no figure, and no mean contains them."
        )
    alone = int(usable["one patient"].sum())
    if alone:
        page.notice(
            f"The real images of {alone:,} of {len(usable):,} combinations are of a single patient and were halved by "
            "image: there the floor is lower than it would be between patients."
        )
    below = []
    for arm, figures in content["arms"].items():
        mean, floor = (edges_of(figures["frechet_distance"][part]) for part in ("mean", "floor"))
        if mean and floor and mean[1] < floor[0]:
            below.append(arm)
    if below:
        page.notice(
            f"Below the floor: {listed(below)}. The images are nearer to real ones than those of other patients are. A "
            "model that learned from the patients it is compared with may come so near; so may one that copies them: "
            "see the share of copies and the closest pairs."
        )


def _add_distances(page: Page, content: Mapping[str, Any]) -> None:
    floor: dict[str, Any] = next(iter(content["arms"].values()), {})
    rows: dict[str, dict[str, Any]] = {REAL: {}, **{arm: {} for arm in content["arms"]}}
    for metric, title in (("frechet_distance", "Fréchet"), ("kernel_distance", "kernel")):
        for part in ("mean", "seen", "unseen"):
            name = f"{title} distance, {part}"
            base = floor.get(metric, {}).get("floor" if part == "mean" else f"floor_{part}")
            base = content["real"]["floor"].get(metric) if part == "mean" else base
            rows[REAL][name] = figure_text(base)
            for arm, figures in content["arms"].items():
                rows[arm][name] = figure_text(figures[metric][part])
        if metric == "frechet_distance":
            for arm, figures in content["arms"].items():
                value, least = (known((figures[metric][part] or {}).get("value")) for part in ("mean", "floor"))
                rows[arm]["mean, times the floor"] = value / least if value is not None and least else None
    mean = content["real"]["floor"]["frechet_distance"]
    caption = (
        f"Distances to real images, smaller is better; over {mean.get('num_combinations') or 0:,} combinations with "
        f"{mean.get('n') or 0:,} matched images"
    )
    page.table(share_table(rows, "images"), caption)


def _add_shares(page: Page, content: Mapping[str, Any]) -> None:
    rows: dict[str, dict[str, Any]] = {REAL: {}, **{arm: {} for arm in content["arms"]}}
    for metric in SHARES:
        rows[REAL][metric] = figure_text(content["real"]["floor"].get(metric), 3)
        for arm, figures in content["arms"].items():
            rows[arm][metric] = figure_text(figures[metric]["mean"], 3)
    rows[REAL]["diversity"] = figure_text(content["real"]["diversity"], 3)
    for arm, figures in content["arms"].items():
        rows[arm]["diversity"] = figure_text(figures["diversity"], 3)
    page.table(share_table(rows, "images"), "Quality and variety, larger is better")
    page.text(
        "Precision and density: how many generated images lie among real ones. Recall and coverage: how much of the "
        "real ones is reached. Diversity: 1 less the structural similarity of images of one combination (MS-SSIM). The "
        "first row is what real images of other patients reach."
    )


def _add_reading(page: Page, content: Mapping[str, Any]) -> None:
    label, real = content["label"], content["real"]
    names = [label, *content["attributes"]]
    ceilings = {label: real["label_fidelity"], **(real.get("attribute_fidelity") or {})}
    rows: dict[str, dict[str, Any]] = {SMALL_REAL: {}, **{arm: {} for arm in content["arms"]}}
    for name in names:
        title = f"{name} read as asked"
        rows[SMALL_REAL][title] = figure_text(ceilings.get(name), 3)
        for arm, figures in content["arms"].items():
            given = figures["label_fidelity"] if name == label else figures["attribute_fidelity"].get(name)
            rows[arm][title] = figure_text(given, 3)
    memory = {SMALL_REAL: real.get("memorization")}
    memory |= {arm: figures["memorization"] for arm, figures in content["arms"].items()}
    for row, given in memory.items():
        given = given or {}
        rows[row]["copies of training images"] = figure_text(given.get("copies"), 3)
        rows[row]["nearer to training than to validation"] = figure_text(given.get("nearer"), 3)
        rows[row]["distance to training, times held-out"] = number(given.get("ratio"))
        rows[row]["highest correlation"] = number(given.get("correlation"), 3)
    page.section("What is read in them, and whether training comes back")
    _add_copy_notices(page, memory)
    page.table(share_table(rows, "images"))
    chances = [
        f"{name} {number(given['chance'])}" for name, given in ceilings.items() if given and known(given.get("chance"))
    ]
    page.text(
        "Read as asked: how often a classifier trained on real images alone finds in a generated image the value that "
        "was asked for; the first row is its accuracy on real images of patients it has not seen, the ceiling."
        + (f" Chance: {listed(chances)}. " if chances else " ")
        + f"A copy is an image that correlates by more than {_limit_of(memory)} with a training image, turned or "
        "mirrored (0.9, or what 99 % of held-out real images stay below); held-out real images (first row) show how "
        "often that happens by chance. The distance is that to the nearest training image, the middle one of all, as a "
        "multiple of the same of held-out images. Nearer to training images than to as many of the validation is one "
        "half of images where nothing was memorized."
    )


def _limit_of(memory: Mapping[str, Mapping[str, Any] | None]) -> str:
    return number(max((given.get("limit", 0.9) for given in memory.values() if given), default=0.9), 3)


def _add_copy_notices(page: Page, memory: Mapping[str, Mapping[str, Any] | None]) -> None:
    base = memory[SMALL_REAL]
    for arm, given in memory.items():
        if given and base and arm != SMALL_REAL and reproduces_training_images(given, base):
            page.notice(
                f"{arm} gives back training images: a share of {figure_text(given['copies'], 3)} are copies, against "
                f"{figure_text(base['copies'], 3)} of held-out real images.",
                "warning",
            )


def _add_combinations(page: Page, content: Mapping[str, Any], rows: pd.DataFrame) -> None:
    arms = list(content["arms"])
    usable = rows[rows["n"] > 0]
    page.section("Combination by combination")
    if usable.empty:
        page.text("No combination has enough images for a figure.")
        return
    label = "Fréchet distance"
    if len(usable) <= MOST_DOTS:
        page.figure(
            combination_dots(usable, arms, label),
            "Each line is a combination, each point an arm; further left is better. The gray mark is the floor. "
            "Shaded lines, named in red, are combinations that training never saw.",
        )
    else:
        page.figure(
            distance_distribution(usable, arms, label),
            f"{len(usable):,} combinations: the height of a line is the share of combinations with at most this "
            "distance. The further a line lies to the left, the better; gray is the floor.",
        )
    if not _add_heat_maps(page, content, rows):
        worst = usable.assign(worst=usable[arms].max(axis=1)).nlargest(MOST_WORST, "worst", keep="first")
        table = worst.set_index("name")[["seen", "n", "floor", *arms]].rename_axis("combination")
        page.table(table.rename(columns={"n": "matched images"}),
                   f"The {len(worst)} combinations with the largest distance in any arm; metrics.csv has all",
                   MOST_WORST)  # fmt: skip


def _add_heat_maps(page: Page, content: Mapping[str, Any], rows: pd.DataFrame) -> bool:
    arms = list(content["arms"])
    if not content["attributes"] or len(arms) + 1 > MOST_PANELS:
        return False
    names = (content["label"], content["attributes"][0])
    index, columns = (sorted(rows[f"value {place}"].unique()) for place in (0, 1))
    if len(index) > MOST_SIDE or len(columns) > MOST_SIDE:
        return False
    tables = {
        title: rows.pivot_table(index="value 0", columns="value 1", values=arm, aggfunc="mean")
        .reindex(index=index, columns=columns)
        .rename_axis(index=names[0], columns=names[1])
        for title, arm in ((REAL, "floor"), *((arm, arm) for arm in arms))
    }
    seen = rows.groupby(["value 0", "value 1"])["seen"].any()
    several = f" A cell is the mean over its {listed(content['attributes'][1:])}." if content["attributes"][1:] else ""
    page.text(
        f"{names[0]} (rows) by {names[1]} (columns) on one color scale; darker is further from real images. A red "
        "frame marks a combination that training never saw; a white cell has too few real or generated images, or none."
        + several
    )
    for figure in distance_heat_maps(tables, set(seen[~seen].index), "Fréchet distance"):
        page.figure(figure, f"Fréchet distance by {names[0]} and {names[1]}")
    return True


def _add_labels(page: Page, content: Mapping[str, Any]) -> None:
    arms = content["arms"]
    labels = list(dict.fromkeys(name for figures in arms.values() for name in figures["frechet_distance"]["by_label"]))
    rows: dict[str, dict[str, Any]] = {}
    for name in labels:
        parts = {arm: figures["frechet_distance"]["by_label"].get(name) or {} for arm, figures in arms.items()}
        first = next(iter(parts.values()))
        row: dict[str, Any] = {"pooled, floor": number((first.get("pooled_floor") or {}).get("value"))}
        row |= {f"pooled, {arm}": _pooled(part.get("pooled")) for arm, part in parts.items()}
        row["mean, floor"] = number(first.get("floor"))
        row |= {f"mean, {arm}": figure_text(part) for arm, part in parts.items()}
        for arm, figures in arms.items():
            by_value = (figures["label_fidelity"] or {}).get("by_value") or {}
            row[f"read as asked, {arm}"] = number(by_value.get(name), 3)
        rows[name] = {**row, "matched images": first.get("n")}
    page.section(f"By {content['label']}")
    if rows:
        page.table(share_table(rows, content["label"]), f"Fréchet distance by {content['label']}", MOST_ROWS)
    together = [f"{arm} {number(figures['frechet_distance']['all_images']['value'])}"
                for arm, figures in arms.items() if figures["frechet_distance"].get("all_images")]  # fmt: skip
    page.text(
        "Pooled: all combinations of a class taken together, as published figures per class are made; in brackets the "
        "range over halves of the patients. Mean: the mean over its combinations, which does not forgive images of the "
        "wrong combination, with its 95 % interval."
        + (
            f" All images of an arm against all real ones, not matched, as papers print it: {listed(together)}."
            if together
            else ""
        )  # fmt: skip
    )


def _pooled(figure: Mapping[str, Any] | None) -> str:
    text = figure_text(figure)
    return text + span((figure or {}).get("range_over_halves")) if known((figure or {}).get("value")) else text


def _add_comparisons(page: Page, content: Mapping[str, Any]) -> None:
    rows = []
    for one in content["comparisons"]:
        test = one["log_ratio"]
        gap = test.get("difference") or {}
        ratio = known(gap.get("value"))
        interval = [math.exp(edge) for edge in edges_of(gap) or ()]
        rows.append(
            {
                "arms": " / ".join(one["arms"]),
                "combinations": f"{one['combinations']} ({test.get('n') or 0:,})",
                "ratio of means": number(one["ratio_of_means"]),
                "ratio in the same combination": number(None if ratio is None else math.exp(ratio)) + span(interval),
                "p": p_text(test.get("p_value")),
            }
        )
    if rows:
        page.section("Arms against each other")
        page.table(pd.DataFrame(rows), "Fréchet distance of the first arm as a multiple of that of the second")
        page.text(
            "Above 1, the second arm is nearer to real images. The ratio in the same combination is the geometric mean "
            "over combinations with its 95 % interval; p is of a paired test that exchanges the arms combination by "
            "combination. It speaks of these models, trained once each."
        )


def add_closest(page: Page, content: Mapping[str, Any], closest: Closest) -> None:
    """The section of each arm's images that are most like an image of training, beside it; none where there is none."""
    if not any(len(pairs) for pairs in closest.values()):
        return
    page.section(
        "The closest pairs",
        "Left the image in question, right the training image that it is most like, turned or mirrored to match; "
        "the correlation of their pixels is beneath. Pairs of held-out real images show how alike different images may "
        "be.",
    )
    for arm in [*content["arms"], *(name for name in closest if name not in content["arms"])]:
        pairs = list(closest.get(arm) or [])[:MOST_PAIRS]
        if pairs:
            page.text("Held-out real images" if arm == "held_out" else f"Generated by {arm}")
            page.figures([(_beside(one, other), f"correlation {number(alike, 3)}") for one, other, alike in pairs])


def _beside(left: np.ndarray, right: np.ndarray) -> Image.Image:
    both = Image.new("RGB", (2 * THUMBNAIL + 4, THUMBNAIL), "white")
    for place, side in enumerate((left, right)):
        image = Image.fromarray(np.asarray(side)).convert("RGB")
        # pixels of a small image stay what they are
        way = Image.Resampling.NEAREST if image.width < THUMBNAIL else Image.Resampling.LANCZOS
        both.paste(image.resize((THUMBNAIL, THUMBNAIL), way), (place * (THUMBNAIL + 4), 0))
    return both

"""Galleries of real and generated images of the same combinations, for pages."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort import Cohort
from medi_monai.cohort.reading import PatchReader
from medi_monai.evaluation.probing.recoloring import Recoloring
from medi_monai.report.blocks.arms import arm_title, arm_words
from medi_monai.report.blocks.gallery import Gallery
from medi_monai.utils.seeding import seed_from

__all__ = ["IN_TRAINING", "NOT_IN_TRAINING", "sample_gallery", "stain_transferred"]

#: headings of columns
NOT_IN_TRAINING, IN_TRAINING = "Combinations not in training", "Combinations in training"
#: maximum number of combinations in a gallery, and of those not in training among them if there are others
MOST_COLUMNS, MOST_UNSEEN = 10, 6
#: splits whose real images are shown
SPLITS = ("train", "val", "holdout")


def sample_gallery(
    cohort: Cohort,
    arms: Mapping[str, Cohort],
    columns: Sequence[str],
    image_size: int,
    images_per_cell: int = 1,
    transfer_seed: int | None = None,
) -> Gallery:
    """Choose combinations that all arms have and images of each at random; those not in training come first.

    The choice depends on the names of arms and combinations alone, as long as the images stay the same.

    Args:
        cohort: real images with their split.
        arms: images of each arm.
        columns: label, followed by the attributes; the first attribute is the center.
        image_size: side of the images in pixels.
        images_per_cell: number of images of each arm and combination.
        transfer_seed: seed of a further row of real training images recolored to the stain of the center; None to
            leave it out.
    """
    table = cohort.table[cohort.table["split"].isin(SPLITS)].reset_index(drop=True)
    sources: dict[str, Cohort] = {"real": Cohort(table, cohort.root), **arms}
    keys = {arm: _keys(images.table, columns) for arm, images in sources.items()}
    in_training = set(keys["real"][(table["split"] == "train").to_numpy()])
    everywhere = set.intersection(*(set(of_arm) for of_arm in keys.values()))
    shown = _choose(everywhere, in_training)
    cells: dict[tuple[str, int], Sequence[np.ndarray]] = {}
    for arm, images in sources.items():
        reader = PatchReader(images, image_size)
        for column, key in enumerate(shown):
            rows = np.flatnonzero(keys[arm] == key)
            chosen = np.random.default_rng(seed_from("shown", arm, list(key))).permutation(rows)[:images_per_cell]
            cells[arm_title(arm), column] = reader.read(np.sort(chosen).tolist())
        reader.close()
    names = list(sources)
    if transfer_seed is not None and len(columns) > 1:
        pairs = [(key[0], key[1]) for key in shown]
        recolored = stain_transferred(cohort, columns, image_size, pairs, images_per_cell, transfer_seed)
        cells |= {(arm_title("stain_transfer"), column): images for column, images in recolored.items()}
        names += ["stain_transfer"] if recolored else []
    return Gallery(
        rows=[arm_title(arm) for arm in names],
        columns=[list(key) for key in shown],
        cells=cells,
        groups=[IN_TRAINING if key in in_training else NOT_IN_TRAINING for key in shown],
        notes={arm_title(arm): arm_words(arm) for arm in names if arm_words(arm) and arm != "real"},
        mpp=cohort.mpp,
    )


def _keys(table: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    return pd.Series(list(map(tuple, table[list(columns)].astype(str).to_numpy())), dtype=object)


def _choose(everywhere: set[tuple[str, ...]], in_training: set[tuple[str, ...]]) -> list[tuple[str, ...]]:
    order = sorted(everywhere, key=lambda key: seed_from("samples", list(key)))
    seen = [key for key in order if key in in_training]
    unseen = [key for key in order if key not in in_training]
    num_unseen = min(len(unseen), max(MOST_UNSEEN, MOST_COLUMNS - len(seen)))
    return [*sorted(unseen[:num_unseen]), *sorted(seen[: MOST_COLUMNS - num_unseen])]


def stain_transferred(
    cohort: Cohort,
    columns: Sequence[str],
    image_size: int,
    combinations: Sequence[tuple[str, str]],
    images_per_cell: int,
    seed: int,
) -> dict[int, list[np.ndarray]]:
    """Return training images of the class of each combination, recolored to the stain of its center.

    The stain of a center is estimated as for the arm ``stain_transfer``; see
    :class:`medi_monai.evaluation.probing.recoloring.Recoloring`.

    Args:
        cohort: real images with their split.
        columns: label and center, and others that are ignored.
        image_size: side of the images in pixels.
        combinations: class and center of each combination.
        images_per_cell: number of images of each.
        seed: seed of all choices.

    Returns:
        ``(H, W, 3)`` uint8 images by position in ``combinations``, without those whose stain cannot be estimated.
    """
    label, center = columns[:2]
    # other centers are neither sources nor targets, which saves reading their images
    at_centers = cohort.table[center].astype(str).isin({name for _, name in combinations})
    real = Cohort(cohort.table[at_centers].reset_index(drop=True), cohort.root)
    recoloring = Recoloring(real, label, center, image_size, seed)
    recolored = recoloring.patches("moments", None, images_per_cell * len(recoloring.centers))
    if recolored is None:
        return {}
    keys = _keys(recolored.cohort.table, [label, center])
    reader = PatchReader(recolored.cohort, image_size)
    shown = {}
    for position, combination in enumerate(combinations):
        rows = np.flatnonzero(keys == combination)[:images_per_cell].tolist()
        items: list[dict[Hashable, Any]] = [
            {"image": image.transpose(2, 0, 1), "index": row} for image, row in zip(reader.read(rows), rows)
        ]
        if items:
            shown[position] = [np.asarray(recolored.transform(item)["image"]).transpose(1, 2, 0) for item in items]
    reader.close()
    return shown

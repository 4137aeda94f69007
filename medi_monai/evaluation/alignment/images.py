"""Images of an alignment, classified and embedded once for all measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from medi_monai.alignment.functional import subset_counts
from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import stable_order
from medi_monai.evaluation.alignment.inputs import AlignmentInputs
from medi_monai.evaluation.alignment.predictions import ArmPredictions, predict_arm
from medi_monai.evaluation.embedding import Embedder, ImageSets
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.utils.seeding import seed_from

__all__ = ["ALL", "REFERENCE", "ComparedImages", "Measured", "compared_images", "target_rows"]

#: names of the group of all images, and of the real images
ALL, REFERENCE = "all", "reference"


@dataclass(frozen=True)
class ComparedImages:
    """All images with their features, and predictions for the generated ones.

    Args:
        inputs: inputs of the evaluation.
        predictions: predictions by arm.
        features: ``(N, D)`` features of every arm, of ``reference`` (the real images to compare with) and ``real`` (the
            cohort).
        image_size: side of the images in pixels.
        batch_size: batch size of classifiers and of the CLIP model.
        settings: settings of the comparison.
    """

    inputs: AlignmentInputs
    predictions: Mapping[str, ArmPredictions]
    features: Mapping[str, np.ndarray]
    image_size: int
    batch_size: int
    settings: FidelitySettings

    @property
    def seed(self) -> int:
        """Seed of all random selections."""
        return self.settings.seed

    @property
    def judged(self) -> dict[str, np.ndarray]:
        """The ``(N,)`` subgroup that the judge predicts for every image, by arm."""
        return {arm: own.codes["judge"][self.inputs.joint.name] for arm, own in self.predictions.items()}

    @cached_property
    def sets(self) -> ImageSets:
        """Arms and real images, first pooled (real images with the target's shares) and then by subgroup.

        Subgroups of generated images are predicted by the judge; those of real images are known.
        """
        joint = self.inputs.joint
        images: dict[str, Cohort] = {**self.inputs.arms, REFERENCE: self.inputs.real}
        codes = {**self.judged, REFERENCE: joint.codes(self.inputs.real.table)}
        sets = ImageSets.of(images, self.features, joint.values, codes, REFERENCE)
        everything = {name: stable_order(cohort.table) for name, cohort in images.items()}
        order = everything[REFERENCE]
        everything[REFERENCE] = order[np.isin(order, target_rows(codes[REFERENCE], joint.target, order, self.seed))]
        rows = {name: [everything[name], *sets.rows[name]] for name in images}
        return replace(sets, names=(ALL, *joint.values), rows=rows)


@dataclass(frozen=True)
class Measured:
    """Result of a measure.

    Args:
        figures: fields of :class:`medi_monai.results.alignment.AlignmentMetrics`.
        pictures: images for the page, by name.
    """

    figures: Mapping[str, Any]
    pictures: Mapping[str, Any]


def compared_images(inputs: AlignmentInputs, embedder: Embedder, settings: FidelitySettings) -> ComparedImages | None:
    """Embed and classify all images; return None in all but the first of ``torchrun``'s processes."""
    image_size, batch_size = embedder.image_size, embedder.batch_size
    features, first = embedder.embed_all({"real": inputs.cohort, **inputs.arms, REFERENCE: inputs.real})
    if not first:
        return None
    scored = inputs.prompt if inputs.clip is not None else None
    predictions = {
        arm: predict_arm(generated, inputs.classifiers, inputs.parts, image_size, inputs.clip, scored, batch_size)
        for arm, generated in inputs.arms.items()
    }
    return ComparedImages(inputs, predictions, features, image_size, batch_size, settings)


def target_rows(codes: np.ndarray, shares: np.ndarray, order: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw as many rows as possible without replacement so that subgroups have the target's shares.

    Args:
        codes: ``(N,)`` subgroup of every row, -1 for unknown.
        shares: ``(G,)`` target shares that sum to 1.
        order: ``(N,)`` rows in an order that is independent of the table's.
        seed: seed of the draw.

    Returns:
        Sorted row numbers; none if a subgroup with a positive share has no rows.
    """
    available = np.bincount(codes[codes >= 0], minlength=len(shares))
    chosen = []
    for group, count in enumerate(subset_counts(available, shares)):
        rows = order[codes[order] == group]
        rng = np.random.default_rng(seed_from("target rows", seed, group))
        chosen.append(rng.permutation(rows)[:count])
    return np.sort(np.concatenate(chosen))

"""The images of an alignment, read and embedded once: what every measure is taken of."""

from __future__ import annotations

import os
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
from medi_monai.evaluation.embedding import ImageSets, embed_all
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.networks.encoders import Encoder
from medi_monai.utils.seeding import seed_from

__all__ = ["ALL", "REFERENCE", "ComparedImages", "Measured", "compared_images", "target_rows"]

#: the name of all images together, and that of the real images
ALL, REFERENCE = "all", "reference"


@dataclass(frozen=True)
class ComparedImages:
    """All images, with what was predicted of the generated ones and the features of all.

    Args:
        inputs: what they are and what they are compared with.
        predictions: by arm.
        features: ``(N, D)`` of every arm, of ``reference`` (the real images to compare with) and ``real`` (the cohort).
        image_size: side in pixels.
        batch_size: of classifiers and of the CLIP model.
        settings: how sets of images are compared.
    """

    inputs: AlignmentInputs
    predictions: Mapping[str, ArmPredictions]
    features: Mapping[str, np.ndarray]
    image_size: int
    batch_size: int
    settings: FidelitySettings

    @property
    def seed(self) -> int:
        """Of all random choices."""
        return self.settings.seed

    @property
    def judged(self) -> dict[str, np.ndarray]:
        """By arm, the ``(N,)`` subgroup of every image as the judge predicts."""
        return {arm: own.codes["judge"][self.inputs.joint.name] for arm, own in self.predictions.items()}

    @cached_property
    def sets(self) -> ImageSets:
        """Arms and real images by subgroup, before them all together: real ones in the shares of the target.

        Subgroups of generated images are those that the judge predicts, of real ones those that are known.
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
    """What a measure gives.

    Args:
        figures: fields of :class:`medi_monai.results.metrics.AlignmentMetrics`.
        pictures: by name, for the page.
    """

    figures: Mapping[str, Any]
    pictures: Mapping[str, Any]


def compared_images(
    inputs: AlignmentInputs,
    encoder: Encoder,
    image_size: int,
    batch_size: int,
    device: str,
    num_workers: int,
    settings: FidelitySettings,
    features_dir: str | os.PathLike | None = None,
) -> ComparedImages | None:
    """Embed and classify all images; None in all but the first of the processes that ``torchrun`` started."""
    images = {**inputs.arms, REFERENCE: inputs.real}
    features, first = embed_all(
        inputs.cohort, images, encoder, image_size, batch_size, device, num_workers, features_dir
    )
    if not first:
        return None
    scored = inputs.prompt if inputs.clip is not None else None
    predictions = {
        arm: predict_arm(generated, inputs.readers, inputs.parts, image_size, inputs.clip, scored, batch_size)
        for arm, generated in inputs.arms.items()
    }
    return ComparedImages(inputs, predictions, features, image_size, batch_size, settings)


def target_rows(codes: np.ndarray, shares: np.ndarray, order: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows drawn without repetition so that subgroups have the shares of the target, as many as there can be.

    Args:
        codes: ``(N,)`` subgroup of every row, -1 for unknown.
        shares: ``(G,)`` that sum to 1.
        order: ``(N,)`` rows in an order that does not depend on that of the table.
        seed: of the choice.

    Returns:
        Sorted row numbers; none where a subgroup that is wanted has no row.
    """
    available = np.bincount(codes[codes >= 0], minlength=len(shares))
    chosen = []
    for group, count in enumerate(subset_counts(available, shares)):
        rows = order[codes[order] == group]
        rng = np.random.default_rng(seed_from("target rows", seed, group))
        chosen.append(rng.permutation(rows)[:count])
    return np.sort(np.concatenate(chosen))

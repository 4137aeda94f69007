"""Predictions of classifiers and CLIP scores for the images of each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medi_monai.alignment.functional.targets import Part
from medi_monai.cohort import Cohort
from medi_monai.cohort.reading import image_blocks
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.networks.text import ClipModel
from medi_monai.utils.errors import InputError
from medi_monai.utils.pixels import from_uint8

__all__ = ["ArmPredictions", "predict_arm"]


@dataclass(frozen=True)
class ArmPredictions:
    """Predictions for the images of an arm, in the order of its rows.

    Args:
        codes: ``(N,)`` predicted subgroups by classifier and by part of the target (an attribute, or all jointly).
        scores: ``(N,)`` cosine similarities of image and caption (CLIP scores), or None.
    """

    codes: Mapping[str, Mapping[str, np.ndarray]]
    scores: np.ndarray | None = None


@torch.no_grad()
def predict_arm(
    images: Cohort,
    classifiers: Mapping[str, AttributeClassifier],
    parts: Sequence[Part],
    image_size: int,
    clip: ClipModel | None = None,
    prompt: str | None = None,
    batch_size: int = 256,
) -> ArmPredictions:
    """Read all images once, classify them with every classifier and score them with a CLIP model, if given.

    Args:
        images: images of an arm.
        classifiers: classifiers by name.
        parts: parts of the target.
        image_size: side of the images in pixels.
        clip: CLIP model of the scores; None omits them.
        prompt: column of the captions; None omits the scores.
        batch_size: number of images per batch.

    Raises:
        InputError: for a classifier without one of the attributes, or with other values.
    """
    orders = {
        name: {part.name: _value_order(classifier, part) for part in parts} for name, classifier in classifiers.items()
    }
    blocks: dict[str, dict[str, list[np.ndarray]]] = {name: {part.name: [] for part in parts} for name in classifiers}
    features = []
    for pixels in image_blocks(images, image_size):
        for name, classifier in classifiers.items():
            read = classifier.probabilities(pixels, batch_size)
            for part in parts:
                order = orders[name][part.name]
                values = {column: read[column][:, order[column]].argmax(1).numpy() for column in order}
                blocks[name][part.name].append(part.join(values))
        if clip is not None and prompt is not None:
            device = next(clip.parameters()).device
            features += [clip.image_features(from_uint8(some.to(device))).cpu() for some in pixels.split(batch_size)]
    codes = {name: {part: np.concatenate(some) for part, some in own.items()} for name, own in blocks.items()}
    if clip is None or prompt is None:
        return ArmPredictions(codes)
    scores = (torch.cat(features) * clip.text_features(images.table[prompt].tolist()).cpu()).sum(1)
    return ArmPredictions(codes, scores.numpy())


def _value_order(classifier: AttributeClassifier, part: Part) -> dict[str, list[int]]:
    # a classifier may have the values of an attribute in another order
    order = {}
    for name, values in part.vocabulary.items():
        known = classifier.column(name).values
        if set(known) != set(values):
            raise InputError(
                f"a classifier reads {name!r} as {list(known)}, and the judge as {list(values)}: all of them need the "
                "same values"
            )
        order[name] = [known.index(value) for value in values]
    return order

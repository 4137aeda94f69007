"""Findings on encoders that do not distinguish images, such as a network that is hardly trained."""

from __future__ import annotations

import numpy as np

from medi_monai.metrics import relative_spread
from medi_monai.report.words import number
from medi_monai.results import Figure, Finding

__all__ = ["LEAST_SPREAD", "encoder_findings", "similarity_findings"]

#: spread of the features of real images, relative to their length, below which an encoder counts as blank: the cosine
#: of two different images is then above 0.999 on average, and they differ by less than 4.5 % of the length. That of
#: stain and texture filters, and of a CLIP model after 30 steps, is 0.03 or more.
LEAST_SPREAD = 0.001
#: results that cannot be trusted
DISTANCES, SIMILARITIES = "distances between sets of images or classifiers of features", "similarities of images"


def encoder_findings(features: np.ndarray, name: str) -> list[Finding]:
    """Return a warning if features hardly depend on the image; an empty list otherwise.

    Distances between any sets of images are then close to the floor, however bad the images are.

    Args:
        features: ``(N, D)`` features of different real images. Those of generated images may be alike because the
            images are, after mode collapse.
        name: name of the encoder.
    """
    spread = relative_spread(features)
    if spread is None or spread >= LEAST_SPREAD:
        return []
    return [_blank(f"The encoder {name} does not distinguish images", "different real images", 1 - spread, DISTANCES)]


def similarity_findings(unrelated: Figure | None) -> list[Finding]:
    """Return a warning if images from different noise are as similar as equal ones; an empty list otherwise.

    Args:
        unrelated: mean cosine of the CLIP features of generated images from different noise.
    """
    cosine = unrelated.value if unrelated else None
    if cosine is None or 1 - cosine >= LEAST_SPREAD:
        return []
    what = "The CLIP model does not distinguish generated images"
    return [_blank(what, "images from different noise", cosine, SIMILARITIES)]


def _blank(what: str, images: str, cosine: float, results: str) -> Finding:
    text = (
        f"{what}: the mean cosine of the features of {images} is {number(cosine, 4)} (1: all features are equal). "
        f"Do not rely on {results}; use a trained encoder, or train it for longer."
    )
    return Finding("warning", text, {"mean_cosine": cosine}, "blank_encoder")

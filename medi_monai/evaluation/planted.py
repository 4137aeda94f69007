"""Plant copies of training images, changed on purpose, to measure how many of them a search for copies finds."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image

from medi_monai.metrics.copies import turned
from medi_monai.utils.seeding import seed_from
from medi_monai.wsi.color import from_optical_density, optical_density

__all__ = ["choose_originals", "plant_copies"]

#: maximum numbers of images that are copied, and of images of the same patient among them
NUM_ORIGINALS, PER_PATIENT = 200, 16
#: shift in each direction as a share of the side: 2 of 32 pixels
SHIFT = 2 / 32
DIRECTIONS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right)
#: quality of JPEG, and standard deviation of the noise in gray levels
QUALITY, NOISE = 75, 5.0
#: minimum standard deviation of optical densities: below, it is rounding, and cannot be scaled to that of another stain
MIN_SPREAD = 0.01


def choose_originals(rows: np.ndarray, patients: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return up to 200 of the rows, with up to 16 of each patient, drawn at random.

    Args:
        rows: ``(N,)`` row numbers, in an order that is independent of the table's.
        patients: ``(N,)`` patients of these rows.
        seed: seed of the draw.
    """
    rng = np.random.default_rng(seed_from("planted copies", seed))
    names, codes = np.unique(patients, return_inverse=True)
    shuffled = rng.permutation(len(rows))
    order = shuffled[np.argsort(rng.permutation(len(names))[codes[shuffled]], kind="stable")]
    rank = pd.Series(codes[order]).groupby(codes[order]).cumcount().to_numpy()
    return rows[order[rank < PER_PATIENT][:NUM_ORIGINALS]]


def plant_copies(
    images: np.ndarray, patients: Sequence[str], centers: Sequence[str] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Copy images, changed in ways in which a generative model could reproduce them.

    Args:
        images: ``(N, S, S, 3)`` uint8 images.
        patients: patient of each image.
        centers: center of each image, if known.
        seed: seed of the changes.

    Returns:
        ``(N, S, S, 3)`` copies by kind: ``unchanged``; ``turned``, rotated or mirrored; ``restained``, with the mean
        and standard deviation of the optical density, per color channel, of another patient, from another center if
        there is one; ``shifted`` by 2 of 32 pixels, with mirrored edges; ``compressed`` as JPEG of quality 75;
        ``noisy``, with a standard deviation of 5 gray levels; and ``combined``: restained, shifted and turned. Without
        a second patient, none are restained.
    """
    rng = np.random.default_rng(seed_from("changes of copies", seed))
    symmetries = rng.integers(1, 8, len(images))
    directions = [DIRECTIONS[index] for index in rng.integers(0, len(DIRECTIONS), len(images))]
    noise = rng.normal(0, NOISE, images.shape)
    restained = _restained(images, np.asarray(patients), None if centers is None else np.asarray(centers), rng)
    copies = {
        "unchanged": images,
        "turned": _turned(images, symmetries),
        "restained": restained,
        "shifted": _shifted(images, directions),
        "compressed": np.stack([_compressed(image) for image in images]),
        "noisy": np.clip(np.rint(images + noise), 0, 255).astype(np.uint8),
        "combined": None if restained is None else _turned(_shifted(restained, directions), symmetries),
    }
    return {kind: planted for kind, planted in copies.items() if planted is not None}


def _turned(images: np.ndarray, symmetries: np.ndarray) -> np.ndarray:
    pairs = zip(torch.from_numpy(images).split(1), symmetries.tolist())
    return torch.cat([turned(image, symmetry) for image, symmetry in pairs]).numpy()


def _shifted(images: np.ndarray, directions: Sequence[tuple[int, int]]) -> np.ndarray:
    side = images.shape[1]
    step = max(1, round(SHIFT * side))
    padded = np.pad(images, ((0, 0), (step, step), (step, step), (0, 0)), mode="reflect")
    windows = [(step - down * step, step - right * step) for down, right in directions]
    return np.stack([image[top : top + side, left : left + side] for image, (top, left) in zip(padded, windows)])


def _compressed(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=QUALITY)
    return np.asarray(Image.open(buffer))


def _restained(
    images: np.ndarray, patients: np.ndarray, centers: np.ndarray | None, rng: np.random.Generator
) -> np.ndarray | None:
    names, first, codes = np.unique(patients, return_index=True, return_inverse=True)
    if len(names) < 2:
        return None
    moments = []
    for code in range(len(names)):
        pixels = optical_density(images[codes == code]).reshape(-1, 3)
        moments.append((pixels.mean(0), pixels.std(0)))
    center_of = names if centers is None else centers[first]
    restained = []
    for image, own in zip(images, codes.tolist()):
        others = np.flatnonzero(center_of != center_of[own])
        other = rng.choice(others if len(others) else np.delete(np.arange(len(names)), own))
        (mean, spread), (new_mean, new_spread) = moments[own], moments[other]
        scaled = (optical_density(image) - mean) / np.maximum(spread, MIN_SPREAD)
        restained.append(from_optical_density(np.maximum(scaled * new_spread + new_mean, 0).astype(np.float32)))
    return np.stack(restained)

"""How far JPEG compression alone moves Fréchet distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import spread_rows
from medi_monai.cohort.reading import PatchReader
from medi_monai.evaluation.compression import AUTO_QUALITY
from medi_monai.evaluation.embedding import Embedder, ImageSets, draw_name
from medi_monai.evaluation.fidelity import FLOOR, halve_by_patient
from medi_monai.metrics import frechet_distance
from medi_monai.networks.encoders import CompressedEncoder, Encoder
from medi_monai.results.measures import CompressionEffect
from medi_monai.utils.pixels import stacked
from medi_monai.utils.seeding import seed_from

__all__ = ["compression_effect"]

#: largest numbers of images per combination, and of combinations, that are embedded for this comparison
MAX_IMAGES, MAX_COMBINATIONS = 64, 8

#: for each compared set (``reference``, the floor and the arms), name of its images and their row numbers
Drawn = Mapping[str, tuple[str, np.ndarray]]
REFERENCE = "reference"


def compression_effect(sets: ImageSets, embedder: Embedder, min_images: int, seed: int = 0) -> CompressionEffect | None:
    """Compare Fréchet distances with and without compressing all images as JPEG before they are embedded.

    As in :func:`medi_monai.evaluation.fidelity.compare_group`, real images are halved by patient, and each arm and the
    other half are compared with the same half at matched counts. Both versions have the same images.

    Args:
        sets: real images and those of each arm in the same combinations, with their features by ``embedder``; images
            without features are embedded.
        embedder: how images are embedded; the quality is that of its encoder or, if it does not compress,
            ``AUTO_QUALITY``.
        min_images: smallest number of matched images of a combination.
        seed: seed of the choice of images.

    Returns:
        Means over the combinations with the most images, at most :data:`MAX_COMBINATIONS`; None if all have too few.
    """
    encoder = embedder.encoder
    compressed = encoder if isinstance(encoder, CompressedEncoder) else CompressedEncoder(encoder, AUTO_QUALITY)
    drawn = [rows for group in range(len(sets.names)) if (rows := _drawn(sets, group, min_images, seed)) is not None]
    drawn = sorted(drawn, key=lambda rows: -len(rows[REFERENCE][1]))[:MAX_COMBINATIONS]
    if not drawn:
        return None
    pixels = {name: _pixels(sets.images[name], drawn, name, embedder.image_size) for name in sets.images}
    distances = {}
    for version, used in (("plain", compressed.encoder), ("compressed", compressed)):
        # one version is embedded already
        known = sets.features if used is encoder else {}
        features = {
            name: {row: known[name][row] for row in held}
            if name in known
            else _embedded(held, used, embedder.batch_size)
            for name, held in pixels.items()
        }
        distances[version] = _mean_distances(drawn, features)
    matched = sum(len(rows[REFERENCE][1]) for rows in drawn)
    return CompressionEffect(compressed.quality, len(drawn), matched, distances["plain"], distances["compressed"])


def _drawn(sets: ImageSets, group: int, min_images: int, seed: int) -> Drawn | None:
    rng = np.random.default_rng(seed_from("compression effect", seed, draw_name(sets.names[group])))
    real = sets.rows[sets.real][group]
    if len(real) == 0:
        return None
    real = real[spread_rows(np.unique(sets.patients[real], return_inverse=True)[1], MAX_IMAGES, rng)]
    halves = dict(zip((REFERENCE, FLOOR), halve_by_patient(sets.patients[real], rng)))
    chosen = {name: (sets.real, real[half]) for name, half in halves.items()}
    chosen |= {arm: (arm, sets.rows[arm][group]) for arm in sets.arms}
    matched = min(len(rows) for _, rows in chosen.values())
    if matched < min_images:
        return None
    return {name: (images, rng.choice(rows, matched, replace=False)) for name, (images, rows) in chosen.items()}


def _pixels(images: Cohort, drawn: Sequence[Drawn], name: str, image_size: int) -> dict[int, np.ndarray]:
    """Return the pixels of the drawn images, ``(H, W, 3)`` uint8, by row number."""
    rows = sorted({int(row) for sets in drawn for held, chosen in sets.values() if held == name for row in chosen})
    reader = PatchReader(images, image_size)
    try:
        return dict(zip(rows, reader.read(rows)))
    finally:
        reader.close()


def _embedded(pixels: Mapping[int, np.ndarray], encoder: Encoder, batch_size: int) -> dict[int, np.ndarray]:
    """Return the features, ``(D,)``, by row number."""
    rows, features = list(pixels), []
    for start in range(0, len(rows), batch_size):
        batch = stacked([pixels[row] for row in rows[start : start + batch_size]])
        features.append(encoder(batch).cpu())
    return dict(zip(rows, torch.cat(features).numpy())) if features else {}


def _mean_distances(drawn: Sequence[Drawn], features: Mapping[str, Mapping[int, np.ndarray]]) -> dict[str, float]:
    def of(chosen: tuple[str, np.ndarray]) -> np.ndarray:
        return np.stack([features[chosen[0]][int(row)] for row in chosen[1]])

    names = [name for name in drawn[0] if name != REFERENCE]
    return {
        name: float(np.mean([frechet_distance(of(sets[REFERENCE]), of(sets[name])) for sets in drawn]))
        for name in names
    }

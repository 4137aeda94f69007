"""Views of the real images that probes need: as they are, stain-normalized, and stain-augmented."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from medi_monai.cohort import Cohort, Shard
from medi_monai.evaluation.embedding import Embedder
from medi_monai.evaluation.probing import ImageSet
from medi_monai.evaluation.probing.arms import AUGMENTED, NORMALIZED
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.wsi.transforms import patch_transforms

__all__ = ["embed_real_views", "normalizing"]


def normalizing(settings: ProbeSettings) -> dict[str, Any]:
    """Return transform and recipe of stain normalization, arguments of an embedder."""
    transform = patch_transforms(geometry=False, normalize=settings.normalization)
    return {"transform": transform, "recipe": {"normalized": settings.normalization}}


def embed_real_views(
    real: Cohort, names: Collection[str], settings: ProbeSettings, embedder: Embedder, shard: Shard
) -> tuple[dict[str, ImageSet], list[ImageSet]]:
    """Embed the real images and those of their views that baselines need.

    Args:
        real: real images.
        names: names of baselines; ``stain_normalized`` and ``stain_augmented`` have views of their own.
        settings: normalization, and number and strength of the augmentations.
        embedder: function that embeds images.
        shard: share of this process.

    Returns:
        The views by name, ``real`` first, and the stain-augmented copies.
    """
    views, augmented = {"real": embedder(real, shard)}, []
    if NORMALIZED in names:
        views[NORMALIZED] = embedder(real, shard, **normalizing(settings))
    for copy in range(settings.num_augmented if AUGMENTED in names else 0):
        transform = patch_transforms(geometry=False, stain_jitter=settings.stain_jitter)
        recipe = {"stain_jitter": settings.stain_jitter, "copy": copy, "seed": settings.seed}
        augmented.append(embedder(real, shard, transform, recipe))
    return views, augmented

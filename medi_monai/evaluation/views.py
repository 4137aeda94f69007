"""Views of the real images that probes need: as they are, stain-normalized, and stain-augmented."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from medi_monai.cohort import Cohort, Shard
from medi_monai.evaluation.embedding import embed_images, features_folder
from medi_monai.evaluation.probing import ImageSet
from medi_monai.evaluation.probing.arms import AUGMENTED, NORMALIZED
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.networks.encoders import Encoder
from medi_monai.wsi.transforms import patch_transforms

__all__ = ["Embedder", "embed_real_views", "normalizing"]


@dataclass(frozen=True)
class Embedder:
    """Embeds images, or opens features that are stored already; see :func:`embed_images`."""

    encoder: Encoder
    image_size: int
    batch_size: int
    device: str
    features_dir: str | os.PathLike | None

    def __call__(
        self, images: Cohort, shard: Shard, transform: Any = None, recipe: Mapping[str, Any] | None = None
    ) -> ImageSet:
        """Return the features of images after a transform, which ``recipe`` describes."""
        folder = features_folder(images, self.features_dir)
        store = embed_images(
            images, self.encoder, folder, self.image_size, self.batch_size, self.device, transform, 0, recipe, shard
        )
        return ImageSet(store.folder, images.table)


def normalizing(settings: ProbeSettings) -> dict[str, Any]:
    """Return transform and recipe of stain normalization, arguments of an :class:`Embedder`."""
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

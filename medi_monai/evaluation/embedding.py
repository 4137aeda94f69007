"""Embed the images of a cohort or a sampling manifest once, and group them into sets for comparison."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine
from monai.transforms import Compose, MapTransform, Randomizable
from torch.utils.data import DataLoader

from medi_monai.cohort import Cohort, Shard, StreamedPatchDataset
from medi_monai.cohort.folder import SETTINGS_FILE as PREPARATION_FILE
from medi_monai.cohort.groups import codes_of, rows_by_group, stable_order
from medi_monai.cohort.samples import MANIFEST
from medi_monai.cohort.samples import SETTINGS_FILE as SAMPLING_FILE
from medi_monai.engines.distributed import torchrun_session
from medi_monai.engines.handlers import attach_bar
from medi_monai.evaluation.compression import NONE, compressed_encoder
from medi_monai.evaluation.probing import FeatureStore, ImageSet
from medi_monai.networks.encoders import Encoder
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import json_digest, read_json
from medi_monai.utils.seeding import seed_from

__all__ = ["PIXEL_COLUMNS", "Embedder", "GroupName", "ImageSets", "draw_name", "embed_images", "features_folder"]

#: name of a group: values of a combination of label and attributes, or name of a subgroup
GroupName: TypeAlias = str | tuple[str, ...]
#: columns of a table, if present, that determine the pixels of its rows
PIXEL_COLUMNS = ("image", "x", "y", "mpp", "source_mpp", *MANIFEST)
#: columns that identify an image of a cohort
IDENTITY = ("image", "x", "y")
#: rows per block, rounded up to whole batches: the most that an interruption loses, per process
BLOCK_SIZE = 256


def embed_images(
    cohort: Cohort,
    encoder: Encoder,
    features_dir: str | os.PathLike,
    image_size: int,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    transform: Callable[[Any], Any] | None = None,
    num_workers: int = 0,
    recipe: Mapping[str, Any] | None = None,
    shard: Shard | None = None,
) -> FeatureStore:
    """Embed all images of a cohort, and return their features in the order of its rows.

    The store's folder is named after the encoder and a digest of everything that determines the features: encoder,
    images in order, settings of their preparation or sampling, ``image_size`` and ``recipe``. Existing features are not
    embedded again, and a complete store is opened without reading any image. Features are bit-identical for the same
    batches, independent of interruptions and of the number of processes.

    Args:
        cohort: images to embed; for a sampling manifest, its table and the folder of the sampling run.
        encoder: encoder, which is moved to ``device``.
        features_dir: folder of all stores.
        image_size: side of the images in pixels, before resizing by the encoder.
        batch_size: images per batch of the encoder.
        device: device of the encoder.
        transform: transform of an image, ``(3, H, W)`` uint8 to ``(3, H, W)`` uint8; or a MONAI dictionary transform of
            the key ``image``, such as :func:`medi_monai.wsi.transforms.patch_transforms`. Its draws depend only on
            ``recipe`` and the image.
        num_workers: number of processes that read ahead; with 0, images are read between batches.
        recipe: JSON description of anything else that determines the pixels; required with a ``transform``.
        shard: share of this process; by default that of ``torchrun``. If several cohorts are embedded in turn, use the
            shard of a :func:`medi_monai.engines.distributed.torchrun_session` around all of them.

    Raises:
        InputError: for an image that is unreadable or of another size, features that are not finite, a transform
            without recipe, or numbers below 1. Finished blocks are kept.
        RunStopped: if another process ended early, or the device runs out of memory.
    """
    if transform is not None and not recipe:
        raise InputError("a transform changes what is embedded: describe it in `recipe`, a mapping of JSON values")
    if batch_size < 1 or num_workers < 0:
        raise InputError(f"batch_size {batch_size} has to be 1 or more, and num_workers {num_workers} 0 or more")
    if len(cohort) == 0:
        raise InputError(f"the cohort in {cohort.root} has no image to embed")
    for image in dict.fromkeys(cohort.table["image"]):
        if not (cohort.root / image).is_file():
            raise InputError(f"image not found: {cohort.root / image}")
    fingerprint = _fingerprint(cohort, encoder, image_size, recipe)
    folder = Path(features_dir) / f"{encoder.name}_{json_digest(fingerprint)[:8]}"
    block_size = -(-BLOCK_SIZE // batch_size) * batch_size
    with torchrun_session() if shard is None else nullcontext(shard) as own_shard:
        if own_shard.rank == 0:
            FeatureStore.create_or_open(folder, cohort.table, fingerprint, encoder.dim, block_size)
        own_shard.wait()
        store = FeatureStore.open(folder)
        blocks = store.missing_blocks(own_shard.rank, own_shard.world_size)
        if blocks:
            changed = None if transform is None else _SeededTransform(transform, cohort, recipe or {})
            dataset = StreamedPatchDataset(cohort, None, image_size, changed)
            _fill(store, blocks, dataset, encoder.to(device), torch.device(device), batch_size, num_workers)
        own_shard.wait()
    if not store.complete:
        raise RunStopped(f"blocks of {folder} are still missing, because another process stopped; see its message")
    return store


def _fingerprint(cohort: Cohort, encoder: Encoder, image_size: int, recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    table = cohort.table[[name for name in PIXEL_COLUMNS if name in cohort.table.columns]].astype(str)
    hashes = pd.util.hash_pandas_object(table, index=False).to_numpy()
    # images in two folders may have the same names: the settings that made them tell them apart
    beside = {name: read_json(cohort.root / name) for name in (PREPARATION_FILE, SAMPLING_FILE) if _is(cohort, name)}
    return {
        "encoder": encoder.describe(),
        "images": hashlib.sha256(hashes.tobytes()).hexdigest(),
        "columns": list(table.columns),
        "source": json_digest(beside) if beside else None,
        "files": cohort.pixel_digest,
        "image_size": image_size,
        "recipe": None if recipe is None else dict(recipe),
    }


def _is(cohort: Cohort, name: str) -> bool:
    return (cohort.root / name).is_file()


def _fill(
    store: FeatureStore,
    blocks: list[int],
    dataset: StreamedPatchDataset,
    encoder: Encoder,
    device: torch.device,
    batch_size: int,
    num_workers: int,
) -> None:
    batches = [(block, list(rows)) for block in blocks for rows in _chunks(store.rows(block), batch_size)]
    pending: dict[int, list[torch.Tensor]] = {}

    def embed(engine: Engine, batch: dict[str, torch.Tensor]) -> None:
        block = batches[engine.state.iteration - 1][0]
        try:
            features = encoder(batch["image"].to(device, non_blocking=True)).cpu()
        except torch.OutOfMemoryError as error:
            raise RunStopped(
                f"{device} has too little memory for {batch_size} images with {encoder.name}; repeat the "
                "command with a "
                "smaller --encoder_batch_size to resume"
            ) from error
        batches_of_block = pending.setdefault(block, [])
        batches_of_block.append(features)
        if sum(map(len, batches_of_block)) == len(store.rows(block)):
            store.write(block, torch.cat(pending.pop(block)))

    loader = DataLoader(
        dataset,
        batch_sampler=[rows for _, rows in batches],
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        # forking breaks threads of torch
        multiprocessing_context="spawn" if num_workers else None,
    )
    engine = Engine(embed)
    attach_bar(engine, f"embedding with {encoder.name}", len(batches))
    try:
        engine.run(loader, max_epochs=1, epoch_length=len(batches))
    except InputError as error:
        raise _without_traceback(error) from error


def _chunks(rows: range, size: int) -> list[range]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    for item in items:
        image = item["image"]
        if image.dtype != torch.uint8 or image.shape != items[0]["image"].shape:
            raise InputError(
                f"row {item['index']} is {image.dtype} of shape {tuple(image.shape)} after the transform; images "
                f"of a batch must be uint8 and have the same shape, {tuple(items[0]['image'].shape)}"
            )
    return {"image": torch.stack([item["image"] for item in items])}


def _without_traceback(error: InputError) -> InputError:
    # the message of an error in a worker process is its whole traceback, with the original message at the end
    return InputError(str(error).rpartition(f"{InputError.__module__}.{InputError.__qualname__}: ")[2].strip())


class _SeededTransform:
    # a class, so that it can be sent to worker processes

    def __init__(self, transform: Callable[[Any], Any], cohort: Cohort, recipe: Mapping[str, Any]) -> None:
        self.transform, self.recipe = transform, dict(recipe)
        self.of_items = isinstance(transform, (Compose, MapTransform))
        identity = cohort.table[[name for name in IDENTITY if name in cohort.table.columns]]
        self.rows = pd.util.hash_pandas_object(identity.astype(str), index=False).to_numpy()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed=seed_from("embedding", self.recipe, int(self.rows[item["index"]])))
        image = self.transform(dict(item))["image"] if self.of_items else self.transform(item["image"])
        return {"image": torch.as_tensor(image), "index": item["index"]}


def features_folder(images: Cohort, features_dir: str | os.PathLike | None = None) -> Path:
    """Return the folder in which the features of images are stored.

    Args:
        images: cohort, or sampled images.
        features_dir: common folder, in which each cohort has a subfolder; None for ``features`` in the folder of the
            images.
    """
    if features_dir is None:
        return images.root / "features"
    return Path(features_dir) / f"{images.root.name}_{json_digest(str(images.root.resolve()))[:8]}"


@dataclass(frozen=True)
class Embedder:
    """How images are read and embedded.

    Args:
        encoder: encoder of the features.
        image_size: side of the images in pixels, before resizing by the encoder.
        batch_size: images per batch of the encoder.
        device: device of the encoder.
        num_workers: number of processes that read ahead; with 0, images are read between batches.
        features_dir: folder of features, as for :func:`features_folder`.
        compression: compression of all images before they are embedded; see
            :func:`medi_monai.evaluation.compression.compressed_encoder`.
    """

    encoder: Encoder
    image_size: int
    batch_size: int = 256
    device: str | torch.device = "cpu"
    num_workers: int = 0
    features_dir: str | os.PathLike | None = None
    compression: str | int = NONE

    def compressing(self, real: Cohort, generated: Mapping[str, Cohort] | None = None) -> Embedder:
        """Return an embedder whose encoder compresses all images, if these real and generated images need it."""
        encoder = compressed_encoder(self.encoder, self.compression, real, generated)
        return replace(self, encoder=encoder, compression=NONE)

    def __call__(
        self, images: Cohort, shard: Shard, transform: Any = None, recipe: Mapping[str, Any] | None = None
    ) -> ImageSet:
        """Return the features of images after a transform, which ``recipe`` describes; see :func:`embed_images`."""
        store = embed_images(
            images,
            self.encoder,
            features_folder(images, self.features_dir),
            self.image_size,
            self.batch_size,
            self.device,
            transform,
            self.num_workers,
            recipe,
            shard,
        )
        return ImageSet(store.folder, images.table)

    def embed_all(self, images: Mapping[str, Cohort]) -> tuple[dict[str, np.ndarray], bool]:
        """Embed several sets of images.

        Returns:
            ``(N, D)`` features by name, and whether this is the first of ``torchrun``'s processes, the only one to
            continue.
        """
        with torchrun_session() as shard:
            features = {name: self(of_name, shard).features for name, of_name in images.items()}
        return features, shard.rank == 0


def draw_name(name: GroupName) -> str | list[str]:
    """Return the name of a group in the form from which random draws are seeded."""
    return name if isinstance(name, str) else list(name)


@dataclass(frozen=True)
class ImageSets:
    """Real images and those of each arm in the same groups: combinations of label and attributes, or subgroups.

    Args:
        images: images by name, including the real ones.
        features: ``(N, D)`` features by name.
        names: names of the groups.
        rows: by name, row numbers of every group, in an order that is independent of the table's.
        real: name of the real images.
    """

    images: Mapping[str, Cohort]
    features: Mapping[str, np.ndarray]
    names: Sequence[GroupName]
    rows: Mapping[str, Sequence[np.ndarray]]
    real: str = "real"

    @classmethod
    def of(
        cls,
        images: Mapping[str, Cohort],
        features: Mapping[str, np.ndarray],
        names: Sequence[GroupName],
        codes: Mapping[str, np.ndarray],
        real: str = "real",
    ) -> ImageSets:
        """Create the sets from the group of every image.

        Args:
            images: images by name, including the real ones.
            features: ``(N, D)`` features by name.
            names: names of the groups.
            codes: by name, ``(N,)`` group index of every image, -1 for none.
            real: name of the real images.
        """
        rows = {}
        for name, cohort in images.items():
            order = stable_order(cohort.table)
            order = order[codes[name][order] >= 0]
            rows[name] = [order[ranks] for ranks in rows_by_group(codes[name][order], len(names))]
        return cls(images, features, names, rows, real)

    @property
    def arms(self) -> list[str]:
        """Names of the generated images."""
        return [name for name in self.images if name != self.real]

    @cached_property
    def patients(self) -> np.ndarray:
        """``(N,)`` codes of the patients of the real images."""
        return codes_of(self.images[self.real].table, ["patient"])[0]

    def counts(self, group: int) -> dict[str, int]:
        """Return the number of images of a group in each set, by name."""
        return {name: len(rows[group]) for name, rows in self.rows.items()}

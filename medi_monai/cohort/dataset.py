"""Data sets of patches, in memory or read on access, and batch sampling that depends only on seed and step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, Sampler

from medi_monai.cohort.reading import PatchReader
from medi_monai.cohort.table import Cohort
from medi_monai.schema import Conditioning
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.progress import progress
from medi_monai.utils.seeding import generator_from
from medi_monai.utils.text import plural

__all__ = ["BALANCES", "PATCH_CACHES", "PatchDataset", "StreamedPatchDataset", "BalancedBatchSampler", "patch_dataset"]

BALANCES = ("class", "subpopulation", "none")
PATCH_CACHES = ("auto", "memory", "disk")
MAX_MEMORY = 4 * 2**30
#: patches per task when a cohort is read into memory
CHUNK = 64


class _Patches(Dataset):
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    def groups(self, columns: Sequence[str], balance: str) -> np.ndarray:
        """Return the ``(N,)`` integer group of each patch, for :class:`BalancedBatchSampler`.

        Args:
            columns: label first, then the attributes.
            balance: ``class`` (as in the paper) groups by label, ``subpopulation`` by label and attributes; ``none``
                puts all patches into one group.
        """
        if balance not in BALANCES:
            raise unknown_value("choice of `balance`", balance, BALANCES)
        used = {"class": list(columns[:1]), "subpopulation": list(columns), "none": []}[balance]
        if not used:
            return np.zeros(len(self), int)
        return self.table.groupby(used, sort=True).ngroup().to_numpy()


class PatchDataset(_Patches):
    """Patches of a cohort, each ``{"image": (3, H, W) uint8, "conditions": (1 + k,) float32, "index": int}``.

    All pixels are read once, at the start, and stored as uint8 (1 GB holds 330,000 patches of 32 x 32 pixels).
    Unreadable files are therefore found before training, and no worker processes are needed.

    Args:
        cohort: the patches.
        schema: encodes label and attributes.
        image_size: expected side in pixels.
        on_error: ``stop`` raises an error for the first unreadable image; ``skip`` omits unreadable images and lists
            them in :attr:`skipped`.
        unseen: what to do with values that the schema does not know; see :meth:`MetadataSchema.encode`.

    Raises:
        InputError: for an empty cohort, an image that is unreadable or has the wrong size (unless skipped), or if no
            image can be read.
    """

    def __init__(
        self,
        cohort: Cohort,
        schema: Conditioning,
        image_size: int,
        on_error: str = "stop",
        unseen: str = "error",
    ) -> None:
        if on_error not in ("stop", "skip"):
            raise unknown_value("choice of `on_error`", on_error, ("stop", "skip"))
        _check_not_empty(cohort)
        codes = schema.encode(cohort.table, unseen)
        self.skipped: dict[str, str] = {}
        self.images, good = self._read(cohort, image_size, on_error)
        self.table = cohort.table[good].reset_index(drop=True)
        self.conditions = codes[torch.from_numpy(good)]

    def _read(self, cohort: Cohort, image_size: int, on_error: str) -> tuple[torch.Tensor, np.ndarray]:
        reader = PatchReader(cohort, image_size)
        pixels = np.empty((len(reader), image_size, image_size, 3), np.uint8)
        good = np.ones(len(reader), bool)

        chunks = [range(start, min(start + CHUNK, len(reader))) for start in range(0, len(reader), CHUNK)]
        # files are read in parallel here; regions of a slide are read in parallel by its reader
        with ThreadPoolExecutor(1 if reader.on_the_fly else 8) as pool:
            for bad in progress(
                pool.map(partial(_read_into, pixels, reader), chunks),
                len(chunks),
                f"reading {plural(len(reader), 'patch', 'patches')}",
                "batch",
            ):
                for index, error in bad:
                    if on_error == "stop":
                        pool.shutdown(cancel_futures=True)
                        raise InputError(f"{error}. To skip such images: --on_error skip")
                    self.skipped[cohort.table["image"].iloc[index]] = str(error)
                    good[index] = False
        reader.close()
        if not good.any():
            raise InputError(f"none of the {len(reader)} images in {cohort.root} can be read")
        return torch.from_numpy(pixels[good]).permute(0, 3, 1, 2).contiguous(), good

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        return {"image": self.images[index], "conditions": self.conditions[index], "index": index}


class StreamedPatchDataset(_Patches):
    """Like :class:`PatchDataset`, but reads patches from files or slides on access.

    PyTorch and MONAI data loaders request a whole batch at once (``__getitems__``), and the regions of a slide are
    decoded together. The data set can be used in worker processes; each opens its own slides.

    Args:
        cohort: the patches.
        schema: encodes label and attributes; if None, items have no ``conditions``.
        image_size: side in pixels.
        transform: applied to each item, such as :func:`medi_monai.wsi.transforms.patch_transforms`.
        backend: slide reader; see :func:`medi_monai.wsi.open_slide`.
        threads: number of decoding threads; by default one per core, or a single one in worker processes.
        max_open: maximum number of slides that a process keeps open.
        unseen: what to do with values that the schema does not know; see :meth:`MetadataSchema.encode`.

    Raises:
        InputError: for an empty cohort; on access, for an image that cannot be read.
    """

    def __init__(
        self,
        cohort: Cohort,
        schema: Conditioning | None,
        image_size: int,
        transform: Callable[[dict], Any] | None = None,
        backend: str = "auto",
        threads: int | None = None,
        max_open: int = 16,
        unseen: str = "error",
    ) -> None:
        _check_not_empty(cohort)
        self.table, self.transform = cohort.table, transform
        self.conditions = None if schema is None else schema.encode(cohort.table, unseen)
        self._reader = PatchReader(cohort, image_size, backend, threads, max_open)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        patches = self._reader.read(indices)
        return [self._item(index, patch) for index, patch in zip(indices, patches)]

    def _item(self, index: int, patch: np.ndarray) -> Any:
        # a view is enough, because collating a batch copies the pixels anyway
        image = torch.from_numpy(patch if patch.flags.writeable else patch.copy()).permute(2, 0, 1)
        item: dict[str, Any] = {"image": image, "index": index}
        if self.conditions is not None:
            item["conditions"] = self.conditions[index]
        return item if self.transform is None else self.transform(item)


def patch_dataset(
    cohort: Cohort, schema: Conditioning, image_size: int, patch_cache: str = "auto", on_error: str = "stop"
) -> PatchDataset | StreamedPatchDataset:
    """Create a data set of the patches of a cohort, in memory or read on access.

    Args:
        cohort: the patches.
        schema: encodes label and attributes.
        image_size: side in pixels.
        patch_cache: ``memory``; ``disk``, to read patches on access; or ``auto`` (memory up to 4 GiB of pixels).
            on_error: what to do with unreadable images in memory; see :class:`PatchDataset`. Patches that are read on
            access always raise an error.
    """
    if patch_cache not in PATCH_CACHES:
        raise unknown_value("choice of `patch_cache`", patch_cache, PATCH_CACHES)
    large = len(cohort) * image_size**2 * 3 > MAX_MEMORY
    if patch_cache == "disk" or (patch_cache == "auto" and large):
        return StreamedPatchDataset(cohort, schema, image_size)
    return PatchDataset(cohort, schema, image_size, on_error)


def _read_into(pixels: np.ndarray, reader: PatchReader, rows: range) -> list[tuple[int, InputError]]:
    """Read rows into their places in ``pixels``; return the rows that cannot be read, found by halving, with errors."""
    try:
        pixels[rows.start : rows.stop] = reader.read(rows)
        return []
    except InputError as error:
        if len(rows) == 1:
            return [(rows.start, error)]
    middle = len(rows) // 2
    return _read_into(pixels, reader, rows[:middle]) + _read_into(pixels, reader, rows[middle:])


def _check_not_empty(cohort: Cohort) -> None:
    if len(cohort) == 0:
        raise InputError(f"the cohort in {cohort.root} has no patches in this split")


class BalancedBatchSampler(Sampler[list[int]]):
    """Sampler of batches of indices: each draw selects a group uniformly, then a member of this group uniformly.

    The batch of a step depends only on ``(seed, step)``, so a resumed run uses the same batches as an uninterrupted
    one.

    Args:
        groups: ``(N,)`` integer group of each item.
        batch_size: number of items in the batch of one rank.
        num_steps: last step; iteration runs from step ``start_step + 1`` (``start_step`` is 0 unless set) to this one.
        seed: random seed.
        rank: index of this process, which gets ``batch_size`` of the ``batch_size * world_size`` items of a step.
        world_size: number of processes.
    """

    def __init__(
        self, groups: np.ndarray, batch_size: int, num_steps: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size < 1 or num_steps < 1:
            raise InputError(f"batch_size {batch_size} and max_steps {num_steps} have to be 1 or more")
        order = np.argsort(groups, kind="stable")
        sizes = np.bincount(groups)
        self._members = torch.from_numpy(order)
        self._sizes = torch.from_numpy(sizes[sizes > 0])
        self._starts = torch.cumsum(self._sizes, 0) - self._sizes
        self.batch_size, self.num_steps, self.seed = batch_size, num_steps, seed
        self.rank, self.world_size = rank, world_size
        self.start_step = 0

    def batch(self, step: int) -> list[int]:
        """Return the indices of this rank in one step; steps are counted from 1."""
        generator = generator_from("batch", self.seed, step)
        total = self.batch_size * self.world_size
        group = torch.randint(len(self._sizes), (total,), generator=generator)
        offset = (torch.rand(total, generator=generator, dtype=torch.float64) * self._sizes[group]).long()
        drawn = self._members[self._starts[group] + offset]
        return drawn[self.rank * self.batch_size : (self.rank + 1) * self.batch_size].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self.batch(step) for step in range(self.start_step + 1, self.num_steps + 1))

    def __len__(self) -> int:
        return self.num_steps - self.start_step

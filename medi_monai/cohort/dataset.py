"""Patches in memory, and batches whose content depends on the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset, Sampler

from medi_monai.cohort.table import Cohort
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.progress import progress
from medi_monai.utils.seeding import generator_from
from medi_monai.wsi.readers import read_image

__all__ = ["BALANCES", "PatchDataset", "BalancedBatchSampler"]

BALANCES = ("class", "subpopulation", "none")


class PatchDataset(Dataset):
    """Patches of a cohort as ``{"image": (3, H, W) uint8, "conditions": (1 + k,) float32, "index": int}``.

    All pixels are read once, at the start, and kept as uint8 (32 x 32 patches: 330,000 in 1 GB), so that an
    unreadable file is found before training and no worker processes are needed.

    Args:
        cohort: the patches.
        schema: encodes label and attributes.
        image_size: expected side in pixels.
        on_error: ``stop`` at the first unreadable image, or ``skip`` it and list it in :attr:`skipped`.
        unseen: as for :meth:`MetadataSchema.encode`.

    Raises:
        InputError: for an empty cohort, an unreadable image (unless skipped), or one of another size.
    """

    def __init__(
        self,
        cohort: Cohort,
        schema: MetadataSchema,
        image_size: int,
        on_error: str = "stop",
        unseen: str = "error",
    ) -> None:
        if on_error not in ("stop", "skip"):
            raise unknown_value("choice of `on_error`", on_error, ("stop", "skip"))
        if len(cohort) == 0:
            raise InputError(f"the cohort in {cohort.root} has no patch for this split")
        codes = schema.encode(cohort.table, unseen)
        self.skipped: dict[str, str] = {}
        self.images, good = self._read(cohort, image_size, on_error)
        self.table = cohort.table[good].reset_index(drop=True)
        self.conditions = codes[torch.from_numpy(good)]

    def _read(self, cohort: Cohort, image_size: int, on_error: str) -> tuple[torch.Tensor, np.ndarray]:
        paths = cohort.table["image"].tolist()
        pixels = np.empty((len(paths), image_size, image_size, 3), np.uint8)
        good = np.ones(len(paths), bool)

        def load(place: int) -> tuple[int, InputError | None]:
            try:
                patch = read_image(cohort.root / paths[place])
                if patch.shape != pixels.shape[1:]:
                    raise InputError(
                        f"{paths[place]} has {patch.shape[1]} x {patch.shape[0]} pixels, expected {image_size}"
                    )
                pixels[place] = patch
                return place, None
            except InputError as error:
                return place, error

        with ThreadPoolExecutor(8) as pool:
            for place, error in progress(pool.map(load, range(len(paths))), len(paths), "reading patches", "patch"):
                if error is None:
                    continue
                if on_error == "stop":
                    pool.shutdown(cancel_futures=True)
                    raise InputError(f"{error}. To go on without such images: --on_error skip")
                self.skipped[paths[place]] = str(error)
                good[place] = False
        if not good.any():
            raise InputError(f"none of the {len(paths)} images in {cohort.root} can be read")
        return torch.from_numpy(pixels[good]).permute(0, 3, 1, 2).contiguous(), good

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        return {"image": self.images[index], "conditions": self.conditions[index], "index": index}

    def groups(self, columns: Sequence[str], balance: str) -> np.ndarray:
        """``(N,)`` integer group of every patch, for :class:`BalancedBatchSampler`.

        Args:
            columns: label first, then the attributes.
            balance: ``class`` (the paper's) groups by label, ``subpopulation`` by label and attributes, ``none``
                puts all patches into one group.
        """
        if balance not in BALANCES:
            raise unknown_value("choice of `balance`", balance, BALANCES)
        used = {"class": list(columns[:1]), "subpopulation": list(columns), "none": []}[balance]
        if not used:
            return np.zeros(len(self), int)
        return pd.factorize(self.table[used].agg("\0".join, axis=1), sort=True)[0]


class BalancedBatchSampler(Sampler[list[int]]):
    """Batches of indices: every draw takes a group, all alike, then a member of it, all alike.

    The batch of a step depends on ``(seed, step)`` alone, so a run resumed at step n sees what it would have seen.

    Args:
        groups: ``(N,)`` integer group of every item.
        batch_size: items in a batch of one rank.
        num_steps: last step; batches are numbered from ``start_step + 1`` to it.
        seed: of all draws.
        rank: place of this process; each takes its own part of a batch of ``batch_size * world_size``.
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
        """The indices of one step, counted from 1."""
        generator = generator_from("batch", self.seed, step)
        total = self.batch_size * self.world_size
        group = torch.randint(len(self._sizes), (total,), generator=generator)
        place = (torch.rand(total, generator=generator, dtype=torch.float64) * self._sizes[group]).long()
        drawn = self._members[self._starts[group] + place]
        return drawn[self.rank * self.batch_size : (self.rank + 1) * self.batch_size].tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return (self.batch(step) for step in range(self.start_step + 1, self.num_steps + 1))

    def __len__(self) -> int:
        return self.num_steps - self.start_step

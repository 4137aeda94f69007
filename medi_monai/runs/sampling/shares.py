"""Divide a plan among processes of ``torchrun``, and among jobs that each have a folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medi_monai.utils.errors import InputError

__all__ = ["WorkShare", "job_folders", "run_folders", "share_of_folder"]

JOB = re.compile(r"\s*([0-9]{1,6})\s*/\s*([0-9]{1,6})\s*")
FOLDER = re.compile(r"shard-([0-9]+)-of-([0-9]+)")


@dataclass(frozen=True)
class WorkShare:
    """A share of a plan: every ``count``-th unit of images, beginning with unit ``index``.

    Args:
        index: index of the share, from 0.
        count: number of shares.
        unit: number of consecutive images that are not separated, such as those of a tar file.
    """

    index: int = 0
    count: int = 1
    unit: int = 1

    @classmethod
    def parse(cls, shard: str | None, unit: int = 1) -> WorkShare:
        """Parse ``k/n``, the k-th of n shares; None for the whole plan.

        Raises:
            InputError: for any other text, or if k is not between 1 and n.
        """
        if shard is None:
            return cls(unit=unit)
        match = JOB.fullmatch(shard)
        index, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= index <= count:
            raise InputError(f"shard = {shard!r}: write k/n for the k-th of n jobs, such as 1/8, 2/8, … 8/8")
        return cls(index - 1, count, unit)

    def among(self, rank: int, world_size: int) -> WorkShare:
        """Return the part of this share that a process draws, out of ``world_size`` processes."""
        return WorkShare(self.index + rank * self.count, self.count * world_size, self.unit)

    def owns(self, positions: np.ndarray) -> np.ndarray:
        """Return for each position in the plan whether it is in this share, as ``(N,)`` bool."""
        return positions // self.unit % self.count == self.index

    def size(self, total: int) -> int:
        """Return how many images of a plan with ``total`` images are in this share."""
        units, rest = divmod(total, self.unit)
        whole = len(range(self.index, units, self.count)) * self.unit
        return whole + (rest if rest and units % self.count == self.index else 0)


def run_folders(output_dir: str | os.PathLike, shard: str | None) -> list[str]:
    """Return the folders that a sampling run uses: that of its share, or that of the whole plan and those of all jobs.

    Args:
        output_dir: folder of the whole plan.
        shard: ``k/n``, the share of a job, whose folder is ``shard-k-of-n`` in ``output_dir``; None for the whole plan.
    """
    if shard is None:
        return [str(output_dir), *map(str, job_folders(output_dir))]
    share = WorkShare.parse(shard)
    return [str(Path(output_dir) / f"shard-{share.index + 1}-of-{share.count}")]


def job_folders(output_dir: str | os.PathLike) -> list[Path]:
    """Return the folders of the jobs that share a plan, sorted."""
    matches = [(FOLDER.fullmatch(path.name), path) for path in Path(output_dir).glob("shard-*-of-*") if path.is_dir()]
    numbered = [(int(match[2]), int(match[1]), path) for match, path in matches if match]
    return [path for *_, path in sorted(numbered)]


def share_of_folder(folder: Path, unit: int) -> WorkShare:
    """Return the share of the job to which a folder belongs."""
    match = FOLDER.fullmatch(folder.name)
    return WorkShare(int(match[1]) - 1, int(match[2]), unit) if match else WorkShare(unit=unit)

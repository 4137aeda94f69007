"""Read, check and scale features in blocks of rows, without holding all of them in memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import torch

from medi_monai.metrics.moments import Features, check_features
from medi_monai.utils.errors import InputError

__all__ = [
    "Features",
    "Standardizer",
    "checked_features",
    "checked_labels",
    "checked_weights",
    "block_views",
    "release",
    "row_blocks",
]

#: size of a block of rows in bytes, in double precision: fits the CPU cache, or is large enough to use a GPU fully
BLOCK_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}


class Standardizer:
    """Standardizes features to mean 0 and standard deviation 1 over the training data; constant features have scale 1.

    Attributes:
        mean: ``(D,)`` float64.
        scale: ``(D,)`` float64, the population standard deviation.
    """

    def __init__(self) -> None:
        self.mean = torch.empty(0, dtype=torch.float64)
        self.scale = torch.empty(0, dtype=torch.float64)

    def fit(self, features: Features) -> Standardizer:
        """Compute mean and scale from ``(N, D)`` features, in blocks.

        Raises:
            InputError: for the wrong shape, no rows, or values that are not finite.
        """
        features = checked_features(features)
        count, dim = 0, features.shape[1]
        mean, scatter = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
        for _, block in row_blocks(features, torch.float64):
            # blocks are merged without loss of precision (Chan et al. 1979)
            total = count + len(block)
            shift = block.mean(0) - mean
            scatter += (block - block.mean(0)).square().sum(0) + shift.square() * (count * len(block) / total)
            mean += shift * (len(block) / total)
            count = total
        self.mean, self.scale = mean, (scatter / count).sqrt()
        # spread of a constant due to rounding alone
        self.scale[self.scale <= 1e-14 * mean.abs()] = 1.0
        return self

    def transform(self, features: Features, out: np.ndarray | torch.Tensor | None = None) -> np.ndarray | torch.Tensor:
        """Return ``(N, D)`` standardized features, computed in float64.

        Args:
            features: ``(N, D)`` features.
            out: output array, such as a memory map; by default a new float64 tensor.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise InputError(
                f"features of shape {tuple(features.shape)} do not fit a standardizer of {len(self.mean)} features"
            )
        if out is None:
            out = torch.empty(tuple(features.shape), dtype=torch.float64)
        for rows, block in row_blocks(features, torch.float64):
            scaled = (block - self.mean) / self.scale
            if isinstance(out, torch.Tensor):
                out[rows] = scaled
            else:
                out[rows] = scaled.numpy()
                release(out)
        return out


def row_blocks(
    features: Features, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield blocks of rows, each with its slice of rows; a block on the CPU is overwritten by the next one."""
    device = torch.device(device)
    size = _block_rows(features.shape[1], device)
    buffer = torch.empty(min(size, len(features)), features.shape[1], dtype=dtype)
    for start in range(0, len(features), size):
        rows = features[start : start + size]
        block = buffer[: len(rows)]
        if isinstance(rows, torch.Tensor):
            block.copy_(rows)
        else:
            np.copyto(block.numpy(), rows)
        yield slice(start, start + len(rows)), block.to(device)


def release(features: Features) -> None:
    """Release the memory pages of a memory-mapped file that were read or written; no effect on other features.

    Their content stays in the system's cache or is written to the file, and can be read again as before.
    """
    base: object = features
    while isinstance(base, np.ndarray):
        mapped = base.base
        # changes to a private copy (mode "c") exist only in these pages; Windows has no such call
        shared = isinstance(base, np.memmap) and base.mode != "c"
        if shared and isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise"):
            mapped.madvise(mmap.MADV_DONTNEED)
        base = mapped


def block_views(rows: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield views of blocks of rows in memory, each with its slice."""
    size = _block_rows(rows.shape[1], rows.device)
    return ((slice(start, start + size), rows[start : start + size]) for start in range(0, len(rows), size))


def _block_rows(dim: int, device: torch.device) -> int:
    return max(1, BLOCK_BYTES.get(device.type, BLOCK_BYTES["cpu"]) // (8 * dim))


def checked_features(features: Features) -> Features:
    """Return features after checking that they are ``(N, D)`` with at least one row, and finite."""
    count, dim = check_features(features)
    if not count:
        raise InputError(f"a probe needs at least one image, not features of shape {(count, dim)}")
    return features.detach() if isinstance(features, torch.Tensor) else features


def checked_labels(labels: np.ndarray | torch.Tensor, count: int, num_classes: int) -> torch.Tensor:
    """Return labels as ``(count,)`` integers, after checking that they are in [0, ``num_classes``)."""
    if num_classes < 2:
        raise InputError(f"a probe needs at least two classes, not {num_classes}")
    array = np.array(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    if array.shape != (count,):
        raise InputError(f"{count} rows of features need one label each, not labels of shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise InputError(f"labels must be integers, not {array.dtype}")
    if array.min() < 0 or array.max() >= num_classes:
        raise InputError(
            f"labels range from {array.min()} to {array.max()}; with {num_classes} classes they must be 0 to "
            f"{num_classes - 1}"
        )
    return torch.from_numpy(array.astype(np.int64))


def checked_weights(weights: np.ndarray | torch.Tensor | None, count: int) -> torch.Tensor:
    """Return ``(count,)`` weights, by default 1, after checking that they are 0 or more."""
    if weights is None:
        return torch.ones(count, dtype=torch.float64)
    array = np.array(weights.cpu() if isinstance(weights, torch.Tensor) else weights, np.float64)
    if array.shape != (count,):
        raise InputError(f"{count} rows of features need one weight each, not weights of shape {array.shape}")
    bad = int((~((array >= 0) & (array < np.inf))).sum())
    if bad:
        raise InputError(f"{bad} of {count} weights are negative or not finite; use 0 to ignore a row")
    return torch.from_numpy(array)

"""Mean and covariance of batches of features, in double precision and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from medi_monai.metrics.threads import threads_for
from medi_monai.utils.errors import InputError

__all__ = ["Features", "Moments", "as_features", "check_features", "feature_blocks", "feature_shape"]

#: ``(N, D)``, one row per image; arrays may be memory-mapped
Features = np.ndarray | torch.Tensor

#: number of rows held in double precision at once
BLOCK = 4096
#: largest value allowed, beyond the range of single precision; sixth powers of larger values overflow in kernels
LARGEST = 1e40


class Moments:
    """Count, mean and scatter of the rows added so far, which can be merged exactly (Chan et al. 1979).

    Args:
        dim: number of features D.
        device: device of the accumulators, which are float64.
    """

    def __init__(self, dim: int, device: str | torch.device = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, features: Features) -> Moments:
        """Return the moments of an array, computed in blocks of rows."""
        device = features.device if isinstance(features, torch.Tensor) else "cpu"
        return cls(feature_shape(features)[1], device).update(features)

    @property
    def dim(self) -> int:
        """Number of features."""
        return len(self.mean)

    def update(self, features: Features) -> Moments:
        """Add ``(N, D)`` rows.

        Raises:
            InputError: for the wrong number of features, or values that are not finite; nothing is added then.
        """
        dim = check_features(features)[1]
        if dim != self.dim:
            raise InputError(f"features have {dim} dimensions but moments {self.dim}: use the same encoder for both")
        for block in feature_blocks(features):
            self._add(len(block), *_mean_and_scatter(block.to(self.mean)))
        return self

    def merge(self, other: Moments) -> Moments:
        """Add the rows of other moments."""
        if other.dim != self.dim:
            raise InputError(f"moments of {other.dim} dimensions cannot be added to moments of {self.dim}")
        self._add(other.count, other.mean.to(self.mean), other.scatter.to(self.mean))
        return self

    def _add(self, count: int, mean: torch.Tensor, scatter: torch.Tensor) -> None:
        if count == 0:
            return
        total = self.count + count
        shift = mean - self.mean
        self.scatter += scatter
        self.scatter.addr_(shift, shift, alpha=self.count * count / total)
        self.mean += shift * (count / total)
        self.count = total

    @property
    def covariance(self) -> torch.Tensor:
        """The ``(D, D)`` unbiased covariance.

        Raises:
            InputError: for fewer than two rows.
        """
        if self.count < 2:
            raise InputError(f"a covariance needs at least two images, not {self.count}")
        return self.scatter / (self.count - 1)


def as_features(features: Features) -> torch.Tensor:
    """Return ``(N, D)`` features as a float64 tensor, on their device.

    Raises:
        InputError: for the wrong shape, or values that are not finite, with their count.
    """
    check_features(features)
    return _double(features)


def feature_shape(features: Features) -> tuple[int, int]:
    """Return the shape ``(N, D)`` of features.

    Raises:
        InputError: for the wrong number of axes, no dimension, or values that are not numbers.
    """
    if isinstance(features, torch.Tensor):
        real = not features.is_complex()
    else:
        real = isinstance(features, np.ndarray) and features.dtype.kind in "fiub"
    shape = tuple(features.shape) if real else ()
    if len(shape) != 2 or shape[1] == 0:
        description = f"{getattr(features, 'dtype', type(features).__name__)} of shape {tuple(np.shape(features))}"
        raise InputError(
            f"features have to be real numbers in an array or tensor (images, dimensions), not {description}"
        )
    return shape[0], shape[1]


def check_features(features: Features) -> tuple[int, int]:
    """Return :func:`feature_shape` after checking that all values are finite.

    Raises:
        InputError: for the wrong shape, or values that are not finite, with their count.
    """
    count, dim = feature_shape(features)
    rows = sum(_num_spoiled(features[start : start + BLOCK]) for start in range(0, count, BLOCK))
    if rows:
        raise InputError(
            f"{rows} of {count} images have features that are not finite (NaN, infinite, or beyond {LARGEST:g}): check "
            "the encoder and the images, and embed them again"
        )
    return count, dim


def feature_blocks(features: Features, rows: int = BLOCK) -> Iterator[torch.Tensor]:
    """Yield blocks of ``rows`` features as float64 tensors; features larger than memory may be memory-mapped."""
    for start in range(0, len(features), rows):
        yield _double(features[start : start + rows])


def _mean_and_scatter(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if rows.device.type != "cpu":
        mean = rows.mean(0)
        centered = rows - mean
        return mean, centered.T @ centered
    array = rows.numpy()
    middle = array.mean(0)
    array = array - middle
    with threads_for(array.shape[1]):
        # numpy recognizes that the result is symmetric and computes half of it
        return torch.from_numpy(middle), torch.from_numpy(array.T @ array)


def _num_spoiled(block: Features) -> int:
    # minimum and maximum are NaN if any value is, and need no second array; they are taken in the original precision
    plain = block.detach() if isinstance(block, torch.Tensor) else block
    if float(plain.min()) >= -LARGEST and float(plain.max()) <= LARGEST:
        return 0
    return int((~(_double(block).abs() <= LARGEST)).any(1).sum())


def _double(features: Features) -> torch.Tensor:
    if isinstance(features, torch.Tensor):
        return features.detach().to(torch.float64)
    # torch warns about read-only arrays, such as memory-mapped ones
    return torch.from_numpy(np.require(features, np.float64, ["C", "W"]))

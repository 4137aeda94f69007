"""Copies: which of many images an image was copied from, whatever its orientation, stain, and small shifts.

All of them are compared at a low resolution, by matrix products; the most similar ones are then compared by pixels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from medi_monai.utils.errors import InputError

__all__ = ["CopySearch", "aligned_correlation", "structure", "turned"]

NUM_SYMMETRIES = 8
#: side in pixels to which larger images are reduced before they are compared
MAX_SIDE = 64
#: gray levels added before the logarithm, without which noise would dominate in black pixels
OFFSET = 16
#: largest shift at which pixels are compared, as a share of the side: 3 of 32 pixels
MAX_SHIFT = 3 / 32
#: side of the images that are compared at low resolution, and standard deviation of the low-pass filter before, as a
#: share of the side. With the shifts below, the original of a patch that was shifted by 2 of 32 pixels is among the
#: most similar of 8,814 in more than 99 % of cases; without them, in 92 %
SIDE, BLUR = 8, 2 / 32
#: shifts of a query at low resolution, down and to the right, as a share of the side
SHIFTS = tuple((down / 32, right / 32) for down in (0, -2, 2) for right in (0, -2, 2))
#: number of similar images whose pixels are compared
CANDIDATES = 8
#: numbers of queries and of pairs whose similarities are computed at once; more queries do not fit into the cache
QUERIES, PAIRS = 8, 512
#: share of the sum of squares of an image below which a window of it is uniform, so that it has no correlation
UNIFORM = 1e-6


def turned(images: torch.Tensor, symmetry: int) -> torch.Tensor:
    """Apply one of the eight symmetries of the square (0 to 7; 0 is the identity) to ``(N, S, S, …)`` images."""
    mirrored = images.flip(2) if symmetry >= NUM_SYMMETRIES // 2 else images
    return torch.rot90(mirrored, symmetry % 4, dims=(1, 2))


def structure(images: np.ndarray) -> torch.Tensor:
    """Return what images show apart from their stain: the negative logarithm of the light, averaged over the channels.

    Like an optical density, it is linear in the amounts of the stains, so that another stain changes mostly its mean
    and contrast, which correlations ignore.

    Args:
        images: ``(N, S, S, 3)`` uint8 images.

    Returns:
        ``(N, S, S)`` float32, averaged to 64 x 64 pixels if S is larger.

    Raises:
        InputError: for other shapes or types.
    """
    if images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3 or images.dtype != np.uint8:
        raise InputError(f"images have to be square uint8 (N, S, S, 3), not {images.dtype} {images.shape}")
    density = -np.log((np.arange(256, dtype=np.float32) + OFFSET) / (255 + OFFSET))
    pixels = torch.from_numpy(density[images].mean(3))
    return functional.adaptive_avg_pool2d(pixels, MAX_SIDE) if images.shape[1] > MAX_SIDE else pixels


def aligned_correlation(images: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the correlation of pairs of images, at the best shift by at most 3 of 32 pixels in each direction.

    The middle of an image is compared with every window of the other image that has the same size.

    Args:
        images: ``(N, S, S)`` float32 images.
        others: ``(N, S, S)`` float32 images, compared pair by pair.

    Returns:
        ``(N,)`` correlations; minus infinity if either is uniform.

    Raises:
        InputError: for shapes that are not pairs of square images.
    """
    if images.shape != others.shape or images.ndim != 3 or images.shape[1] != images.shape[2]:
        raise InputError(f"pairs of square images are needed, not {tuple(images.shape)} and {tuple(others.shape)}")
    side = images.shape[1]
    reach = round(MAX_SHIFT * side)
    size = side - 2 * reach
    middle = _centered(images)[:, reach : reach + size, reach : reach + size]
    middle = _centered(torch.where(_squares(middle) > UNIFORM, middle, 0))
    others = _centered(others)
    # cross-correlation by the Fourier transform; the middle stays within the image, so that nothing wraps around
    spectrum = torch.fft.rfft2(functional.pad(middle, (reach,) * 4)).conj() * torch.fft.rfft2(others)
    products = torch.fft.irfft2(spectrum, s=(side, side))
    shifts = torch.arange(-reach, reach + 1)
    products = products[:, shifts][:, :, shifts]
    squares = _window_squares(others, size)
    known = (squares > UNIFORM) & (_squares(middle) > 0.5)
    correlations = torch.where(known, products / squares.sqrt(), -torch.inf)
    return correlations.flatten(1).amax(1).clamp(max=1)


def _squares(images: torch.Tensor) -> torch.Tensor:
    return images.square().sum((1, 2), keepdim=True)


def _centered(images: torch.Tensor) -> torch.Tensor:
    """Return images with mean 0 and, unless they are uniform, unit length."""
    images = images - images.mean((1, 2), keepdim=True)
    return images / _squares(images).sqrt().clamp(min=torch.finfo(images.dtype).tiny)


def _window_squares(images: torch.Tensor, size: int) -> torch.Tensor:
    # sums over all windows as differences of cumulative sums; in double precision, because of the differences
    both = torch.stack([images, images.square()]).double()
    for dim in (2, 3):
        sums = functional.pad(both.transpose(dim, 3).cumsum(3), (1, 0))
        both = (sums[..., size:] - sums[..., :-size]).transpose(dim, 3)
    return (both[1] - both[0].square() / size**2).float()


class CopySearch:
    """Search for the image that each query was copied from.

    Pass all images to :meth:`add` in blocks, and then those in :attr:`candidates` to :meth:`verify`, again in blocks:
    memory does not depend on their number. A query takes about 20 kB in addition to its pixels.

    Args:
        queries: ``(Q, S, S)`` float32 images.
    """

    def __init__(self, queries: torch.Tensor) -> None:
        self._queries = queries
        self._versions = torch.cat([_versions(part) for part in queries.split(PAIRS)])
        self._similarity = torch.empty(len(queries), 0)
        self._numbers = torch.empty(len(queries), 0, dtype=torch.long)
        # of each candidate, the correlation of its pixels and the symmetry that gives it
        self._correlation = torch.empty(len(queries), 0)
        self._symmetry = torch.empty(len(queries), 0, dtype=torch.long)

    def add(self, images: torch.Tensor, start: int) -> None:
        """Compare all queries at low resolution with ``(B, S, S)`` images, whose numbers count from ``start``."""
        described = _described(images)
        numbers = torch.arange(start, start + len(images))
        similarity, kept = [], []
        for first in range(0, len(self._queries), QUERIES):
            rows = slice(first, first + QUERIES)
            versions = self._versions[rows]
            of_block = (versions.flatten(0, 1) @ described.T).unflatten(0, versions.shape[:2]).amax(1)
            values = torch.cat([self._similarity[rows], of_block], 1)
            best, order = values.topk(min(CANDIDATES, values.shape[1]), 1)
            similarity.append(best)
            kept.append(torch.cat([self._numbers[rows], numbers.expand(len(versions), -1)], 1).gather(1, order))
        self._similarity, self._numbers = torch.cat(similarity), torch.cat(kept)
        self._correlation = torch.full(self._numbers.shape, -torch.inf)
        self._symmetry = torch.zeros_like(self._numbers)

    @property
    def candidates(self) -> torch.Tensor:
        """Numbers of all images whose pixels have to be compared, in ascending order."""
        return self._numbers.unique()

    def verify(self, images: torch.Tensor, numbers: torch.Tensor) -> None:
        """Compare the pixels of the queries with those of the images that are similar to them.

        Args:
            images: ``(B, S, S)`` images that were added before.
            numbers: ``(B,)`` their numbers, in ascending order.
        """
        described = _described(images)
        places = torch.searchsorted(numbers, self._numbers).clamp(max=len(numbers) - 1)
        pairs = torch.nonzero(numbers[places] == self._numbers)
        for query, rank in (part.unbind(1) for part in pairs.split(PAIRS)):
            others = places[query, rank]
            similarity = torch.einsum("nvd,nd->nv", self._versions[query], described[others])
            symmetries = similarity.argmax(1) // len(SHIFTS)
            pixels = images[others]
            for symmetry in range(1, NUM_SYMMETRIES):
                chosen = symmetries == symmetry
                pixels[chosen] = turned(pixels[chosen], symmetry)
            self._correlation[query, rank] = aligned_correlation(self._queries[query], pixels)
            self._symmetry[query, rank] = symmetries

    def result(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the most similar image of each query.

        Returns:
            ``(Q,)`` correlations of pixels, see :func:`aligned_correlation`; ``(Q,)`` numbers of the images; and the
            ``(Q,)`` symmetries by which these have to be turned to match the query, as for :func:`turned`.
        """
        correlation, rank = self._correlation.max(1, keepdim=True)
        return correlation[:, 0], self._numbers.gather(1, rank)[:, 0], self._symmetry.gather(1, rank)[:, 0]


def _described(images: torch.Tensor) -> torch.Tensor:
    """Return ``(N, 64)`` low-pass filtered pixels with mean 0 and unit length."""
    return _centered(functional.adaptive_avg_pool2d(_smooth(images), SIDE)).flatten(1)


def _versions(images: torch.Tensor) -> torch.Tensor:
    """Return ``(N, 72, 64)`` descriptors of images under all symmetries and, within each, all shifts."""
    side = images.shape[1]
    reach = max(round(abs(share) * side) for shift in SHIFTS for share in shift)
    padded = functional.pad(_smooth(images)[:, None], (reach,) * 4, mode="replicate")[:, 0]
    shifted = []
    for shift in SHIFTS:
        down, right = (reach - round(share * side) for share in shift)
        window = padded[:, down : down + side, right : right + side]
        shifted.append(_centered(functional.adaptive_avg_pool2d(window, SIDE)))
    # turned back, so that they match the images themselves rather than their turned versions
    back = [symmetry if symmetry >= NUM_SYMMETRIES // 2 else -symmetry % 4 for symmetry in range(NUM_SYMMETRIES)]
    return torch.stack([turned(low, symmetry).flatten(1) for symmetry in back for low in shifted], 1)


def _smooth(images: torch.Tensor) -> torch.Tensor:
    # Gaussian filter of 3 standard deviations
    deviation = BLUR * images.shape[1]
    reach = min(math.ceil(3 * deviation), images.shape[1] - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum())[None, None]
    padded = functional.pad(images[:, None], (reach,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, weights[..., None]), weights[:, :, None])[:, 0]

"""Which slices of volumes are used, and how they are shown; one rule for all volumes of a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from skimage.filters import threshold_otsu

from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["PLANES", "VolumeRules", "slice_of", "tissue_extent"]

#: axis of RAS+ voxels to which a plane is perpendicular: 0 from the patient's left to right, 1 from back to front, 2
#: from feet to head
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
#: a slice contains tissue if its area is at least this fraction of that of the slice with the most tissue
MIN_TISSUE = 0.05


@dataclass(frozen=True)
class VolumeRules:
    """The slices that become images.

    Args:
        plane: plane of the slices, a key of :data:`PLANES`.
        slices: number of slices per volume; or a list of their indices, which count from 0 in RAS+ orientation: axial
            from the feet to the head, coronal from back to front, sagittal from the patient's left to the right.
        slice_range: two fractions of the extent of the tissue, between which this number of slices is taken at equal
            distances: 0 is the first slice with tissue in the order above, 1 the last. Tissue is what exceeds Otsu's
            threshold.

    Raises:
        InputError: for an unknown plane, or a number out of range.
    """

    plane: str = "axial"
    slices: int | Sequence[int] = 1
    slice_range: Sequence[float] = (0.3, 0.7)

    def __post_init__(self) -> None:
        if self.plane not in PLANES:
            raise unknown_value("plane", self.plane, PLANES)
        indices = self.slices if isinstance(self.slices, (list, tuple)) else [self.slices]
        whole = all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in indices)
        if not indices or not whole or self.slices == 0 or len(set(indices)) < len(indices):
            raise InputError(
                f"slices = {self.slices!r}: it has to be a number of slices, 1 or more, or a list of different indices "
                "from 0"
            )
        edges = tuple(self.slice_range) if isinstance(self.slice_range, (list, tuple)) else ()
        if len(edges) != 2 or not 0 <= edges[0] <= edges[1] <= 1:
            raise InputError(f"slice_range = {self.slice_range!r}: use two increasing fractions, such as [0.3, 0.7]")

    @property
    def names(self) -> list[str]:
        """A name for each slice taken from a volume: its index, or its position among them, such as ``2 of 3``."""
        if isinstance(self.slices, int):
            return [f"{number + 1} of {self.slices}" for number in range(self.slices)]
        return [str(index) for index in self.slices]

    def index_of(self, name: str, values: np.ndarray) -> int:
        """Return the index of a slice along the axis of the plane.

        Args:
            name: one of :attr:`names`, or an index as text.
            values: ``(X, Y, Z)`` voxels in RAS+ orientation.

        Raises:
            InputError: for an index outside of the volume, a volume with too few slices, or one that is a single slice
                of another plane.
        """
        axis = PLANES[self.plane]
        length = values.shape[axis]
        thin = [plane for plane, across in PLANES.items() if values.shape[across] == 1]
        if len(thin) == 1 and self.plane not in thin:
            raise InputError(f"is a single {thin[0]} slice, but plane is {self.plane!r}")
        position, _, count = name.partition(" of ")
        if not count:
            if int(position) >= length:
                raise InputError(f"has {length} {self.plane} slices, numbered from 0; slice {position} does not exist")
            return int(position)
        if int(count) > length:
            raise InputError(f"has {length} {self.plane} slices, fewer than slices = {count}")
        first, last = tissue_extent(values, axis)
        low, high = self.slice_range
        share = low + (high - low) * (int(position) - 0.5) / int(count)
        return int(np.floor(first + share * (last - first) + 0.5))


def tissue_extent(values: np.ndarray, axis: int) -> tuple[int, int]:
    """Return the first and last index of slices with tissue along an axis; the whole axis if all values are equal."""
    low, high = np.percentile(values, [0.5, 99.5])
    if low == high:
        low, high = values.min(), values.max()
    if low == high:
        return 0, values.shape[axis] - 1
    inside = values > threshold_otsu(np.clip(values, low, high))
    counts = inside.sum(axis=tuple(other for other in range(3) if other != axis))
    slices = np.flatnonzero(counts >= max(1, MIN_TISSUE * counts.max()))
    return int(slices[0]), int(slices[-1])


def slice_of(values: np.ndarray, plane: str, index: int) -> np.ndarray:
    """Return a slice as radiologists see it.

    The patient's right is on the left, and the front (axial) or the head is at the top; in the sagittal plane, the face
    is on the left.

    Args:
        values: ``(X, Y, Z)`` voxels in RAS+ orientation.
        plane: a key of :data:`PLANES`.
        index: index of the slice along the axis of the plane.

    Returns:
        ``(rows, columns)``.
    """
    # both axes of a slice run opposite to those of the screen
    return np.take(values, index, axis=PLANES[plane]).T[::-1, ::-1]

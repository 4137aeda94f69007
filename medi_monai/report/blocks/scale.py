"""Scale bars: a round length in micrometers or millimeters, as a fraction of the width of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medi_monai.report.words import known

__all__ = ["ScaleBar", "scale_bar"]

#: largest width of a bar as a fraction of the width of the image
LARGEST = 0.5
MICRONS_PER_MM = 1000


@dataclass(frozen=True)
class ScaleBar:
    """A scale bar: its width as a fraction of the width of the image, and its length in words."""

    fraction: float
    text: str


def scale_bar(mpp: float | None, pixels: int) -> ScaleBar | None:
    """Return the longest scale bar of 1, 2 or 5 times a power of ten that is at most half as wide as an image.

    Args:
        mpp: microns per pixel; None or not above 0 if unknown.
        pixels: width of the image in pixels.

    Returns:
        The bar, in mm from 1 mm; None if the resolution is unknown.
    """
    resolution = known(mpp)
    if resolution is None or resolution <= 0 or pixels < 1:
        return None
    field = resolution * pixels
    power = 10.0 ** math.floor(math.log10(LARGEST * field))
    length = max(step * power for step in (1, 2, 5) if step * power <= LARGEST * field * (1 + 1e-9))
    in_mm = length >= MICRONS_PER_MM
    text = f"{length / MICRONS_PER_MM:g}\u00a0mm" if in_mm else f"{length:g}\u00a0µm"
    return ScaleBar(length / field, text)

"""Draw the overview image of a slide: its thumbnail with the outline of the tissue and the planned patches."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from medi_monai.wsi.grid import PatchPlan

__all__ = ["draw_plan"]

OUTLINE, PATCH = (0, 150, 60), (30, 60, 220)


def draw_plan(plan: PatchPlan, dimensions: tuple[int, int], corners: np.ndarray, side: int = 512) -> Image.Image:
    """Draw the thumbnail of a slide with its tissue outlined in green and patches in blue.

    Args:
        plan: plan of the slide.
        dimensions: (width, height) of the slide at level 0.
        corners: ``(M, 2)`` corners of the patches to draw.
        side: longer side of the image in pixels.
    """
    height, width = plan.mask.shape
    scale = side / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.array(Image.fromarray(plan.thumbnail).resize(size, Image.Resampling.BICUBIC if scale > 1 else None))
    mask = np.asarray(Image.fromarray(plan.mask).resize(size, Image.Resampling.NEAREST))
    pixels[mask & ~ndimage.binary_erosion(mask, iterations=2)] = OUTLINE
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    factors = np.array(size) / dimensions
    for x0, y0, x1, y1 in np.hstack([corners * factors, (corners + plan.field) * factors]).tolist():
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=PATCH)
    return image

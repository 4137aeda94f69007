"""Pictures embedded in pages."""

from __future__ import annotations

import base64
import io
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from medi_monai.utils.errors import InputError

__all__ = ["Picture", "embedded"]

#: a matplotlib figure, a Pillow image, or a uint8 array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``
Picture: TypeAlias = "Figure | Image.Image | np.ndarray"

FIGURE_DPI, SCREEN_DPI = 144, 96
#: size in bytes; a picture whose PNG is larger is embedded as a JPEG of quality 90
LARGEST_PNG = 100_000


def embedded(picture: Picture, width: int | None = None) -> dict[str, Any]:
    """Return a picture as the data URL ``source``, its ``width`` on the screen, and its own width in ``pixels``.

    Args:
        picture: see :data:`Picture`.
        width: width on the screen in CSS pixels; by default that of the picture.

    Raises:
        InputError: for an array that is no picture.
    """
    scale = 1.0
    if isinstance(picture, Figure):
        buffer = io.BytesIO()
        # a layout engine has already set the margins; measuring them again would take as long as drawing the figure
        margins = None if picture.get_layout_engine() else "tight"
        picture.savefig(
            buffer, format="png", dpi=FIGURE_DPI, bbox_inches=margins, facecolor="white", metadata={"Software": None}
        )
        with Image.open(buffer) as drawn:
            size, scale = drawn.size, SCREEN_DPI / FIGURE_DPI
        content, kind = buffer.getvalue(), "png"
    else:
        image = _as_image(picture)
        size = image.size
        content, kind = _encoded(image)
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
    return {"source": source, "width": width or max(1, round(size[0] * scale)), "pixels": size[0], "plot": scale < 1}


def _as_image(picture: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(picture, Image.Image):
        image = picture
    else:
        array = np.asarray(picture)
        if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
            raise InputError(
                f"a picture must be a (H, W), (H, W, 3), or (H, W, 4) uint8 array, not {array.shape} {array.dtype}"
            )
        image = Image.fromarray(array)
    return image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGB")


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    if buffer.tell() <= LARGEST_PNG or image.mode == "RGBA":
        return buffer.getvalue(), "png"
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=90)
    return buffer.getvalue(), "jpeg"

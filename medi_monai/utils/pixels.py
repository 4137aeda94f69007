"""Convert pixels between files (uint8, 0 to 255) and models (floats in [-1, 1])."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

__all__ = ["from_uint8", "stacked", "through_jpeg", "to_gray_levels", "to_uint8", "uint8_arrays", "write_jpeg"]

#: gray levels per unit of [-1, 1]
HALF_RANGE = 127.5


def from_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Convert uint8 pixels of any shape to float32 in [-1, 1]."""
    return pixels.float() / HALF_RANGE - 1


def to_gray_levels(images: torch.Tensor) -> torch.Tensor:
    """Clip images to [-1, 1] and convert them to floats in [0, 255] without rounding; differentiable."""
    return (images.clamp(-1, 1) + 1) * HALF_RANGE


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Clip images to [-1, 1] and round them to uint8; the inverse of :func:`from_uint8`."""
    return to_gray_levels(images).round().to(torch.uint8)


def uint8_arrays(images: torch.Tensor) -> np.ndarray:
    """Convert ``(N, C, H, W)`` images in [-1, 1] to ``(N, H, W, C)`` uint8 arrays, for files and figures."""
    return to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()


def stacked(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Stack ``(H, W, C)`` uint8 arrays to one ``(N, C, H, W)`` uint8 tensor."""
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def through_jpeg(images: torch.Tensor, quality: int) -> torch.Tensor:
    """Compress images as JPEG with Pillow, with its chroma subsampling (4:2:0), and decompress them.

    Args:
        images: ``(N, 3, H, W)`` uint8 on any device.
        quality: quality of libjpeg, from 1 to 100.

    Returns:
        ``(N, 3, H, W)`` uint8 on the same device.
    """
    if len(images) == 0:
        return images
    arrays = images.permute(0, 2, 3, 1).cpu().numpy()
    # Pillow works outside of the lock of the interpreter
    with ThreadPoolExecutor() as pool:
        return stacked(list(pool.map(partial(_through_jpeg, quality), arrays))).to(images.device)


def _through_jpeg(quality: int, pixels: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def write_jpeg(path: str | os.PathLike, image: Image.Image, **options: int) -> None:
    """Write a JPEG file so that a full disk raises an error, which Pillow ignores if it writes to a path itself.

    Args:
        path: file to write, a path from :func:`atomic_path`.
        image: image in a mode that JPEG supports.
        options: options of Pillow, such as ``quality``.

    Raises:
        OSError: if the disk is full.
    """
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", **options)
    Path(path).write_bytes(buffer.getbuffer())

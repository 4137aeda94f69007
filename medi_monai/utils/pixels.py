"""Gray levels of files, uint8 in [0, 255], and of models, floats in [-1, 1]; tensors and arrays alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["from_uint8", "stacked", "to_gray_levels", "to_uint8", "uint8_arrays"]

#: gray levels per unit of [-1, 1]
HALF_RANGE = 127.5


def from_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pixels of any shape as float32 in [-1, 1]."""
    return pixels.float() / HALF_RANGE - 1


def to_gray_levels(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1], clipped to it, as floats in [0, 255] without rounding: differentiable."""
    return (images.clamp(-1, 1) + 1) * HALF_RANGE


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1] as uint8, the inverse of :func:`from_uint8`: clipped, and rounded to the nearest level."""
    return to_gray_levels(images).round().to(torch.uint8)


def uint8_arrays(images: torch.Tensor) -> np.ndarray:
    """``(N, C, H, W)`` images in [-1, 1] as ``(N, H, W, C)`` uint8, as files and figures take them."""
    return to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()


def stacked(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """``(H, W, C)`` uint8 arrays as one ``(N, C, H, W)`` uint8 tensor."""
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()

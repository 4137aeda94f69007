"""Augmentations that make a classifier hard to fool with changes other than the attribute.

A model tuned against a classifier exploits any feature that changes its prediction, such as tint or fine grain. A
classifier trained with these augmentations is invariant to such changes, so the tuned model gains nothing from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch.nn import functional

from medi_monai.utils.errors import InputError

__all__ = ["Hardening", "harden"]

#: added to gray levels before applying gamma, as a fraction of their range
FOOT = 0.01


@dataclass(frozen=True)
class Hardening:
    """Maximum strength of each augmentation; 0 turns it off. Strengths are drawn uniformly up to these bounds.

    Args:
        probability: probability of applying each augmentation to an image, independently of the others.
        gain: factor of the gray levels (relative to black), ``1 - gain`` to ``1 + gain``.
        offset: offset of the gray levels, as a fraction of their range.
        gamma: exponent of the gray levels, ``1 / (1 + gamma)`` to ``1 + gamma``.
        tint: gain, and half as much offset, drawn for each channel separately.
        mixing: fraction of each channel that comes from the other two.
        blur: standard deviation of a Gaussian filter, as a fraction of the image side.
        noise: standard deviation of white noise, as a fraction of the gray range; in half of the images, all channels
            have the same noise.
        grid: amplitude of a wave with a random length from two pixels to a quarter of the side, as a fraction of the
            gray range.
        cutout: side of a square filled with one gray level, as a fraction of the image side.
        rotation: rotation in degrees.
        scale: magnification, ``1 / (1 + scale)`` to ``1 + scale``, the same along both axes.
        shift: shift, as a fraction of the image side.
        flip: whether to mirror half of the images; turn it off if an attribute depends on left and right.

    Raises:
        InputError: for a strength out of range.
    """

    probability: float = 0.5
    gain: float = 0.2
    offset: float = 0.1
    gamma: float = 0.25
    tint: float = 0.15
    mixing: float = 0.3
    blur: float = 0.025
    noise: float = 0.06
    grid: float = 0.05
    cutout: float = 0.3
    rotation: float = 6.0
    scale: float = 0.06
    shift: float = 0.06
    flip: bool = False

    def __post_init__(self) -> None:
        bounds = {"gamma": 10.0, "rotation": 180.0, "scale": 10.0}
        for field in fields(self):
            value, high = getattr(self, field.name), bounds.get(field.name, 1.0)
            if not 0 <= value <= high:
                raise InputError(f"{field.name} = {value!r} of the augmentation: it has to lie in [0, {high:g}]")

    @classmethod
    def none(cls) -> Hardening:
        """Return settings without any augmentation."""
        strengths: dict[str, Any] = {field.name: 0.0 for field in fields(cls)}
        return cls(**{**strengths, "flip": False})


def harden(images: torch.Tensor, settings: Hardening, generator: torch.Generator) -> torch.Tensor:
    """Augment images, each with its own strengths; differentiable with respect to the images.

    Args:
        images: ``(N, C, H, W)`` floats in [-1, 1].
        settings: maximum strengths.
        generator: generator on the CPU, which gives the same draws for every device.

    Returns:
        Images of the same shape in [-1, 1].
    """
    changes: list[tuple[float, Callable[[torch.Tensor, Hardening, torch.Generator], torch.Tensor]]] = [
        (settings.rotation + settings.scale + settings.shift, _moved),
        (settings.blur, _blurred),
        (settings.mixing, _mixed),
        (settings.gain + settings.offset + settings.gamma, _graded),
        (settings.tint, _tinted),
        (settings.cutout, _cut_out),
        (settings.grid, _waved),
        (settings.noise, _noisy),
    ]
    result = images
    for strength, change in changes:
        if not strength or not len(images):
            continue
        chosen = torch.rand(len(images), generator=generator) < settings.probability
        # all images are transformed, then some are kept unchanged: draws do not depend on the choice
        result = torch.where(_column(chosen, images, bool), change(result, settings, generator).clamp(-1, 1), result)
    if settings.flip:
        chosen = torch.rand(len(images), generator=generator) < 0.5
        result = torch.where(_column(chosen, images, bool), result.flip(3), result)
    return result


def _column(values: torch.Tensor, images: torch.Tensor, kind: type | None = None) -> torch.Tensor:
    # (N, …) to (N, …, 1, 1) on the device of the images
    values = values.reshape(*values.shape, *[1] * (images.ndim - values.ndim)).to(images.device)
    return values if kind is bool else values.to(images.dtype)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(*shape, generator=generator)


def _graded(images: torch.Tensor, settings: Hardening, generator: torch.Generator) -> torch.Tensor:
    count, reach = len(images), math.log1p(settings.gamma)
    gamma = _column(_uniform(generator, -reach, reach, count).exp(), images)
    gain = _column(_uniform(generator, 1 - settings.gain, 1 + settings.gain, count), images)
    offset = _column(_uniform(generator, -settings.offset, settings.offset, count), images)
    # a pure power has infinite slope at black
    levels = ((images + 1) / 2).clamp(0, 1) + FOOT
    levels = (levels**gamma - FOOT**gamma) / ((1 + FOOT) ** gamma - FOOT**gamma)
    return 2 * (gain * levels + offset) - 1


def _tinted(images: torch.Tensor, settings: Hardening, generator: torch.Generator) -> torch.Tensor:
    shape = images.shape[:2]
    gain = _column(_uniform(generator, 1 - settings.tint, 1 + settings.tint, *shape), images)
    offset = _column(_uniform(generator, -settings.tint / 2, settings.tint / 2, *shape), images)
    return 2 * (gain * (images + 1) / 2 + offset) - 1


def _mixed(images: torch.Tensor, settings: Hardening, generator: torch.Generator) -> torch.Tensor:
    count, channels = images.shape[:2]
    if channels == 1:
        return images
    share = _uniform(generator, 0, settings.mixing, count, channels, 1)
    leaked = torch.rand(count, channels, channels, generator=generator) * (1 - torch.eye(channels))
    leaked = leaked / leaked.sum(2, keepdim=True).clamp_min(1e-9)
    matrix = (1 - share) * torch.eye(channels) + share * leaked
    return torch.einsum("nij,njhw->nihw", matrix.to(images), images)


def _blurred(images: torch.Tensor, settings: Hardening, generator: torch.Generator) -> torch.Tensor:
    count, channels, height, width = images.shape
    sigma = _uniform(generator, 0, settings.blur * max(height, width), count).clamp_min(0.05)
    radius = min(max(1, round(3 * float(settings.blur) * max(height, width))), min(height, width) - 1)
    ticks = torch.arange(-radius, radius + 1)
    kernels = (-0.5 * (ticks / sigma[:, None]) ** 2).softmax(1).to(images).repeat_interleave(channels, 0)
    # each image has its own kernel: images become channels, each with its own filter
    planes = images.reshape(1, count * channels, height, width)
    for shape, padding in (((1, -1), (radius, radius, 0, 0)), ((-1, 1), (0, 0, radius, radius))):
        weights = kernels.reshape(count * channels, 1, *shape)
        planes = functional.conv2d(functional.pad(planes, padding, "reflect"), weights, groups=count * channels)
    return planes.reshape(images.shape)


def _noisy(images: torch.Tensor, settings: Hardening, generator: torch.Generator) -> torch.Tensor:
    count, channels = images.shape[:2]
    noise = torch.randn(images.shape, generator=generator)
    gray = _uniform(generator, 0, 1, count) < 0.5
    noise[gray] = noise[gray][:, :1].expand(-1, channels, -1, -1)
    return images + 2 * _column(_uniform(generator, 0, settings.noise, count), images) * noise.to(images)


def _waved(images: torch.Tensor, settings: Hardening, generator: torch.Generator) -> torch.Tensor:
    count, channels, height, width = images.shape
    # wave lengths from two pixels to a quarter of the side
    frequency = torch.exp(_uniform(generator, math.log(4), math.log(max(height, width) / 2), count))
    turn, phase = _uniform(generator, 0, math.pi, count), _uniform(generator, 0, 2 * math.pi, count, channels)
    strength = _uniform(generator, 0, settings.grid, count)
    rows = torch.linspace(0, 1, height)[:, None] * (frequency * turn.sin())[:, None, None]
    columns = torch.linspace(0, 1, width) * (frequency * turn.cos())[:, None, None]
    waves = torch.sin(2 * math.pi * (rows + columns)[:, None] + phase[:, :, None, None])
    return images + 2 * (strength[:, None, None, None] * waves).to(images)


def _cut_out(images: torch.Tensor, settings: Hardening, generator: torch.Generator) -> torch.Tensor:
    count, _, height, width = images.shape
    half = _uniform(generator, 0, settings.cutout / 2, count)
    rows, columns = (torch.arange(side) + 0.5 for side in (height, width))
    inside = [
        ((ticks / side)[None] - torch.rand(count, 1, generator=generator)).abs() < half[:, None]
        for ticks, side in ((rows, height), (columns, width))
    ]
    hole = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(images.device)
    return torch.where(hole, _column(_uniform(generator, -1, 1, count), images), images)


def _moved(images: torch.Tensor, settings: Hardening, generator: torch.Generator) -> torch.Tensor:
    count, reach, degrees = len(images), math.log1p(settings.scale), settings.rotation
    angle = torch.deg2rad(_uniform(generator, -degrees, degrees, count))
    zoom = _uniform(generator, -reach, reach, count).exp()
    # grid_sample uses coordinates from -1 to 1
    shift = 2 * _uniform(generator, -settings.shift, settings.shift, count, 2)
    cosine, sine = angle.cos() / zoom, angle.sin() / zoom
    rows = [torch.stack([cosine, -sine, shift[:, 0]], 1), torch.stack([sine, cosine, shift[:, 1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1).to(images), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)

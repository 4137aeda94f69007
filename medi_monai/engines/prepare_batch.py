"""Prepare batches: noisy images, targets, and conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.inferers import SimpleInferer
from torch import nn

from medi_monai.diffusion import NoiseSchedule, add_noise, draw_timesteps, timestep_distribution, training_target
from medi_monai.networks.conditioner import drop_to_null
from medi_monai.networks.precision import PRECISIONS, dtype_of
from medi_monai.networks.spaces import PixelSpace, Space
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.pixels import from_uint8
from medi_monai.utils.seeding import generator_from

__all__ = ["DiffusionPrepareBatch", "AutocastInferer", "random_symmetry"]


class DiffusionPrepareBatch(PrepareBatch):
    """Prepares a batch with noise, timesteps, augmentation and conditioning dropout.

    All randomness of a training step derives from ``(seed, step, rank)``, and that of a validation batch from the seed
    and the indices of its patches, so each validation uses the same noise and timesteps.

    Args:
        schedule: noise schedule.
        objective: one of ``medi_monai.diffusion.OBJECTIVES``.
        label_dropout, attribute_dropout: probabilities in [0, 1] of replacing the label or an attribute by null.
        joint_dropout: probability in [0, 1] of replacing all conditions by null, as guidance needs.
        augment: whether to apply random flips and right-angle rotations, all eight symmetries being equally likely.
        seed: random seed.
        rank: rank of this process.
        space: image space of the network; by default three-channel pixels.
        dropout: function ``(conditions, generator) -> conditions`` for conditions other than label and attributes, used
            in place of the three probabilities.
        timestep_weights: distribution of the timesteps, one of ``medi_monai.diffusion.TIMESTEP_WEIGHTS``.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        objective: str = "v",
        label_dropout: float = 0.05,
        attribute_dropout: float = 0.05,
        joint_dropout: float = 0.1,
        augment: bool = True,
        seed: int = 0,
        rank: int = 0,
        space: Space | None = None,
        dropout: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
        timestep_weights: str = "uniform",
    ) -> None:
        rates = {"label_dropout": label_dropout, "attribute_dropout": attribute_dropout, "joint_dropout": joint_dropout}
        for name, value in rates.items():
            if not 0 <= value <= 1:
                raise InputError(f"{name} = {value}: a probability has to lie in [0, 1]")
        self.schedule, self.objective = schedule, objective
        self.timesteps = timestep_distribution(schedule, objective, timestep_weights)
        self.dropout = dropout or (
            lambda codes, generator: drop_to_null(codes, label_dropout, attribute_dropout, generator, joint_dropout)
        )
        self.augment, self.seed, self.rank = augment, seed, rank
        self.space = PixelSpace(3) if space is None else space

    def __call__(
        self,
        batchdata: Mapping[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        step: int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, tuple, dict]:
        """Return noisy images, targets, and the positional and keyword arguments of the network.

        Args:
            batchdata: ``image`` ``(N, 3, H, W)`` uint8, ``conditions`` ``(N, 1 + k)``, ``index`` ``(N,)``.
            device: device to which the batch is moved.
            non_blocking: as in ``Tensor.to``.
            step: training step, counted from 1; None for validation, which uses no augmentation or dropout.
        """
        source: object = [step, self.rank] if step is not None else batchdata["index"].tolist()
        generator = generator_from("noise", self.seed, source)
        images = from_uint8(batchdata["image"].to(device, non_blocking=non_blocking))
        conditions = batchdata["conditions"]
        if step is not None:
            conditions = self.dropout(conditions, generator)
            if self.augment:
                images = random_symmetry(images, generator)
        if isinstance(self.space, nn.Module):
            # an autoencoder is moved to the device of the images
            self.space.to(images.device)
        pixels, images = images, self.space.encode(images)
        timesteps = draw_timesteps(self.timesteps, len(images), generator)
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        noisy = add_noise(images, noise, timesteps, self.schedule)
        target = training_target(images, noise, timesteps, self.schedule, self.objective)
        arguments = {"timesteps": timesteps.to(images.device), "conditions": conditions.to(images.device)}
        arguments |= self.extra_arguments(pixels, generator)
        return noisy, target, (), arguments

    def extra_arguments(self, images: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Return additional arguments of the network for ``(N, 3, H, W)`` images in [-1, 1]; for subclasses."""
        return {}


class AutocastInferer(SimpleInferer):
    """Runs the network under autocast on any device; MONAI's ``amp`` supports only CUDA.

    Args:
        precision: one of :data:`medi_monai.networks.precision.PRECISIONS`; float32 runs without autocast.

    Raises:
        InputError: for an unknown precision.
    """

    def __init__(self, precision: str = "float32") -> None:
        super().__init__()
        if precision not in PRECISIONS:
            raise unknown_value("precision", precision, PRECISIONS)
        self.precision = precision

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run the network and return its output as float32."""
        reduced = self.precision != "float32"
        with torch.autocast(inputs.device.type, dtype_of(self.precision) if reduced else None, enabled=reduced):
            output: torch.Tensor = super().__call__(inputs, network, *args, **kwargs)
        return output.float()


def random_symmetry(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply one of the eight flips and right-angle rotations of a square to each of ``(N, C, S, S)`` images."""
    flip_rows, flip_columns, transpose = (torch.rand(3, len(images), generator=generator) < 0.5).to(images.device)
    images = torch.where(flip_rows[:, None, None, None], images.flip(2), images)
    images = torch.where(flip_columns[:, None, None, None], images.flip(3), images)
    return torch.where(transpose[:, None, None, None], images.transpose(2, 3), images)

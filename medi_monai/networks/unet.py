"""The diffusion UNet of MeDi: MONAI's, with class and metadata added to the timestep embedding."""

from __future__ import annotations

from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet

from medi_monai.networks.conditioner import MetadataConditioner
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError

__all__ = ["MetadataDiffusionUNet", "check_sides"]


class MetadataDiffusionUNet(DiffusionModelUNet):
    """``DiffusionModelUNet`` whose every residual block hears ``z_final = z_t + z_cond`` (arXiv 2506.17140).

    The conditioner takes the place of the class embedding of MONAI's network, which is added to the timestep
    embedding before the first block. A schema without attributes makes the class-only model (CLS).

    Args:
        schema: label and attributes.
        conditioning: mode of :class:`MetadataConditioner`.
        kwargs: arguments of ``monai.networks.nets.DiffusionModelUNet`` (``spatial_dims``, ``channels``, …).
    """

    def __init__(self, schema: MetadataSchema, conditioning: str = "concat", **kwargs: Any) -> None:
        try:
            # one class, so that the base network adds its class embedding; it is replaced below
            super().__init__(**kwargs, num_class_embeds=1)
        except ValueError as error:
            raise InputError(f"the network cannot be built from these settings: {error}") from error
        #: label and attributes that :meth:`forward` is conditioned on
        self.schema = schema
        embed_dim = 4 * self.block_out_channels[0]
        self.class_embedding = MetadataConditioner(schema, embed_dim, conditioning)  # type: ignore[assignment]

    def forward(  # type: ignore[override]
        self,
        image: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        conditions: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The network's prediction (epsilon or v, as it was trained) for noisy images.

        Args:
            image: ``(N, C, H, W)`` noisy images.
            timesteps: ``(N,)``; left out, zero.
            conditions: ``(N, 1 + k)`` codes of :meth:`MetadataSchema.encode`; left out, null.
            context: ``(N, L, D)`` for cross-attention, where the network has it.

        Raises:
            InputError: for images whose sides the levels of the network cannot halve.
        """
        check_sides(image, len(self.block_out_channels))
        if timesteps is None:
            timesteps = torch.zeros(len(image), device=image.device)
        if conditions is None:
            conditions = self.schema.null_codes(len(image)).to(image.device)
        return super().forward(image, timesteps, context=context, class_labels=conditions)


def check_sides(image: torch.Tensor, num_levels: int) -> None:
    """Refuse images ``(N, C, H, W)`` whose sides a network of ``num_levels`` levels cannot halve, by an InputError."""
    factor = 2 ** (num_levels - 1)
    if any(side % factor for side in image.shape[2:]):
        raise InputError(
            f"images of {tuple(image.shape[2:])} pixels do not fit the network: its {num_levels} levels need sides "
            f"divisible by {factor}. Change image_size, or the number of channels."
        )

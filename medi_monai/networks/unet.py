"""Diffusion UNet of MeDi: MONAI's UNet with class and metadata added to the timestep embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet

from medi_monai.networks.conditioner import MetadataConditioner
from medi_monai.networks.exporting import ScriptableNetwork
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError

__all__ = ["MetadataDiffusionUNet", "check_sides"]


class MetadataDiffusionUNet(DiffusionModelUNet):
    """``DiffusionModelUNet`` in which every residual block receives ``z_final = z_t + z_cond`` (arXiv 2506.17140).

    The conditioner replaces the class embedding of MONAI's network, which is added to the timestep embedding before
    the first block. A schema without attributes gives the class-only model (CLS).

    Args:
        schema: label and attributes.
        conditioning: mode of :class:`MetadataConditioner`.
        spatial_dims: 2 for images.
        in_channels: number of channels of images or latents.
        out_channels: the same number.
        num_res_blocks: number of residual blocks per level, or one number per level.
        channels: channels of each level, multiples of ``norm_num_groups``; the resolution is halved from one level to
            the next.
        attention_levels: for each level, whether it has attention.
        norm_num_groups: number of groups of group normalization.
        norm_eps: epsilon of group normalization.
        resblock_updown: whether residual blocks, rather than convolutions, change the resolution.
        num_head_channels: channels per attention head, or one number per level.
        with_conditioning: whether the network also attends to a ``context``, which :meth:`forward` then requires.
        transformer_num_layers: number of layers of the blocks that attend to the context.
        cross_attention_dim: width of the context.
        upcast_attention: whether attention uses float32 under autocast.
        dropout_cattn: dropout of cross-attention, in [0, 1).
        include_fc: whether self-attention has an output linear layer.
        use_combined_linear: whether self-attention has one linear layer for query, key and value.
        use_flash_attention: whether to use PyTorch's memory-efficient attention.

    Raises:
        InputError: for settings that MONAI's network refuses.
    """

    def __init__(
        self,
        schema: MetadataSchema,
        conditioning: str = "concat",
        *,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        num_res_blocks: Sequence[int] | int = (2, 2, 2, 2),
        channels: Sequence[int] = (32, 64, 64, 64),
        attention_levels: Sequence[bool] = (False, False, True, True),
        norm_num_groups: int = 32,
        norm_eps: float = 1e-6,
        resblock_updown: bool = False,
        num_head_channels: int | Sequence[int] = 8,
        with_conditioning: bool = False,
        transformer_num_layers: int = 1,
        cross_attention_dim: int | None = None,
        upcast_attention: bool = False,
        dropout_cattn: float = 0.0,
        include_fc: bool = True,
        use_combined_linear: bool = False,
        use_flash_attention: bool = False,
    ) -> None:
        try:
            super().__init__(
                spatial_dims=spatial_dims,
                in_channels=in_channels,
                out_channels=out_channels,
                num_res_blocks=num_res_blocks,
                channels=channels,
                attention_levels=attention_levels,
                norm_num_groups=norm_num_groups,
                norm_eps=norm_eps,
                resblock_updown=resblock_updown,
                num_head_channels=num_head_channels,
                with_conditioning=with_conditioning,
                transformer_num_layers=transformer_num_layers,
                cross_attention_dim=cross_attention_dim,
                # a single class makes the base network create a class embedding, which is replaced below
                num_class_embeds=1,
                upcast_attention=upcast_attention,
                dropout_cattn=dropout_cattn,
                include_fc=include_fc,
                use_combined_linear=use_combined_linear,
                use_flash_attention=use_flash_attention,
            )
        except ValueError as error:
            raise InputError(f"the network cannot be built from these settings: {error}") from error
        #: record of what the weights were initialized from; None for random weights
        self.origin: dict[str, Any] | None = None
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
        """Return the network's prediction (epsilon or v, depending on its training) for noisy images.

        Args:
            image: ``(N, C, H, W)`` noisy images.
            timesteps: ``(N,)`` timesteps; by default 0.
            conditions: ``(N, 1 + k)`` codes from :meth:`MetadataSchema.encode`; by default null.
            context: ``(N, L, D)`` context, if the network has cross-attention.

        Raises:
            InputError: for images whose sides are not divisible by the network's downsampling.
        """
        check_sides(image, len(self.block_out_channels))
        if timesteps is None:
            timesteps = torch.zeros(len(image), device=image.device)
        if conditions is None:
            conditions = self.schema.null_codes(len(image)).to(image.device)
        return super().forward(image, timesteps, context=context, class_labels=conditions)

    def __prepare_scriptable__(self) -> ScriptableNetwork:
        return ScriptableNetwork.of(self, self.schema.null_codes(1))


def check_sides(image: torch.Tensor, num_levels: int) -> None:
    """Raise an :class:`InputError` if a network of ``num_levels`` levels cannot halve ``(N, C, H, W)`` images."""
    factor = 2 ** (num_levels - 1)
    if any(side % factor for side in image.shape[2:]):
        raise InputError(
            f"images of {tuple(image.shape[2:])} pixels do not fit the network: its {num_levels} levels need sides "
            f"divisible by {factor}. Change image_size, or the number of channels."
        )

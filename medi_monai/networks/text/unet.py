"""Text-to-image UNet: MONAI's UNet with cross-attention to the token states of a frozen text encoder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import redirect_stdout
from copy import deepcopy
from io import StringIO
from typing import Any

import torch
from monai.networks.nets import DiffusionModelUNet
from torch import nn

from medi_monai.networks.encoders.pretrained import load_weights
from medi_monai.networks.exporting import ScriptableNetwork
from medi_monai.networks.layouts import identities
from medi_monai.networks.text.encoder import FrozenTextEncoder
from medi_monai.networks.unet import check_sides
from medi_monai.utils.errors import InputError

__all__ = ["TextDiffusionUNet", "load_pretrained_unet"]

DIGEST = "text_digest"
#: counter of averaged models among the weights in a training checkpoint
COUNTER = "n_averaged"
#: prefix of the projection of a caption's last state, which replaces MONAI's class embedding
POOLED = "class_embedding."


class TextDiffusionUNet(DiffusionModelUNet):
    """``DiffusionModelUNet`` with cross-attention to captions.

    The text encoder is shared by all copies of the network and is not part of ``state_dict`` or ``parameters``. Its
    digest is saved with the weights, and weights trained with another text encoder are refused.

    Args:
        text_encoder: text encoder that turns codes into context; it is moved to the device of the network.
        pooled: whether to also add the projected state of a caption's last token, which summarizes it, to the timestep
            embedding, so that every residual block receives the caption. Small networks then follow captions earlier in
            training. The projection starts at zero, so that it initially does not change a network trained without it
            (:func:`load_pretrained_unet`).
        spatial_dims: 2 for images.
        in_channels, out_channels: equal numbers of channels of images or latents.
        num_res_blocks: number of residual blocks per level, or one number per level.
        channels: channels of each level, multiples of ``norm_num_groups``; the resolution is halved from one level to
            the next.
        attention_levels: for each level, whether it has attention to the caption.
        norm_num_groups: number of groups of group normalization.
        norm_eps: epsilon of group normalization.
        resblock_updown: whether residual blocks, rather than convolutions, change the resolution.
        num_head_channels: channels per attention head, or one number per level.
        transformer_num_layers: number of layers of the blocks that attend to the caption.
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
        text_encoder: FrozenTextEncoder,
        pooled: bool = False,
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
        transformer_num_layers: int = 1,
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
                with_conditioning=True,
                transformer_num_layers=transformer_num_layers,
                cross_attention_dim=text_encoder.dim,
                # a single class makes the base network create a class embedding, which is replaced below
                num_class_embeds=1 if pooled else None,
                upcast_attention=upcast_attention,
                dropout_cattn=dropout_cattn,
                include_fc=include_fc,
                use_combined_linear=use_combined_linear,
                use_flash_attention=use_flash_attention,
            )
        except ValueError as error:
            raise InputError(f"the network cannot be built from these settings: {error}") from error
        self.pooled = pooled
        if pooled:
            width = 4 * self.block_out_channels[0]
            last = nn.Linear(width, width)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            self.class_embedding = nn.Sequential(nn.Linear(text_encoder.dim, width), nn.SiLU(), last)  # type: ignore[assignment]
        # in a tuple, so that it is not part of parameters() or state_dict()
        self._text = (text_encoder,)
        self.text_digest: torch.Tensor
        self.register_buffer(DIGEST, torch.tensor(list(bytes.fromhex(text_encoder.digest)), dtype=torch.uint8))

    @property
    def text_encoder(self) -> FrozenTextEncoder:
        """The frozen text encoder, shared by all copies of the network."""
        return self._text[0]

    def use_text_encoder(self, text_encoder: FrozenTextEncoder) -> TextDiffusionUNet:
        """Replace the text encoder by another view of it, such as one without an attribute, and return the network.

        Raises:
            InputError: for an encoder with states of another width.
        """
        if text_encoder.dim != self.text_encoder.dim:
            raise InputError(
                f"a text encoder of width {text_encoder.dim} cannot replace one of width {self.text_encoder.dim}"
            )
        self._text = (text_encoder.to(next(self.parameters()).device),)
        return self

    def forward(  # type: ignore[override]
        self,
        image: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        conditions: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the network's prediction (epsilon or v, depending on its training) for noisy images.

        Args:
            image: ``(N, C, H, W)`` noisy images or latents.
            timesteps: ``(N,)`` timesteps; by default 0.
            conditions: ``(N, L)`` codes of captions; by default the empty caption.
            context: ``(N, L, D)`` token states, as an alternative to ``conditions``.

        Raises:
            InputError: for images whose sides are not divisible by the network's downsampling, if both conditions and
                context are given, or if their number differs from that of the images.
        """
        check_sides(image, len(self.block_out_channels))
        if timesteps is None:
            timesteps = torch.zeros(len(image), device=image.device)
        if context is not None and conditions is not None:
            raise InputError("give codes as `conditions` or states as `context`, not both")
        if context is None:
            codes = self._codes(len(image), conditions)
            context, mask = self.text_encoder(codes).to(image.device), self.text_encoder.mask(codes)
            ends = mask.sum(1).to(image.device) - 1
        else:
            ends = torch.full((len(context),), context.shape[1] - 1, device=context.device)
        labels = None
        if self.pooled:
            # not the mean over tokens, which would hardly differ between captions that differ in one word
            rows = torch.arange(context.shape[0], device=context.device)  # len() would be fixed in a trace
            labels = context[rows, ends].to(image.dtype)
        return super().forward(image, timesteps, context=context.to(image.dtype), class_labels=labels)

    def __prepare_scriptable__(self) -> ScriptableNetwork:
        return ScriptableNetwork.of(self, self.text_encoder.null_codes(1))

    def _codes(self, count: int, conditions: torch.Tensor | None) -> torch.Tensor:
        if conditions is None:
            return self.text_encoder.null_codes(count)
        if len(conditions) != count:
            raise InputError(f"{len(conditions)} captions for {count} images: give one caption per image")
        return conditions

    def _apply(self, fn: Any, recurse: bool = True) -> TextDiffusionUNet:
        super()._apply(fn, recurse)
        # only the device changes: the encoder stays in float32
        self.text_encoder.to(next(self.parameters()).device)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:  # type: ignore[no-untyped-def]
        stored = state_dict.get(prefix + DIGEST)
        if stored is not None and not torch.equal(stored.cpu(), self.text_digest.cpu()):
            raise InputError(
                "these weights were trained with a different text encoder (weights, tokenizer or caption length "
                f"differ): theirs has the digest {bytes(stored.tolist()).hex()[:12]}, the given one "
                f"{self.text_encoder.digest[:12]}. Use the text model and max_length of the training; the "
                "schema.json next to the checkpoint has both."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


def load_pretrained_unet(network: nn.Module, path: str | os.PathLike) -> dict[str, Any]:
    """Load all weights from a file of this package, of MONAI's ``DiffusionModelUNet`` or of monai-generative.

    Args:
        network: a :class:`TextDiffusionUNet`, or any network derived from MONAI's.
        path: weights file (safetensors, or a PyTorch state dictionary), a training checkpoint, from which the averaged
            weights are used, or a downloaded folder.

    Returns:
        ``layout`` (``medi_monai``, ``monai`` or ``monai-generative``), and the number of loaded ``tensors`` and
        ``parameters``.

    Raises:
        InputError: for weights that do not match in name or shape; the network is then unchanged.
    """
    state = {name.removeprefix("module."): value for name, value in load_weights(path).items() if name != COUNTER}
    own_state = network.state_dict()
    expected = own_state.keys() - {DIGEST} - _added(own_state, state)
    if state.keys() - {DIGEST} == expected:
        layout = "medi_monai" if DIGEST in state else "monai"
        loaded = state
    else:
        layout, loaded = "monai-generative", _translated(network, state, path)
    other = [name for name in sorted(expected) if loaded[name].shape != own_state[name].shape]
    if other:
        raise InputError(
            f"{len(other)} of {len(expected)} tensors in {path} have a different shape, such as {other[0]}: "
            f"{tuple(loaded[other[0]].shape)}, not {tuple(own_state[other[0]].shape)}. Use the channels, the heads "
            "and a text encoder width of the training"
        )
    network.load_state_dict({**own_state, **loaded})
    count = sum(own_state[name].numel() for name in expected)
    print(f"{path}: loaded {len(expected)} tensors with {count:,} parameters ({layout})", flush=True)
    return {"layout": layout, "tensors": len(expected), "parameters": count}


def _translated(network: nn.Module, state: dict[str, torch.Tensor], path: str | os.PathLike) -> dict[str, torch.Tensor]:
    own_state = network.state_dict()
    trial, left = deepcopy(network), dict(state)
    try:
        # this removes every tensor that it uses from the dictionary
        with redirect_stdout(StringIO()):
            trial.load_old_state_dict(left)  # type: ignore[operator]
    except KeyError as error:
        raise _misfit(own_state, state, path, f"{error.args[0]} lacks") from error
    except (RuntimeError, AttributeError) as error:
        raise _misfit(own_state, state, path, " ".join(str(error).split())[:200]) from error
    # MONAI silently ignores tensors that it cannot assign, and keeps random weights for missing ones
    if left:
        raise _misfit(
            own_state, state, path, f"{len(left)} of its tensors do not belong to the network, such as {min(left)}"
        )
    if len(state) != len(own_state.keys() - {DIGEST} - _added(own_state, state)):
        raise _misfit(own_state, state, path, f"it has {len(state)} tensors")
    return {name: value for name, value in trial.state_dict().items() if name != DIGEST} | identities(state)


def _added(own_state: dict, state: dict) -> set[str]:
    """Return the names of the pooled-caption projection if a file does not contain it, in which case it stays zero."""
    if any(name.startswith(POOLED) for name in state):
        return set()
    return {name for name in own_state if name.startswith(POOLED)}


def _misfit(own_state: dict, state: dict, path: str | os.PathLike, reason: str) -> InputError:
    lacking, unknown = sorted(own_state.keys() - state.keys() - {DIGEST}), sorted(state.keys() - own_state.keys())
    examples = f"the network has {lacking[0] if lacking else 'nothing more'}, the file {unknown[0] if unknown else ''}"
    return InputError(
        f"{path} contains no weights for this network, neither its own nor those of MONAI or monai-generative: "
        f"{reason}; {examples}. Use the channels, num_res_blocks, attention_levels and resblock_updown of the "
        "training; weights of monai-generative need include_fc true and use_combined_linear false if the network "
        "is conditioned on captions"
    )

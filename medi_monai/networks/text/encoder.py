"""Convert captions to token ids, and token ids to the token states for cross-attention, with a frozen text encoder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from medi_monai.networks.text.loading import load_text_tower, load_tokenizer
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, tensors_digest

__all__ = ["CaptionTokenizer", "FrozenTextEncoder", "ON_LONG", "load_text_encoder"]

#: what to do with captions that have too many tokens
ON_LONG = ("error", "truncate")
#: number of captions encoded at once
CHUNK = 256
#: number of cached contexts: those of a tuned network, of its guidance, and of real captions in between
KEPT = 3


class CaptionTokenizer:
    """Converts captions to token ids of fixed length with a tokenizer from transformers.

    Args:
        tokenizer: tokenizer with a padding token.
        num_positions: number of token positions of the text tower; None if unknown.
        max_length: number of tokens per row; by default the most that tokenizer and tower allow.
        on_long: what to do with captions that are too long: raise an ``error``, or ``truncate`` them and print how many
            were.

    Raises:
        InputError: for a length that the tokenizer or the tower does not allow.
    """

    def __init__(
        self, tokenizer: Any, num_positions: int | None, max_length: int | None = None, on_long: str = "error"
    ) -> None:
        if on_long not in ON_LONG:
            raise unknown_value("choice of `on_long`", on_long, ON_LONG)
        self.tokenizer, self.on_long = tokenizer, on_long
        self.max_length = _length(tokenizer, num_positions, max_length)
        self._null = self([""])

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Return ``(N, max_length)`` int64 token ids, with start and end tokens and padding.

        Raises:
            InputError: for a caption that is too long, or not a string.
        """
        captions = list(captions)
        for caption in captions:
            if not isinstance(caption, str):
                raise InputError(f"a caption has to be text, not {caption!r} ({type(caption).__name__})")
        # pad here, because setting the padding of a tokenizer would change it for all its users
        codes = torch.full((len(captions), self.max_length), self.tokenizer.pad_token_id, dtype=torch.int64)
        if not captions:
            return codes
        tokens = self.tokenizer(captions, verbose=False)["input_ids"]
        long = [index for index, row in enumerate(tokens) if len(row) > self.max_length]
        if long:
            self._report(captions[long[0]], len(tokens[long[0]]), len(long), len(captions))
            cut = self.tokenizer([captions[index] for index in long], truncation=True, max_length=self.max_length)
            for index, row in zip(long, cut["input_ids"]):
                tokens[index] = row
        for index, row in enumerate(tokens):
            codes[index, : len(row)] = torch.tensor(row)
        return codes

    def _report(self, caption: str, length: int, count: int, total: int) -> None:
        shown = caption if len(caption) <= 80 else caption[:77] + "…"
        if self.on_long == "error":
            raise InputError(
                f"{count} of {total} captions are too long, such as {shown!r}: {length} tokens including start "
                "and end, but "
                f"at most {self.max_length} fit. Shorten them. In training, you can also set a larger "
                "--max_length if the "
                "text model allows it, or truncate them with --on_long truncate"
            )
        print(f"{count} of {total} captions were truncated to {self.max_length} tokens, such as {shown!r}", flush=True)

    def null_codes(self, count: int) -> torch.Tensor:
        """Return ``(count, max_length)`` codes of the empty caption, the null condition of guidance."""
        return self._null.repeat(count, 1)

    def mask(self, codes: torch.Tensor) -> torch.Tensor:
        """Return a ``(N, max_length)`` int64 mask: 1 for the tokens of the caption, 0 for padding."""
        pad, end = self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        if pad != end:
            return (codes != pad).long()
        # CLIP pads with its end token; the first of these belongs to the caption
        ended = (codes == end).long().cumsum(1)
        return ((ended == 0) | ((ended == 1) & (codes == end))).long()

    def describe(self) -> dict[str, Any]:
        """Return everything that determines the codes, JSON-compatible."""
        model = _backend_model(self.tokenizer)
        return {
            "vocabulary": dict(sorted(self.tokenizer.get_vocab().items())),
            # stored as pairs or as strings, depending on the version of tokenizers
            "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])],
            "special": {name: str(token) for name, token in sorted(self.tokenizer.special_tokens_map.items())},
            "null": self._null[0].tolist(),
        }


class FrozenTextEncoder(nn.Module):
    """Text encoder for token states: frozen, always in evaluation mode, and in float32 even under autocast.

    A deep copy is the same object, so that averaged and tuned copies of a network share one text encoder. The last few
    contexts are cached, so that a sampler with fifty steps encodes its captions only once.

    Args:
        tower: text model from transformers; its ``last_hidden_state`` is the output of the final layer normalization.
        tokenizer: tokenizer of the tower.
        max_length: number of tokens of a caption, including start and end; by default the most that tokenizer and tower
            allow.
        on_long: what to do with captions that are too long; see :class:`CaptionTokenizer`.
        mask_padding: whether padding is masked in the attention of the tower; Stable Diffusion and its derivatives use
            CLIP without this mask.
        source: id or folder from which the encoder was loaded.
        unused: names of weights that do not affect the states and are not part of the digest.

    Raises:
        InputError: for a tokenizer that does not belong to the tower, or a length that they do not allow.
    """

    def __init__(
        self,
        tower: nn.Module,
        tokenizer: Any,
        max_length: int | None = None,
        on_long: str = "error",
        mask_padding: bool = True,
        source: str = "",
        unused: Sequence[str] = (),
    ) -> None:
        super().__init__()
        config: Any = tower.config
        if len(tokenizer) > config.vocab_size:
            raise InputError(
                f"the tokenizer of {source or 'the text model'} has {len(tokenizer)} tokens but the model has "
                f"{config.vocab_size}: they do not match"
            )
        self.captions = CaptionTokenizer(
            tokenizer, getattr(config, "max_position_embeddings", None), max_length, on_long
        )
        self.tower = tower.float().requires_grad_(False)
        self.mask_padding, self.source = mask_padding, source
        self.unused = frozenset(unused)
        self._digest: str | None = None
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.eval()

    @property
    def dim(self) -> int:
        """Width of a token's state."""
        config: Any = self.tower.config
        return int(config.hidden_size)

    @property
    def max_length(self) -> int:
        """Number of tokens of a caption, including start, end and padding."""
        return self.captions.max_length

    @property
    def digest(self) -> str:
        """SHA-256 of weights, tokenizer, length and masking; equal digests mean equal states for the same caption."""
        if self._digest is None:
            prefix = "text_model."
            state = {
                name.removeprefix(prefix): value
                for name, value in self.tower.state_dict().items()
                if name not in self.unused and not name.endswith("position_ids")
            }
            self._digest = json_digest(
                {
                    "weights": tensors_digest(state),
                    "tokenizer": self.captions.describe(),
                    "mask_padding": self.mask_padding,
                }
            )
        return self._digest

    def tokenize(self, captions: Sequence[str]) -> torch.Tensor:
        """Return ``(N, max_length)`` int64 codes; captions that are too long raise an error or are truncated."""
        return self.captions(captions)

    def null_codes(self, count: int) -> torch.Tensor:
        """Return ``(count, max_length)`` codes of the empty caption."""
        return self.captions.null_codes(count)

    def mask(self, codes: torch.Tensor) -> torch.Tensor:
        """Return a ``(N, max_length)`` int64 mask: 1 for the tokens of the caption, 0 for padding."""
        return self.captions.mask(codes)

    @torch.no_grad()
    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the token states of captions.

        Args:
            codes: ``(N, max_length)`` codes from :meth:`tokenize`, on any device.

        Returns:
            ``(N, max_length, dim)`` float32 on the device of the encoder; must not be changed in place.

        Raises:
            InputError: for codes of the wrong shape or type.
        """
        if codes.ndim != 2 or codes.shape[1] != self.max_length or codes.is_floating_point():
            raise InputError(
                f"codes of shape {tuple(codes.shape)} and type {codes.dtype} do not fit this text encoder: "
                f"expected integers (N, {self.max_length}) from `tokenize`"
            )
        codes = codes.to(next(self.tower.parameters()).device, torch.int64)
        if torch.jit.is_tracing():
            return self._states(codes)  # for any captions, not those at hand
        context = self._known(codes)
        if context is None:
            rows, row_of = torch.unique(codes, dim=0, return_inverse=True)
            with torch.autocast(codes.device.type, enabled=False):
                # models of transformers do not accept an empty batch
                context = self._none(codes) if len(rows) == 0 else self._encoded(rows)[row_of]
            self._kept = [(codes.clone(), context), *self._kept][:KEPT]
        return context

    def _encoded(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._states(chunk) for chunk in rows.split(CHUNK)])

    def _states(self, codes: torch.Tensor) -> torch.Tensor:
        mask = self.captions.mask(codes) if self.mask_padding else None
        return self.tower(input_ids=codes, attention_mask=mask).last_hidden_state.float()

    def _none(self, codes: torch.Tensor) -> torch.Tensor:
        return torch.zeros(0, self.max_length, self.dim, device=codes.device)

    def _known(self, codes: torch.Tensor) -> torch.Tensor | None:
        for kept, context in self._kept:
            # tensors created in inference mode cannot be saved for a backward pass
            usable = torch.is_inference_mode_enabled() or not context.is_inference()
            if usable and kept.device == codes.device and kept.shape == codes.shape and torch.equal(kept, codes):
                return context
        return None

    def train(self, mode: bool = True) -> FrozenTextEncoder:
        """Remain in evaluation mode, regardless of ``mode``."""
        return super().train(False)

    def __deepcopy__(self, memo: dict) -> FrozenTextEncoder:
        # the encoder is frozen, so a copy would only use memory
        return self


def load_text_encoder(
    model: str | os.PathLike, max_length: int | None = None, on_long: str = "error", mask_padding: bool = True
) -> FrozenTextEncoder:
    """Load a text encoder and its tokenizer, by id or from a folder in the layout of transformers.

    The text encoder is the text tower of a ``CLIPModel`` or ``CLIPTextModel`` or of a ``VisionTextDualEncoderModel``
    (BERT paired with an image tower, as in BiomedCLIP), or the model itself (BERT and similar models).

    Args:
        model: id on a hub (``owner/name``) or a folder, for which the hub is not accessed.
        max_length: number of tokens of a caption; see :class:`FrozenTextEncoder`.
        on_long: what to do with captions that are too long; see :class:`CaptionTokenizer`.
        mask_padding: whether padding is masked; see :class:`FrozenTextEncoder`.

    Raises:
        InputError: if transformers is missing, for a folder that does not exist or lacks weights or tokenizer, or for
            an id that is not in the cache and cannot be downloaded.
    """
    tower, unused = load_text_tower(model)
    return FrozenTextEncoder(tower, load_tokenizer(model), max_length, on_long, mask_padding, os.fspath(model), unused)


def _length(tokenizer: Any, num_positions: int | None, max_length: int | None) -> int:
    # a tokenizer without a maximum length has an astronomical number here
    limits = [value for value in (tokenizer.model_max_length, num_positions) if value is not None and value < 1 << 20]
    if max_length is None:
        if not limits:
            raise InputError("neither tokenizer nor text model has a maximum number of tokens: set max_length")
        return min(limits)
    least = tokenizer.num_special_tokens_to_add() + 1
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < least:
        raise InputError(f"max_length = {max_length!r}: it has to be a whole number of {least} or more")
    if limits and max_length > min(limits):
        raise InputError(f"max_length = {max_length}: tokenizer and text model allow at most {min(limits)} tokens")
    return max_length


def _backend_model(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return {} if backend is None else json.loads(backend.to_str())["model"]

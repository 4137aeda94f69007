"""An encoder that sees every image through the same JPEG compression."""

from __future__ import annotations

from typing import Any

import torch

from medi_monai.networks.encoders.base import Encoder
from medi_monai.utils.errors import InputError
from medi_monai.utils.pixels import through_jpeg

__all__ = ["CompressedEncoder"]


class CompressedEncoder(Encoder):
    """Compresses images as JPEG and decompresses them before another encoder embeds them.

    Its description, and with it the stores of its features, names the compression.

    Args:
        encoder: encoder of the decompressed images.
        quality: JPEG quality, from 1 to 100.

    Raises:
        InputError: for another quality.
    """

    encoder: Encoder
    quality: int

    def __init__(self, encoder: Encoder, quality: int) -> None:
        if isinstance(quality, bool) or not isinstance(quality, int) or not 1 <= quality <= 100:
            raise InputError(f"JPEG quality {quality!r}: it has to be a whole number from 1 to 100")
        super().__init__(encoder.name, encoder.image_size, encoder.interpolation, encoder.mean, encoder.std)
        self.encoder, self.quality, self.dim = encoder, quality, encoder.dim

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features of images after compression; as :meth:`Encoder.forward`."""
        self._check_images(images)
        return self.encoder(through_jpeg(images, self.quality))

    def describe(self) -> dict[str, Any]:
        """Return the description of the encoder, and the compression."""
        return {**self.encoder.describe(), "compression": {"scheme": "JPEG", "quality": self.quality}}

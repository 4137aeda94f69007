"""Built-in encoder that needs no download: fixed filters for stain and morphology."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from medi_monai.networks.encoders.base import Encoder
from medi_monai.utils.errors import InputError

__all__ = ["EmbeddedEncoder"]

#: quantiles of the optical density in a channel that are features
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
#: number of pyramid levels, each half the size of the one before
NUM_SCALES = 4
#: smallest side in pixels, at which the coarsest level has two pixels
MIN_SIDE = 2**NUM_SCALES
#: units that give features a spread of about 1 over patches of several classes and centers
DENSITY_UNIT, CORRELATION_UNIT, CONTRAST_UNIT = 0.1, 0.25, 0.05
#: pairs of filters of the 3 x 3 cosine basis (without the mean): each filter and its transpose, which respond to the
#: same pattern in two orientations
PATTERNS = ((0, 2), (1, 5), (3, 3), (4, 6), (7, 7))


class EmbeddedEncoder(Encoder):
    """Describes stain and morphology of a patch by 81 numbers, without weights to download or train.

    All are computed from the optical density of red, green and blue, at the size of the image (16 px or more):

    - *stain*: five quantiles and the standard deviation of each channel, the correlations between channels (21);
    - *morphology*: the mean modulus of five 3 x 3 patterns (edges, lines, corners, saddles, checks) in each channel, on
      four levels of a pyramid (60), which reflect size, density and orientation of nuclei, and the scanner's sharpness.

    Contrasts are in units of density and increase with the strength of a stain, so stain and morphology are entangled,
    as in learned encoders. The features separate classes and centers of H&E patches, but represent no knowledge of
    disease. They are meant for trying everything without downloads; for a publication, also use a pathology encoder.
    """

    def __init__(self) -> None:
        super().__init__("embedded", None)
        self.register_buffer("filters", _cosine_filters())
        self.register_buffer("levels", torch.tensor(QUANTILES))
        self.dim = 3 * (len(QUANTILES) + 2) + 3 * NUM_SCALES * len(PATTERNS)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        if min(images.shape[2:]) < MIN_SIDE:
            raise InputError(
                f"{self.name} needs images of at least {MIN_SIDE} px per side, not {min(images.shape[2:])}"
            )
        # one gray level is added, so that black has a finite density
        density = -torch.log10((images * 255 + 1) / 256)
        return torch.cat([self._stain(density), self._morphology(density)], 1)

    def _stain(self, density: torch.Tensor) -> torch.Tensor:
        pixels = density.flatten(2)
        quantiles = torch.quantile(pixels, self.get_buffer("levels"), dim=2).permute(1, 2, 0).flatten(1)
        centered = pixels - pixels.mean(2, keepdim=True)
        covariance = centered @ centered.transpose(1, 2) / pixels.shape[2]
        spread = covariance.diagonal(dim1=1, dim2=2).clamp(min=1e-8).sqrt()
        pairs = covariance[:, (0, 0, 1), (1, 2, 2)]
        correlations = pairs / (spread[:, (0, 0, 1)] * spread[:, (1, 2, 2)])
        return torch.cat([quantiles / DENSITY_UNIT, spread / DENSITY_UNIT, correlations / CORRELATION_UNIT], 1)

    def _morphology(self, density: torch.Tensor) -> torch.Tensor:
        filters, features = self.get_buffer("filters"), []
        for level in range(NUM_SCALES):
            if level:
                density = functional.avg_pool2d(density, 2)
            single = functional.pad(density.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")
            contrast = functional.conv2d(single, filters).abs().mean((2, 3)).unflatten(0, (-1, 3))
            patterns = [(contrast[..., first] + contrast[..., second]) / 2 for first, second in PATTERNS]
            features.append(torch.stack(patterns, -1).flatten(1) / CONTRAST_UNIT)
        return torch.cat(features, 1)


def _cosine_filters() -> torch.Tensor:
    # (8, 1, 3, 3): the two-dimensional cosine basis (DCT-II), orthonormal, without its constant
    centers = torch.arange(3, dtype=torch.float64) + 0.5
    basis = torch.stack([torch.cos(math.pi * centers * order / 3) for order in range(3)])
    basis = basis / basis.norm(dim=1, keepdim=True)
    filters = torch.einsum("ai,bj->abij", basis, basis).flatten(0, 1)[1:]
    return filters[:, None].float()

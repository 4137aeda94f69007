"""Frozen image encoders, which resize and normalize images as their models require."""

from medi_monai.networks.encoders.base import Encoder, same_encoder
from medi_monai.networks.encoders.build import ENCODERS, build_encoder
from medi_monai.networks.encoders.compressed import CompressedEncoder
from medi_monai.networks.encoders.differentiable import ImageFeatures
from medi_monai.networks.encoders.efficientnet import EfficientNetEncoder
from medi_monai.networks.encoders.embedded import EmbeddedEncoder
from medi_monai.networks.encoders.pretrained import (
    InceptionEncoder,
    ModuleEncoder,
    TimmEncoder,
    TorchScriptEncoder,
)

__all__ = [
    "ENCODERS",
    "CompressedEncoder",
    "EfficientNetEncoder",
    "EmbeddedEncoder",
    "Encoder",
    "ImageFeatures",
    "InceptionEncoder",
    "ModuleEncoder",
    "TimmEncoder",
    "TorchScriptEncoder",
    "build_encoder",
    "same_encoder",
]

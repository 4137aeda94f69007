"""Diffusion UNets conditioned on metadata or captions, classifiers, and frozen encoders."""

from medi_monai.networks.conditioner import MetadataConditioner
from medi_monai.networks.encoders import Encoder, build_encoder
from medi_monai.networks.unet import MetadataDiffusionUNet

__all__ = ["Encoder", "MetadataConditioner", "MetadataDiffusionUNet", "build_encoder"]

"""The metadata conditioner and the UNet that hears it in every residual block."""

from medi_monai.networks.conditioner import MetadataConditioner
from medi_monai.networks.unet import MetadataDiffusionUNet

__all__ = ["MetadataConditioner", "MetadataDiffusionUNet"]

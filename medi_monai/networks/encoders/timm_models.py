"""Published settings of pathology models in timm: architecture, resizing, normalization, pooling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "TIMM_MODELS", "WEIGHT_FILES", "TimmModel", "has_cached_weights"]

#: names of the weights file in a repository; the first that exists is used
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TimmModel:
    """Published settings of a model.

    Args:
        hub: repository on the Hugging Face hub.
        architecture: name in timm.
        dim: number of features.
        interpolation: interpolation of the resize to 224 x 224.
        settings: arguments of ``timm.create_model``.
        gated: whether its blocks have SwiGLU layers, which the JSON on the hub cannot express.
        pool: pooling of tokens; None if timm pools them.
        num_prefix_tokens: number of class and register tokens.
        mean: channel means of the normalization.
        std: channel standard deviations of the normalization.
    """

    hub: str
    architecture: str
    dim: int
    interpolation: str
    settings: Mapping[str, Any]
    gated: bool = False
    pool: str | None = None
    num_prefix_tokens: int = 1
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


#: pathology models by name, all with a resize to 224 x 224
TIMM_MODELS = {
    # Chen et al. 2024
    "uni": TimmModel(
        hub="MahmoodLab/UNI",
        architecture="vit_large_patch16_224",
        dim=1024,
        interpolation="bilinear",
        settings={"img_size": 224, "init_values": 1e-5, "num_classes": 0, "dynamic_img_size": True},
    ),
    "uni2_h": TimmModel(
        hub="MahmoodLab/UNI2-h",
        architecture="vit_giant_patch14_224",
        dim=1536,
        interpolation="bilinear",
        settings={
            "img_size": 224,
            "patch_size": 14,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "num_classes": 0,
            "no_embed_class": True,
            "reg_tokens": 8,
            "dynamic_img_size": True,
        },
        gated=True,
    ),
    # Zimmermann et al. 2024: class token and mean of the patch tokens, which follow four register tokens
    "virchow2": TimmModel(
        hub="paige-ai/Virchow2",
        architecture="vit_huge_patch14_224",
        dim=2560,
        interpolation="bicubic",
        settings={
            "img_size": 224,
            "init_values": 1e-5,
            "num_classes": 0,
            "reg_tokens": 4,
            "mlp_ratio": 5.3375,
            "global_pool": "",
            "dynamic_img_size": True,
        },
        gated=True,
        pool="cls+mean",
        num_prefix_tokens=5,
    ),
    # Saillard et al. 2024; its model card requires 224 x 224 at 0.5 microns per pixel and does not mention resizing
    "h_optimus_0": TimmModel(
        hub="bioptimus/H-optimus-0",
        architecture="vit_giant_patch14_reg4_dinov2",
        dim=1536,
        interpolation="bicubic",
        settings={
            "img_size": 224,
            "init_values": 1e-5,
            "num_classes": 0,
            "global_pool": "token",
            "dynamic_img_size": False,
        },
        mean=(0.707223, 0.578729, 0.703617),
        std=(0.211883, 0.230117, 0.177517),
    ),
}


def has_cached_weights(name: str) -> bool:
    """Return whether the weights of one of :data:`TIMM_MODELS` were downloaded earlier; needs timm."""
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(TIMM_MODELS[name].hub, file), str) for file in WEIGHT_FILES)

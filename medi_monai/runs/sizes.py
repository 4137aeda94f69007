"""Check that the networks and batches of a run fit in memory, before they are created."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medi_monai.utils.sizes import check_memory

__all__ = ["check_sizes", "unet_parameters"]

#: bytes per parameter: float32 weights; in training, also the gradient, two moments of AdamW and the average of weights
BYTES_SAMPLED, BYTES_TRAINED = 4, 20
#: names of settings that are sizes of batches, in any group
BATCHES = ("batch_size", "anchor_batch_size", "pool_size")


def unet_parameters(channels: Sequence[int], num_res_blocks: int | Sequence[int]) -> int:
    """Return a lower bound of the number of parameters of a UNet: the 3 × 3 convolutions of its residual blocks.

    Args:
        channels: number of channels of each level.
        num_res_blocks: number of residual blocks on the way down, of each level or of all; there is one more on the way
            up.
    """
    blocks = [num_res_blocks] * len(channels) if isinstance(num_res_blocks, int) else num_res_blocks
    return sum(18 * width**2 * (2 * count + 1) for width, count in zip(channels, blocks))


def check_sizes(groups: Mapping[str, Any]) -> None:
    """Refuse networks and batches that cannot fit in memory.

    Args:
        groups: checked settings of the run by group.

    Raises:
        InputError: if a network or batch is too large; the message has an estimate of the memory needed.
    """
    values = {name: dict(group) for name, group in groups.items()}
    device = values.get("device", {}).get("device", "cpu")
    network = next((group for group in values.values() if {"channels", "num_res_blocks"} <= set(group)), None)
    trained = any({"accumulation_steps", "tuned"} & set(group) for group in values.values())
    if network is not None and isinstance(network["channels"], list):
        count = unet_parameters(network["channels"], network["num_res_blocks"])
        check_memory(
            f"channels = {network['channels']} and num_res_blocks = {network['num_res_blocks']} make a network of at "
            f"least {count:,} parameters",
            count * (BYTES_TRAINED if trained else BYTES_SAMPLED),
            "Choose fewer channels or blocks.",
            device,
        )
    side = next((group["image_size"] for group in values.values() if "image_size" in group), 0)
    for group in values.values():
        # only in runs that train: the batches of sampling are never larger than the plan
        for name in BATCHES if "max_steps" in group else ():
            if isinstance(group.get(name), int) and isinstance(side, int):
                check_memory(
                    f"{name} = {group[name]:,} with images of {side} × {side} pixels",
                    group[name] * max(side**2, 1) * 4.0,
                    f"Choose a smaller {name}.",
                    device,
                )

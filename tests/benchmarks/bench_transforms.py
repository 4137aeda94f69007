"""How many patches a second the transforms make, on one core and, where there is one, on a GPU.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_transforms.py [--repeats 40] [--batch 64]

Prints the median over the repeats, beside MONAI's and scikit-image's own ways where they have one. On the GPU the
patches come as a batch that is already there, in a CUDA tensor.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.apps.pathology.transforms.stain.array import NormalizeHEStains
from monai.transforms import Compose, RandFlipd, RandRotate90d
from skimage.color import hed2rgb, rgb2hed

from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.cohort.demo.profiles import CENTERS, TUMORS
from medi_monai.wsi.normalization import fit_target
from medi_monai.wsi.pixels import gpu_obstacle
from medi_monai.wsi.transforms import RandStainJitterd, RandSymmetryd, StainNormalized

SIZES = (64, 128, 256)


def demo_field(center: int) -> np.ndarray:
    """``(3, 384, 384)`` uint8 of tissue."""
    rng = np.random.default_rng(center)
    pixels = scan(*draw_stains(TUMORS[0], 512, 0.5, rng), CENTERS[center], 0.5, rng)[64:448, 64:448]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def ours(backend: str) -> dict[str, Callable[[Any], Any]]:
    """Name -> transform of an item."""
    target = fit_target([demo_field(1)], "reinhard")
    return {
        "symmetry": RandSymmetryd("image", backend=backend),
        "jitter, Ruifrok": RandStainJitterd("image", 0.1, backend=backend),
        "jitter, Macenko": RandStainJitterd("image", 0.1, basis="macenko", backend=backend),
        "normalization, Macenko": StainNormalized("image", backend=backend),
        "normalization, Reinhard": StainNormalized("image", target, backend=backend),
    }


def others() -> dict[str, Callable[[Any], Any]]:
    """Name -> the same by MONAI and scikit-image."""
    flips = Compose([RandFlipd("image", 0.5, 0), RandRotate90d("image", 0.75)])
    normalize, scale = NormalizeHEStains(), np.array([1.1, 0.9, 1.05])

    def jitter(item: Any) -> Any:
        return np.rint(hed2rgb(rgb2hed(item["image"], channel_axis=0) * scale[:, None, None], channel_axis=0) * 255)

    return {
        "symmetry, MONAI": flips,
        "jitter, scikit-image": jitter,
        "normalization, MONAI": lambda item: normalize(item["image"].transpose(1, 2, 0)),
    }


def patches_per_second(transform: Callable[[Any], Any], image: Any, repeats: int) -> float:
    """The median over ``repeats`` calls, after a warm-up."""
    on_gpu = isinstance(image, torch.Tensor) and image.is_cuda
    number = 1 if image.ndim == 3 else len(image)
    seconds = []
    for repeat in range(repeats + 3):
        start = time.perf_counter()
        transform({"image": image})
        if on_gpu:
            torch.cuda.synchronize()
        if repeat >= 3:
            seconds.append(time.perf_counter() - start)
    return number / statistics.median(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    field = demo_field(0)
    print(f"{'patches per second':28s}" + "".join(f"{size:>10d} px" for size in SIZES))
    for name, transform in {**ours("cpu"), **others()}.items():
        images = [np.ascontiguousarray(field[:, :size, :size]) for size in SIZES]
        row = [patches_per_second(transform, image, arguments.repeats) for image in images]
        print(f"{name:28s}" + "".join(f"{value:13,.0f}" for value in row), flush=True)
    if gpu_obstacle():
        print(f"no figures for the GPU: {gpu_obstacle()}")
        return
    for name, transform in ours("gpu").items():
        batches = [torch.from_numpy(field[:, :size, :size]).expand(arguments.batch, -1, -1, -1) for size in SIZES]
        row = [patches_per_second(transform, batch.cuda().contiguous(), arguments.repeats) for batch in batches]
        print(f"{name + ', GPU':28s}" + "".join(f"{value:13,.0f}" for value in row), flush=True)


if __name__ == "__main__":
    main()

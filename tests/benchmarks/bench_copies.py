"""How long the search for copies of training images takes, and how many planted copies it finds.

    python tests/benchmarks/bench_copies.py [--images 2500 5000 10000] [--queries 2000] [--side 32]

Patches of hematoxylin and eosin are made of smooth noise. A tenth of the queries are copies that were restained,
shifted and turned; the time should be proportional to the number of images, and the memory should not depend on it.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import torch
from scipy import ndimage

from medi_monai.evaluation.planted import plant_copies
from medi_monai.metrics.copies import CopySearch, structure

#: optical densities of hematoxylin and eosin at two centers
STAINS = (((0.62, 0.66, 0.30), (0.08, 0.52, 0.16)), ((0.80, 0.62, 0.22), (0.16, 0.44, 0.10)))
BLOCK = 512


def make_patches(count: int, side: int, stains: tuple, seed: int) -> np.ndarray:
    """``(N, S, S, 3)`` patches with structures of about a tenth of their side."""
    noise = np.random.default_rng(seed).standard_normal((count, side, side, 2), dtype=np.float32)
    amounts = ndimage.gaussian_filter(noise, (0, side / 20, side / 20, 0), mode="wrap")
    amounts = np.clip(0.6 + amounts / amounts.std() * np.float32((0.35, 0.15)), 0, None)
    return np.rint(250 * np.exp(-np.log(10) * (amounts @ np.array(stains, np.float32)))).astype(np.uint8)


def block_of(start: int, size: int, side: int) -> np.ndarray:
    """Training patches ``start`` to ``start + size``, half of them of each center."""
    return make_patches(size, side, STAINS[start // BLOCK % 2], 1000 + start)


def search(queries: torch.Tensor, count: int, side: int) -> tuple[tuple[float, float], torch.Tensor]:
    """Seconds of the processor for both passes, without those for making patches, and the correlations."""
    made = CopySearch(queries)
    seconds = [0.0, 0.0]
    for start in range(0, count, BLOCK):
        images = structure(block_of(start, min(BLOCK, count - start), side))
        began = time.process_time()
        made.add(images, start)
        seconds[0] += time.process_time() - began
    candidates = made.candidates
    for start in range(0, count, BLOCK):
        numbers = candidates[(candidates >= start) & (candidates < start + BLOCK)]
        if len(numbers):
            images = structure(block_of(start, min(BLOCK, count - start), side)[numbers.numpy() - start])
            began = time.process_time()
            made.verify(images, numbers)
            seconds[1] += time.process_time() - began
    return (seconds[0], seconds[1]), made.result()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, nargs="+", default=[2500, 5000, 10_000], help="numbers of images searched"
    )
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--side", type=int, default=32, help="side of the patches in pixels")
    options = parser.parse_args()
    num_planted = options.queries // 10
    originals = np.concatenate([block_of(start, BLOCK, options.side) for start in (0, BLOCK)])
    originals = originals[:: len(originals) // num_planted][:num_planted]
    centers = ["A"] * (num_planted // 2) + ["B"] * (num_planted - num_planted // 2)
    planted = structure(plant_copies(originals, centers, centers)["combined"])
    others = structure(make_patches(options.queries - num_planted, options.side, STAINS[0], 1))
    for count in options.images:
        (coarse, fine), correlation = search(torch.cat([planted, others]), count, options.side)
        found, chance = correlation[:num_planted], correlation[num_planted:]
        limit = max(0.9, float(chance.quantile(0.99)))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{count:7d} images: {coarse:6.2f} s at low resolution, {fine:6.2f} s by pixels; limit {limit:.3f}, found "
            f"{float((found > limit).float().mean()):.3f} of {num_planted}; peak memory {peak:,.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()

"""How long the measures of fidelity take at the sizes that evaluations have.

    python tests/benchmarks/bench_metrics.py [--images 5000] [--dim 2048] [--pairs 1] [--skip-monai]

The Fréchet distance is timed beside MONAI's ``FIDMetric`` on the same features, one after the other in one run; the
target is a fifth of its time or less. MONAI's takes a minute or two at 2,048 dimensions.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from monai.metrics import FIDMetric

from medi_monai.metrics import (
    Moments,
    frechet_distance,
    frechet_distance_of_moments,
    kernel_distance,
    nearest_neighbors,
    precision_recall,
)


def make_features(count: int, dim: int, shift: float, seed: int) -> torch.Tensor:
    """Features of single precision whose spread falls over four decades, as those of deep networks do."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(0, -2, dim)
    return torch.randn(count, dim, generator=generator) * spread + shift * spread


def timed(name: str, function: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """Seconds by the clock and of the processor, and the result; the latter are steadier where others work."""
    start, start_of_processor = time.perf_counter(), time.process_time()
    result = function()
    seconds = time.perf_counter() - start, time.process_time() - start_of_processor
    print(f"{name:58s} {seconds[0]:8.2f} s by the clock {seconds[1]:8.2f} s of the processor", flush=True)
    return seconds, result


def compare_with_monai(real: torch.Tensor, generated: torch.Tensor, pairs: int) -> None:
    """Print the ratio of the times on the same features, pair by pair, and how far the figures are apart."""
    ratios = []
    for _ in range(pairs):
        ours, distance = timed("frechet_distance", lambda: frechet_distance(real, generated))
        monais, expected = timed("MONAI FIDMetric", lambda: FIDMetric()(generated, real))
        ratios.append([theirs / own for theirs, own in zip(monais, ours)])
    by_clock, of_processor = (statistics.median(column) for column in zip(*ratios))
    apart = abs(distance - float(expected)) / distance
    print(f"MONAI takes {by_clock:.1f} times as long by the clock, {of_processor:.1f} of the processor")
    print(f"distance {distance:.9g}; both are apart by {apart:.1e} of it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--skip-monai", action="store_true")
    options = parser.parse_args()
    real, generated = (make_features(options.images, options.dim, shift, seed) for seed, shift in enumerate((0.0, 0.1)))
    print(f"{options.images:,} x {options.dim:,} features of either set, {torch.get_num_threads()} threads")
    moments = [
        timed("moments of one set", lambda rows=rows: Moments.of(rows))[1]  # type: ignore[misc]
        for rows in (real, generated)
    ]
    timed("frechet_distance_of_moments", lambda: frechet_distance_of_moments(*moments))
    few = options.dim // 4
    timed(
        f"frechet_distance of {few} images (fewer than dimensions)",
        lambda: frechet_distance(real[:few], generated[:few]),
    )
    timed("kernel_distance with its standard error", lambda: kernel_distance(real, generated))
    timed("precision_recall, k = 5", lambda: precision_recall(real, generated))
    timed("nearest_neighbors, k = 5", lambda: nearest_neighbors(generated, real, 5))
    if not options.skip_monai:
        compare_with_monai(real, generated, options.pairs)


if __name__ == "__main__":
    main()

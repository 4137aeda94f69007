"""Peak memory of one update of the aligning, by the steps of the sampler that its gradient goes through.

    python tests/benchmarks/bench_alignment.py [--steps 10 50] [--widths 32 64 64] [--image-size 32] [--batch-size 4]

Prints the most that an update holds at once of what it allocates itself, and the ratio to the fewest steps.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from medi_monai.alignment.settings import AlignmentLosses

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from small_alignment import generator_of, network_of, pool_of, step_of


def peak_bytes(steps: int, rollout: str, widths: list[int], image_size: int, batch_size: int) -> int:
    """Allocations of an update, summed in their order; the highest sum."""
    network = network_of(widths=tuple(widths))
    generator = generator_of(batch_size, steps, image_size=image_size)
    pool = pool_of(generator, network_of(widths=tuple(widths)), size=batch_size)
    update = step_of(
        pool, network, batch_size, AlignmentLosses(subgroup_loss="matching", min_confidence=0.8, rollout=rollout)
    )
    pool.reference(range(batch_size))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        update.backward(1)
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(torch.tensor(sizes).cumsum(0).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 64])
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    count = sum(parameter.numel() for parameter in network_of(widths=tuple(options.widths)).parameters())
    print(f"network of {count:,} parameters, {options.batch_size} images of {options.image_size} px")
    for rollout in ("truncated", "adjusted"):
        peaks = [
            peak_bytes(steps, rollout, options.widths, options.image_size, options.batch_size)
            for steps in options.steps
        ]
        shown = (f"{steps} steps {peak / 2**20:.1f} MiB" for steps, peak in zip(options.steps, peaks))
        print(f"{rollout}: {', '.join(shown)}; ratio {peaks[-1] / peaks[0]:.3f}", flush=True)


if __name__ == "__main__":
    main()

"""How long a training step and a sampling take, as ratios measured side by side in one run.

    python tests/benchmarks/bench_network.py [--pairs 20]

Prints the median ratio of pairs (A then B, A then B, …), with its quartiles, so that a drifting machine cancels out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
from monai.networks.nets import DiffusionModelUNet

from medi_monai.cohort import expand_plan
from medi_monai.cohort.demo import TUMORS, demo_schema
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.generator import ImageGenerator
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.schema import CategoricalColumn, MetadataSchema

WIDTHS = {
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": 3,
    "channels": (32, 64, 64),
    "attention_levels": (False, False, True),
    "num_res_blocks": (2, 2, 1),
    "num_head_channels": 32,
    "norm_num_groups": 16,
    "use_combined_linear": True,
}


def training_step(network: torch.nn.Module, amp: bool, conditions: torch.Tensor | None) -> Callable[[], None]:
    """One step on a batch of 16 patches of 32 px: forward, backward, AdamW."""
    optimizer = torch.optim.AdamW(network.parameters())
    image, timesteps = torch.randn(16, 3, 32, 32), torch.randint(1000, (16,))
    arguments = (timesteps,) if conditions is None else (timesteps, conditions)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            prediction = network(image, *arguments)
        (prediction.float() - image).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(name: str, first: Callable[[], None], second: Callable[[], None], pairs: int) -> None:
    """Print the ratio of the times of ``first`` and ``second``, pair by pair, after a warm-up of each."""
    first(), second()
    ratios, seconds = [], ([], [])
    for pair in range(pairs):
        times = [0.0, 0.0]
        # who comes first alternates, for the second finds a warmer cache
        for index, step in ((0, first), (1, second)) if pair % 2 else ((1, second), (0, first)):
            start = time.perf_counter()
            step()
            times[index] = time.perf_counter() - start
            seconds[index].append(times[index])
        ratios.append(times[0] / times[1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    medians = " / ".join(f"{1e3 * statistics.median(times):.0f} ms" for times in seconds)
    print(
        f"{name}: ratio {middle:.3f} (quartiles {low:.3f} to {high:.3f}, {pairs} pairs; medians {medians})", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    torch.manual_seed(0)
    schema = demo_schema()
    conditions = torch.stack([torch.randint(4, (16,)), torch.randint(8, (16,))], dim=1).float()
    for amp in (False, True):
        ours = training_step(MetadataDiffusionUNet(schema, **WIDTHS), amp, conditions)
        plain = training_step(DiffusionModelUNet(**WIDTHS), amp, None)
        compare(
            f"training step, ours / plain DiffusionModelUNet, {'bfloat16' if amp else 'float32'}", ours, plain, pairs
        )
    network = MetadataDiffusionUNet(schema, **WIDTHS)
    steps = [training_step(network, amp, conditions) for amp in (True, False)]
    compare("training step, bfloat16 / float32", *steps, pairs)

    wide = MetadataSchema(schema.label, (CategoricalColumn("center", tuple(f"{number:02d}" for number in range(16))),))
    network = MetadataDiffusionUNet(wide, **WIDTHS).eval()
    labels = [tumor.project for tumor in TUMORS]
    many = [(label, f"{number:02d}", 4) for label in labels for number in range(16)]
    single = [(labels[0], "00", 256)]
    columns = ["project_id", "center", "count"]
    plans = [expand_plan(pd.DataFrame(rows, columns=columns)) for rows in (many, single)]
    generator = ImageGenerator(wide, NoiseSchedule(), "v", 32, num_steps=10, batch_size=64)

    def sample(rows: pd.DataFrame) -> Callable[[], None]:
        return lambda: [generator.draw(network, batch) for batch in generator.batches(rows)] and None

    compare("sampling, 64 combinations x 4 / 256 images of one", *map(sample, plans), max(3, pairs // 4))


if __name__ == "__main__":
    main()

"""Whether intervals cover and tests hold their level, and what they find, in simulated studies.

``python tests/benchmarks/bench_statistics.py [--studies 400] [--ten 100] [--workers 2]``

Every study draws anew what another one would: centers, combinations, patients, images, and trainings of the generative
model (``tests/helpers/simulated_studies.py``). The real probes are fitted, and two arms are compared as the run
``probing`` compares them. Prints, for each design and null hypothesis, how often the 95 % interval contains no
difference, how often the test finds one (p < 0.05), and the mean standard error next to the standard deviation of the
differences; then for planted differences (two trainings of one recipe, a share of one's images of wrong classes), how
often the interval contains the mean difference of all studies, how often the test finds it, and how often arms are
called equivalent within 0.05. The 95 % interval of a share near 0.95 is 4 percentage points wide with 400 studies.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
from simulated_studies import DEMO, DEMO_TEN, FEW, NULLS, Design, study

from medi_monai.results.probing import Comparison
from medi_monai.utils.workers import map_processes

DESIGNS = {"demo, one training": DEMO, "few: 3 trainings, 4 draws": FEW, "demo, ten trainings": DEMO_TEN}
FIGURES = {"balanced_accuracy": "balanced accuracy", "worst_group_accuracy": "worst group"}
#: shares of wrong classes among the images of the second arm
WRONG = (0.3, 0.5, 0.8)


def simulate(design: Design, null: str, studies: int, workers: int) -> list[dict[str, Comparison]]:
    """Run studies with different seeds in several processes."""
    return list(map_processes(partial(_study, design, null), range(studies), workers, "simulating", "study"))


def _study(design: Design, null: str, seed: int) -> dict[str, Comparison]:
    torch.set_num_threads(1)
    return study(design, null, seed)


def row(name: str, rows: Sequence[Comparison], truth: float | None = None) -> str:
    """Return a row of a table: mean, coverage, rejections, standard errors, and claims of equivalence."""
    values = np.array([one.difference.value for one in rows])
    target = float(values.mean()) if truth is None else truth
    intervals = [one.difference.ci95 for one in rows if one.difference.ci95]
    covered = np.mean([low <= target <= high for low, high in intervals])
    found = np.mean([one.p_value is not None and one.p_value < 0.05 for one in rows])
    equal = [one.p_equivalence is not None and one.p_equivalence < 0.05 for one in rows]
    errors = np.mean([one.standard_error for one in rows if one.standard_error is not None])
    return (
        f"| {name} | {values.mean():+.3f} | {covered:.3f} | {found:.3f} | {np.mean(equal):.3f} | {errors:.3f} | "
        f"{values.std(ddof=1):.3f} | {len(rows)} |"
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="studies of each design and hypothesis")
    parser.add_argument("--ten", type=int, default=100, help="studies with ten trainings, which take ten times as long")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    options = parser.parse_args()
    start = time.time()
    head = "mean | covered | p < 0.05 | equivalent | standard error | deviation | studies |"
    print(f"| design, arms: figure | {head}\n|{'---|' * 8}")
    for name, design in DESIGNS.items():
        count = options.ten if design is DEMO_TEN else options.studies
        planted = [(f"{wrong:.0%} wrong", "trainings", wrong, None) for wrong in WRONG]
        for title, null, wrong, truth in [*((null, null, 0.0, 0.0) for null in NULLS), *planted]:
            found = simulate(replace(design, wrong=wrong), null, count, options.workers)
            for figure, of_figure in FIGURES.items():
                print(row(f"{name}, {title}: {of_figure}", [one[figure] for one in found], truth), flush=True)
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()

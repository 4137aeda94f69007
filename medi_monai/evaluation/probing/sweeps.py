"""Summarize the draws of sweeps: accuracy by amount of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medi_monai.evaluation.probing.draws import Draw, arms_of, floats, mean_and_interval
from medi_monai.results import Finding
from medi_monai.results.probing import SweepPoint

__all__ = ["sweep_points", "without_added"]

#: titles of the comparisons that draws belong to
SWEEP_WORDS = {
    "main": "Comparison of arms",
    "ratio": "Sweep over the number of generated images",
    "real_per_class": "Sweep over the number of real images",
    "num_centers": "Sweep over the number of centers",
    "correlation": "Correlation of class and center",
}


def sweep_points(
    draws: Sequence[Draw], sweep: str, trainings: Mapping[str, Sequence[str]] | None = None
) -> tuple[SweepPoint, ...]:
    """Return one row per point and arm of a sweep, with points in ascending order.

    Args:
        draws: all draws.
        sweep: name of the sweep.
        trainings: for each arm with generated images, the names of its trainings in the draws.
    """
    rows = []
    for point in sorted({draw.point for draw in draws if draw.sweep == sweep and draw.point is not None}):
        at_point = [draw for draw in draws if draw.sweep == sweep and draw.point == point]
        for arm, names in arms_of(at_point[0], trainings).items():
            of_arm = [[draw.arms[name] for draw in at_point] for name in names]
            (balanced, of_balanced, _), (worst, of_worst, _) = (
                mean_and_interval(np.array([floats(draw.scores.figures.get(name) for draw in row) for row in of_arm]))
                for name in ("balanced_accuracy", "worst_group_accuracy")
            )
            num_real, num_added = (
                float(np.mean([getattr(draw.training, name) for row in of_arm for draw in row]))
                for name in ("num_real", "num_added")
            )
            counts = len(at_point), len(names)
            rows.append(SweepPoint(point, arm, *counts, balanced, of_balanced, worst, of_worst, num_real, num_added))
    return tuple(rows)


def without_added(draws: Sequence[Draw], synthetic: Sequence[str]) -> list[Finding]:
    """Return an error for each comparison with draws that added no generated images.

    In these draws, the arms are identical to training on the real images alone.

    Args:
        draws: all draws.
        synthetic: arms that add generated images.
    """
    findings = []
    for sweep, words in SWEEP_WORDS.items():
        by_draw = [[draw.arms[arm].training.num_added for arm in synthetic if arm in draw.arms] for draw in draws
                   if draw.sweep == sweep]  # fmt: skip
        counts = [max(added) for added in by_draw if added]
        empty = counts.count(0)
        if empty:
            share = "all" if empty == len(counts) else f"{empty:,} of {len(counts):,}"
            text = (
                f"{words}: no generated image was added in {share} draws, because an arm has none of some class (from "
                "these centers), or because the ratio asks for less than one image per class. In these draws, arms "
                "with generated images equal the real images alone, whatever the figures say."
            )
            findings.append(Finding("error", text, {"draws": empty, "of": len(counts)}, "no_image_added"))
    return findings

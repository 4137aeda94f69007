"""Several seeds of one tuning, evaluated together: means whose intervals contain the variance between seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from medi_monai.metrics.components import Estimate, Source
from medi_monai.metrics.resampling import Z95
from medi_monai.utils.errors import InputError

__all__ = ["Folders", "expand_seeds", "pool_figures", "pool_seeds", "seed_results"]

#: folder of an arm, or one for each seed
Folders: TypeAlias = Mapping[str, str | os.PathLike | Sequence[str | os.PathLike]]
#: key of figures that are ratios, which are averaged as logarithms
RATIO = "ratio"


def expand_seeds(folders: Folders) -> tuple[dict[str, str | os.PathLike], dict[str, list[str]]]:
    """Return one arm for each folder, and the names of the arms that are seeds of one, by its name.

    Args:
        folders: folder by arm, or a list of them, one for each seed; of ``before``, the untuned model, there is one.

    Returns:
        Folders by arm, where the seeds of ``after`` are named ``after``, ``after 2``, …; and these names for each arm
        with several.

    Raises:
        InputError: for an empty list, a folder that is listed twice, or several folders of ``before``.
    """
    expanded: dict[str, str | os.PathLike] = {}
    seeds: dict[str, list[str]] = {}
    for arm, given in folders.items():
        if not isinstance(given, (list, tuple)):
            expanded[arm] = given  # type: ignore[assignment]
            continue
        if not given or len(set(map(str, given))) < len(given):
            raise InputError(f"arms = {given!r} for {arm!r}: give a list of different folders, one for each seed")
        if arm == "before" and len(given) > 1:
            raise InputError(f"arms = {given!r} for 'before': give one folder, as all seeds tune the same model")
        names = [arm, *(f"{arm} {number}" for number in range(2, len(given) + 1))]
        expanded |= dict(zip(names, given))
        if len(names) > 1:
            seeds[arm] = names
    return expanded, seeds


def pool_seeds(figures: Any, seeds: Mapping[str, Sequence[str]]) -> Any:
    """Replace the figures of the seeds of an arm by their means, wherever a mapping has all of them as keys.

    Args:
        figures: fields of :class:`medi_monai.results.alignment.AlignmentMetrics`, as nested mappings and lists.
        seeds: names of the seeds of each arm, the first of which is the arm.
    """
    if isinstance(figures, (list, tuple)):
        return [pool_seeds(item, seeds) for item in figures]
    if not isinstance(figures, Mapping):
        return figures
    pooled = dict(figures)
    for arm, names in seeds.items():
        if set(names) <= set(pooled):
            pooled[arm] = _mean([figures[name] for name in names])
        for name in names[1:]:
            pooled.pop(name, None)
    return {name: pool_seeds(value, seeds) for name, value in pooled.items()}


def _mean(items: Sequence[Any], key: str = "") -> Any:
    """Return the mean of equally built items: figures with intervals, numbers, counts (summed), or mappings of them."""
    first = items[0]
    if any(item is None for item in items):
        return None
    if isinstance(first, Mapping):
        rest = {name: _mean([item[name] for item in items], name) for name in first if name not in ("value", "ci95")}
        return {**rest, **pool_figures(items, key == RATIO)} if "ci95" in first else rest
    if isinstance(first, bool):
        return all(items)
    if isinstance(first, int):
        return sum(items)
    return float(np.mean(items)) if isinstance(first, float) else first


def pool_figures(figures: Sequence[Mapping[str, Any]], is_ratio: bool = False) -> dict[str, Any]:
    """Return the mean of a figure over seeds, with an interval for another seed's mean and other images.

    The variance of the mean is the variance between seeds, divided by their number, plus the mean variance within a
    seed, in full: all seeds are compared with the same real images and judged by the same classifier, so that these
    errors do not average out (Rubin 1987, with the images in the place of imputed data). The interval is by Student's t
    with the degrees of freedom of Satterthwaite (1946).

    Args:
        figures: ``value`` and ``ci95`` of each seed.
        is_ratio: whether the logarithms are averaged.

    Returns:
        ``value`` and ``ci95``; None if the figure of a seed is undefined, and no interval if that of a seed is.
    """
    values, intervals = ([figure[name] for figure in figures] for name in ("value", "ci95"))
    if any(value is None or (is_ratio and value <= 0) for value in values):
        return {"value": None, "ci95": None}
    scaled = np.log(values) if is_ratio else np.asarray(values, float)
    center = float(scaled.mean())
    interval = None
    if all(edges is not None and (not is_ratio or edges[0] > 0) for edges in intervals):
        edges = np.log(intervals) if is_ratio else np.asarray(intervals, float)
        within = float((((edges[:, 1] - edges[:, 0]) / (2 * Z95)) ** 2).mean())
        between = float(scaled.var(ddof=1)) / len(scaled)
        sources = {"images": Source(within, math.inf), "seeds": Source(between, len(scaled) - 1)}
        found = Estimate(center, sources).interval()
        interval = None if found is None else _clipped(found, edges)
    if not is_ratio:
        return {"value": center, "ci95": interval}
    return {"value": math.exp(center), "ci95": interval and [math.exp(edge) for edge in interval]}


def _clipped(interval: tuple[float, float], edges: np.ndarray) -> list[float]:
    # shares and distances keep the bounds that the intervals of all seeds keep
    low, high = interval
    return [max(low, 0.0) if (edges[:, 0] >= 0).all() else low, min(high, 1.0) if (edges[:, 1] <= 1).all() else high]


def seed_results(
    figures: Mapping[str, Any], seeds: Mapping[str, Sequence[str]], part: str
) -> dict[str, dict[str, Any]]:
    """Return the distance to the target and the ratios of Fréchet distances of every seed, for each arm with several.

    Args:
        figures: figures before :func:`pool_seeds`.
        seeds: names of the seeds of each arm.
        part: part of the target on which the verdict is based.
    """
    return {
        arm: {
            "distance_to_target": [
                figures["distance_to_target"][name][part]["total_variation"]["value"] for name in names
            ],
            "frechet_ratio": {
                group: [fidelity["arms"][name][RATIO]["value"] for name in names]
                for group, fidelity in figures["fidelity"].items()
            },
        }
        for arm, names in seeds.items()
    }

"""Diversity of the images of a group, of structure and of features."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from medi_monai.cohort.reading import PatchReader
from medi_monai.evaluation.embedding import ImageSets, draw_name
from medi_monai.metrics import figure, ms_ssim_diversity, normal_interval
from medi_monai.utils.seeding import seed_from

__all__ = [
    "DiversitySettings",
    "diversity",
    "feature_spread",
    "mean_diversity",
    "ratio_of_diversity",
    "relative_variance",
]


@dataclass(frozen=True)
class DiversitySettings:
    """Sample sizes for the diversity of a group.

    Args:
        num_images: number of images whose structure is compared.
        num_pairs: number of pairs of these images.
        num_spread: number of images whose features are compared pairwise; 0 omits features.
        min_images: number of images below which diversity is not computed, because its interval would be unreliable.
        seed: seed of the selection.
        pixel_variance: whether to compute the variance of pixels among the images.
    """

    num_images: int
    num_pairs: int
    num_spread: int = 0
    min_images: int = 0
    seed: int = 0
    pixel_variance: bool = False


def diversity(
    sets: ImageSets, groups: Iterable[int], image_size: int, settings: DiversitySettings
) -> dict[int, dict[str, dict[str, Any]]]:
    """Compute the diversity of every set within groups.

    Args:
        sets: sets of real images and of the images of each arm.
        groups: indices of the groups to evaluate.
        image_size: side of the images in pixels.
        settings: sample sizes.

    Returns:
        By group and set, ``ms_ssim`` (1 minus the mean structural similarity) and, if requested, ``pixel_variance``
        (mean over pixels and channels, in squared gray levels) and ``features`` (mean distance between two images), as
        figures.
    """
    measured: dict[int, dict[str, dict[str, Any]]] = {group: {} for group in groups}
    for name, images in sets.images.items():
        source = PatchReader(images, image_size)
        for group, by_name in measured.items():
            rng = np.random.default_rng(seed_from("diversity", settings.seed, draw_name(sets.names[group])))
            rows = rng.permutation(sets.rows[name][group])[: max(settings.num_images, settings.num_spread)]
            by_name[name] = _diversity_of_rows(source, sets.features[name], rows, settings)
        source.close()
    return measured


def _diversity_of_rows(
    source: PatchReader, features: np.ndarray, rows: np.ndarray, settings: DiversitySettings
) -> dict[str, dict[str, Any]]:
    enough = len(rows) >= settings.min_images
    nothing = figure(None, n=len(rows))
    measures = {"ms_ssim": dict(nothing)}
    if settings.pixel_variance:
        measures["pixel_variance"] = dict(nothing)
    if enough and min(len(rows), settings.num_images) >= 2:
        pixels = np.stack(source.read(rows[: settings.num_images].tolist()))
        measures["ms_ssim"] = _structure(pixels, settings)
        if settings.pixel_variance:
            variance = float(pixels.var(axis=0, dtype=np.float64, ddof=1).mean())
            measures["pixel_variance"] = figure(variance, n=len(pixels))
    if settings.num_spread:
        measures["features"] = feature_spread(np.asarray(features[rows])) if enough else dict(nothing)
    return measures


def _structure(pixels: np.ndarray, settings: DiversitySettings) -> dict[str, Any]:
    measured = ms_ssim_diversity(pixels.transpose(0, 3, 1, 2), settings.num_pairs, settings.seed)
    return _with_error(measured["value"], measured["standard_error"], len(pixels))


def mean_diversity(by_group: Mapping[int, Mapping[str, Mapping[str, Any]]], name: str) -> dict[str, Any]:
    """Return the mean structural diversity of a set over groups; ``n`` is the number of groups.

    Args:
        by_group: result of :func:`diversity`.
        name: name of the set.
    """
    values = [measures[name]["ms_ssim"]["value"] for measures in by_group.values()]
    known = [value for value in values if value is not None]
    return figure(float(np.mean(known)) if known else None, n=len(known))


def relative_variance(by_group: Mapping[int, Mapping[str, Mapping[str, Any]]], name: str) -> dict[str, Any]:
    """Return the pixel variance of a set as a multiple of that of the set ``real``, averaged over groups.

    Args:
        by_group: result of :func:`diversity`, with ``pixel_variance``.
        name: name of the set.
    """
    pairs = [
        (measures[name]["pixel_variance"]["value"], measures["real"]["pixel_variance"]["value"])
        for measures in by_group.values()
    ]
    ratios = [value / of_real for value, of_real in pairs if value is not None and of_real]
    return figure(float(np.mean(ratios)) if ratios else None, n=len(ratios))


def feature_spread(features: np.ndarray) -> dict[str, Any]:
    """Return the mean Euclidean distance between two different images, with an interval.

    It is a U-statistic: its variance is four times that of the mean distance of an image to the others, divided by the
    number of images (Hoeffding 1948).

    Args:
        features: ``(N, D)`` features; undefined for fewer than two images.
    """
    n = len(features)
    if n < 2:
        return figure(None, n=n)
    rows = torch.from_numpy(np.asarray(features, np.float64))
    of_image = (torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1) / (n - 1)).numpy()
    error = 2 * float(of_image.std(ddof=1)) / math.sqrt(n) if n > 2 else None
    return _with_error(float(of_image.mean()), error, n)


def _with_error(value: float | None, error: float | None, n: int) -> dict[str, Any]:
    measured = figure(value, n=n)
    if measured["value"] is not None and error is not None:
        measured["ci95"] = normal_interval(measured["value"], error, lowest=0.0)
    return measured


def ratio_of_diversity(measured: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ratio of two figures of diversity with a 95 % interval; undefined if either figure is undefined."""
    # delta method on a log scale, assuming that images of the two arms are independent
    n = min(measured["n"] or 0, base["n"] or 0)
    if not measured["value"] or not base["value"]:
        return figure(None, n=n)
    ratio = measured["value"] / base["value"]
    if measured is base or measured["ci95"] is None or base["ci95"] is None:
        return figure(ratio, n=n)
    errors = [(spread["ci95"][1] - spread["value"]) / spread["value"] for spread in (measured, base)]
    half = math.hypot(*errors)
    return {"value": ratio, "ci95": [ratio * math.exp(-half), ratio * math.exp(half)], "n": n}

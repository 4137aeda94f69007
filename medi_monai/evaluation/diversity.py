"""How unlike each other the images of a group are, by structure and by features."""

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

__all__ = ["DiversitySettings", "diversity", "feature_spread", "mean_diversity", "ratio_of_diversity"]


@dataclass(frozen=True)
class DiversitySettings:
    """How much of a group is looked at.

    Args:
        num_images: whose structure is compared.
        num_pairs: of them.
        num_spread: images between whose features all distances are taken; 0 leaves features out.
        min_images: of fewer there is no figure, for the interval would be a guess.
        seed: of the choice.
    """

    num_images: int
    num_pairs: int
    num_spread: int = 0
    min_images: int = 0
    seed: int = 0


def diversity(
    sets: ImageSets, groups: Iterable[int], image_size: int, settings: DiversitySettings
) -> dict[int, dict[str, dict[str, Any]]]:
    """The diversity of every set within groups.

    Args:
        sets: real images and those of each arm.
        groups: numbers of those that are looked at.
        image_size: side in pixels.
        settings: see :class:`DiversitySettings`.

    Returns:
        By group and name of the set ``ms_ssim`` (1 less the mean structural similarity) and, where asked for,
        ``features`` (mean distance of two images) as figures.
    """
    measured: dict[int, dict[str, dict[str, Any]]] = {group: {} for group in groups}
    for name, images in sets.images.items():
        source = PatchReader(images, image_size)
        for group, by_name in measured.items():
            rng = np.random.default_rng(seed_from("diversity", settings.seed, draw_name(sets.names[group])))
            rows = rng.permutation(sets.rows[name][group])[: max(settings.num_images, settings.num_spread)]
            by_name[name] = _of_rows(source, sets.features[name], rows, settings)
        source.close()
    return measured


def _of_rows(
    source: PatchReader, features: np.ndarray, rows: np.ndarray, settings: DiversitySettings
) -> dict[str, dict[str, Any]]:
    enough = len(rows) >= settings.min_images
    nothing = figure(None, n=len(rows))
    measures = {"ms_ssim": _structure(source, rows[: settings.num_images], settings) if enough else dict(nothing)}
    if settings.num_spread:
        measures["features"] = feature_spread(np.asarray(features[rows])) if enough else dict(nothing)
    return measures


def _structure(source: PatchReader, rows: np.ndarray, settings: DiversitySettings) -> dict[str, Any]:
    if len(rows) < 2:
        return figure(None, n=len(rows))
    pixels = np.stack(source.read(rows.tolist())).transpose(0, 3, 1, 2)
    measured = ms_ssim_diversity(pixels, settings.num_pairs, settings.seed)
    return _with_error(measured["value"], measured["standard_error"], len(rows))


def mean_diversity(by_group: Mapping[int, Mapping[str, Mapping[str, Any]]], name: str) -> dict[str, Any]:
    """The mean structural diversity of a set over groups, ``n`` of them."""
    values = [measures[name]["ms_ssim"]["value"] for measures in by_group.values()]
    known = [value for value in values if value is not None]
    return figure(float(np.mean(known)) if known else None, n=len(known))


def feature_spread(features: np.ndarray) -> dict[str, Any]:
    """Mean Euclidean distance of two different images, with an interval.

    It is a U-statistic: its variance is four times that of the mean distance of an image to the others, by the number
    of images (Hoeffding 1948).

    Args:
        features: ``(N, D)``; undefined for fewer than two images.
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
    """The ratio of two figures of diversity, undefined where either is."""
    # by the delta method on a scale of logarithms; images of the two arms are taken as independent
    n = min(measured["n"] or 0, base["n"] or 0)
    if not measured["value"] or not base["value"]:
        return figure(None, n=n)
    ratio = measured["value"] / base["value"]
    if measured is base or measured["ci95"] is None or base["ci95"] is None:
        return figure(ratio, n=n)
    errors = [(spread["ci95"][1] - spread["value"]) / spread["value"] for spread in (measured, base)]
    half = math.hypot(*errors)
    return {"value": ratio, "ci95": [ratio * math.exp(-half), ratio * math.exp(half)], "n": n}

"""Distances between generated and real images by group, at matched counts, with real-to-real distances as a floor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medi_monai.cohort.groups import rows_by_group
from medi_monai.evaluation.embedding import GroupName, ImageSets, draw_name
from medi_monai.evaluation.settings import FidelitySettings
from medi_monai.metrics import (
    FEWEST_PATIENTS,
    Moments,
    draw_patients,
    figure,
    frechet_distance,
    frechet_distance_of_moments,
    interval_around,
    kernel_distance,
    mean_interval,
    normal_interval,
    precision_recall,
)
from medi_monai.utils.seeding import seed_from

__all__ = [
    "DISTANCES",
    "FLOOR",
    "SHARES",
    "FidelitySettings",
    "ImageGroup",
    "combination_figures",
    "compare_group",
    "compare_sets",
    "distance_of_all",
    "halve_by_patient",
    "pooled_distances",
    "summarize",
]

#: name of the comparison of one half of the real images with the other
FLOOR = "floor"
DISTANCES = ("frechet_distance", "kernel_distance")
SHARES = ("precision", "recall", "density", "coverage")


@dataclass(frozen=True)
class ImageGroup:
    """Images of a group: a combination of label and attributes, or a subgroup.

    Args:
        name: label and attribute values, or name of the subgroup.
        seen: whether the group occurs in the training data of the generative models.
        real: features of real images.
        patients: patients of the real images.
        generated: features of generated images by arm.
    """

    name: tuple[str, ...]
    seen: bool
    real: np.ndarray
    patients: np.ndarray
    generated: Mapping[str, np.ndarray]


def compare_sets(
    sets: ImageSets, group: int, settings: FidelitySettings, arms: Sequence[str] | None = None, seen: bool = True
) -> dict[str, Any]:
    """Compare a group by :func:`compare_group`, with at most ``max_images`` images per arm and four times as many real.

    The result's ``counts`` are the numbers of images before this limit.

    Args:
        sets: sets of real images and of the images of each arm.
        group: index of the group.
        settings: settings of the comparison.
        arms: arms to compare, at the same number of images; by default all.
        seen: whether the group occurs in the training data of the generative models.
    """
    name = sets.names[group]
    values = (name,) if isinstance(name, str) else name
    chosen = {arm: _choose(sets.rows[arm][group], name, settings) for arm in (sets.arms if arms is None else arms)}
    real = _choose(sets.rows[sets.real][group], name, settings, 4)
    if not len(real) or not any(map(len, chosen.values())):
        result = _no_figures(values, seen)
    else:
        generated = {arm: np.asarray(sets.features[arm][rows]) for arm, rows in chosen.items()}
        features = np.asarray(sets.features[sets.real][real])
        result = compare_group(ImageGroup(values, seen, features, sets.patients[real], generated), settings)
    return {**result, "counts": sets.counts(group)}


def _no_figures(name: tuple[str, ...], seen: bool) -> dict[str, Any]:
    return {
        "name": name,
        "seen": seen,
        "matched": 0,
        "arms": {},
        "one_patient": False,
        "few_patients": False,
        "drawn": [],
    }


def _choose(rows: np.ndarray, name: GroupName, settings: FidelitySettings, times: int = 1) -> np.ndarray:
    # memory is bounded for any number of images
    most = settings.max_images * times
    if len(rows) <= most:
        return rows
    rng = np.random.default_rng(seed_from("choice", settings.seed, draw_name(name), len(rows)))
    return rows[np.sort(rng.choice(len(rows), most, replace=False))]


def compare_group(images: ImageGroup, settings: FidelitySettings) -> dict[str, Any]:
    """Compute all fidelity figures of a group.

    The real images are divided in half by patient. The images of each arm are compared with one half, and so is the
    other half: this is the floor, the distance between images of the same hospital and class but of other patients.
    Every comparison is between sets of ``matched`` images, the number available in all of them.

    Args:
        images: features of real and generated images.
        settings: settings of the comparison.

    Returns:
        ``name``, ``seen`` and ``counts``; ``matched`` (0 if there are too few images, in which case there are no
        figures); ``arms``: figures of each arm and of ``floor``, each with a ``value``, the Fréchet distance also with
        ``replicates``, and the kernel distance with ``standard_error``; ``one_patient``: whether both halves are from
        the same, only patient, which makes the floor too low; ``few_patients``: whether a half has fewer than
        :data:`medi_monai.metrics.FEWEST_PATIENTS`; ``drawn``: for each half and set, the features and row
        numbers of the matched images, for :func:`pooled_distances`.
    """
    rng = np.random.default_rng(seed_from("fidelity", settings.seed, list(images.name)))
    halves = [halve_by_patient(images.patients, rng) for _ in range(settings.num_halves)]
    sizes = [len(half) for pair in halves for half in pair] + [len(rows) for rows in images.generated.values()]
    matched = min([settings.max_images, *sizes])
    counts = {"real": len(images.real), **{arm: len(rows) for arm, rows in images.generated.items()}}
    if matched < settings.min_images:
        return {**_no_figures(images.name, images.seen), "counts": counts}
    result: dict[str, Any] = {"name": images.name, "seen": images.seen, "counts": counts, "matched": matched}
    drawn = []
    for first, second in halves:
        sets = {"reference": (images.real, rng.choice(first, matched, replace=False))}
        sets[FLOOR] = images.real, rng.choice(second, matched, replace=False)
        for arm, rows in images.generated.items():
            sets[arm] = rows, rng.choice(len(rows), matched, replace=False)
        drawn.append(sets)
    names = [FLOOR, *images.generated]
    arms = {name: _figures(drawn, name, images.patients, settings.neighbors) for name in names}
    for name, replicates in _replicates(images, halves, matched, settings.num_replicates, rng).items():
        arms[name]["frechet_distance"]["replicates"] = replicates
    num_patients = [len(np.unique(images.patients[half])) for pair in halves for half in pair]
    told = {
        "one_patient": len(np.unique(images.patients)) == 1,
        "few_patients": min(num_patients) < FEWEST_PATIENTS,
    }
    return {**result, "arms": arms, "drawn": drawn, **told}


def _rows(drawn: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    features, rows = drawn
    return features[rows]


def halve_by_patient(patients: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divide images in two halves of about the same size that share no patient.

    Patients go to the half with fewer images; images of a single patient are divided individually.

    Args:
        patients: ``(N,)`` patient of every image.
        rng: random generator.

    Returns:
        Row numbers of the two halves.
    """
    names, codes = np.unique(patients, return_inverse=True)
    members = rows_by_group(codes)
    if len(names) == 1:
        order = rng.permutation(len(patients))
        return order[: len(order) // 2], order[len(order) // 2 :]
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    order = rng.permutation(len(names))
    # large patients first, because a large last one would unbalance the halves; random among those of similar size
    order = order[np.argsort(-np.floor(np.log2(np.bincount(codes)[order])), kind="stable")]
    for patient in order:
        halves[int(sum(map(len, halves[0])) > sum(map(len, halves[1])))].append(members[patient])
    first, second = (np.concatenate(half) for half in halves)
    return (first, second) if rng.random() < 0.5 else (second, first)


def _figures(
    drawn: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]], name: str, patients: np.ndarray, k: int
) -> dict[str, Any]:
    pairs = [(_rows(sets["reference"]), _rows(sets[name])) for sets in drawn]
    kernel = []
    for sets, (real, other) in zip(drawn, pairs):
        # images of one patient are not independent; generated images are
        floor_patients = patients[sets[name][1]] if name == FLOOR else None
        kernel.append(kernel_distance(real, other, 3, patients[sets["reference"][1]], floor_patients))
    shares = [precision_recall(real, other, k) for real, other in pairs]
    return {
        "frechet_distance": {"value": float(np.mean([frechet_distance(real, other) for real, other in pairs]))},
        "kernel_distance": {
            "value": float(np.mean([half.value for half in kernel])),
            # halves share images, so their errors do not average out
            "standard_error": float(np.mean([half.standard_error for half in kernel])),
        },
        **{name: {"value": float(np.mean([half[name] for half in shares]))} for name in SHARES},
    }


def _replicates(
    images: ImageGroup,
    halves: Sequence[tuple[np.ndarray, np.ndarray]],
    matched: int,
    num_replicates: int,
    rng: np.random.Generator,
) -> dict[str, list[float]]:
    # patients of either half and generated images are resampled with replacement
    replicates: dict[str, list[float]] = {name: [] for name in (FLOOR, *images.generated)}
    for number in range(num_replicates):
        first, second = (
            half[rng.choice(draw_patients(images.patients[half], rng), matched)]
            for half in halves[number % len(halves)]
        )
        reference = images.real[first]
        replicates[FLOOR].append(frechet_distance(reference, images.real[second]))
        for arm, rows in images.generated.items():
            replicates[arm].append(frechet_distance(reference, rows[rng.choice(len(rows), matched)]))
    return replicates


def pooled_distances(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for each arm, the Fréchet distance of several pooled combinations, each with its matched images.

    This corresponds to the paper's distance of a class, but with equal weights of combinations on both sides.

    Args:
        results: results of :func:`compare_group`.
    """
    usable = [result for result in results if result["matched"]]
    if not usable:
        return {}
    halves = range(len(usable[0]["drawn"]))
    pooled: dict[str, dict[str, Any]] = {}
    for arm in usable[0]["arms"]:
        values = []
        for half in halves:
            sets = [result["drawn"][half] for result in usable]
            real, other = (np.concatenate([_rows(drawn[name]) for drawn in sets]) for name in ("reference", arm))
            values.append(frechet_distance(real, other))
        n = sum(result["matched"] for result in usable)
        interval = [min(values), max(values)] if len(values) > 1 else None
        pooled[arm] = {"value": float(np.mean(values)), "ci95": None, "range_over_halves": interval, "n": n}
    return pooled


def summarize(results: Sequence[Mapping[str, Any]], arm: str, metric: str) -> dict[str, Any]:
    """Average a metric of an arm over combinations, with an interval if there are replicates or standard errors.

    If some combination has few patients, resampling them does not tell how much others would differ; the interval of
    the Fréchet distance is then Student's over combinations, and a single such combination has none.

    Args:
        results: results of :func:`compare_group`; those without matched images are ignored.
        arm: name of the arm, or :data:`FLOOR`.
        metric: one of :data:`DISTANCES` and :data:`SHARES`.

    Returns:
        ``value``, ``ci95``, ``n`` (total number of matched images) and ``num_combinations``.
    """
    usable = [result for result in results if result["matched"] and arm in result["arms"]]
    figures = [result["arms"][arm][metric] for result in usable]
    n = sum(result["matched"] for result in usable)
    if not figures:
        return {"value": None, "ci95": None, "n": 0, "num_combinations": 0}
    value = float(np.mean([result["value"] for result in figures]))
    interval = None
    if "replicates" in figures[0] and any(result["few_patients"] for result in usable):
        interval = mean_interval([result["value"] for result in figures], lowest=0.0)
    elif "replicates" in figures[0]:
        interval = interval_around(value, np.mean([result["replicates"] for result in figures], axis=0), lowest=0.0)
    elif "standard_error" in figures[0]:
        error = math.sqrt(sum(result["standard_error"] ** 2 for result in figures)) / len(figures)
        # there is no standard error for two images, or if nearly all images are of one patient
        interval = normal_interval(value, error)
    return {"value": value, "ci95": interval, "n": n, "num_combinations": len(figures)}


def combination_figures(
    results: Iterable[Mapping[str, Any]], columns: Sequence[str], arm: str, metric: str
) -> list[dict]:
    """Return one row per combination, with a metric of an arm, its floor, and the number of images in each set."""
    rows = []
    for result in results:
        rows.append(
            {
                **summarize([result], arm, metric),
                "values": dict(zip(columns, result["name"])),
                "floor": summarize([result], FLOOR, metric)["value"],
                **{name: result[name] for name in ("seen", "counts", "one_patient")},
            }
        )
    return rows


def distance_of_all(real: Moments, generated: Moments) -> dict[str, Any]:
    """Return the Fréchet distance of all images pooled, regardless of their mixture, as usually reported in papers."""
    value = frechet_distance_of_moments(real, generated) if min(real.count, generated.count) > 1 else None
    return figure(value, n=generated.count)

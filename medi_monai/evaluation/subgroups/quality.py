"""Whether a tuning costs quality: distances to real images of the target and of each subgroup, and diversity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment.functional import subset_counts
from medi_monai.alignment.functional.targets import Part
from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import codes_of, stable_order
from medi_monai.cohort.reading import PatchReader
from medi_monai.evaluation.fidelity import (
    DISTANCES,
    FLOOR,
    SHARES,
    Combination,
    FidelitySettings,
    compare_combination,
    summarize,
)
from medi_monai.metrics import figure, interval_around, ms_ssim_diversity, normal_interval
from medi_monai.utils.seeding import seed_from

__all__ = ["ALL", "diversity", "feature_spread", "fidelity", "target_rows"]

#: the arms that the answer is about
ANSWER = ("before", "after")
#: the name of all images together
ALL = "all"
#: images of a subgroup whose diversity is measured, and pairs of them
DIVERSITY_IMAGES, DIVERSITY_PAIRS = 200, 400
#: images of a subgroup between whose features all distances are taken
SPREAD_IMAGES = 500


def target_rows(codes: np.ndarray, shares: np.ndarray, order: np.ndarray, seed: int = 0) -> np.ndarray:
    """Rows drawn without repetition so that subgroups have the shares of the target, as many as there can be.

    Args:
        codes: ``(N,)`` subgroup of every row, -1 for unknown.
        shares: ``(G,)`` that sum to 1.
        order: ``(N,)`` rows in an order that does not depend on that of the table.
        seed: of the choice.

    Returns:
        Sorted row numbers; none where a subgroup that is wanted has no row.
    """
    available = np.bincount(codes[codes >= 0], minlength=len(shares))
    chosen = []
    for group, count in enumerate(subset_counts(available, shares)):
        rows = order[codes[order] == group]
        rng = np.random.default_rng(seed_from("target rows", seed, group))
        chosen.append(rng.permutation(rows)[:count])
    return np.sort(np.concatenate(chosen))


def fidelity(
    features: Mapping[str, np.ndarray],
    tables: Mapping[str, pd.DataFrame],
    codes: Mapping[str, np.ndarray],
    part: Part,
    settings: FidelitySettings,
) -> dict[str, Any]:
    """Distances of every arm to real images, of all in the shares of the target, and within each subgroup.

    Args:
        features: of the arms by name, and of ``reference``, the real images.
        tables: of the same.
        codes: subgroups of the same: of generated images as read, of real ones as known.
        part: of the target.
        settings: see :class:`FidelitySettings`. An arm with fewer than ``min_images`` of a subgroup has no figure of it
            and takes none from the others; a further arm with fewer than ``before`` and ``after`` can be matched at is
            compared beside ``before`` alone, at its own count.

    Returns:
        By ``all`` and subgroup: ``matched`` images of ``before`` and ``after``, ``counts``, ``floor`` (figures of real
        against real images) and ``arms``: name to figures, with ``ratio``, that of the Fréchet distance to that of
        ``before``, whose interval is of replicates paired by the real images.
    """
    orders = {name: stable_order(table) for name, table in tables.items()}
    patients = codes_of(tables["reference"], ["patient"])[0]
    balanced = target_rows(codes["reference"], part.target, orders["reference"], settings.seed)
    found = {}
    for group in (ALL, *range(len(part.values))):
        name = part.values[group] if isinstance(group, int) else ALL
        rows = {arm: order[codes[arm][order] == group] if isinstance(group, int) else order
                for arm, order in orders.items()}  # fmt: skip
        if group == ALL:
            rows["reference"] = orders["reference"][np.isin(orders["reference"], balanced)]
        counts = {arm: len(one) for arm, one in rows.items()}
        real = _some(rows.pop("reference"), 4 * settings.max_images, name, settings.seed)
        usable = {arm: _some(one, settings.max_images, name, settings.seed) for arm, one in rows.items()
                  if len(one) >= settings.min_images}  # fmt: skip
        results = _compared_apart(name, features, real, patients, usable, settings)
        found[name] = _summary(results, list(rows), counts)
    return found


def _some(rows: np.ndarray, most: int, name: str, seed: int) -> np.ndarray:
    if len(rows) <= most:
        return rows
    rng = np.random.default_rng(seed_from("choice", seed, name, len(rows)))
    return rows[np.sort(rng.choice(len(rows), most, replace=False))]


def _compared_apart(
    name: str,
    features: Mapping[str, np.ndarray],
    real: np.ndarray,
    patients: np.ndarray,
    usable: Mapping[str, np.ndarray],
    settings: FidelitySettings,
) -> dict[str, Mapping[str, Any]]:
    # the result that each arm has its figures of; a small arm does not take images from the answer
    main = {arm: rows for arm, rows in usable.items() if arm in ANSWER}
    result = _compared(name, features, real, patients, main, settings)
    large = {arm: rows for arm, rows in usable.items() if arm in main or len(rows) >= result["matched"]}
    if len(large) > len(main):
        result = _compared(name, features, real, patients, large, settings)
    found: dict[str, Mapping[str, Any]] = dict.fromkeys((*ANSWER, *large), result)
    for arm, rows in usable.items():
        if arm not in large:
            base = {"before": usable["before"]} if "before" in usable else {}
            found[arm] = _compared(name, features, real, patients, {**base, arm: rows}, settings)
    return found


def _compared(
    name: str,
    features: Mapping[str, np.ndarray],
    real: np.ndarray,
    patients: np.ndarray,
    usable: Mapping[str, np.ndarray],
    settings: FidelitySettings,
) -> dict[str, Any]:
    if not usable or len(real) < 2 * settings.min_images:
        return {"matched": 0, "arms": {}, "one_patient": False}
    generated = {arm: np.asarray(features[arm][rows]) for arm, rows in usable.items()}
    images = Combination((name,), True, np.asarray(features["reference"][real]), patients[real], generated)
    return compare_combination(images, settings)


def _summary(
    results: Mapping[str, Mapping[str, Any]], arms: Sequence[str], counts: Mapping[str, int]
) -> dict[str, Any]:
    metrics, main = (*DISTANCES, *SHARES), results["before"]
    by_arm: dict[str, Any] = {}
    for arm in arms:
        result = results.get(arm, main)
        by_arm[arm] = {metric: _figure(result, arm, metric, counts[arm]) for metric in metrics}
        by_arm[arm]["ratio"] = _ratio(result, arm, counts[arm])
    return {
        "matched": main["matched"],
        "counts": dict(counts),
        "one_patient": main["one_patient"],
        FLOOR: {metric: _figure(main, FLOOR, metric, counts["reference"]) for metric in metrics},
        "arms": by_arm,
    }


def _figure(result: Mapping[str, Any], arm: str, metric: str, count: int) -> dict[str, Any]:
    made = summarize([result], arm, metric)
    return {"value": made["value"], "ci95": made["ci95"], "n": made["n"] if arm in result["arms"] else count}


def _ratio(result: Mapping[str, Any], arm: str, count: int, base: str = "before") -> dict[str, Any]:
    if not {arm, base} <= set(result["arms"]):
        return figure(None, n=count)
    one, two = (result["arms"][name]["frechet_distance"] for name in (arm, base))
    if arm == base or min(one["value"], two["value"]) <= 0:
        return figure(None, n=result["matched"])
    value = math.log(one["value"] / two["value"])
    replicates = np.log(np.maximum(one["replicates"], 1e-12)) - np.log(np.maximum(two["replicates"], 1e-12))
    interval = interval_around(value, replicates)
    return {
        "value": math.exp(value),
        "ci95": interval and [math.exp(edge) for edge in interval],
        "n": result["matched"],
    }


def diversity(
    features: Mapping[str, np.ndarray],
    images: Mapping[str, Cohort],
    codes: Mapping[str, np.ndarray],
    part: Part,
    image_size: int,
    min_images: int = 8,
    seed: int = 0,
) -> dict[str, Any]:
    """How unlike each other the images of a subgroup are, by structure and by features, in each arm and in real images.

    Args:
        features: by name, ``reference`` among them.
        images: likewise.
        codes: likewise, as for :func:`fidelity`.
        part: of the target.
        image_size: side in pixels.
        min_images: of fewer there is no figure, for the interval would be a guess.
        seed: of the choice.

    Returns:
        By subgroup and name ``ms_ssim`` (1 less the mean structural similarity) and ``features`` (mean distance of two
        images) as figures, each with its ``ratio`` to ``before``.
    """
    found: dict[str, Any] = {value: {} for value in part.values}
    for name, cohort in images.items():
        order, source = stable_order(cohort.table), PatchReader(cohort, image_size)
        for group, value in enumerate(part.values):
            rows = order[codes[name][order] == group]
            rng = np.random.default_rng(seed_from("diversity", seed, value))
            rows = rng.permutation(rows)[:SPREAD_IMAGES]
            if len(rows) < min_images:
                found[value][name] = {measure: figure(None, n=len(rows)) for measure in ("ms_ssim", "features")}
                continue
            found[value][name] = {
                "ms_ssim": _structure(source, rows[:DIVERSITY_IMAGES], seed),
                "features": feature_spread(np.asarray(features[name][rows])),
            }
        source.close()
    for by_name in found.values():
        for name in by_name:
            for measure in ("ms_ssim", "features"):
                by_name[name][measure]["ratio"] = _ratio_of(by_name[name][measure], by_name["before"][measure])
    return found


def _structure(source: PatchReader, rows: np.ndarray, seed: int) -> dict[str, Any]:
    if len(rows) < 2:
        return figure(None, n=len(rows))
    pixels = np.stack(source.read(rows.tolist())).transpose(0, 3, 1, 2)
    made = ms_ssim_diversity(pixels, DIVERSITY_PAIRS, seed)
    return _with_error(made["value"], made["standard_error"], len(rows))


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
    made = figure(value, n=n)
    if made["value"] is not None and error is not None:
        made["ci95"] = normal_interval(made["value"], error, lowest=0.0)
    return made


def _ratio_of(one: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    # by the delta method on a scale of logarithms; images of the two arms are taken as independent
    n = min(one["n"] or 0, base["n"] or 0)
    if not one["value"] or not base["value"]:
        return figure(None, n=n)
    ratio = one["value"] / base["value"]
    if one is base or one["ci95"] is None or base["ci95"] is None:
        return figure(ratio, n=n)
    errors = [(given["ci95"][1] - given["value"]) / given["value"] for given in (one, base)]
    half = math.hypot(*errors)
    return {"value": ratio, "ci95": [ratio * math.exp(-half), ratio * math.exp(half)], "n": n}

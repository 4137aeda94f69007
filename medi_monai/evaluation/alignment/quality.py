"""Image quality after tuning: distances to real images, diversity within subgroups, and memorization."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medi_monai.evaluation.alignment.images import ALL, REFERENCE, ComparedImages, Measured
from medi_monai.evaluation.diversity import DiversitySettings, diversity, ratio_of_diversity
from medi_monai.evaluation.embedding import ImageSets
from medi_monai.evaluation.fidelity import DISTANCES, FLOOR, SHARES, FidelitySettings, compare_sets, summarize
from medi_monai.evaluation.memorization import memorization
from medi_monai.metrics import figure, interval_around

__all__ = ["measure_memorization", "measure_quality", "subgroup_diversity", "subgroup_fidelity"]

#: arms on which the verdict is based
ANSWER = ("before", "after")
#: numbers, per subgroup, of images compared by structure, of pairs of these, and of images compared by features
NUM_IMAGES, NUM_PAIRS, NUM_SPREAD = 200, 400, 500


def measure_quality(images: ComparedImages) -> Measured:
    """Measure the fidelity of all images and of each subgroup, and the diversity within subgroups."""
    figures = {
        "fidelity": subgroup_fidelity(images.sets, images.settings),
        "diversity": subgroup_diversity(images.sets, images.image_size, images.settings.min_images, images.seed),
    }
    return Measured(figures, {})


def measure_memorization(images: ComparedImages) -> Measured:
    """Measure whether arms reproduce training images, and return their ``closest`` pairs for the page."""
    generated = {arm: (images.features[arm], own) for arm, own in images.inputs.arms.items()}
    memory = memorization(images.features["real"], images.inputs.cohort, generated, images.image_size, images.seed)
    return Measured({"memorization": memory.figures, "copy_search": memory.search}, {"closest": memory.closest})


def subgroup_fidelity(sets: ImageSets, settings: FidelitySettings) -> dict[str, Any]:
    """Measure the fidelity of every arm: of all images, against real images with the target's shares, and by subgroup.

    An arm with fewer than ``min_images`` images of a subgroup has no figures for it, and does not reduce the number of
    images of the others. ``before`` and ``after`` are compared at equal counts; an arm with fewer images is compared
    with ``before`` at its own count.

    Args:
        sets: sets of :class:`ComparedImages`.
        settings: settings of the comparison.

    Returns:
        For ``all`` and each subgroup, ``matched`` (number of images compared in ``before`` and ``after``), ``counts``,
        ``one_patient``, ``floor`` (figures of real images compared with other real images) and ``arms``: the figures
        of each arm, with ``ratio``, its Fréchet distance divided by that of ``before``, with an interval from
        replicates that share their real images.
    """
    return {str(name): _summary(sets, group, settings) for group, name in enumerate(sets.names)}


def _compared_apart(sets: ImageSets, group: int, settings: FidelitySettings) -> dict[str, Mapping[str, Any]]:
    # all figures of an arm come from one comparison; a small arm does not reduce the counts of the main arms
    counts = {arm: min(count, settings.max_images) for arm, count in sets.counts(group).items()}
    usable = [arm for arm in sets.arms if counts[arm] >= settings.min_images]
    main = [arm for arm in usable if arm in ANSWER]
    result = compare_sets(sets, group, settings, main)
    large = [arm for arm in usable if arm in main or counts[arm] >= result["matched"]]
    if len(large) > len(main):
        result = compare_sets(sets, group, settings, large)
    results: dict[str, Mapping[str, Any]] = dict.fromkeys((*ANSWER, *large), result)
    for arm in usable:
        if arm not in large:
            base = ["before"] if "before" in usable else []
            results[arm] = compare_sets(sets, group, settings, [*base, arm])
    return results


def _summary(sets: ImageSets, group: int, settings: FidelitySettings) -> dict[str, Any]:
    results, counts = _compared_apart(sets, group, settings), sets.counts(group)
    metrics, main = (*DISTANCES, *SHARES), results["before"]
    by_arm: dict[str, Any] = {}
    for arm in sets.arms:
        result = results.get(arm, main)
        by_arm[arm] = {metric: _figure(result, arm, metric, counts[arm]) for metric in metrics}
        by_arm[arm]["ratio"] = _ratio(result, arm, counts[arm])
    return {
        "matched": main["matched"],
        "counts": counts,
        "one_patient": main["one_patient"],
        FLOOR: {metric: _figure(main, FLOOR, metric, counts[REFERENCE]) for metric in metrics},
        "arms": by_arm,
    }


def _figure(result: Mapping[str, Any], arm: str, metric: str, count: int) -> dict[str, Any]:
    summary = summarize([result], arm, metric)
    return {"value": summary["value"], "ci95": summary["ci95"], "n": summary["n"] if arm in result["arms"] else count}


def _ratio(result: Mapping[str, Any], arm: str, count: int, base: str = "before") -> dict[str, Any]:
    if not {arm, base} <= set(result["arms"]):
        return figure(None, n=count)
    own, other = (result["arms"][name]["frechet_distance"] for name in (arm, base))
    if arm == base or min(own["value"], other["value"]) <= 0:
        return figure(None, n=result["matched"])
    value = math.log(own["value"] / other["value"])
    replicates = np.log(np.maximum(own["replicates"], 1e-12)) - np.log(np.maximum(other["replicates"], 1e-12))
    interval = interval_around(value, replicates)
    return {
        "value": math.exp(value),
        "ci95": interval and [math.exp(edge) for edge in interval],
        "n": result["matched"],
    }


def subgroup_diversity(sets: ImageSets, image_size: int, min_images: int = 8, seed: int = 0) -> dict[str, Any]:
    """Measure the diversity within subgroups, of structure and of features, in each arm and in real images.

    Args:
        sets: sets of :class:`ComparedImages`.
        image_size: side of the images in pixels.
        min_images: number of images below which diversity is not computed.
        seed: seed of the selection.

    Returns:
        By subgroup and set, ``ms_ssim`` (1 minus the mean structural similarity) and ``features`` (mean distance
        between two images) as figures, each with its ``ratio`` to ``before``.
    """
    settings = DiversitySettings(NUM_IMAGES, NUM_PAIRS, NUM_SPREAD, min_images, seed)
    groups: Sequence[int] = [group for group, name in enumerate(sets.names) if name != ALL]
    measured = diversity(sets, groups, image_size, settings)
    for by_name in measured.values():
        base = by_name["before"]
        for measures in by_name.values():
            for measure, value in measures.items():
                value["ratio"] = ratio_of_diversity(value, base[measure])
    return {str(sets.names[group]): by_name for group, by_name in measured.items()}

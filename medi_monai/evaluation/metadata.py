"""The run ``evaluation`` for arms: fidelity of their images at matched counts, with real images as a floor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine

from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import combination_codes
from medi_monai.cohort.samples import check_arms, known_rows, read_arms, settings_that_differ
from medi_monai.engines.handlers import attach_bar
from medi_monai.evaluation.blank_encoder import encoder_findings
from medi_monai.evaluation.compression import compression_findings
from medi_monai.evaluation.compression_effect import compression_effect
from medi_monai.evaluation.diversity import DiversitySettings, diversity, mean_diversity, relative_variance
from medi_monai.evaluation.embedding import Embedder, ImageSets
from medi_monai.evaluation.fidelity import (
    DISTANCES,
    FLOOR,
    SHARES,
    FidelitySettings,
    combination_figures,
    compare_sets,
    distance_of_all,
    pooled_distances,
    summarize,
)
from medi_monai.evaluation.gallery import sample_gallery
from medi_monai.evaluation.label_fidelity import label_fidelity
from medi_monai.evaluation.memorization import Closest, MeasuredMemory, memorization
from medi_monai.evaluation.probing.arms import RESERVED_NAMES
from medi_monai.metrics import Moments, paired_test
from medi_monai.report import write_evaluation_page
from medi_monai.results import Figure, print_findings, typed, write_run
from medi_monai.results.metrics import ArmsMetrics, MetricFigures
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest
from medi_monai.utils.workers import torch_threads

__all__ = ["combination_sets", "compare_combinations", "evaluate_run"]

METRICS = (*DISTANCES, *SHARES)
#: numbers of images and pairs per combination for diversity
DIVERSITY_IMAGES, DIVERSITY_PAIRS = 64, 64
#: number of images of each arm and combination on the page
SHOWN_IMAGES = 2
#: number of features up to which one thread is faster than several
SMALL_DIM = 512


def evaluate_run(
    cohort: Cohort,
    arms: Mapping[str, str | os.PathLike],
    label: str,
    attributes: Sequence[str],
    embedder: Embedder,
    output_dir: str | os.PathLike,
    settings: FidelitySettings | None = None,
    c_values: Sequence[float] = (0.001, 0.01, 0.1, 1.0),
    pixel_figures: bool = True,
) -> ArmsMetrics | None:
    """Compare sampled images with real ones and write ``metrics.json``, ``metrics.csv`` and ``report.html``.

    Args:
        cohort: real images with their split; the models were trained on ``train``.
        arms: ``output_dir`` of the sampling run of each arm.
        label: column of the class.
        attributes: columns that form a combination with the label.
        embedder: how images are embedded.
        output_dir: output folder; earlier results are moved to ``earlier-<n>``.
        settings: settings of the comparison.
        c_values: values of C for the classifiers of generated images.
        pixel_figures: whether to compute the figures that do not depend on the encoder: copies of training images,
            diversity and pixel variance; otherwise they are undefined.

    Returns:
        The content of ``metrics.json``; None in all but the first of ``torchrun``'s processes, which only embed.

    Raises:
        InputError: for missing arms or columns, or if no combination has enough images.
    """
    settings, columns = settings or FidelitySettings(), [label, *attributes]
    real, sampled = known_rows(cohort, columns), read_arms(arms, columns, RESERVED_NAMES)
    warnings = check_arms(sampled, cohort, columns)
    embedder = embedder.compressing(real, sampled)
    encoder, image_size = embedder.encoder, embedder.image_size
    features, first = embedder.embed_all({"real": real, **sampled})
    if not first:
        return None
    warnings += [*encoder_findings(features["real"], encoder.name), *compression_findings(encoder)]
    print_findings(warnings)
    sets = combination_sets(real, sampled, features, columns)
    results, pooled = compare_combinations(sets, settings)
    _check_any_matched(results, columns, settings)
    measured = _measure(sets, results, pooled, columns, image_size, c_values, settings.seed, pixel_figures)
    metrics = typed(
        ArmsMetrics,
        {
            "label": label,
            "attributes": attributes,
            "encoder": encoder.describe(),
            "settings": {
                **vars(settings),
                "image_size": image_size,
                "c_values": list(c_values),
                "arms": dict(arms),
                "pixel_figures": pixel_figures,
            },
            "settings_that_differ": settings_that_differ(sampled),
            "digests": {"cohort": cohort.digest, **{arm: _digest(images) for arm, images in sampled.items()}},
            "real": measured.of_real(),
            "arms": {arm: measured.of_arm(arm) for arm in sampled},
            "comparisons": _comparisons(results, list(sampled)),
            "warnings": warnings,
            "compression": compression_effect(sets, embedder, settings.min_images, settings.seed),
        },
    )
    samples = sample_gallery(real, sampled, columns, image_size, SHOWN_IMAGES)
    return write_run(
        "evaluation",
        output_dir,
        "metrics",
        metrics,
        {"metrics.csv": _long_table(metrics), "closest.npz": _arrays(measured.memory.closest)},
        lambda written, path: write_evaluation_page(written, measured.memory.closest, path, samples),
        {"arms": list(sampled), "real_images": len(real), **{arm: len(images) for arm, images in sampled.items()}},
        {arm: of_arm.frechet_distance.mean for arm, of_arm in metrics.arms.items()},
    )


@dataclass(frozen=True)
class _Measured:
    """Figures of all arms and of the real images (``real``), from which the metrics of each are selected.

    Args:
        columns: label and attributes.
        results: results of :func:`compare_sets` for each combination.
        pooled: by label, the result of :func:`pooled_distances`.
        predicted: by arm and column, the result of :func:`label_fidelity`.
        memory: the result of :func:`memorization`.
        unlike: the result of :func:`diversity`.
        moments: moments of the features, by arm.
    """

    columns: Sequence[str]
    results: Sequence[dict[str, Any]]
    pooled: Mapping[str, Mapping[str, Any]]
    predicted: Mapping[str, Mapping[str, Any]]
    memory: MeasuredMemory
    unlike: Mapping[int, Mapping[str, Mapping[str, Any]]]
    moments: Mapping[str, Moments]

    def of_arm(self, arm: str) -> dict[str, Any]:
        """Return the fields of :class:`medi_monai.results.metrics.ArmMetrics`."""
        distances = {
            metric: _by_combination(self.results, self.pooled, arm, metric, self.columns) for metric in METRICS
        }
        distances["frechet_distance"]["all_images"] = distance_of_all(self.moments["real"], self.moments[arm])
        return {
            **distances,
            **self._of_any(arm),
            "memorization": self.memory.figures[arm],
            "pixel_variance": relative_variance(self.unlike, arm),
        }

    def of_real(self) -> dict[str, Any]:
        """Return the fields of the real images, with their distances to real images of other patients."""
        floor = {metric: summarize(self.results, FLOOR, metric) for metric in METRICS}
        memory = {"memorization": self.memory.figures.get("held_out"), "copy_search": self.memory.search}
        return {"floor": floor, **self._of_any("real"), **memory}

    def _of_any(self, name: str) -> dict[str, Any]:
        label, *attributes = self.columns
        return {
            "label_fidelity": self.predicted[name].get(label),
            "attribute_fidelity": {attribute: self.predicted[name].get(attribute) for attribute in attributes},
            "diversity": mean_diversity(self.unlike, name),
        }


def _measure(
    sets: ImageSets,
    results: Sequence[dict[str, Any]],
    pooled: Mapping[str, Mapping[str, Any]],
    columns: Sequence[str],
    image_size: int,
    c_values: Sequence[float],
    seed: int,
    pixel_figures: bool,
) -> _Measured:
    """Measure label fidelity, memorization and diversity."""
    real, features = sets.images["real"], sets.features
    generated = {arm: (features[arm], sets.images[arm]) for arm in sets.arms}
    manifests = {arm: (of_arm, images.table) for arm, (of_arm, images) in generated.items()}
    seen = {result["name"] for result in results if result["seen"]}
    predicted = label_fidelity(features["real"], real.table, manifests, columns, c_values, seed, seen)
    memory = memorization(features["real"], real, generated, image_size, seed, search_copies=pixel_figures)
    matched = {result["name"] for result in results if result["matched"] and pixel_figures}
    groups = [group for group, name in enumerate(sets.names) if name in matched]
    limits = DiversitySettings(DIVERSITY_IMAGES, DIVERSITY_PAIRS, seed=seed, pixel_variance=True)
    unlike = diversity(sets, groups, image_size, limits)
    moments = {name: Moments.of(rows) for name, rows in features.items()}
    return _Measured(columns, results, pooled, predicted, memory, unlike, moments)


def combination_sets(
    real: Cohort, arms: Mapping[str, Cohort], features: Mapping[str, np.ndarray], columns: Sequence[str]
) -> ImageSets:
    """Group real images and those of each arm by their combination of label and attributes.

    Args:
        real: real images.
        arms: images of each arm.
        features: ``(N, D)`` features of ``real`` and of each arm.
        columns: label and attributes.
    """
    images = {"real": real, **arms}
    codes, names = combination_codes([cohort.table for cohort in images.values()], columns)
    return ImageSets.of(images, features, names, dict(zip(images, codes)))


def compare_combinations(
    sets: ImageSets, settings: FidelitySettings
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Compare every combination that has real and generated images.

    Returns:
        The result of :func:`compare_sets` for each combination, and by label the result of :func:`pooled_distances`.
    """
    in_training = sets.images["real"].table["split"].to_numpy() == "train"
    results: list[dict[str, Any]] = []
    pooled: dict[str, dict[str, Any]] = {}

    def compare(engine: Engine, group: int) -> None:
        counts, label = sets.counts(group), sets.names[group][0]
        if counts["real"] and any(counts[arm] for arm in sets.arms):
            seen = bool(in_training[sets.rows["real"][group]].any())
            results.append(compare_sets(sets, group, settings, seen=seen))
        if group + 1 == len(sets.names) or sets.names[group + 1][0] != label:
            # to limit memory, features are held only for the combinations of one label
            results_of_label = _results_of_label(results, label)
            pooled[label] = pooled_distances(results_of_label)
            for result in results_of_label:
                result["drawn"] = []

    engine = Engine(compare)
    attach_bar(engine, "comparing combinations", len(sets.names))
    small = sets.features["real"].shape[1] <= SMALL_DIM
    with torch_threads(1 if small else torch.get_num_threads()):
        engine.run(range(len(sets.names)), max_epochs=1, epoch_length=len(sets.names))
    return results, pooled


def _check_any_matched(
    results: Sequence[Mapping[str, Any]], columns: Sequence[str], settings: FidelitySettings
) -> None:
    if not any(result["matched"] for result in results):
        largest = max((max(result["counts"].values()) for result in results), default=0)
        raise InputError(
            f"no combination of {columns} has {settings.min_images} images in each half of the real ones and in every "
            f"arm (the largest set has {largest}): sample more with --images_per_combination, or lower --min_images"
        )


def _results_of_label(results: Sequence[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    return [result for result in results if result["name"][0] == label]


def _by_combination(
    results: Sequence[dict[str, Any]],
    pooled: Mapping[str, Mapping[str, Any]],
    arm: str,
    metric: str,
    columns: Sequence[str],
) -> dict[str, Any]:
    by_label = {}
    for label in sorted({result["name"][0] for result in results}):
        results_of_label = _results_of_label(results, label)
        by_label[label] = {
            **summarize(results_of_label, arm, metric),
            "floor": summarize(results_of_label, FLOOR, metric)["value"],
        }
        if metric == "frechet_distance":
            by_label[label]["pooled"] = pooled[label].get(arm)
            by_label[label]["pooled_floor"] = pooled[label].get(FLOOR)
    seen, unseen = ([result for result in results if result["seen"] is known] for known in (True, False))
    return {
        "mean": summarize(results, arm, metric),
        "seen": summarize(seen, arm, metric),
        "unseen": summarize(unseen, arm, metric),
        "floor": summarize(results, FLOOR, metric),
        "floor_seen": summarize(seen, FLOOR, metric),
        "floor_unseen": summarize(unseen, FLOOR, metric),
        "by_label": by_label,
        "by_combination": combination_figures(results, columns, arm, metric),
    }


def _comparisons(results: Sequence[Mapping[str, Any]], arms: Sequence[str]) -> list[dict[str, Any]]:
    """Compare the Fréchet distances of two arms as ratios, paired by combination."""
    matched = [result for result in results if result["matched"]]
    kinds = {
        "all": matched,
        "seen": [result for result in matched if result["seen"]],
        "unseen": [result for result in matched if not result["seen"]],
    }
    comparisons = []
    for index, first in enumerate(arms):
        for second in arms[index + 1 :]:
            for kind, usable in kinds.items():
                values = [
                    [result["arms"][arm]["frechet_distance"]["value"] for result in usable] for arm in (first, second)
                ]
                test = paired_test(*np.log(np.maximum(values, 1e-12))) if usable else paired_test([], [])
                means = [float(np.mean(of_arm)) if usable else None for of_arm in values]
                ratio = means[0] / means[1] if means[0] is not None and means[1] else None
                comparisons.append(
                    {"arms": [first, second], "combinations": kind, "ratio_of_means": ratio, "log_ratio": test}
                )
    return comparisons


def _digest(images: Cohort) -> str:
    return json_digest(pd.util.hash_pandas_object(images.table, index=False).astype(str).tolist())


def _arrays(closest: Closest) -> dict[str, np.ndarray]:
    arrays = {}
    for arm, pairs in closest.items():
        for index, name in enumerate(("images", "training", "correlation")):
            arrays[f"{arm} {name}"] = np.stack([np.asarray(pair[index]) for pair in pairs])
    return arrays


def _long_table(metrics: ArmsMetrics) -> pd.DataFrame:
    rows = []
    for arm, of_arm in metrics.arms.items():
        for metric in METRICS:
            figures: MetricFigures = getattr(of_arm, metric)
            parts: list[tuple[str, Figure, Mapping[str, str]]] = [
                (part, getattr(figures, part), {}) for part in ("mean", "seen", "unseen", "floor")
            ]
            parts += [("combination", combination, combination.values) for combination in figures.by_combination]
            parts += [("label", of_label, {metrics.label: name}) for name, of_label in figures.by_label.items()]
            for part, figure, values in parts:
                named = {column: values.get(column, "") for column in metrics.columns}
                rows.append({"arm": arm, "metric": metric, "part": part, **named, **figure.cells()})
    return pd.DataFrame(rows)

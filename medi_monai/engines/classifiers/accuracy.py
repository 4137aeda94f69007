"""Accuracy of classifiers on images of held-out patients, with confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.engines.classifiers.batches import Labeled, label_codes
from medi_monai.metrics import GroupConfusion, PatientSampler, accuracy, balanced_accuracy, calibration_error, figure
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = [
    "accuracies",
    "chance_warnings",
    "deal_patients",
    "design_effect",
    "evaluate_classifier",
    "is_at_chance",
    "patients_of",
]


def evaluate_classifier(
    classifier: AttributeClassifier,
    held_out: Labeled,
    num_replicates: int = 1000,
    seed: int = 0,
    batch_size: int = 256,
    attributes: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure how accurately attributes are predicted for patients who were not in training.

    Args:
        classifier: any classifier; it is set to evaluation mode.
        held_out: images with the attributes.
        num_replicates: number of bootstrap samples of patients.
        seed: random seed of the bootstrap.
        batch_size: images per batch.
        attributes: attributes of the classifier to evaluate; all by default.

    Returns:
        The result of :func:`accuracies`.

    Raises:
        InputError: for an attribute that the classifier or the table does not have, or an unknown value.
    """
    codes = label_codes(classifier, held_out.table, attributes)
    vocabulary = {name: classifier.attributes[name] for name in (attributes or classifier.attributes)}
    probabilities = classifier.probabilities(held_out.images, batch_size)
    patients = patients_of(held_out.table)
    return accuracies(probabilities, codes, vocabulary, patients, seed, num_replicates)


def accuracies(
    probabilities: Mapping[str, torch.Tensor],
    codes: torch.Tensor,
    attributes: Mapping[str, Sequence[str]],
    patients: np.ndarray,
    seed: int = 0,
    num_replicates: int = 1000,
) -> dict[str, Any]:
    """Return the confusion matrix and accuracies of each attribute, with bootstrap intervals.

    The bootstrap resamples patients within each true value.

    Args:
        probabilities: ``(N, G)`` predicted probabilities of each attribute.
        codes: ``(N, A)`` true codes; rows with -1 (unknown) are ignored.
        attributes: attributes and their values.
        patients: ``(N,)`` patients.
        seed: random seed of the bootstrap.
        num_replicates: number of bootstrap samples.

    Returns:
        For each attribute: ``values``, ``chance`` (1/G), ``confusion`` (counts, true by predicted value), ``n`` images,
        ``num_patients``, the figures ``accuracy`` and ``balanced_accuracy``, ``recall`` by value,
        ``calibration_error``, and ``design_effect`` (:func:`design_effect`). Figures are ``{"value", "ci95", "n"}``.
    """
    results = {}
    for column, (name, values) in enumerate(attributes.items()):
        known = (codes[:, column] >= 0).numpy()
        scores, target = probabilities[name][known], codes[known, column]
        results[name] = _accuracies(scores, target, list(values), patients[known], seed_from("classifier", seed, name),
                                  num_replicates)  # fmt: skip
    return results


def _accuracies(
    scores: torch.Tensor, target: torch.Tensor, values: list[str], patients: np.ndarray, seed: int, num_replicates: int
) -> dict[str, Any]:
    size, n = len(values), len(target)
    patient, names = pd.factorize(patients, sort=True)
    counts, units = _confusions(scores.argmax(1), target, patient, size)
    replicates = np.zeros((0, size, size))
    if n:
        sampler, rng = PatientSampler(units[:, 0], units[:, 1]), np.random.default_rng(seed)
        replicates = np.stack([counts[sampler.draw(rng)].sum(0) for _ in range(num_replicates)])
    confusion = counts.sum(0)
    error = calibration_error(scores, target)
    recalls = [_share(confusion, code) for code in range(size)]
    return {
        "values": values,
        "chance": 1 / size,
        "n": n,
        "num_patients": len(names),
        "confusion": confusion.astype(int).tolist(),
        "accuracy": figure(float(accuracy(confusion)), accuracy(replicates), n),
        "balanced_accuracy": figure(float(balanced_accuracy(confusion)), balanced_accuracy(replicates), n),
        "recall": {
            value: figure(recalls[code], _shares(replicates, code), int(confusion[code].sum()))
            for code, value in enumerate(values)
        },
        "calibration_error": {"value": error["value"] if n else None, "n": n},
        "design_effect": design_effect(replicates, confusion, np.bincount(units[:, 1], minlength=size)),
    }


def design_effect(replicates: np.ndarray, confusion: np.ndarray, num_patients: np.ndarray) -> float:
    """Return the variance of error rates over patients, relative to that over independent images (Kish 1965).

    The images of a patient are classified alike: n of them say as much about the error rates of other patients as
    n / design effect independent images. The variances of all rates are added up before they are divided.

    Args:
        replicates: ``(B, G, G)`` confusion matrices of bootstrap samples of the patients within each true value.
        confusion: ``(G, G)`` the observed one, true by predicted value.
        num_patients: ``(G,)`` number of patients of each true value.

    Returns:
        At least 1; 1 also if there are no errors. If no value has two patients, each counts as a single image.
    """
    several = num_patients > 1
    size = confusion.sum(1, keepdims=True)[several]
    if not several.any() or not len(replicates):
        return max(1.0, float(confusion.sum() / max(1, num_patients.sum())))
    rates = confusion[several] / size
    of_images = float((rates * (1 - rates) / size).sum())
    drawn = replicates[:, several] / replicates[:, several].sum(-1, keepdims=True)
    # a bootstrap of P patients varies by (P - 1) / P of what other patients do
    share = num_patients[several] / (num_patients[several] - 1)
    of_patients = float((drawn.var(0) * share[:, None]).sum())
    return max(1.0, of_patients / of_images) if of_images > 0 else 1.0


def _confusions(
    predicted: torch.Tensor, target: torch.Tensor, patient: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    # (U, G, G) confusion of each unit (a patient within a true value), and the (U, 2) patient and value of each unit
    units, unit_of = np.unique(np.stack([patient, target.numpy()], 1), axis=0, return_inverse=True)
    metric = GroupConfusion(max(len(units), 1), size)
    metric.update(predicted, target, torch.from_numpy(unit_of.reshape(-1)))
    return metric.compute().numpy(), units


def _shares(confusions: np.ndarray, code: int) -> np.ndarray:
    total = confusions[:, code].sum(-1).astype(float)
    return np.divide(confusions[:, code, code], total, out=np.full(len(total), np.nan), where=total > 0)


def _share(confusion: np.ndarray, code: int) -> float:
    return float(_shares(confusion[None], code)[0])


def is_at_chance(result: Mapping[str, Any]) -> bool:
    """Return whether an attribute may be unpredictable: the interval of its balanced accuracy reaches down to chance.

    Also return True if the accuracy is undefined.

    Args:
        result: result for one attribute from :func:`accuracies`.
    """
    interval = result["balanced_accuracy"]["ci95"]
    return interval is None or interval[0] <= result["chance"]


def chance_warnings(results: Mapping[str, Any]) -> list[str]:
    """Return a warning for each attribute of a classifier for which :func:`is_at_chance` is true."""
    sentences = []
    for name, result in results.items():
        if not is_at_chance(result):
            continue
        balanced = result["balanced_accuracy"]
        reading = "has no held-out image"
        if balanced["value"] is not None and balanced["ci95"] is not None:
            low, high = balanced["ci95"]
            reading = (
                f"has a balanced accuracy of {balanced['value']:.2f} ({low:.2f} to {high:.2f}) on {result['n']} images"
            )
        sentences.append(
            f"the classifier {reading} for {name!r}, where chance is {result['chance']:.2f}: it cannot be "
            "read reliably from these images. Align another attribute, or train with more images."
        )
    return sentences


def patients_of(table: pd.DataFrame) -> np.ndarray:
    """Return the ``(N,)`` patient of each row; a row without a patient counts as a separate patient."""
    row_names = np.array([f"row {number}" for number in range(len(table))], dtype=object)
    if "patient" not in table.columns:
        return row_names
    patients = table["patient"].astype(object).to_numpy()
    return np.where(pd.isna(patients) | (patients == ""), row_names, patients)


def deal_patients(table: pd.DataFrame, attributes: Sequence[str], num_parts: int, seed: int = 0) -> np.ndarray:
    """Divide patients into parts with similar distributions of the attributes.

    The parts serve for cross-validation, or for classifiers that should be trained on different patients. The result
    does not depend on the order of the rows.

    Args:
        table: one row per image, with the attributes.
        attributes: columns that should be distributed similarly.
        num_parts: number of parts.
        seed: random seed of the division.

    Returns:
        ``(N,)`` part of each row, counted from 0.

    Raises:
        InputError: for fewer than two parts, or more parts than patients.
    """
    patients = pd.Series(patients_of(table), name="patient")
    cells = table[list(attributes)].astype("str").fillna("").set_axis(patients)
    # if the rows of a patient differ, the first value is used
    units = cells.groupby(level=0).min() if attributes else cells[~cells.index.duplicated()]
    if not 2 <= num_parts <= len(units):
        raise InputError(f"{num_parts} parts of {len(units)} patients: give 2 or more, and at most one per patient")
    units = units.assign(order=[seed_from("parts", seed, str(name)) for name in units.index])
    units = units.sort_values([*attributes, "order"])
    part_of_patient = pd.Series(np.arange(len(units)) % num_parts, units.index)
    return patients.map(part_of_patient).to_numpy()

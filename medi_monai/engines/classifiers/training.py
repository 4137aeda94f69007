"""Train the classifiers of an alignment: guide, validation classifier and judge differ in settings and seed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from medi_monai.cohort import Cohort, PatchDataset
from medi_monai.engines.classifiers.accuracy import (
    accuracies,
    chance_warnings,
    deal_patients,
    evaluate_classifier,
    is_at_chance,
    patients_of,
)
from medi_monai.engines.classifiers.batches import (
    ClassifierBatches,
    ClassifierPrepareBatch,
    ClassifierSettings,
    Labeled,
    LabeledImages,
    MaskedCrossEntropy,
    label_codes,
)
from medi_monai.engines.events import EventWriter, event_files
from medi_monai.engines.handlers import ProgressHandler, ScalarHandler, WeightAverage
from medi_monai.engines.schedules import WarmupCosine
from medi_monai.engines.trainer import DiffusionTrainer
from medi_monai.networks.classifier import RECORD, WEIGHTS, SubgroupClassifier, save_classifier
from medi_monai.schema import CategoricalColumn, MetadataSchema
from medi_monai.utils.errors import InputError, RunStopped, unknown_value
from medi_monai.utils.files import file_digest, write_table
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.tables import for_spreadsheet

__all__ = [
    "ClassifierSettings",
    "LabeledImages",
    "chance_warnings",
    "classify_run",
    "cross_validate_classifier",
    "deal_patients",
    "evaluate_classifier",
    "is_at_chance",
    "prompt_consistent_images",
    "train_classifier",
]

RESULTS = (WEIGHTS, RECORD, "confusion.csv", "summary.json")
#: splits to train on, and splits on which performance is measured
TRAIN_SPLITS, HELD_OUT_SPLITS = ("train",), ("val", "holdout")
#: number of distinct numeric values above which a column is treated as a quantity
MAX_NUMBERS = 12

Attributes = Sequence[str] | Mapping[str, Sequence[str]]


def train_classifier(
    training: Labeled,
    attributes: Attributes,
    held_out: Labeled | None = None,
    settings: ClassifierSettings | None = None,
    generated: Labeled | None = None,
    device: str | torch.device = "cpu",
    writer: EventWriter | None = None,
) -> SubgroupClassifier:
    """Train one classifier for all attributes, for a fixed number of steps, without selection on held-out images.

    Args:
        training: training images with their table.
        attributes: columns to predict, or a mapping from columns to their values.
        held_out: images of other patients, on which the classifier's ``held_out`` performance is measured.
        settings: settings of the classifier and its training.
        generated: additional generated images labeled with the requested attributes, so that the classifier is also
            trained on such images.
        device: device of the training.
        writer: TensorBoard writer.

    Returns:
        The classifier with averaged weights, frozen.

    Raises:
        InputError: for an attribute that cannot be learned from the table, or patients held out and in training.
        RunStopped: for a loss that is not finite.
    """
    settings = settings or ClassifierSettings()
    vocabulary = _vocabulary(training.table, attributes)
    if held_out is not None:
        _check_apart(training.table, held_out.table)
    network = _new_network(vocabulary, settings)
    sources = [training] if generated is None else [training, generated]
    average, trainer = _trainer(network, sources, settings, device, writer)
    classifier = average.network
    if not isinstance(classifier, SubgroupClassifier):
        raise TypeError(f"the average of a classifier is a {type(classifier).__name__}")
    if writer is not None and held_out is not None:
        _monitor(trainer, classifier, held_out, writer, settings.val_interval)
    trainer.run()
    if held_out is not None:
        classifier.held_out = evaluate_classifier(classifier, held_out, seed=settings.seed)
    return classifier.freeze()


def cross_validate_classifier(
    labeled: Labeled,
    attributes: Attributes,
    num_folds: int = 5,
    settings: ClassifierSettings | None = None,
    generated: Labeled | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Measure performance on unseen patients by cross-validation, in which every patient is held out once.

    This is meant for small data sets, in which a held-out part would be too small to be informative.

    Args:
        labeled: all images.
        attributes: columns to predict, as for :func:`train_classifier`.
        num_folds: number of folds; for each, a classifier is trained on the others.
        settings: settings of each training.
        generated: generated images for every training, as for :func:`train_classifier`.
        device: device of the training.

    Returns:
        The figures of :func:`medi_monai.engines.classifiers.accuracy.accuracies` over all folds, with ``num_folds``.

    Raises:
        InputError: for fewer than two folds, more folds than patients, or folds without which only one value of an
            attribute is left.
    """
    settings = settings or ClassifierSettings()
    vocabulary = _vocabulary(labeled.table, attributes)
    fold = deal_patients(labeled.table, list(vocabulary), num_folds, settings.seed)
    held_out_probabilities = {name: torch.zeros(len(fold), len(values)) for name, values in vocabulary.items()}
    for number in range(num_folds):
        in_training = torch.from_numpy(fold != number)
        others = LabeledImages(labeled.images[in_training], labeled.table[in_training.numpy()].reset_index(drop=True))
        classifier = train_classifier(others, vocabulary, None, settings, generated, device)
        for name, probabilities in classifier.probabilities(labeled.images[~in_training]).items():
            held_out_probabilities[name][~in_training] = probabilities
    codes = label_codes(_new_network(vocabulary, settings), labeled.table)
    results = accuracies(held_out_probabilities, codes, vocabulary, patients_of(labeled.table), settings.seed)
    return {name: {**result, "num_folds": num_folds} for name, result in results.items()}


def classify_run(
    cohort: Cohort,
    attributes: Attributes,
    output_dir: str | os.PathLike,
    image_size: int,
    settings: ClassifierSettings | None = None,
    generated: Cohort | None = None,
    num_folds: int | None = None,
    device: str | torch.device = "cpu",
    writer: EventWriter | None = None,
) -> SubgroupClassifier:
    """Train on a cohort; write ``classifier.pt``, ``classifier.json``, ``confusion.csv`` and ``summary.json``.

    Args:
        cohort: images with their split, of which ``train`` is used for training.
        attributes: columns to predict, as for :func:`train_classifier`.
        output_dir: folder of the run; earlier results are moved to ``earlier-<n>``.
        image_size: side of the cohort's images in pixels.
        settings: settings of the classifier and its training.
        generated: images generated for prompts or rows that name the attributes, of which
            :func:`prompt_consistent_images` are used.
        num_folds: number of folds of a cross-validation over the patients of ``train``, in place of a measurement on
            ``val`` and ``holdout``.
        device: device of the training.
        writer: TensorBoard writer for ``output_dir``.

    Raises:
        InputError: if no images are left to measure performance on, and as for :func:`train_classifier`.
    """
    settings, output, start = settings or ClassifierSettings(), Path(output_dir), time.perf_counter()
    training = _read(cohort.split(*TRAIN_SPLITS), attributes, image_size)
    held_out = None
    if num_folds is None:
        _check_held_out(cohort)
        held_out = _read(cohort.split(*HELD_OUT_SPLITS), attributes, image_size)
    consistent = None
    if generated is not None:
        requested = _read(generated, attributes, image_size)
        of_real_images = train_classifier(training, attributes, None, settings, None, device)
        consistent = prompt_consistent_images(requested, of_real_images)
    events = event_files(output)
    claim_results(output, "classifying")
    set_aside(output, [*(output / name for name in RESULTS), *events])
    classifier = train_classifier(training, attributes, held_out, settings, consistent, device, writer)
    if num_folds is not None:
        measured = cross_validate_classifier(training, classifier.attributes, num_folds, settings, consistent, device)
        classifier.held_out = measured
    described = {**asdict(settings), "train_splits": list(TRAIN_SPLITS), "num_folds": num_folds}
    digests = {"cohort": cohort.digest, **({} if generated is None else {"generated": generated.digest})}
    save_classifier(output, classifier, described, digests)
    write_table(output / "confusion.csv", for_spreadsheet(_confusion_table(classifier.held_out)))
    for sentence in chance_warnings(classifier.held_out):
        print(f"warning: {sentence}", flush=True)
    finish_run(
        "classifying",
        output,
        made={"classifier": str(output / WEIGHTS), "images": len(training.table), "steps": settings.max_steps},
        figures={"seconds": round(time.perf_counter() - start, 2), "held_out": classifier.held_out},
        settings=described,
        digests={**digests, WEIGHTS: file_digest(output / WEIGHTS)},
        where=output / RECORD,
    )
    return classifier


def prompt_consistent_images(generated: Labeled, classifier: SubgroupClassifier) -> LabeledImages | None:
    """Return the generated images that are predicted as requested by a classifier trained only on real images.

    A model follows the prompt in only some of its images. A guide trained on the others with the requested label would
    confuse subgroups, and tuning would follow its errors.

    Args:
        generated: generated images, labeled as requested.
        classifier: one trained on real images.

    Returns:
        The images with all attributes predicted as requested; None if a value of an attribute has no images left.
    """
    codes, probabilities = label_codes(classifier, generated.table), classifier.probabilities(generated.images)
    predicted = torch.stack([probabilities[name].argmax(1) for name in classifier.attributes], 1)
    kept = (predicted == codes).all(1)
    print(f"{int(kept.sum()):,} of {len(kept):,} generated images are predicted as requested, and are used", flush=True)
    values = zip(classifier.attributes.values(), codes[kept].T)
    if not all(len(set(column.tolist())) == len(names) for names, column in values):
        print("not every value of the attributes is among them: only real images are used", flush=True)
        return None
    return LabeledImages(generated.images[kept], generated.table[kept.numpy()].reset_index(drop=True))


def _new_network(vocabulary: Mapping[str, Sequence[str]], settings: ClassifierSettings) -> SubgroupClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_from("classifier", settings.seed))
        return SubgroupClassifier(vocabulary, settings.image_size, settings.width, settings.depth, settings.residual)


def _trainer(
    network: SubgroupClassifier,
    sources: Sequence[Labeled],
    settings: ClassifierSettings,
    device: str | torch.device,
    writer: EventWriter | None,
) -> tuple[WeightAverage, DiffusionTrainer]:
    # the trainer of the diffusion models works for any network and loss: a step is one update with a clipped gradient
    network.to(device)
    batches = ClassifierBatches(sources, network, settings)
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    warmup = max(1, settings.max_steps // 20)
    schedule = WarmupCosine(optimizer, warmup, settings.max_steps, cosine_start=0)
    average = WeightAverage(network)
    scalars = [ScalarHandler(writer, optimizer, settings.batch_size)] if writer else []
    trainer = DiffusionTrainer(
        device=torch.device(device),
        max_steps=settings.max_steps,
        train_data_loader=batches,
        network=network,
        optimizer=optimizer,
        loss_function=MaskedCrossEntropy(batches.class_weights(), settings.label_smoothing).to(device),
        prepare_batch=ClassifierPrepareBatch(settings.hardening, settings.seed),
        average=average,
        train_handlers=[ProgressHandler("training the classifier", settings.batch_size), *scalars],
    )
    trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, _check_finite)
    schedule.attach(trainer)
    return average, trainer


def _check_finite(engine: Engine) -> None:
    loss, norm = (float(engine.state.output[name]) for name in ("loss", "grad_norm"))  # type: ignore[index]
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise RunStopped(
            f"the loss of the classifier is {loss} and its gradient norm {norm} at step {engine.state.iteration}: "
            "train again with a lower learning_rate"
        )


def _monitor(
    trainer: DiffusionTrainer, classifier: SubgroupClassifier, held_out: Labeled, writer: EventWriter, every: int
) -> None:
    """Write the accuracy on held-out images, without an interval, after every ``every``-th step and the last."""
    last = trainer.state.epoch_length
    event = Events.ITERATION_COMPLETED(event_filter=lambda _, step: step % every == 0 or step == last)
    trainer.add_event_handler(event, _write_accuracy, classifier, held_out, writer)


def _write_accuracy(engine: Engine, classifier: SubgroupClassifier, held_out: Labeled, writer: EventWriter) -> None:
    for name, result in evaluate_classifier(classifier, held_out, num_replicates=1).items():
        value = result["balanced_accuracy"]["value"]
        if value is not None:
            writer.add_scalar(f"held_out/balanced_accuracy_{name}", value, engine.state.iteration)


def _vocabulary(table: pd.DataFrame, attributes: Attributes) -> dict[str, tuple[str, ...]]:
    if isinstance(attributes, str) or not attributes:
        raise InputError(f"attributes = {attributes!r}: give a list of columns for the classifier to predict")
    vocabulary = {}
    for name in attributes:
        if name not in table.columns:
            raise unknown_value("attribute", name, table.columns, "It has to be a column of the table.")
        if isinstance(attributes, Mapping):
            vocabulary[name] = tuple(map(str, attributes[name]))
            continue
        values = CategoricalColumn.from_values(name, table[name].unique()).values
        if len(values) > MAX_NUMBERS and pd.to_numeric(pd.Series(values), errors="coerce").notna().all():
            raise InputError(
                f"the attribute {name!r} has {len(values)} values, all of them numbers, but a classifier "
                "predicts groups. "
                "Make a column of groups, such as 'under 45' and '45 and older'"
            )
        if len(values) < 2:
            raise InputError(
                f"the attribute {name!r} has the values {list(values)} among {len(table)} images in training: a "
                "classifier needs at least two"
            )
        vocabulary[name] = values
    return vocabulary


def _check_apart(training: pd.DataFrame, held_out: pd.DataFrame) -> None:
    if "patient" not in training.columns or "patient" not in held_out.columns:
        return
    shared = sorted(set(training["patient"].dropna()) & set(held_out["patient"].dropna()) - {""})
    if shared:
        raise InputError(
            f"{len(shared)} patients are both held out and in training, such as {shared[0]!r}: accuracy on them is "
            "too optimistic. Split by patient."
        )


def _check_held_out(cohort: Cohort) -> None:
    if len(cohort.split(*HELD_OUT_SPLITS)) == 0:
        raise InputError(
            f"the cohort in {cohort.root} has no image in {list(HELD_OUT_SPLITS)}, so its accuracy "
            "cannot be measured. Split with a val_fraction, or cross-validate with --classifier_folds 5"
        )


def _read(cohort: Cohort, attributes: Attributes, image_size: int) -> PatchDataset:
    names = list(attributes)
    for name in names:
        if name not in cohort.table.columns:
            raise unknown_value("attribute", name, cohort.table.columns, "It has to be a column of the cohort.")
    return PatchDataset(cohort, MetadataSchema.from_table(cohort.table, names[0], names[1:]), image_size)


def _confusion_table(results: Mapping[str, Any]) -> pd.DataFrame:
    rows = [
        (name, value, predicted, count, count / total if (total := sum(counts)) else None)
        for name, result in results.items()
        for value, counts in zip(result["values"], result["confusion"])
        for predicted, count in zip(result["values"], counts)
    ]
    return pd.DataFrame(rows, columns=["attribute", "value", "predicted", "count", "share"])

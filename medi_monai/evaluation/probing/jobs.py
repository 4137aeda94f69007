"""Draws of the run ``probing``: which there are, and how they are performed, in several processes, and stored."""

from __future__ import annotations

import math
import pickle
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medi_monai.cohort.groups import codes_of, stable_order
from medi_monai.evaluation.probing import DrawCondition, Outcome, ProbeProtocol
from medi_monai.evaluation.probing.draws import ArmDraw, ArmScores, Draw, TestedPatients
from medi_monai.evaluation.probing.scoring import Scorer, TestUnits
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.evaluation.shortcuts.squares import Square, correlated_rows, find_squares, outside_rows
from medi_monai.metrics import balanced_accuracy
from medi_monai.results import plain, typed
from medi_monai.results.probing import Training
from medi_monai.utils.files import read_json, write_json
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.workers import map_processes

__all__ = ["DrawContext", "Job", "make_jobs", "run_jobs"]


@dataclass(frozen=True)
class Job:
    """A draw to perform.

    Args:
        key: name of the file of the draw, without its suffix.
        sweep: sweep that the draw belongs to, or ``main``.
        point: point of the sweep; None for ``main``.
        repeat: number of the draw at this point.
        condition: images that the draw trains on.
        arms: names of the arms.
        square: classes and centers of a draw of the sweep over the correlation of class and center.
        folder: folder of the file.
        num_outside: in that sweep, the number of test images at other centers, which come last.
    """

    key: str
    sweep: str
    point: Any
    repeat: int
    condition: DrawCondition
    arms: tuple[str, ...]
    square: Square | None = None
    folder: str = ""
    num_outside: int = 0


@dataclass(frozen=True)
class DrawContext:
    """Data and settings of all draws.

    Args:
        protocol: the protocol with all images.
        units: test patients and groups.
        settings: settings of the comparison.
        trained_on: combinations of class and center that the generative model of each arm was trained on; None, or no
            entry, if they are not recorded.
        tests: test sets that take the place of the holdout in the draws of the main comparison, which then has one arm:
            for each, its rows and their units. The results of each set are stored like those of an arm of its name.
    """

    protocol: ProbeProtocol
    units: TestUnits
    settings: ProbeSettings
    trained_on: Mapping[str, Collection[tuple[str, ...]] | None] = field(default_factory=dict)
    tests: Mapping[str, tuple[np.ndarray, TestUnits]] = field(default_factory=dict)


def make_jobs(context: DrawContext, names: Sequence[str], trainings: Mapping[str, Sequence[str]]) -> list[Job]:
    """Return the draws of the main comparison and of all sweeps.

    Args:
        context: data and settings of all draws.
        names: arms of the main comparison.
        trainings: for each arm with generated images, the names of the image sets of its trainings; sweeps compare all
            of these with the baselines ``real`` and ``reweighted``.
    """
    settings, protocol = context.settings, context.protocol
    synthetic = tuple(name for of_arm in trainings.values() for name in of_arm)
    base = DrawCondition(settings.ratio, settings.real_per_class)
    jobs = [Job(f"main_{repeat}", "main", None, repeat, base, tuple(names)) for repeat in range(settings.num_repeats)]
    baselines = tuple(name for name in ("real", "reweighted") if name in names)
    for repeat in range(settings.sweep_repeats):
        for ratio in settings.sweep_ratios if synthetic else ():
            condition = DrawCondition(ratio, settings.real_per_class)
            jobs.append(Job(f"ratio_{ratio:g}_{repeat}", "ratio", ratio, repeat, condition, synthetic))
        for count in settings.sweep_real_per_class:
            condition = DrawCondition(settings.ratio, count)
            jobs.append(
                Job(f"real_{count}_{repeat}", "real_per_class", count, repeat, condition, (*baselines, *synthetic))
            )
        jobs += _center_jobs(protocol, settings, repeat, (*baselines, *synthetic))
    return jobs + _correlation_jobs(context, baselines, trainings)


def _center_jobs(protocol: ProbeProtocol, settings: ProbeSettings, repeat: int, arms: tuple[str, ...]) -> list[Job]:
    table = protocol.table.iloc[protocol.train]
    centers = sorted(table[protocol.attributes[0]].astype(str).unique())
    num_classes = table[protocol.label].nunique()
    order = np.random.default_rng(seed_from("centers", settings.seed, repeat)).permutation(len(centers))
    jobs = []
    for count in [*(n for n in settings.sweep_num_centers if n < len(centers)), len(centers)]:
        chosen = tuple(sorted(centers[index] for index in order[:count]))
        present = table.loc[table[protocol.attributes[0]].astype(str).isin(chosen), protocol.label]
        if present.nunique() == num_classes:
            condition = DrawCondition(settings.ratio, settings.real_per_class, chosen)
            jobs.append(Job(f"centers_{count}_{repeat}", "num_centers", count, repeat, condition, arms))
    return jobs


def _correlation_jobs(
    context: DrawContext, baselines: Sequence[str], trainings: Mapping[str, Sequence[str]]
) -> list[Job]:
    protocol, settings = context.protocol, context.settings
    codes, names = codes_of(protocol.table, [protocol.attributes[0]])
    # sorted by image name, so that draws do not depend on the order of the rows
    order = stable_order(protocol.table)
    labels = np.full(len(order), -1)
    for rows in (protocol.train, protocol.val, protocol.test):
        labels[rows] = protocol.labels[rows]
    labels, centers, patients = labels[order], codes[order], protocol.patients[order]
    squares = find_squares(labels, centers, patients, np.isin(order, protocol.train), seed=settings.seed)
    withheld = {
        (protocol.classes[square.labels[row]], names[square.centers[1 - row]][0])
        for square in squares
        for row in (0, 1)
    }
    # an arm without all of its trainings would not be the same arm
    usable = [
        of_arm
        for of_arm in trainings.values()
        if not any(_may_have_seen(context.trained_on.get(name), withheld) for name in of_arm)
    ]
    arms = (*baselines, *(name for of_arm in usable for name in of_arm))
    jobs = []
    for number, square in enumerate(squares):
        chosen = tuple(names[code][0] for code in square.centers)
        for repeat in range(settings.sweep_repeats):
            outside = np.random.default_rng(seed_from("other centers", settings.seed, number, repeat))
            others = order[outside_rows(square, labels, centers, patients, outside)]
            for level in settings.sweep_correlations:
                # all levels of a draw share their test images, and as many of the other images as possible
                rng = np.random.default_rng(seed_from("correlation", settings.seed, number, repeat))
                train, val, test = (
                    order[rows] for rows in correlated_rows(square, level, square.size // 2, rng, patients)
                )
                test = np.concatenate([test, others])
                condition = DrawCondition(settings.ratio, None, chosen, train, val, test)
                key = f"square{number}_{level:g}_{repeat}"
                jobs.append(Job(key, "correlation", level, repeat, condition, arms, square, num_outside=len(others)))
    return jobs


def _may_have_seen(trained_on: Collection[tuple[str, ...]] | None, withheld: Collection[tuple[str, ...]]) -> bool:
    # a generator that was trained on images that the sweep withholds from the classifier hands them back to it
    return trained_on is None or not set(withheld).isdisjoint(trained_on)


def run_jobs(jobs: Sequence[Job], context: DrawContext, folder: Path, num_workers: int | None) -> list[Draw]:
    """Perform the draws that are not stored yet, and return all of them in the order of the jobs.

    Args:
        jobs: draws to perform.
        context: data and settings of all draws.
        folder: folder of the stored draws, one file each.
        num_workers: number of processes on the CPU; by default one per core. On a GPU, one process performs all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lacking = [job for job in jobs if not (folder / f"{job.key}.json").is_file()]
    workers = num_workers if torch.device(context.protocol.device).type == "cpu" else 1
    lacking = [replace(job, folder=str(folder)) for job in lacking]
    if workers == 1 or len(lacking) < 4:
        for job in lacking:
            _run_job(job, context)
    else:
        with tempfile.TemporaryDirectory() as shared:
            # tables may have a million rows: each process reads them once instead of receiving them with every draw
            path = Path(shared) / "context.pkl"
            path.write_bytes(pickle.dumps(context))
            for _ in map_processes(partial(_run_elsewhere, path), lacking, workers, "probing", "draw"):
                pass
    return [typed(Draw, read_json(path), str(path)) for path in (folder / f"{job.key}.json" for job in jobs)]


@lru_cache(maxsize=1)
def _context(path: Path) -> DrawContext:
    return pickle.loads(path.read_bytes())


def _run_elsewhere(path: Path, job: Job) -> str:
    torch.set_num_threads(1)
    return _run_job(job, _context(path))


def _run_job(job: Job, context: DrawContext) -> str:
    protocol, settings = context.protocol, context.settings
    if context.tests and job.sweep == "main":
        draw = Draw(job.sweep, job.point, job.repeat, _scores_of_tests(job, context))
        write_json(Path(job.folder) / f"{job.key}.json", _without_nan(plain(draw)))
        return job.key
    rows = protocol.test if job.condition.test_rows is None else job.condition.test_rows
    seed = seed_from("test units", settings.seed)
    num_replicates = settings.probe_replicates if job.sweep == "main" else 1
    scorer = None
    if job.square is None:
        targets = protocol.labels[rows]
        scorer = Scorer(targets, context.units, protocol.classes, settings.min_count, num_replicates, seed)
    tested, unit = (None, rows) if job.square is None else _tested_patients(protocol, rows, job.num_outside)
    arms = {}
    for outcome in protocol.run(job.arms, job.repeat, job.condition):
        scores = (
            _two_classes(outcome, protocol.labels[rows], unit, job.num_outside)
            if scorer is None
            else scorer.score(outcome.probabilities, outcome.in_domain_accuracy)
        )
        training = Training(outcome.num_real, outcome.num_added, outcome.c, outcome.converged)
        arms[outcome.arm] = ArmDraw(scores if job.sweep == "main" else scores.figures_alone(), training)
    draw = Draw(job.sweep, job.point, job.repeat, arms)
    if job.square is not None:
        known = np.isin(protocol.patients[rows], protocol.patients[protocol.train])
        square = job.key.split("_")[0]
        num_test = len(rows) - job.num_outside
        draw = replace(
            draw,
            square=square,
            num_test=num_test,
            num_test_known=int(known.sum()),
            num_outside=job.num_outside,
            tested=tested,
        )
    write_json(Path(job.folder) / f"{job.key}.json", _without_nan(plain(draw)))
    return job.key


def _scores_of_tests(job: Job, context: DrawContext) -> dict[str, ArmDraw]:
    protocol, settings, tests = context.protocol, context.settings, context.tests
    rows = np.concatenate([of_test for of_test, _ in tests.values()])
    (outcome,) = protocol.run(job.arms, job.repeat, replace(job.condition, test_rows=rows))
    training = Training(outcome.num_real, outcome.num_added, outcome.c, outcome.converged)
    scores, start = {}, 0
    for name, (of_test, units) in tests.items():
        # a seed of its own, so that units of different sets are drawn independently
        seed = seed_from("test units", settings.seed, name)
        targets = protocol.labels[of_test]
        scorer = Scorer(targets, units, protocol.classes, settings.min_count, settings.probe_replicates, seed)
        of_outcome = outcome.probabilities[start : start + len(of_test)]
        scores[name] = ArmDraw(scorer.score(of_outcome), training)
        start += len(of_test)
    return scores


def _tested_patients(protocol: ProbeProtocol, rows: np.ndarray, num_outside: int) -> tuple[TestedPatients, np.ndarray]:
    # patients by class, center and test, and the entry of every row; patients of other centers come last in both
    outside = np.arange(len(rows)) >= len(rows) - num_outside
    keys = np.stack([outside, protocol.patients[rows], protocol.labels[rows], protocol.centers[rows]])
    entries, unit, counts = np.unique(keys, axis=1, return_inverse=True, return_counts=True)
    others, patients, labels, centers = (tuple(entry) for entry in entries.tolist())
    tested = TestedPatients(patients, labels, centers, tuple(map(bool, others)), tuple(counts.tolist()))
    return tested, unit.reshape(-1)


def _two_classes(outcome: Outcome, labels: np.ndarray, unit: np.ndarray, num_outside: int) -> ArmScores:
    num = outcome.probabilities.shape[1]
    predicted, inside = outcome.probabilities.argmax(1).numpy(), len(labels) - num_outside
    accuracies = []
    for part in (slice(inside), slice(inside, None)):
        confusion = np.zeros((num, num))
        np.add.at(confusion, (labels[part], predicted[part]), 1)
        accuracies.append(float(balanced_accuracy(confusion)))
    right = np.bincount(unit[predicted == labels], minlength=int(unit.max()) + 1)
    return ArmScores.balanced_accuracy_alone(accuracies[0], accuracies[1], right.tolist())


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content

"""The run ``probing``: accuracy of linear probes on unseen combinations, by arm, over resampled patients."""

from __future__ import annotations

import math
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import codes_of, spread_rows, stable_order
from medi_monai.cohort.samples import check_arms, known_rows, read_arms, settings_that_differ
from medi_monai.engines.distributed import torchrun_session
from medi_monai.evaluation.embedding import embed_images, features_folder
from medi_monai.evaluation.probing import (
    BASELINES,
    DrawCondition,
    ImageSet,
    Outcome,
    ProbeProtocol,
    balanced_robustness,
    correlated_rows,
    find_squares,
    probe_accuracy,
)
from medi_monai.evaluation.probing.arms import AUGMENTED, NORMALIZED, RESERVED_NAMES, check_classes
from medi_monai.evaluation.probing.draws import ArmDraw, ArmScores, Draw
from medi_monai.evaluation.probing.scoring import Scorer, TestUnits
from medi_monai.evaluation.probing.shortcut import Square
from medi_monai.evaluation.probing.tables import (
    compare_arms,
    correlation_sweep,
    describe_test,
    describe_training,
    long_table,
    summarize_arm,
    sweep_points,
    without_added,
)
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.metrics import balanced_accuracy
from medi_monai.networks.encoders import Encoder
from medi_monai.report import write_probe_page
from medi_monai.results import plain, print_findings, typed, write_run
from medi_monai.results.probing import CorrelationSweep, ProbeResults, Shortcut, Training
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, read_json, write_json
from medi_monai.utils.records import claim_results
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.workers import map_processes
from medi_monai.wsi.transforms import patch_transforms

__all__ = ["probe_run"]

#: version of the draws' content; stored draws of another version are not used
DRAWS_VERSION = 4
#: sweeps over settings, in addition to that over the correlation of class and center
SWEEPS = ("ratio", "real_per_class", "num_centers")
#: maximum number of real images whose center and class are predicted
MAX_PREDICTED = 20_000


@dataclass(frozen=True)
class _Job:
    """A draw to perform, with the names of its arms."""

    key: str
    sweep: str
    point: Any
    repeat: int
    setting: DrawCondition
    arms: tuple[str, ...]
    square: Square | None = None
    folder: str = ""


@dataclass(frozen=True)
class _Context:
    protocol: ProbeProtocol
    units: TestUnits
    settings: ProbeSettings


#: usual names of demographic columns
DEMOGRAPHICS = ("race", "ethnicity", "sex", "gender")


def probe_run(
    cohort: Cohort,
    arms: Mapping[str, str | os.PathLike],
    label: str,
    attributes: Sequence[str],
    demographics: Sequence[str] | None,
    baselines: Sequence[str],
    encoder: Encoder,
    image_size: int,
    output_dir: str | os.PathLike,
    settings: ProbeSettings | None = None,
    batch_size: int = 256,
    device: str = "cpu",
    num_workers: int | None = None,
    focus: str = "medi",
    features_dir: str | os.PathLike | None = None,
) -> ProbeResults | None:
    """Compare training arms and write ``probe.json``, ``probe.csv`` and ``report.html``.

    Every draw is written as soon as it is finished, so that an interrupted run can resume.

    Args:
        cohort: real images with ``train``, ``val`` and ``holdout``.
        arms: ``output_dir`` of the sampling run by name, for arms *real + name*; empty to compare only baselines.
        label: column of the class.
        attributes: columns that form a combination with the label; the first is the center.
        demographics: columns whose groups are compared (equal opportunity, equalized odds); None for those of
            :data:`DEMOGRAPHICS` that the cohort has.
        baselines: baselines from :data:`medi_monai.evaluation.probing.BASELINES`, in addition to ``real``.
        encoder: encoder of the features.
        image_size: side of the images in pixels.
        output_dir: output folder; earlier results are moved to ``earlier-<n>``.
        settings: settings of the comparison.
        batch_size: batch size of the encoder.
        device: device of encoder and probes.
        num_workers: number of processes that fit probes; by default one per core on the CPU.
        focus: arm that is compared with every other arm; the last one if no arm has this name.
        features_dir: folder of features, as for :func:`medi_monai.evaluation.embedding.features_folder`.

    Returns:
        The content of ``probe.json``; None in all but the first of ``torchrun``'s processes, which only embed.

    Raises:
        InputError: without attributes, baselines or arms to compare, and for arms without images of a class.
    """
    settings, output, columns = settings or ProbeSettings(), Path(output_dir), [label, *attributes]
    if not attributes:
        raise InputError("no attribute is given: name the column of the center, and others if needed")
    baselines = ["real", *(name for name in baselines if name != "real")]
    for name in baselines:
        if name not in BASELINES:
            raise unknown_value("baseline", name, BASELINES)
    real, sampled = known_rows(cohort, columns), read_arms(arms, columns, RESERVED_NAMES) if arms else {}
    names = [*baselines, *sampled]
    if len(names) < 2:
        raise InputError("nothing to compare: give --arms or --baselines")
    if focus not in names:
        print(f"there is no arm {focus!r}: comparing {names[-1]!r} with the other arms", flush=True)
        focus = names[-1]
    warnings = check_arms(sampled, cohort, columns)
    check_classes(real, sampled, label)
    protocol = _protocol(
        real, sampled, label, attributes, baselines, encoder, image_size, settings, batch_size, device, features_dir
    )
    if protocol is None:
        return None
    print_findings(warnings)
    test = real.table.iloc[protocol.test]
    for name in sorted(set(demographics or ()) - set(real.table.columns)):
        print(f"the cohort has no column {name!r}: its groups are not compared", flush=True)
    demographics = [name for name in demographics or DEMOGRAPHICS if name in real.table.columns]
    context = _Context(protocol, TestUnits.of(test, attributes, demographics), settings)
    digest = json_digest(_identity(real, sampled, names, encoder, settings, columns, demographics))
    claim_results(output, "probing")
    draws = _run_all(_jobs(context, names, list(sampled)), context, output / "repeats" / digest[:8], num_workers)
    main = [draw for draw in draws if draw.sweep == "main"]
    by_arm = {arm: [draw.arms[arm] for draw in main] for arm in names}
    nothing_added = without_added(draws, list(sampled))
    print_findings(nothing_added)
    results = ProbeResults(
        arms={arm: summarize_arm(of_arm, len(test)) for arm, of_arm in by_arm.items()},
        comparisons=compare_arms(by_arm, focus),
        sweeps={sweep: sweep_points(draws, sweep) for sweep in SWEEPS},
        shortcut=_shortcut(protocol, label, attributes[0], settings, correlation_sweep(draws)),
        test=describe_test(protocol, context.units),
        training=describe_training(protocol),
        label=label,
        attributes=tuple(attributes),
        demographics=tuple(demographics),
        encoder=encoder.describe(),
        settings={**vars(settings), "image_size": image_size, "arms": dict(arms), "focus": focus},
        settings_that_differ=settings_that_differ(sampled),
        digests={"cohort": cohort.digest, "draws": digest},
        warnings=(*nothing_added, *warnings),
    )
    return write_run(
        "probing",
        output,
        "probe",
        results,
        {"probe.csv": long_table(results)},
        write_probe_page,
        {"arms": names, "repeats": settings.num_repeats},
        {name: arm.balanced_accuracy for name, arm in results.arms.items()},
    )


def _protocol(
    real: Cohort,
    sampled: Mapping[str, Cohort],
    label: str,
    attributes: Sequence[str],
    baselines: Sequence[str],
    encoder: Encoder,
    image_size: int,
    settings: ProbeSettings,
    batch_size: int,
    device: str,
    features_dir: str | os.PathLike | None,
) -> ProbeProtocol | None:
    # None in all but the first process of torchrun: the others only take part in embedding
    with torchrun_session() as shard:

        def embedded(images: Cohort, transform: Any = None, recipe: Mapping[str, Any] | None = None) -> ImageSet:
            folder = features_folder(images, features_dir)
            store = embed_images(images, encoder, folder, image_size, batch_size, device, transform, 0, recipe, shard)
            return ImageSet(store.folder, images.table)

        views, augmented = {"real": embedded(real)}, []
        synthetic = {name: embedded(images) for name, images in sampled.items()}
        if NORMALIZED in baselines:
            transform = patch_transforms(geometry=False, normalize=settings.normalization)
            views[NORMALIZED] = embedded(real, transform, {"normalized": settings.normalization})
        for copy in range(settings.num_augmented if AUGMENTED in baselines else 0):
            transform = patch_transforms(geometry=False, stain_jitter=settings.stain_jitter)
            recipe = {"stain_jitter": settings.stain_jitter, "copy": copy, "seed": settings.seed}
            augmented.append(embedded(real, transform, recipe))
    if shard.rank > 0:
        return None
    return ProbeProtocol(views, synthetic, augmented, label, attributes, settings.c_values, settings.seed, device)


def _identity(
    real: Cohort,
    sampled: Mapping[str, Cohort],
    names: Sequence[str],
    encoder: Encoder,
    settings: ProbeSettings,
    columns: Sequence[str],
    demographics: Sequence[str],
) -> dict[str, Any]:
    tables = {name: images.digest for name, images in sampled.items()}
    paths = {name: images.root / "sampling.json" for name, images in sampled.items()}
    recipes = {name: read_json(path) for name, path in paths.items() if path.is_file()}
    shown = {**vars(settings), "arms": list(names), "columns": list(columns), "demographics": list(demographics)}
    return {
        "version": DRAWS_VERSION,
        "real": real.digest,
        "arms": tables,
        "recipes": recipes,
        "encoder": encoder.describe(),
        **shown,
    }


def _jobs(context: _Context, names: Sequence[str], synthetic: Sequence[str]) -> list[_Job]:
    settings, protocol = context.settings, context.protocol
    base = DrawCondition(settings.ratio, settings.real_per_class)
    jobs = [_Job(f"main_{repeat}", "main", None, repeat, base, tuple(names)) for repeat in range(settings.num_repeats)]
    baselines = tuple(name for name in ("real", "reweighted") if name in names)
    for repeat in range(settings.sweep_repeats):
        for ratio in settings.sweep_ratios if synthetic else ():
            setting = DrawCondition(ratio, settings.real_per_class)
            jobs.append(_Job(f"ratio_{ratio:g}_{repeat}", "ratio", ratio, repeat, setting, tuple(synthetic)))
        for count in settings.sweep_real_per_class:
            setting = DrawCondition(settings.ratio, count)
            jobs.append(
                _Job(f"real_{count}_{repeat}", "real_per_class", count, repeat, setting, (*baselines, *synthetic))
            )
        jobs += _center_jobs(protocol, settings, repeat, (*baselines, *synthetic))
    return jobs + _correlation_jobs(protocol, settings, (*baselines, *synthetic))


def _center_jobs(protocol: ProbeProtocol, settings: ProbeSettings, repeat: int, arms: tuple[str, ...]) -> list[_Job]:
    table = protocol.table.iloc[protocol.train]
    centers = sorted(table[protocol.attributes[0]].astype(str).unique())
    num_classes = table[protocol.label].nunique()
    order = np.random.default_rng(seed_from("centers", settings.seed, repeat)).permutation(len(centers))
    jobs = []
    for count in [*(n for n in settings.sweep_num_centers if n < len(centers)), len(centers)]:
        chosen = tuple(sorted(centers[index] for index in order[:count]))
        present = table.loc[table[protocol.attributes[0]].astype(str).isin(chosen), protocol.label]
        if present.nunique() == num_classes:
            setting = DrawCondition(settings.ratio, settings.real_per_class, chosen)
            jobs.append(_Job(f"centers_{count}_{repeat}", "num_centers", count, repeat, setting, arms))
    return jobs


def _correlation_jobs(protocol: ProbeProtocol, settings: ProbeSettings, arms: tuple[str, ...]) -> list[_Job]:
    centers, names = codes_of(protocol.table, [protocol.attributes[0]])
    # sorted by image name, so that draws do not depend on the order of the rows
    order = stable_order(protocol.table)
    labels = np.full(len(order), -1)
    for rows in (protocol.train, protocol.val, protocol.test):
        labels[rows] = protocol.labels[rows]
    known = np.isin(order, protocol.train)
    squares = find_squares(labels[order], centers[order], protocol.patients[order], known, seed=settings.seed)
    jobs = []
    for number, square in enumerate(squares):
        for repeat in range(settings.sweep_repeats):
            for level in settings.sweep_correlations:
                # all levels of a draw share their test images, and as many of the other images as possible
                rng = np.random.default_rng(seed_from("correlation", settings.seed, number, repeat))
                train, val, test = (order[rows] for rows in correlated_rows(square, level, square.size // 2, rng))
                chosen = tuple(names[code][0] for code in square.centers)
                setting = DrawCondition(settings.ratio, None, chosen, train, val, test)
                jobs.append(
                    _Job(f"square{number}_{level:g}_{repeat}", "correlation", level, repeat, setting, arms, square)
                )
    return jobs


def _run_all(jobs: list[_Job], context: _Context, folder: Path, num_workers: int | None) -> list[Draw]:
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
def _context(path: Path) -> _Context:
    return pickle.loads(path.read_bytes())


def _run_elsewhere(path: Path, job: _Job) -> str:
    torch.set_num_threads(1)
    return _run_job(job, _context(path))


def _run_job(job: _Job, context: _Context) -> str:
    protocol, settings = context.protocol, context.settings
    rows = protocol.test if job.setting.test_rows is None else job.setting.test_rows
    seed = seed_from("test patients", settings.seed, job.repeat)
    num_replicates = settings.probe_replicates if job.sweep == "main" else 1
    scorer = None
    if job.square is None:
        targets = protocol.labels[rows]
        scorer = Scorer(targets, context.units, protocol.classes, settings.min_count, num_replicates, seed)
    arms = {}
    for outcome in protocol.run(job.arms, job.repeat, job.setting):
        scores = _two_classes(outcome, protocol, rows) if scorer is None else scorer.score(outcome.probabilities)
        training = Training(outcome.num_real, outcome.num_added, outcome.c, outcome.converged)
        arms[outcome.arm] = ArmDraw(scores if job.sweep == "main" else scores.figures_alone(), training)
    draw = Draw(job.sweep, job.point, job.repeat, arms)
    if job.square is not None:
        known = np.isin(protocol.patients[rows], protocol.patients[protocol.train])
        square = job.key.split("_")[0]
        draw = replace(draw, square=square, num_test=len(rows), num_test_known=int(known.sum()))
    write_json(Path(job.folder) / f"{job.key}.json", _without_nan(plain(draw)))
    return job.key


def _two_classes(outcome: Outcome, protocol: ProbeProtocol, rows: np.ndarray) -> ArmScores:
    num = len(protocol.classes)
    confusion = np.zeros((num, num))
    np.add.at(confusion, (protocol.labels[rows], outcome.probabilities.argmax(1).numpy()), 1)
    return ArmScores.balanced_accuracy_alone(float(balanced_accuracy(confusion)))


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _shortcut(
    protocol: ProbeProtocol, label: str, center: str, settings: ProbeSettings, correlation: CorrelationSweep
) -> Shortcut:
    order = stable_order(protocol.table)
    rng = np.random.default_rng(seed_from("shortcut", settings.seed))
    rows = order[spread_rows(protocol.groups[order], MAX_PREDICTED, rng)]
    features = np.asarray(protocol.views["real"].features[rows])
    table, patients = protocol.table.iloc[rows], protocol.patients[rows]
    of_label, of_center = (
        probe_accuracy(features, codes_of(table, [column])[0], patients, settings.c_values, settings.seed)
        for column in (label, center)
    )
    slides = codes_of(table, ["slide"])[0] if "slide" in table else None
    centers = codes_of(table, [center])[0]
    robustness = balanced_robustness(features, protocol.labels[rows], centers, slides, settings.seed)
    return Shortcut(of_label, of_center, robustness, correlation)

"""The run ``probing``: accuracy of linear probes on unseen combinations, by arm, over resampled patients."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort import Cohort
from medi_monai.cohort.samples import check_arms, known_rows, read_arms, settings_that_differ
from medi_monai.engines.distributed import torchrun_session
from medi_monai.evaluation.blank_encoder import encoder_findings
from medi_monai.evaluation.compression import compression_findings
from medi_monai.evaluation.embedding import Embedder
from medi_monai.evaluation.probing import (
    BASELINES,
    ProbeProtocol,
)
from medi_monai.evaluation.probing.arms import (
    NORMALIZED,
    RECOLORED,
    RESERVED_NAMES,
    SWEEPS,
    Arm,
    check_classes,
    variants_of,
)
from medi_monai.evaluation.probing.correlation import correlation_sweep
from medi_monai.evaluation.probing.jobs import DrawContext, make_jobs, run_jobs
from medi_monai.evaluation.probing.recoloring import Recolored, Recoloring, num_recolored
from medi_monai.evaluation.probing.scoring import TestUnits
from medi_monai.evaluation.probing.sweeps import sweep_points, without_added
from medi_monai.evaluation.probing.tables import (
    compare_arms,
    describe_test,
    describe_training,
    long_table,
    summarize_arm,
    test_df_of,
)
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.evaluation.shortcuts.figures import predicted_rows, shortcut_figures
from medi_monai.evaluation.views import embed_real_views, normalizing
from medi_monai.networks.encoders import Encoder
from medi_monai.report import write_probe_page
from medi_monai.results import print_findings, write_run
from medi_monai.results.diagnostics import CorrelationSweep, Shortcut
from medi_monai.results.probing import ProbeResults
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, read_json
from medi_monai.utils.records import claim_results
from medi_monai.utils.text import listed

__all__ = ["probe_run"]

#: version of the draws' content; stored draws of another version are not used
DRAWS_VERSION = 9
#: the sweep over the correlation of class and center, which has results of its own
CORRELATION = "correlation"
#: usual names of demographic columns
DEMOGRAPHICS = ("race", "ethnicity", "sex", "gender")


def probe_run(
    cohort: Cohort,
    arms: Mapping[str, str | os.PathLike | Sequence[str | os.PathLike]],
    label: str,
    attributes: Sequence[str],
    demographics: Sequence[str] | None,
    baselines: Sequence[str],
    embedder: Embedder,
    output_dir: str | os.PathLike,
    settings: ProbeSettings | None = None,
    num_workers: int | None = None,
    focus: str = "medi",
    sweeps: Sequence[str] = SWEEPS,
) -> ProbeResults | None:
    """Compare training arms and write ``probe.json``, ``probe.csv`` and ``report.html``.

    Every draw is written as soon as it is finished, so that an interrupted run can resume.

    Args:
        cohort: real images with ``train``, ``val`` and ``holdout``.
        arms: ``output_dir`` of the sampling run by name, for arms *real + name*; a list of them for several trainings
            of the same model; empty to compare only baselines.
        label: column of the class.
        attributes: columns that form a combination with the label; the first is the center.
        demographics: columns whose groups are compared (equal opportunity, equalized odds); None for those of
            :data:`DEMOGRAPHICS` that the cohort has.
        baselines: baselines from :data:`medi_monai.evaluation.probing.BASELINES`, in addition to ``real``.
        embedder: how images are embedded; probes are fitted on its device.
        output_dir: output folder; earlier results are moved to ``earlier-<n>``.
        settings: settings of the comparison.
        num_workers: number of processes that fit probes; by default one per core on the CPU.
        focus: arm that is compared with every other arm; the last one if no arm has this name.
        sweeps: sweeps to perform, of :data:`medi_monai.evaluation.probing.arms.SWEEPS`.

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
    trainings = _trainings(arms)
    folders = {name: folder for of_arm in trainings.values() for name, folder in of_arm.items()}
    real, sampled = known_rows(cohort, columns), read_arms(folders, columns, RESERVED_NAMES) if arms else {}
    recolored = _recolored(real, sampled, columns, baselines, embedder.image_size, settings)
    names = [*(name for name in baselines if name not in RECOLORED or name in recolored), *trainings]
    if len(names) < 2:
        raise InputError("nothing to compare: give --arms or --baselines")
    if focus not in names:
        print(f"there is no arm {focus!r}: comparing {names[-1]!r} with the other arms", flush=True)
        focus = names[-1]
    variants = _variants(focus, sampled, settings.variants)
    names += variants
    warnings = check_arms(sampled, cohort, columns)
    check_classes(real, sampled, label)
    embedder = embedder.compressing(real, sampled)
    encoder = embedder.encoder
    protocol = _protocol(real, sampled, recolored, variants, columns, baselines, settings, embedder)
    if protocol is None:
        return None
    warnings += [*encoder_findings(protocol.views["real"].features, encoder.name), *compression_findings(encoder)]
    print_findings(warnings)
    test = real.table.iloc[protocol.test]
    for name in sorted(set(demographics or ()) - set(real.table.columns)):
        print(f"the cohort has no column {name!r}: its groups are not compared", flush=True)
    demographics = [name for name in demographics or DEMOGRAPHICS if name in real.table.columns]
    trained_on = {
        name: images.trained_on.of_columns(columns[:2]) for name, images in sampled.items() if images.trained_on
    }
    context = DrawContext(protocol, TestUnits.of(test, label, attributes, demographics), settings, trained_on)
    every = [*(name for name in names if name not in trainings), *sampled]
    digest = json_digest(_identity(real, sampled, every, encoder, settings, columns, demographics))
    claim_results(output, "probing")
    named = {arm: tuple(of_arm) for arm, of_arm in trainings.items()}
    jobs = [job for job in make_jobs(context, every, named) if job.sweep in ("main", *sweeps)]
    draws = run_jobs(jobs, context, output / "repeats" / digest[:8], num_workers)
    main = [draw for draw in draws if draw.sweep == "main"]
    by_arm = {arm: [[draw.arms[name] for draw in main] for name in named.get(arm, [arm])] for arm in names}
    nothing_added = without_added(draws, list(sampled))
    print_findings(nothing_added)
    test_df = test_df_of(context.units)
    results = ProbeResults(
        arms={arm: summarize_arm(of_arm, len(test), len(protocol.val), test_df) for arm, of_arm in by_arm.items()},
        comparisons=compare_arms(by_arm, focus, test_df, settings.margin),
        sweeps={sweep: sweep_points(draws, sweep, named) for sweep in SWEEPS if sweep != CORRELATION},
        shortcut=_shortcut(
            protocol,
            label,
            attributes[0],
            settings,
            correlation_sweep(draws, named, settings.probe_replicates, settings.seed),
        ),
        test=describe_test(protocol, context.units),
        training=describe_training(protocol),
        label=label,
        attributes=tuple(attributes),
        demographics=tuple(demographics),
        encoder=encoder.describe(),
        settings={
            **vars(settings),
            "image_size": embedder.image_size,
            "arms": dict(arms),
            "focus": focus,
            "sweeps": list(sweeps),
        },
        settings_that_differ=settings_that_differ({arm: sampled[arm] for arm in trainings}),
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


def _trainings(arms: Mapping[str, str | os.PathLike | Sequence[str | os.PathLike]]) -> dict[str, dict[str, Path]]:
    """Return the folders of each arm's trainings by name; the first one has the name of the arm."""
    trainings: dict[str, dict[str, Path]] = {}
    for arm, given in arms.items():
        folders: list[Any] = list(given) if isinstance(given, (list, tuple)) else [given]
        if not folders or not all(isinstance(folder, (str, os.PathLike)) for folder in folders):
            raise InputError(f"arms = {given!r} for {arm!r}: a folder, or a list of folders, one for each training")
        if len({Path(folder).resolve() for folder in folders}) < len(folders):
            raise InputError(f"arms = {given!r} for {arm!r}: a folder is listed twice; each training has its own")
        names = [arm, *(f"{arm} (training {number})" for number in range(2, len(folders) + 1))]
        trainings[arm] = {name: Path(folder) for name, folder in zip(names, folders)}
    numbers = {arm: len(of_arm) for arm, of_arm in trainings.items()}
    if len(set(numbers.values()) - {1}) > 1:
        found = listed(f"{number} for {arm!r}" for arm, number in numbers.items())
        raise InputError(f"arms have unequal numbers of trainings: {found}. List as many folders for each, or one")
    return trainings


def _recolored(
    real: Cohort,
    sampled: Mapping[str, Cohort],
    columns: Sequence[str],
    baselines: Sequence[str],
    image_size: int,
    settings: ProbeSettings,
) -> dict[str, Recolored]:
    # in the numbers and combinations in which the arms with generated images add theirs
    names = [name for name in baselines if name in RECOLORED]
    if not names:
        return {}
    label, center = columns[:2]
    tables = [images.table[[label, center]].astype(str) for images in sampled.values()]
    combinations = set(pd.concat(tables).itertuples(index=False, name=None)) if tables else None
    count = num_recolored(real, sampled, label, settings.ratio, settings.real_per_class)
    recoloring = Recoloring(real, label, center, image_size, settings.seed)
    found = {name: recoloring.patches(RECOLORED[name], combinations, count) for name in names}
    return {name: patches for name, patches in found.items() if patches is not None}


def _variants(focus: str, sampled: Mapping[str, Cohort], kinds: Sequence[str]) -> dict[str, Arm]:
    if kinds and focus not in sampled:
        print(f"no variants of {focus!r}, which has no generated images", flush=True)
        return {}
    variants = variants_of(focus, kinds)
    for name in variants:
        if name in sampled or name in BASELINES:
            raise InputError(f"{name!r} is both an arm and a variant of the arm {focus!r}: rename one of them")
    return variants


def _protocol(
    real: Cohort,
    sampled: Mapping[str, Cohort],
    recolored: Mapping[str, Recolored],
    variants: Mapping[str, Arm],
    columns: Sequence[str],
    baselines: Sequence[str],
    settings: ProbeSettings,
    embedder: Embedder,
) -> ProbeProtocol | None:
    # None in all but the first process of torchrun: the others only take part in embedding
    with torchrun_session() as shard:
        normalized = [arm.added for arm in variants.values() if arm.view == NORMALIZED]
        names = [*baselines, NORMALIZED] if normalized else baselines
        views, augmented = embed_real_views(real, names, settings, embedder, shard)
        synthetic = {name: embedder(images, shard) for name, images in sampled.items()}
        derived = {}
        for name in normalized:
            images = sampled[name.removesuffix("_normalized")]
            derived[name] = embedder(images, shard, **normalizing(settings))
        for name, patches in recolored.items():
            derived[name] = embedder(patches.cohort, shard, patches.transform, patches.recipe)
    if shard.rank > 0:
        return None
    label, *attributes = columns
    return ProbeProtocol(
        views,
        synthetic,
        augmented,
        label,
        attributes,
        settings.c_values,
        settings.seed,
        str(embedder.device),
        derived,
        variants,
    )


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


def _shortcut(
    protocol: ProbeProtocol, label: str, center: str, settings: ProbeSettings, correlation: CorrelationSweep
) -> Shortcut:
    rows = predicted_rows(protocol.table, protocol.groups, settings.seed)
    features = np.asarray(protocol.views["real"].features[rows])
    table = protocol.table.iloc[rows]
    return shortcut_figures(features, table, label, center, settings.c_values, settings.seed, correlation)

"""Sample a plan: write reproducible images, a manifest and a grid; safe to interrupt, to repeat and to share."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from medi_monai.cohort import Shard
from medi_monai.cohort.samples import SETTINGS_FILE
from medi_monai.engines.distributed import local_device, torchrun_session, watch_processes
from medi_monai.engines.extension import extend_model, with_learned
from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.sampling_settings import IMAGE_FORMATS
from medi_monai.networks.learned_values import LearnedValue, values_for_weights
from medi_monai.results import plain
from medi_monai.results.training import RECORD, TrainingRecord
from medi_monai.runs.sampling.checks import check_images, check_plan, print_plan
from medi_monai.runs.sampling.drawing import Drawing
from medi_monai.runs.sampling.files import ImageFiles, recipe_digest, unpack
from medi_monai.runs.sampling.images import PlannedImages
from medi_monai.runs.sampling.names import case_twins
from medi_monai.runs.sampling.outputs import is_manifest_of, write_grid, write_manifest
from medi_monai.runs.sampling.plans import ranged_columns, training_counts
from medi_monai.runs.sampling.shares import WorkShare
from medi_monai.schema import ExtendedSchema, ValuePath
from medi_monai.utils.console import say
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import file_digest, read_json, write_json
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.text import plural

__all__ = ["sample_plan"]

#: files that belong to a single plan, unlike the images, which all plans sampled to a folder share
PLAN_FILES = ("manifest.csv", "grid.png", "summary.json")


def sample_plan(
    network: nn.Module,
    generator: ImageGenerator,
    plan: pd.DataFrame,
    columns: Sequence[str],
    output_dir: str | os.PathLike,
    checkpoint: str | os.PathLike,
    settings: Mapping[str, Any],
    train_config: Mapping[str, Any] | None = None,
    not_sampled: Sequence[Mapping[str, str]] = (),
    learned: Sequence[LearnedValue] = (),
    path: ValuePath | None = None,
    shard: str | None = None,
    image_format: str = "png",
    images_per_tar: int = 1000,
) -> PlannedImages:
    """Write ``images/`` or ``tars/``, ``manifest.csv``, ``grid.png`` and ``summary.json``.

    With given settings, an image depends only on the seed, its combination and its number, not on the rest of the plan.
    After an interruption, the same call draws the missing images; images with other settings are moved aside, never
    overwritten. Processes of ``torchrun`` divide the images among them. Without ``shard``, images already drawn by jobs
    with shares of the plan are used, in their folders.

    Args:
        network: trained network in evaluation mode.
        generator: generator of the images.
        plan: combinations with ``count``; attributes without a column are left to the model, and so is the label if the
            model was trained with a null label according to ``train_config``.
        columns: label and attributes that form a combination.
        output_dir: folder of the run.
        checkpoint: file of the weights, whose SHA-256 is written to the manifest.
        settings: resolved settings of the run, for the summary.
        train_config: settings of the training (``model.json``) of a metadata-conditioned model, whose record of the
            training data is saved in ``sampling.json``.
        not_sampled: combinations missing from the plan, from :func:`not_in_plan`, which are printed and listed in the
            summary.
        learned: values that were learned for this model, from :func:`medi_monai.networks.learned_values.load_values`.
        path: path from one value to another if ``plan`` was made for one; ``grid.png`` then shows this path.
        shard: ``k/n`` draws only the k-th of n shares of the plan; None draws all.
        image_format: ``png`` for one file per image; ``tar`` for tar files of images, each with its row as JSON.
        images_per_tar: number of images per tar file.

    Returns:
        The images of the plan, or of the share.

    Raises:
        InputError: for a plan that the model cannot sample, for example because of an unknown column or value, that
            does not fit on the disk, or whose share is empty; nothing is written then.
    """
    if image_format not in IMAGE_FORMATS:
        raise unknown_value("image format", image_format, IMAGE_FORMATS)
    label, root = generator.schema.names[0], Path(output_dir)
    check_images(sum(map(int, plan["count"])), generator.image_size, output_dir)
    plan = plan if label in plan.columns else plan.assign(**{label: None})
    weights = file_digest(checkpoint)
    learned = values_for_weights(learned, weights, plan)
    generator, plan = extend_model(network, generator, plan, learned, path)
    train_config = with_learned(train_config, generator.schema, learned)
    counts = training_counts(train_config)
    free = check_plan(plan, generator.schema, columns, train_config, counts)
    recipe = {"checkpoint": weights, **generator.recipe()}
    own = WorkShare.parse(shard, images_per_tar if image_format == "tar" else 1)
    images = PlannedImages(
        plan,
        None if counts is None else counts.of(plan, _mixed(generator)),
        ranged_columns([name for name in plan.columns if name != "count"], generator.schema),
        recipe,
        generator.seed,
        case_twins(generator.schema),
        own,
    )
    if not len(images):
        raise InputError(f"shard = {shard!r}: the plan has {plural(images.total, 'image')}, and this job none of them")
    print_plan(plan, free, images.seen, not_sampled)
    with torchrun_session() as processes:
        if processes.is_main:
            _begin(root, recipe, images, TrainingRecord.in_config(train_config))
        processes.wait()
        files = ImageFiles(root, recipe, own.unit)
        if processes.is_main and own.unit == 1:
            unpacked = unpack(root, [folder for folder, _ in files.jobs])
            if unpacked:
                say(f"unpacked {plural(unpacked, 'image')} of tar files")
        processes.wait()
        missing, seconds = _draw_missing(Drawing(network, generator, images, files, recipe), own, processes)
        if processes.is_main:
            first = next(iter(columns), label)
            keys = [first, *(name for name in images.keys if name != first)]
            guidance = generator.guidance_settings.text(generator.schema.names, generator.guidance_scale)
            title = f"synthetic patches: seed {generator.seed}, {guidance}"
            write_manifest(root / "manifest.csv", images, files)
            write_grid(root / "grid.png", images, files, keys, title, path)
            _finish(root, images, missing, seconds, settings, recipe, not_sampled)
    return images


def _draw_missing(drawing: Drawing, own: WorkShare, processes: Shard) -> tuple[int, float]:
    """Draw the images of a share of the plan that do not exist yet, divided among the processes of ``torchrun``.

    Args:
        drawing: images of the plan and their files; its network is moved to the device of the process if there are
            several.
        own: share of this job.
        processes: processes of ``torchrun``.

    Returns:
        The number of images that were missing (0 in all but the first process), and the seconds of drawing them.
    """
    images = drawing.images
    missing = drawing.count_missing(own) if processes.is_main else 0
    processes.wait()
    if processes.is_main and missing < len(images):
        say(f"{len(images) - missing:,} of {plural(len(images), 'image')} are there already; drawing {missing:,}")
    start = time.perf_counter()
    with watch_processes(processes):
        share = own.among(processes.rank, processes.world_size)
        if processes.world_size > 1 and next(drawing.network.parameters()).is_cuda:
            drawing.network.to(local_device())
        mine = drawing.count_missing(share) if processes.world_size > 1 else missing
        drawing.draw(share, mine, processes.is_main)
    return missing, time.perf_counter() - start


def _mixed(generator: ImageGenerator) -> dict[tuple[str, str], list[str]]:
    """Return the values of each mixture in the schema, by its column and text."""
    schema = generator.schema
    mixtures = schema.mixtures if isinstance(schema, ExtendedSchema) else ()
    return {(mixture.column, mixture.text): [value for value, _ in mixture.shares] for mixture in mixtures}


def _begin(root: Path, recipe: Mapping[str, Any], images: PlannedImages, record: TrainingRecord | None) -> None:
    claim_results(root, "sampling")
    stored, manifest = root / SETTINGS_FILE, root / "manifest.csv"
    if stored.is_file() and recipe_digest(read_json(stored)) != recipe_digest(recipe):
        # the settings are moved last, so that a call after a killed one still detects that they differ
        set_aside(root, [root / name for name in ("images", "tars", *PLAN_FILES, SETTINGS_FILE)])
    write_json(stored, recipe if record is None else {**recipe, RECORD: plain(record)})
    if manifest.is_file() and not is_manifest_of(manifest, images):
        set_aside(root, [root / name for name in PLAN_FILES])


def _finish(
    root: Path,
    images: PlannedImages,
    drawn: int,
    seconds: float,
    settings: Mapping[str, Any],
    recipe: Mapping[str, Any],
    not_sampled: Sequence[Mapping[str, str]],
) -> None:
    finish_run(
        "sampling",
        root,
        made={
            "images": len(images),
            "drawn_now": drawn,
            "combinations": len(images.combinations),
            **({"of_images": images.total} if len(images) < images.total else {}),
            **({"seen": images.seen} if images.seen else {}),
            **({"not_sampled": [dict(key) for key in not_sampled]} if not_sampled else {}),
        },
        figures={
            "seconds": round(seconds, 2),
            "images_per_second": round(drawn / seconds, 2) if drawn else None,
        },
        settings=settings,
        digests={"model.pt": recipe["checkpoint"], "schema": recipe["schema"]},
        where=root / "grid.png",
    )

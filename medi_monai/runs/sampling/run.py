"""Sample a plan: reproducible images, a manifest and a grid; safe to interrupt and repeat."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ignite.engine import Engine
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

from medi_monai.cohort import expand_plan
from medi_monai.cohort.plans import EVIDENCE, SEEN, draw_values
from medi_monai.cohort.samples import MANIFEST, SETTINGS_FILE
from medi_monai.engines.extension import extend_model, path_grid, with_learned
from medi_monai.engines.generator import ImageGenerator, subpopulation_grid
from medi_monai.engines.handlers import attach_bar
from medi_monai.networks.learned_values import LearnedValue, of_weights
from medi_monai.results.training import RECORD
from medi_monai.runs.sampling.checks import check_images, check_plan, print_plan
from medi_monai.runs.sampling.names import case_twins, image_name, text_of, word_of
from medi_monai.runs.sampling.plans import ranged_columns, training_counts
from medi_monai.schema import ExtendedSchema, ValuePath
from medi_monai.utils.files import atomic_path, file_digest, json_digest, read_json, write_json, write_table
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.tables import read_table
from medi_monai.wsi.readers import read_image

__all__ = ["sample_plan"]

#: files of a single plan; images are shared by the plans of a folder
PLAN_FILES = ("manifest.csv", "grid.png", "summary.json")
#: column of the manifest with the name of an image's combination, including columns that the plan left to the model
COMBINATION = "combination"
#: number of images per combination in grid.png
MAX_GRID_IMAGES = 4


def sample_plan(
    network: nn.Module,
    generator: ImageGenerator,
    plan: pd.DataFrame,
    columns: Sequence[str],
    output_dir: str | os.PathLike,
    checkpoint: str | os.PathLike,
    settings: Mapping[str, Any],
    trained_with: Mapping[str, Any] | None = None,
    not_sampled: Sequence[Mapping[str, str]] = (),
    learned: Sequence[LearnedValue] = (),
    path: ValuePath | None = None,
) -> pd.DataFrame:
    """Write ``images/``, ``manifest.csv``, ``grid.png`` and ``summary.json``.

    An image depends only on the seed, its combination and its number, not on the rest of the plan. After an
    interruption, the same call draws the missing images; images of other settings are moved aside, never overwritten.

    Args:
        network: trained network in evaluation mode.
        generator: generator of the images.
        plan: combinations with ``count``; attributes without a column are left to the model, and so is the label if the
            model was trained with a null label according to ``trained_with``.
        columns: label and attributes that form a combination.
        output_dir: folder of the run.
        checkpoint: file of the weights, whose SHA-256 is saved in the manifest.
        settings: resolved settings, for the summary.
        trained_with: settings of the training (``model.json``) of a metadata-conditioned model, whose record of the
            training data is saved in ``sampling.json``.
        not_sampled: combinations missing from the plan, from :func:`not_in_plan`, which are printed and listed in the
            summary.
        learned: values that were learned for this model, from :func:`medi_monai.networks.learned_values.load_values`.
        path: path of which this is the plan; ``grid.png`` is then its picture.

    Returns:
        The manifest, one row per image.

    Raises:
        InputError: for a combination or a column that the model does not know; nothing is written then.
    """
    label = generator.schema.names[0]
    check_images(sum(map(int, plan["count"])), generator.image_size, output_dir)
    plan = plan if label in plan.columns else plan.assign(**{label: None})
    weights = file_digest(checkpoint)
    learned = of_weights(learned, weights, plan)
    generator, plan = extend_model(network, generator, plan, learned, path)
    trained_with = with_learned(trained_with, generator.schema, learned)
    counts = training_counts(trained_with)
    free = check_plan(plan, generator.schema, columns, trained_with, counts)
    evidence = None if counts is None else counts.of(plan, _mixed(generator))
    seen = None if evidence is None else _images_seen(plan, evidence)
    print_plan(plan, free, seen, not_sampled)
    rows = expand_plan(plan)
    keys = [column for column in rows.columns if column != "number"]
    twins = case_twins(generator.schema)
    names = [image_name(row, keys, twins) for row in rows.to_dict("records")]
    # the folder of an image has the range that was asked for, its row the number drawn from it
    rows = draw_values(rows, ranged_columns(keys, generator.schema), generator.seed)
    columns_of_manifest = ["image", COMBINATION, *rows.columns, *MANIFEST]
    root, recipe = Path(output_dir), {"checkpoint": weights, **generator.recipe()}
    claim_results(root, "sampling")
    _set_aside_others(root, recipe, names, columns_of_manifest, (trained_with or {}).get(RECORD))
    missing = rows[[not (root / name).is_file() for name in names]]
    start = time.perf_counter()
    _draw_all(network, generator, missing, names, root, recipe)
    seconds = time.perf_counter() - start

    manifest = rows.assign(**{name: recipe[name] for name in MANIFEST})
    manifest.insert(0, "image", names)
    manifest.insert(1, COMBINATION, [Path(name).parent.name for name in names])
    if evidence is not None:
        manifest = manifest.assign(**evidence.loc[evidence.index.repeat(plan["count"])].reset_index(drop=True))
    write_table(root / "manifest.csv", manifest)
    title = f"synthetic patches: seed {generator.seed}, guidance {generator.guidance_scale:g}"
    first = next(iter(columns), label)
    _write_grid(root, manifest, [first, *(name for name in keys if name != first)], title, path)
    finish_run(
        "sampling",
        root,
        made={
            "images": len(manifest),
            "drawn_now": len(missing),
            "combinations": len(plan),
            **({"seen": seen} if seen else {}),
            **({"not_sampled": [dict(key) for key in not_sampled]} if not_sampled else {}),
        },
        figures={
            "seconds": round(seconds, 2),
            "images_per_second": round(len(missing) / seconds, 2) if len(missing) else None,
        },
        settings=settings,
        digests={"model.pt": recipe["checkpoint"], "schema": generator.schema.digest},
        where=root / "grid.png",
    )
    return manifest


def _mixed(generator: ImageGenerator) -> dict[tuple[str, str], list[str]]:
    """Values of each mixture in the schema, by its column and text."""
    schema = generator.schema
    mixtures = schema.mixtures if isinstance(schema, ExtendedSchema) else ()
    return {(mixture.column, mixture.text): [value for value, _ in mixture.shares] for mixture in mixtures}


def _images_seen(plan: pd.DataFrame, evidence: pd.DataFrame) -> dict[str, int]:
    sizes = plan["count"].groupby(evidence["seen"]).sum()
    return {name: int(sizes[name]) for name in SEEN if name in sizes}


def _set_aside_others(
    root: Path, recipe: Mapping[str, Any], names: Sequence[str], columns: Sequence[str], record: Any
) -> None:
    stored = root / SETTINGS_FILE
    # the record belongs to the checkpoint: it does not decide whether images are the same
    if stored.is_file() and json_digest({**read_json(stored), RECORD: None}) != json_digest({**recipe, RECORD: None}):
        # the settings are moved last, so that a call that follows a killed one still sees that they differ
        set_aside(root, [root / name for name in ("images", *PLAN_FILES, SETTINGS_FILE)])
    write_json(stored, recipe if record is None else {**recipe, RECORD: record})
    manifest = read_table(root / "manifest.csv") if (root / "manifest.csv").is_file() else None
    # nor does what is known of the training
    kept = [] if manifest is None else [name for name in manifest.columns if name not in EVIDENCE]
    if manifest is not None and (kept != list(columns) or list(manifest["image"]) != list(names)):
        set_aside(root, [root / name for name in PLAN_FILES])


def _write_grid(
    root: Path, manifest: pd.DataFrame, columns: Sequence[str], title: str, path_of_values: ValuePath | None
) -> None:
    shown = manifest.groupby(list(columns), sort=False, dropna=False).head(1 if path_of_values else MAX_GRID_IMAGES)
    shown = shown.assign(**{name: shown[name].map(lambda cell: word_of(text_of(cell))) for name in columns})
    pixels = [read_image(root / name) for name in shown["image"]]
    if path_of_values:
        grid = path_grid(path_of_values, shown[list(columns)], pixels, title)
    else:
        grid = subpopulation_grid(shown, pixels, columns, title)
    with atomic_path(root / "grid.png") as path:
        Image.fromarray(grid).save(path, format="png")


def _draw_all(
    network: nn.Module,
    generator: ImageGenerator,
    rows: pd.DataFrame,
    names: Sequence[str],
    root: Path,
    recipe: Mapping[str, Any],
) -> None:
    if rows.empty:
        return

    def draw(engine: Engine, batch: pd.DataFrame) -> None:
        for index, row, pixels in zip(batch.index, batch.to_dict("records"), generator.draw(network, batch)):
            with atomic_path(root / names[index]) as path:
                Image.fromarray(pixels).save(path, format="png", pnginfo=_png_text(row, recipe))

    engine = Engine(draw)
    batches = list(generator.batches(rows))
    attach_bar(engine, "sampling", len(batches))
    engine.run(batches, max_epochs=1, epoch_length=len(batches))


def _png_text(row: Mapping[str, Any], recipe: Mapping[str, Any]) -> PngInfo:
    text = PngInfo()
    text.add_text("Comment", "Synthetic image generated by medi_monai; does not show a patient")
    text.add_itxt("medi_monai", json.dumps({**row, **recipe}, ensure_ascii=False, default=str))
    return text

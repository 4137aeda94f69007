"""Sample a plan: reproducible images, a manifest and a grid; safe to interrupt and repeat."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from ignite.engine import Engine
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

from medi_monai.alignment.neutral import neutral_share
from medi_monai.cohort import Cohort, expand_plan, make_plan, read_plan
from medi_monai.cohort.plan import PLANS, held_out_combinations
from medi_monai.cohort.samples import MANIFEST, SETTINGS_FILE
from medi_monai.engines.extension import extend_model, path_grid
from medi_monai.engines.generator import ImageGenerator, subpopulation_grid
from medi_monai.engines.handlers import attach_bar
from medi_monai.networks.learned_values import LearnedValue, of_weights
from medi_monai.results import typed
from medi_monai.results.training import RECORD, TrainingRecord
from medi_monai.schema import Conditioning, MetadataSchema, ValuePath, is_missing
from medi_monai.utils.errors import InputError, nearest, unknown_value
from medi_monai.utils.files import atomic_path, file_digest, json_digest, read_json, write_json, write_table
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.sizes import check_disk
from medi_monai.utils.tables import read_table
from medi_monai.utils.text import listed, plural
from medi_monai.wsi.readers import read_image

__all__ = ["image_name", "not_in_plan", "resolve_plan", "sample_plan"]

#: files of a single plan; images are shared by the plans of a folder
PLAN_FILES = ("manifest.csv", "grid.png", "summary.json")
#: column of the manifest with the name of an image's combination, including columns that the plan left to the model
COMBINATION = "combination"
#: of a PNG file, at least: noise and tissue take two or three, a smooth image of the brain less than one
BYTES_PER_PIXEL, BYTES_PER_FILE = 0.25, 512
#: number of images per combination in grid.png
MAX_GRID_IMAGES = 4


def resolve_plan(
    plan: str,
    training_table: Callable[[], pd.DataFrame],
    columns: Sequence[str],
    images_per_combination: int,
    trained_with: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Return a plan by name or path.

    Args:
        plan: ``unseen``, ``balance``, ``observed`` or ``all``, made from the training table; or the path of a table.
        training_table: function that returns the training rows; called only for a plan by name.
        columns: label and attributes that form a combination; a table must have them, and may have others.
        images_per_combination: number of images per combination, except for ``balance``.
        trained_with: settings of the training (``model.json``), to check that ``unseen`` combinations were not trained
            on.

    Raises:
        InputError: for an unknown plan, as for :func:`read_plan` and :func:`make_plan`, and if the model was trained on
            combinations that the plan treats as unseen, because the table belongs to another cohort.
    """
    if plan not in PLANS and (Path(plan).suffix or os.sep in plan):
        return read_plan(plan, columns)
    if plan not in PLANS:
        close = nearest(plan, PLANS)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"unknown plan {plan!r}: {hint}Give one of {', '.join(PLANS)}, or the path of a table")
    table = make_plan(training_table(), columns, plan, images_per_combination)
    record = (trained_with or {}).get(RECORD)
    if plan == "unseen" and record is not None:
        trained = typed(TrainingRecord, record, f"{RECORD} in model.json").of_columns(columns) or set()
        seen = [key for key in table[list(columns)].itertuples(index=False, name=None) if key in trained]
        if seen:
            raise InputError(
                f"the plan 'unseen' has {plural(len(seen), 'combination')} of {len(table):,} that the model was "
                f"trained on, for example {' · '.join(seen[0])}: leave out --cohort_dir to use the cohort of "
                "the training, or give another plan"
            )
    return table


def not_in_plan(
    plan: str, plan_table: pd.DataFrame, cohort: Callable[[], Cohort], columns: Sequence[str]
) -> list[dict[str, str]]:
    """Combinations that the cohort holds out and that the plan cannot sample: training has no image with some value.

    Args:
        plan: its name; for ``unseen`` and ``all``, every held-out combination is meant to be sampled.
        plan_table: the plan.
        cohort: returns the cohort with its split.
        columns: label and attributes that make a combination.

    Returns:
        The combinations; each names its values by column.
    """
    if plan not in ("unseen", "all"):
        return []
    planned = set(plan_table[list(columns)].itertuples(index=False, name=None))
    absent = [key for key in held_out_combinations(cohort().table, columns) if key not in planned]
    return [dict(zip(columns, key)) for key in absent]


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
    _check_disk(sum(map(int, plan["count"])), generator.image_size, output_dir)
    plan = plan if label in plan.columns else plan.assign(**{label: None})
    weights = file_digest(checkpoint)
    generator, plan = extend_model(network, generator, plan, of_weights(learned, weights), path)
    _check_plan(plan, generator.schema, columns, trained_with)
    _print_not_sampled(not_sampled)
    rows = expand_plan(plan)
    keys = [column for column in rows.columns if column != "number"]
    twins = _twins(generator.schema)
    names = [image_name(row, keys, twins) for row in rows.to_dict("records")]
    columns_of_manifest = ["image", COMBINATION, *rows.columns, *MANIFEST]
    root, recipe = Path(output_dir), {"checkpoint": weights, **generator.recipe()}
    claim_results(root, "sampling")
    _set_aside_others(root, recipe, names, columns_of_manifest, (trained_with or {}).get(RECORD))
    missing = rows[[not (root / name).is_file() for name in names]]
    start = time.perf_counter()
    _draw_all(network, generator, missing, keys, root, recipe, twins)
    seconds = time.perf_counter() - start

    manifest = rows.assign(**{name: recipe[name] for name in MANIFEST})
    manifest.insert(0, "image", names)
    manifest.insert(1, COMBINATION, [Path(name).parent.name for name in names])
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


def _check_plan(
    plan: pd.DataFrame, schema: Conditioning, columns: Sequence[str], trained_with: Mapping[str, Any] | None
) -> None:
    label, allowed = schema.names[0], list(dict.fromkeys([*schema.names, *columns]))
    for name in plan.columns:
        if name not in (*allowed, "count"):
            raise unknown_value("column of the plan", name, allowed, "A plan has label, attributes and `count`.")
    free = [name for name in schema.names if name not in plan.columns or all(cell is None for cell in plan[name])]
    if label in free and isinstance(schema, MetadataSchema):
        neutral_share(schema, free, trained_with or {})
    elif plan[label].map(is_missing).any():
        raise InputError(f"a row of the plan has no {label!r}, which is required")
    schema.encode(plan, absent="null")
    print(f"sampling {plural(plan['count'].sum(), 'image')} of {plural(len(plan), 'combination')}", flush=True)
    if free:
        print(f"the plan does not specify {', '.join(free)}: the model chooses", flush=True)


def _check_disk(count: int, image_size: int, output_dir: str | os.PathLike) -> None:
    num_bytes = count * max(image_size**2 * BYTES_PER_PIXEL, BYTES_PER_FILE)
    check_disk(
        f"a plan of {count:,} images of {image_size} × {image_size} pixels", num_bytes, output_dir, "Plan fewer images."
    )


def _print_not_sampled(combinations: Sequence[Mapping[str, str]]) -> None:
    if combinations:
        names = [" · ".join(key.values()) for key in combinations]
        print(
            f"warning: {plural(len(names), 'combination')} that the cohort holds out cannot be sampled, because "
            f"training has no image with one of their values: {listed(names)}",
            flush=True,
        )


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
    if manifest is not None and (list(manifest.columns) != list(columns) or list(manifest["image"]) != list(names)):
        set_aside(root, [root / name for name in PLAN_FILES])


def _write_grid(
    root: Path, manifest: pd.DataFrame, columns: Sequence[str], title: str, path_of_values: ValuePath | None
) -> None:
    shown = manifest.groupby(list(columns), sort=False, dropna=False).head(1 if path_of_values else MAX_GRID_IMAGES)
    shown = shown.assign(**{name: shown[name].map(lambda cell: _word(_text(cell))) for name in columns})
    pixels = [read_image(root / name) for name in shown["image"]]
    if path_of_values:
        grid = path_grid(path_of_values, shown[list(columns)], pixels, title)
    else:
        grid = subpopulation_grid(shown, pixels, columns, title)
    with atomic_path(root / "grid.png") as path:
        Image.fromarray(grid).save(path, format="png")


def image_name(
    row: Mapping[str, Any], keys: Sequence[str], twins: Container[tuple[str, str | None]] = frozenset()
) -> str:
    """Return ``images/<combination>/<number>.png``, with a digest if file names cannot represent the combination.

    Args:
        row: a combination with ``number``.
        keys: columns of the combination.
        twins: columns with values that differ from another value in case alone, which some disks take for one name.
    """
    values = [_text(row[key]) for key in keys]
    spelled = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", _word(value)).lstrip(".") for value in values)[:120]
    if (
        spelled != "_".join(value or "" for value in values)
        or any("_" in (value or "_") for value in values)
        or (any(twin in twins for twin in zip(keys, values)))
    ):
        spelled = f"{spelled}_{json_digest(values)[:8]}"
    return f"images/{spelled}/{int(row['number']):05d}.png"


def _twins(schema: Conditioning) -> set[tuple[str, str | None]]:
    """Columns with the values of their vocabulary that differ from another one in case alone."""
    twins: set[tuple[str, str | None]] = set()
    # captions have no vocabulary
    for column in schema.columns if isinstance(schema, MetadataSchema) else ():
        counts = Counter(value.casefold() for value in getattr(column, "values", ()))
        twins.update((column.name, value) for value in getattr(column, "values", ()) if counts[value.casefold()] > 1)
    return twins


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _word(value: str | None) -> str:
    return "any" if value is None else value or "unknown"


def _draw_all(
    network: nn.Module,
    generator: ImageGenerator,
    rows: pd.DataFrame,
    keys: Sequence[str],
    root: Path,
    recipe: Mapping[str, Any],
    twins: Container[tuple[str, str | None]],
) -> None:
    if rows.empty:
        return

    def draw(engine: Engine, batch: pd.DataFrame) -> None:
        for row, pixels in zip(batch.to_dict("records"), generator.draw(network, batch)):
            with atomic_path(root / image_name(row, keys, twins)) as path:
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

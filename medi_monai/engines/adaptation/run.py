"""The run `adapting`: teach a trained model a new value, such as a hospital, from a few dozen patches."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.inferers import Inferer
from PIL import Image
from torch import nn

from medi_monai.cohort import Cohort, PatchDataset, expand_plan
from medi_monai.engines.adaptation.learning import LearnedEmbedding, PartialSchema, learn_embedding
from medi_monai.engines.adaptation.patches import adapted_column, new_value_patches
from medi_monai.engines.extension import extend_model
from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.settings import AdaptationSettings
from medi_monai.networks.learned_values import LearnedValue, save_value, value_path
from medi_monai.report import labeled_grid
from medi_monai.results import plain
from medi_monai.results.training import RECORD, TrainingRecord
from medi_monai.schema import MetadataSchema, is_missing
from medi_monai.utils.files import atomic_path, file_digest, write_table
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.text import plural
from medi_monai.wsi.color import mean_optical_density

__all__ = ["adapt_run"]

PICTURE, PLAN = "value.png", "plan.csv"
#: numbers of images per class, and maximum number of classes, in the picture
SHOWN, MAX_LABELS = 4, 8


def adapt_run(
    network: nn.Module,
    generator: ImageGenerator,
    schema: MetadataSchema,
    settings: AdaptationSettings,
    train_config: Mapping[str, Any],
    inferer: Inferer,
    ckpt_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    images_per_combination: int = 16,
) -> Path:
    """Learn a value; write its file next to the model, and a picture, a sampling plan and ``summary.json``.

    Args:
        network: trained network, which is frozen.
        generator: generator for the picture.
        schema: schema of the network.
        settings: settings of the run.
        train_config: settings of the training (``model.json``).
        inferer: inferer that runs the network.
        ckpt_dir: folder of the model, in which the value is saved as ``values/…pt``.
        output_dir: output folder for ``value.png``, ``plan.csv`` and ``summary.json``.
        images_per_combination: number of images of each class in ``plan.csv``.

    Returns:
        The path of the value's file.

    Raises:
        InputError: for a value that the model knows, an attribute that it lacks, or patches that cannot be used.
    """
    folder, output, label = Path(ckpt_dir), Path(output_dir), schema.label.name
    column = adapted_column(schema, settings.attribute)
    value, patches = new_value_patches(settings, schema, train_config)
    print(f"learning {column.name} = {value} from {plural(len(patches), 'patch', 'patches')}", flush=True)
    claim_results(output, "adapting")
    claim_results(folder, "adapting", 1)
    start = time.perf_counter()
    embedded = learn_embedding(network, schema, column, value, patches, generator, inferer, settings, train_config)
    seconds = time.perf_counter() - start
    weights = file_digest(folder / "model.pt")
    origin = _origin(embedded, patches, settings, schema, train_config)
    learned = LearnedValue(column.name, value, embedded.embedding, schema.digest, weights, origin)
    earlier = value_path(folder, column.name, value)
    set_aside(folder, [earlier] if earlier.is_file() else [])
    path = save_value(folder, learned)
    plan = pd.DataFrame({label: schema.label.values, column.name: value, "count": images_per_combination})
    write_table(output / PLAN, plan)
    differences = _picture(network, generator, learned, embedded.nearest, patches, output / PICTURE)
    print(
        f"{column.name} = {value}: loss {embedded.loss:.4f}; with the nearest known value, {embedded.nearest}, "
        f"{embedded.known_losses[embedded.nearest]:.4f}. To draw each class of it: sampling --plan {output / PLAN}",
        flush=True,
    )
    finish_run(
        "adapting",
        output,
        made={"value": str(path), "plan": str(output / PLAN), "patches": len(patches)},
        figures={
            "loss": embedded.loss,
            "loss_of_nearest": embedded.known_losses[embedded.nearest],
            "loss_of_mean": embedded.mean_loss,
            "nearest": embedded.nearest,
            "stain_difference": differences,
            "seconds": round(seconds, 2),
        },
        settings=settings.model_dump(mode="json"),
        digests={"model.pt": weights, "schema": schema.digest, "value": learned.source},
        where=output / PICTURE,
    )
    return path


def _origin(
    embedded: LearnedEmbedding,
    patches: Cohort,
    settings: AdaptationSettings,
    schema: MetadataSchema,
    train_config: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a value was learned from, to be saved with it."""
    trained_on = TrainingRecord.in_config(train_config)
    columns = list(schema.names) if trained_on is None else trained_on.columns
    known = patches.table.reindex(columns=list(columns), fill_value="")
    return {
        "patches": len(patches),
        "pixels": patches.pixel_digest,
        RECORD: plain(TrainingRecord.of(known, columns, patches.digest)),
        "settings": settings.model_dump(mode="json"),
        "loss": embedded.loss,
        "nearest": embedded.nearest,
    }


def _picture(
    network: nn.Module,
    generator: ImageGenerator,
    learned: LearnedValue,
    nearest: str,
    patches: Cohort,
    path: Path,
) -> dict[str, float | None]:
    """Write a picture of real and generated patches of the value, and of its nearest known value.

    Returns:
        For ``learned`` and ``nearest``, the distance between mean optical densities of generated and real patches,
        averaged over classes; None if no class has both.
    """
    schema: Any = generator.schema
    label = schema.label.name
    labels = list(dict.fromkeys([*patches.table[label], *schema.label.values]))[:MAX_LABELS]
    labels = [name for name in labels if not is_missing(name)]
    rows = [(name, value, SHOWN) for value in (learned.value, nearest) for name in labels]
    plan = pd.DataFrame(rows, columns=[label, learned.column, "count"])
    drawing, plan = extend_model(network, generator, plan, [learned])
    images = expand_plan(plan)
    pixels = [image for batch in drawing.batches(images) for image in drawing.draw(network, batch)]
    real = PatchDataset(patches, PartialSchema(drawing.schema), generator.image_size)  # type: ignore[arg-type]
    arrays = list(real.images.permute(0, 2, 3, 1).numpy())
    titles = {learned.value: learned.value, nearest: f"nearest: {nearest}"}
    keys = [*((name, "real") for name in patches.table[label])]
    keys += [
        (name, titles[value]) for name, value in images[[label, learned.column]].itertuples(index=False, name=None)
    ]
    cells: dict[tuple[str, str], list[np.ndarray]] = {}
    for key, image in zip(keys, [*arrays, *pixels]):
        cells.setdefault(key, []).append(image)
    title = f"{learned.column} = {learned.value}, learned from {plural(len(patches), 'patch', 'patches')}"
    grid = labeled_grid(cells, labels, ["real", *titles.values()], title, (1, SHOWN), 64)
    with atomic_path(path) as target:
        Image.fromarray(grid).save(target, format="png")
    return {
        name: _stain_difference(cells, labels, titles[value])
        for name, value in (("learned", learned.value), ("nearest", nearest))
    }


def _stain_difference(
    cells: Mapping[tuple[str, str], Sequence[np.ndarray]], labels: Sequence[str], title: str
) -> float | None:
    distances = [
        float(np.linalg.norm(_density(cells[name, title]) - _density(cells[name, "real"])))
        for name in labels
        if (name, "real") in cells and (name, title) in cells
    ]
    return float(np.mean(distances)) if distances else None


def _density(images: Sequence[np.ndarray]) -> np.ndarray:
    return mean_optical_density(np.stack(images)).mean(0)

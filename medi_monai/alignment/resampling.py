"""Baselines for alignment: selecting generated images, or training on resampled real images."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment.functional import SEPARATOR, SubgroupTarget, apportion, make_target, subset_counts
from medi_monai.alignment.functional.targets import parts_of
from medi_monai.cohort import Cohort
from medi_monai.cohort.reading import image_blocks
from medi_monai.cohort.samples import RESAMPLING, read_arms
from medi_monai.cohort.table import require_columns
from medi_monai.engines.distributed import is_main_process
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.schema import CategoricalColumn
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, file_digest, write_table
from medi_monai.utils.pixels import from_uint8
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.tables import read_table

__all__ = [
    "cohort_target",
    "equal_steps",
    "gradient_images",
    "largest_subset",
    "resample_run",
    "resampled_cohort",
]

RESULTS = ("images", "manifest.csv", "summary.json")


def gradient_images(
    updates: int, batch_size: int, gradient_steps: int, guidance_scale: float = 1.0, real_images: int = 0
) -> int:
    """Return the number of forward and backward passes of an image through the network in an alignment.

    Args:
        updates: number of updates.
        batch_size: images per update.
        gradient_steps: number of sampling steps that the gradient passes through.
        guidance_scale: guidance scale; any value other than 1 needs two network evaluations per step.
        real_images: real images of the anchor per update.
    """
    return updates * (batch_size * gradient_steps * (1 if guidance_scale == 1 else 2) + real_images)


def equal_steps(
    align_steps: int,
    align_batch_size: int,
    gradient_steps: int,
    batch_size: int,
    guidance_scale: float = 1.0,
    real_images: int = 0,
) -> int:
    """Return the number of training steps with as many forward and backward passes as an alignment.

    Args:
        align_steps: updates of the alignment.
        align_batch_size: images per update of the alignment.
        gradient_steps: number of sampling steps that its gradient passes through.
        batch_size: batch size of the training.
        guidance_scale: guidance scale of the alignment.
        real_images: real images of its anchor per update.
    """
    images = gradient_images(align_steps, align_batch_size, gradient_steps, guidance_scale, real_images)
    return max(1, round(images / batch_size))


def largest_subset(groups: np.ndarray, target: SubgroupTarget, seed: int) -> np.ndarray:
    """Select the largest set of rows with the target's subgroup shares, using each row at most once.

    Args:
        groups: ``(N,)`` index of each row's subgroup in ``target.groups``; -1 if unknown.
        target: target shares.
        seed: seed of the selection among rows of the same subgroup.

    Returns:
        Sorted row indices.

    Raises:
        InputError: if a subgroup with a positive share has no rows.
    """
    shares = np.asarray(target.probabilities)
    counts = np.bincount(groups[groups >= 0], minlength=len(shares))
    for name, share, count in zip(target.names, shares, counts):
        if share > 0 and count == 0:
            raise InputError(f"no image is predicted as {name!r}, which has a target share of {share:g}")
    rng = np.random.default_rng(seed_from("alternatives", seed))
    chosen = [
        rng.permutation(np.flatnonzero(groups == group))[:count]
        for group, count in enumerate(subset_counts(counts, shares))
    ]
    return np.sort(np.concatenate(chosen))


def resample_run(
    sampling_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    classifier: AttributeClassifier,
    target: SubgroupTarget,
    image_size: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Select generated images so that their predicted subgroups have the target's shares, and copy them.

    The model is not tuned; the price is that only some of the images are kept.

    Args:
        sampling_dir: the ``output_dir`` of a sampling run.
        output_dir: output folder for ``images/``, ``manifest.csv`` and ``summary.json``.
        classifier: the guide of the alignment that this baseline is compared with; it predicts the subgroups.
        target: target shares.
        image_size: side of the images in pixels.
        seed: seed of the selection.

    Returns:
        The manifest of the selected images; empty if a subgroup with a positive share is predicted for no image.

    Raises:
        InputError: for a folder without a sampling run, or if the output folder is the sampling folder.
    """
    start, output, source = time.perf_counter(), Path(output_dir), Path(sampling_dir)
    if not (source / "manifest.csv").is_file():
        raise InputError(
            f"there is no manifest.csv in {source}: run `sampling` first, or give its folder, --sampling_dir"
        )
    if source.resolve() == output.resolve():
        raise InputError(f"output_dir = {output} contains the images to select from; choose another --output_dir")
    samples = read_arms({"resampled": source}, ["caption"])["resampled"]
    groups = _predicted_groups(samples, classifier, target, image_size)
    try:
        rows, why = largest_subset(groups, target, seed), ""
    except InputError as error:
        rows, why = np.empty(0, np.int64), f"{error}; sample more images"
        print(f"warning: no image can be selected: {why}", flush=True)
    chosen = samples.table.iloc[rows].reset_index(drop=True)
    claim_results(output, RESAMPLING)
    set_aside(output, [output / name for name in RESULTS])
    _copy(chosen, samples.root, output)
    counts = np.bincount(groups[groups >= 0], minlength=len(target.names))
    finish_run(
        RESAMPLING,
        output,
        made={"images": len(chosen), "of": len(samples)},
        figures={
            "kept": len(chosen) / len(samples),
            "read": dict(zip(target.names, counts.tolist())),
            "why_none": why or None,
            "seconds": round(time.perf_counter() - start, 2),
        },
        settings={"target": target.to_dict(), "seed": seed, "sampling_dir": str(sampling_dir)},
        digests={"manifest": file_digest(samples.root / "manifest.csv")},
        where=output / "manifest.csv" if len(chosen) else output / "summary.json",
    )
    return chosen


def _copy(chosen: pd.DataFrame, source: Path, output: Path) -> None:
    for image in chosen["image"]:
        with atomic_path(output / image) as path:
            shutil.copyfile(source / image, path)
    if len(chosen):
        write_table(output / "manifest.csv", chosen)


@torch.no_grad()
def _predicted_groups(
    samples: Cohort, classifier: AttributeClassifier, target: SubgroupTarget, image_size: int
) -> np.ndarray:
    device = next(classifier.parameters()).device
    groups = [
        target.log_probabilities(classifier(from_uint8(pixels.to(device)))).argmax(1).cpu()
        for pixels in image_blocks(samples, image_size)
    ]
    return torch.cat(groups).numpy()


def cohort_target(
    spec: Any, cohort: Cohort, attribute: str, table: str | os.PathLike | None = None
) -> SubgroupTarget | None:
    """Return target shares for the training rows, over the values that occur in them; None without a ``spec``.

    Args:
        spec: None, or a target as for :func:`medi_monai.alignment.functional.make_target`.
        cohort: training rows.
        attribute: column, or several as ``sex|age`` for their joint distribution.
        table: path of a reference table, for ``table``.

    Raises:
        InputError: as for :func:`medi_monai.alignment.functional.make_target`, and for a missing column.
    """
    if spec is None:
        return None
    names = attribute.split(SEPARATOR)
    require_columns(cohort.table, names, cohort.root)
    values = {name: CategoricalColumn.from_values(name, cohort.table[name].unique()).values for name in names}
    return make_target(spec, values, None if table is None else read_table(table), names)


def resampled_cohort(cohort: Cohort, target: SubgroupTarget, seed: int = 0) -> Cohort:
    """Resample the training rows to the target's shares, repeating rows of rare subgroups; the total is unchanged.

    Args:
        cohort: training rows with the target's attributes; rows without a value are left out.
        target: target shares.
        seed: seed of the resampling.

    Raises:
        InputError: if a subgroup with a positive share has no rows.
    """
    table, joint = cohort.table, parts_of(target)[-1]
    groups = joint.codes(table)
    counts = apportion(torch.tensor(target.probabilities, dtype=torch.float64), int((groups >= 0).sum())).tolist()
    rng = np.random.default_rng(seed_from("alternatives", seed))
    rows, words = [], []
    for group, (name, count) in enumerate(zip(target.names, counts)):
        members = np.flatnonzero(groups == group)
        if count and not len(members):
            raise InputError(f"no training image is {name!r}, which has a positive target share")
        if count:
            rows.append(np.concatenate([rng.permutation(members) for _ in range(-(-count // len(members)))])[:count])
            words.append(f"{name} {count:,} (from {len(members):,} distinct images)")
    if is_main_process():
        print(f"training on images resampled to {'; '.join(words)}", flush=True)
    return Cohort(table.iloc[np.sort(np.concatenate(rows))].reset_index(drop=True), cohort.root)

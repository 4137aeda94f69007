"""What else could bring subgroups to a target: choosing among generated images, or training on chosen real ones."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment import SubgroupTarget, apportion
from medi_monai.cohort import Cohort
from medi_monai.cohort.reading import PatchReader
from medi_monai.engines.arms import read_arms
from medi_monai.engines.runs import finish_run, set_aside
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, write_table
from medi_monai.utils.seeding import seed_from

__all__ = ["largest_subset", "resample_run", "resampled_cohort"]

BATCH = 256


def largest_subset(groups: np.ndarray, target: SubgroupTarget, seed: int) -> np.ndarray:
    """The largest choice of rows whose subgroups have the shares of the target, each row once.

    Args:
        groups: ``(N,)`` place of each row's subgroup in ``target.groups``; -1 where it is not known.
        target: shares.
        seed: of the choice among rows of one subgroup.

    Returns:
        Places, sorted.

    Raises:
        InputError: where a wanted subgroup has no row.
    """
    shares = np.asarray(target.probabilities)
    counts = np.bincount(groups[groups >= 0], minlength=len(shares))
    for name, share, count in zip(target.names, shares, counts):
        if share > 0 and count == 0:
            raise InputError(f"no image is read as {name!r}, of which the target wants a share of {share:g}")
    size = int(np.floor(min(count / share for count, share in zip(counts, shares) if share > 0) + 1e-9))
    wanted = apportion(target.tensor().double(), size).numpy()
    rng = np.random.default_rng(seed_from("alternatives", seed))
    chosen = [rng.permutation(np.flatnonzero(groups == place))[:count] for place, count in enumerate(wanted)]
    return np.sort(np.concatenate(chosen))


def resample_run(
    sampling_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    reader: AttributeClassifier,
    target: SubgroupTarget,
    image_size: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Choose among generated images so that the classifier reads the target's shares; copy them with their manifest.

    Nothing is tuned; the price is that all but a part of the images are thrown away.

    Args:
        sampling_dir: the ``output_dir`` of a sampling.
        output_dir: gets ``images/``, ``manifest.csv`` and ``summary.json``.
        reader: the guide of the alignment it is compared with.
        target: shares.
        image_size: side of the images.
        seed: of the choice.

    Returns:
        The manifest of the images kept.
    """
    start, output = time.perf_counter(), Path(output_dir)
    made = read_arms({"resampled": sampling_dir}, ["caption"])["resampled"]
    groups = _read_groups(made, reader, target, image_size)
    chosen = made.table.iloc[largest_subset(groups, target, seed)].reset_index(drop=True)
    set_aside(output, [output / name for name in ("images", "manifest.csv", "summary.json")])
    for image in chosen["image"]:
        place = output / image
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made.root / image, place)
    write_table(output / "manifest.csv", chosen)
    finish_run(
        "resampling",
        output,
        made={"images": len(chosen), "of": len(made)},
        figures={"kept": len(chosen) / len(made), "seconds": round(time.perf_counter() - start, 2)},
        settings={"target": target.to_dict(), "seed": seed, "sampling_dir": str(sampling_dir)},
        digests={"manifest": file_digest(made.root / "manifest.csv")},
        where=output / "manifest.csv",
    )
    return chosen


@torch.no_grad()
def _read_groups(made: Cohort, reader: AttributeClassifier, target: SubgroupTarget, image_size: int) -> np.ndarray:
    patches, found = PatchReader(made, image_size), []
    device = next(reader.parameters()).device
    for start in range(0, len(made), BATCH):
        pixels = np.stack(patches.read(range(start, min(start + BATCH, len(made)))))
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
        found.append(target.log_probabilities(reader(images)).argmax(1).cpu())
    patches.close()
    return torch.cat(found).numpy()


def resampled_cohort(cohort: Cohort, target: SubgroupTarget, seed: int = 0) -> Cohort:
    """Rows in training with the shares of the target: those of rare subgroups are repeated, as many rows as before.

    Args:
        cohort: rows in training, with the attributes of the target; rows without a value are left out.
        target: shares.
        seed: of the choice.
    """
    table: Any = cohort.table
    known = ~np.any([missing_cells(table[name]) for name in target.attributes], axis=0)
    keys = list(table[list(target.attributes)].astype(str).itertuples(index=False, name=None))
    places = {group: place for place, group in enumerate(target.groups)}
    groups = np.array([places.get(key, -1) if good else -1 for key, good in zip(keys, known)])
    wanted = apportion(target.tensor().double(), int((groups >= 0).sum())).numpy()
    rng = np.random.default_rng(seed_from("alternatives", seed))
    rows = []
    for place, count in enumerate(wanted):
        members = np.flatnonzero(groups == place)
        if count and not len(members):
            raise InputError(f"no image in training is of {target.names[place]!r}, of which the target wants a share")
        if count:
            rows.append(np.concatenate([rng.permutation(members) for _ in range(-(-count // len(members)))])[:count])
    return Cohort(table.iloc[np.sort(np.concatenate(rows))].reset_index(drop=True), cohort.root)

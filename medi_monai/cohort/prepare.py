"""From images to a cohort: cut the patches, assign the splits, write the table; safe to interrupt and repeat."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.splits import SplitScheme, assign_splits
from medi_monai.cohort.table import Cohort
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path, json_digest, read_json, writable_dir, write_json, write_table
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.workers import map_processes
from medi_monai.wsi import PatchGrid, open_slide, plan_patches

__all__ = ["Preparation", "prepare", "default_cohort_dir", "load_or_prepare"]

SETTINGS_FILE = "preparation.json"


@dataclass(frozen=True)
class Preparation:
    """All that decides what a prepared cohort is.

    Args:
        source: table and images.
        grid: size, resolution, stride and least tissue of the patches.
        splits: what is held out.
        max_patches_per_slide: a random choice of so many patches where a slide has more; all by default.
        seed: of that choice.
    """

    source: ImageTable
    grid: PatchGrid
    splits: SplitScheme
    max_patches_per_slide: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_patches_per_slide is not None and self.max_patches_per_slide < 1:
            raise InputError(f"max_patches_per_slide = {self.max_patches_per_slide}: it has to be 1 or more, or null")

    def settings(self) -> dict:
        """The settings as JSON; two preparations with equal settings give equal cohorts."""
        return {**asdict(self), "source": self.source.settings()}

    @property
    def name(self) -> str:
        """A folder name that no two preparations share: data set, patch size and the digest of all settings."""
        return f"{self.source.folder.resolve().name}_{self.grid.image_size}px_{json_digest(self.settings())[:8]}"


def default_cohort_dir(preparation: Preparation, bundle_root: str | os.PathLike) -> str:
    """``dataset_dir`` where it is a prepared cohort itself, else a folder of the bundle named by the settings."""
    root = preparation.source.root
    if root is not None and _holds_cohort(root):
        return str(root)
    return str(Path(bundle_root) / "output" / "preparing" / preparation.name)


def _holds_cohort(folder: str | os.PathLike) -> bool:
    return any((Path(folder) / name).is_file() for name in ("cohort.csv", "cohort.parquet"))


def load_or_prepare(
    preparation: Preparation, cohort_dir: str | os.PathLike, on_error: str = "stop", num_workers: int | None = None
) -> Cohort:
    """The cohort in ``cohort_dir``; prepared on first use.

    A cohort that is there is taken as it is: the settings of the preparation count for a new one alone.
    """
    if _holds_cohort(cohort_dir):
        return Cohort.read(cohort_dir)
    return prepare(preparation, cohort_dir, on_error, num_workers)


def prepare(
    preparation: Preparation, output_dir: str | os.PathLike, on_error: str = "stop", num_workers: int | None = None
) -> Cohort:
    """Cut all images into patches and write ``patches/``, ``cohort.csv`` and ``rejected.csv``.

    Finished slides are skipped when the same call is made again; a slide half done is done again.

    Args:
        preparation: source, grid, splits and seed.
        output_dir: the cohort's folder.
        on_error: ``stop`` at an image that cannot be read, or ``skip`` it and list it in ``rejected.csv``.
        num_workers: processes; by default one per core.

    Raises:
        InputError: for anything wrong with table, settings or (with ``stop``) an image; also where ``output_dir``
            holds a cohort prepared otherwise.
    """
    if on_error not in ("stop", "skip"):
        raise unknown_value("choice of `on_error`", on_error, ("stop", "skip"))
    rows = preparation.source.rows()
    label = preparation.source.label
    rejected = []
    for column in (label, "patient"):
        lacking = rows[rows[column] == ""]
        rejected += [(image, slide, f"no {column}") for image, slide in zip(lacking["image"], lacking["slide"])]
        rows = rows[rows[column] != ""].reset_index(drop=True)
        if rows.empty:
            raise InputError(f"no row of {preparation.source.table} has a value for {column!r}")
    rows["split"] = assign_splits(rows, preparation.splits)
    root = writable_dir(output_dir)
    _claim(root, preparation)

    jobs = [(str(root), row.image, row.mpp, preparation) for row in rows.itertuples()]
    parts = []
    results = map_processes(_cut, jobs, num_workers, "cutting patches", "image")
    for (patches, problem), row in zip(results, rows.to_dict("records")):
        if problem is None:
            parts.append(patches.assign(**{name: row[name] for name in row if name not in ("image", "mpp")}))
            continue
        if on_error == "stop" and not problem.startswith("no tissue"):
            results.close()
            raise InputError(f"{problem.rstrip('.')}. To go on without such images: --on_error skip")
        rejected.append((row["image"], row["slide"], problem))

    write_table(root / "rejected.csv", pd.DataFrame(rejected, columns=["image", "slide", "reason"]))
    if not parts:
        raise InputError(f"no image of {preparation.source.table} gave a patch; {root / 'rejected.csv'} says why")
    columns = ["image", "slide", "patient", "x", "y", "mpp", label, *preparation.source.attributes, "split"]
    table = pd.concat(parts, ignore_index=True)[list(dict.fromkeys(columns))].astype(str)
    cohort = Cohort(table, root)
    cohort.write()
    return cohort


def _claim(root: Path, preparation: Preparation) -> None:
    # settings are written before the first patch, so that no other preparation mixes its patches in
    path, settings = root / SETTINGS_FILE, preparation.settings()
    if path.is_file() and json_digest(read_json(path)) != json_digest(settings):
        changed = _differences(read_json(path), settings)
        raise InputError(f"{root} holds a cohort prepared with other settings ({changed}); choose another --output_dir")
    if not path.is_file():
        if any(root.iterdir()):
            raise InputError(f"{root} is not empty and holds no cohort of ours; choose another --output_dir")
        write_json(path, settings)


def _differences(old: dict, new: dict, prefix: str = "") -> str:
    found = []
    for key in new:
        if isinstance(new[key], dict) and isinstance(old.get(key), dict):
            found.append(_differences(old[key], new[key], f"{prefix}{key}."))
        elif json_digest(old.get(key)) != json_digest(new[key]):
            found.append(f"{prefix}{key}: {old.get(key)} there, {new[key]} now")
    return "; ".join(filter(None, found))


def _cut(job: tuple[str, str, str, Preparation]) -> tuple[pd.DataFrame, str | None]:
    root, image, mpp, preparation = job
    # one folder per image; the digest parts a.png from a.jpg, and b/c.png from b-c.png
    spelled = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(image).stem)[:80]
    folder = Path(root) / "patches" / f"{spelled}_{json_digest(image)[:8]}"
    try:
        if not folder.is_dir():
            _write_patches(folder, image, mpp, preparation)
        names = sorted(path.name for path in folder.glob("patch_*.png"))
    except InputError as error:
        return pd.DataFrame(), str(error) if image in str(error) else f"{image}: {error}"
    if not names:
        return pd.DataFrame(), f"no tissue: no patch of {image} has {preparation.grid.min_tissue:.0%} of it"
    corners = np.array([name.removesuffix(".png").split("_")[1:] for name in names])
    relative = folder.relative_to(root).as_posix()
    return (
        pd.DataFrame(
            {
                "image": [f"{relative}/{name}" for name in names],
                "x": corners[:, 0].astype(int),
                "y": corners[:, 1].astype(int),
                "mpp": preparation.grid.mpp,
            }
        ).sort_values(["y", "x"], ignore_index=True),
        None,
    )


def _write_patches(folder: Path, image: str, mpp: str, preparation: Preparation) -> None:
    grid = preparation.grid
    with open_slide(preparation.source.folder / image, float(mpp) if mpp else None) as slide:
        corners, side = plan_patches(slide, grid)
        if preparation.max_patches_per_slide is not None and len(corners) > preparation.max_patches_per_slide:
            rng = np.random.default_rng(seed_from("patches", preparation.seed, image))
            corners = corners[np.sort(rng.choice(len(corners), preparation.max_patches_per_slide, replace=False))]
        part = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            for x, y in corners.tolist():
                pixels = slide.read(x, y, (side, side), (grid.image_size, grid.image_size))
                with atomic_path(part / f"patch_{x}_{y}.png") as path:
                    Image.fromarray(pixels).save(path, format="png", compress_level=3)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)

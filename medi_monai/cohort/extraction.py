"""Cut a single slide into patches: plan, read and write them, and record that the slide is done."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medi_monai.cohort.duplicates import PLAIN, SIDE, hash_images
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import atomic_path, file_fingerprint, json_digest, read_json, write_json
from medi_monai.utils.pixels import write_jpeg
from medi_monai.utils.seeding import seed_from
from medi_monai.wsi import PatchGrid, SlideReader, background_fraction, open_slide, plan_patches, sharpness
from medi_monai.wsi.overview import draw_plan
from medi_monai.wsi.readers import PixelRules

__all__ = [
    "FORMATS",
    "Cutting",
    "SlideJob",
    "cut_slide",
    "is_cut",
    "is_replaced",
    "measure_patches",
    "read_record",
    "record_folder",
    "record_names",
]

#: file formats of patches; with ``none``, no files are written and patches are read from the slides
FORMATS = ("png", "jpeg", "none")
MEASURE = ("auto", "always", "never")
SUFFIX = {"png": ".png", "jpeg": ".jpg"}
#: patches per folder, and patches read at a time
FILES_PER_FOLDER, CHUNK = 1000, 64
RECORD, THUMBNAIL, MEASURES = "slide.json", "overview.jpg", "patches.npz"


@dataclass(frozen=True)
class Cutting:
    """How slides are cut into patches.

    Args:
        grid: size, resolution, stride and minimum tissue.
        patch_format: one of :data:`FORMATS`; ``jpeg`` is written at quality 95 without chroma subsampling.
        max_patches_per_slide: if a slide has more patches than this, only this many are selected at random; None keeps
            all.
        seed: random seed of this selection.
        mpp_conflict: what to do if file and table disagree on microns per pixel: raise an ``error``, or use the value
            of the ``file`` or that ``given`` in the table.
        measure: whether to compute sharpness, background and perceptual hash of each patch: ``always``, ``never``, or
            ``auto`` (if patches are written, since they are read anyway). If patches are neither written nor measured,
            only the thumbnail of a slide is read.
        pixels: how values, pages and transparent pixels of image files are interpreted.
    """

    grid: PatchGrid
    patch_format: str = "png"
    max_patches_per_slide: int | None = None
    seed: int = 0
    mpp_conflict: str = "error"
    measure: str = "auto"
    pixels: PixelRules = field(default_factory=PixelRules)

    def __post_init__(self) -> None:
        if self.patch_format not in FORMATS:
            raise unknown_value("patch format", self.patch_format, FORMATS)
        if self.measure not in MEASURE:
            raise unknown_value("choice of `measure`", self.measure, MEASURE)
        if self.max_patches_per_slide is not None and self.max_patches_per_slide < 1:
            raise InputError(f"max_patches_per_slide = {self.max_patches_per_slide}: it must be 1 or more, or null")

    @property
    def measures(self) -> bool:
        """Whether patches are measured."""
        return self.measure == "always" or (self.measure == "auto" and self.patch_format != "none")


@dataclass(frozen=True)
class SlideJob:
    """A slide to cut, and how to cut it.

    Args:
        root: folder of the cohort, in which patches are written.
        folder: folder of the images.
        image: path of the slide, relative to ``folder``.
        mpp: microns per pixel from the table, or the empty string.
        cutting: how the slide is cut.
        backend: slide reader; see :func:`medi_monai.wsi.open_slide`.
    """

    root: str
    folder: str
    image: str
    mpp: str
    cutting: Cutting
    backend: str = "auto"


def record_folder(root: str | Path, image: str) -> Path:
    """Return the folder of a slide's patches and record; its digest distinguishes ``a.png`` from ``a.jpg``."""
    digest = json_digest(image)
    spelled = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(image).stem)[:80]
    return Path(root) / "patches" / digest[:2] / f"{spelled}_{digest[:8]}"


def is_cut(job: SlideJob) -> bool:
    """Return whether a slide has been cut, or was found to have no tissue."""
    return (record_folder(job.root, job.image) / RECORD).is_file()


def is_replaced(job: SlideJob) -> bool:
    """Return whether a finished slide's file has changed since it was cut; False without a recorded fingerprint."""
    known = read_json(record_folder(job.root, job.image) / RECORD).get("fingerprint")
    try:
        return known is not None and known != file_fingerprint(Path(job.folder) / job.image)
    except OSError:
        # the file cannot be read: cutting it again will report the error
        return True


def cut_slide(job: SlideJob) -> str | None:
    """Cut a slide; its files appear all at once, when the slide is finished.

    Returns:
        The reason why there are no patches, or ``None`` if there are.
    """
    folder = record_folder(job.root, job.image)
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        problem = _cut(job, unfinished)
        if problem is None or problem.startswith("no tissue"):
            _clear(folder)
            unfinished.rename(folder)
        return problem
    except InputError as error:
        # errors are not recorded, so the next call tries again, in case the file has been repaired
        return str(error) if job.image in str(error) else f"{job.image}: {error}"
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Remove the patches of an earlier cut; a folder that contains other files is renamed instead."""
    own = re.compile(r"\d{3,}/patch_-?\d+_-?\d+\.\w+|" + "|".join(map(re.escape, (RECORD, MEASURES, THUMBNAIL))))
    files = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    if all(own.fullmatch(path.relative_to(folder).as_posix()) for path in files):
        shutil.rmtree(folder, ignore_errors=True)
        return
    number = 1
    while (target := folder.with_name(f"{folder.name}.earlier-{number}")).exists():
        number += 1
    folder.rename(target)
    print(f"moved {folder}, which holds files that no run wrote, to {target}", flush=True)


def _cut(job: SlideJob, folder: Path) -> str | None:
    cutting, grid = job.cutting, job.cutting.grid
    path = Path(job.folder) / job.image
    mpp = float(job.mpp) if job.mpp else None
    with open_slide(path, mpp, job.backend, cutting.mpp_conflict, cutting.pixels) as slide:
        fingerprint = file_fingerprint(path)
        plan = plan_patches(slide, grid)
        chosen = _choice(len(plan.corners), cutting, job.image)
        corners = plan.corners[chosen]
        measures = _patches(slide, corners, plan.field, job, folder)
        problem = None if len(corners) else f"no tissue: no patch of {job.image} has {grid.min_tissue:.0%} of it"
        record = {
            "image": job.image,
            "fingerprint": fingerprint,
            "width": slide.dimensions[0],
            "height": slide.dimensions[1],
            "source_mpp": slide.mpp,
            "levels": len(slide.level_dimensions),
            "tissue": float(plan.mask.mean()),
            "planned": len(plan.corners),
            "patches": len(corners),
            "problem": problem,
        }
        overview = draw_plan(plan, slide.dimensions, corners)
    with atomic_path(folder / THUMBNAIL) as path_of_overview:
        write_jpeg(path_of_overview, overview, quality=80)
    with atomic_path(folder / MEASURES) as path_of_measures:
        np.savez(path_of_measures, x=corners[:, 0], y=corners[:, 1], tissue=plan.tissue[chosen], **measures)
    write_json(folder / RECORD, record)
    return problem


def _choice(count: int, cutting: Cutting, image: str) -> np.ndarray:
    limit = cutting.max_patches_per_slide
    if limit is None or count <= limit:
        return np.arange(count)
    rng = np.random.default_rng(seed_from("patches", cutting.seed, image))
    return np.sort(rng.choice(count, limit, replace=False))


def _patches(
    slide: SlideReader, corners: np.ndarray, field: tuple[float, float], job: SlideJob, folder: Path
) -> dict[str, Any]:
    cutting, size = job.cutting, job.cutting.grid.image_size
    if cutting.patch_format == "none" and not cutting.measures:
        return {}
    measures: list[dict[str, np.ndarray]] = []
    for start, patches in _chunks(slide.read_many(corners.tolist(), field, (size, size))):
        if cutting.measures:
            measures.append(measure_patches(np.stack(patches)))
        if cutting.patch_format != "none":
            for number, (patch, (x, y)) in enumerate(zip(patches, corners[start:].tolist()), start):
                _write(patch, folder / patch_name(number, x, y, cutting.patch_format))
    return {name: np.concatenate([batch[name] for batch in measures]) for name in measures[0]} if measures else {}


def measure_patches(patches: np.ndarray) -> dict[str, np.ndarray]:
    """Return sharpness, background fraction and perceptual hash, ``(N,)`` each, of ``(N, H, W, 3)`` uint8 patches."""
    small = min(patches.shape[1:3]) < SIDE
    return {
        "sharpness": np.array([sharpness(patch) for patch in patches], np.float32),
        "background": np.array([background_fraction(patch) for patch in patches], np.float32),
        "hash": np.full(len(patches), PLAIN) if small else hash_images(patches),
    }


def _chunks(patches: Iterator[np.ndarray]) -> Iterator[tuple[int, list[np.ndarray]]]:
    held: list[np.ndarray] = []
    start = 0
    for patch in patches:
        held.append(patch)
        if len(held) == CHUNK:
            yield start, held
            start, held = start + CHUNK, []
    if held:
        yield start, held


def patch_name(number: int, x: int, y: int, patch_format: str) -> str:
    """Return the path of a patch, relative to the folder of its slide."""
    return f"{number // FILES_PER_FOLDER:03d}/patch_{x}_{y}{SUFFIX[patch_format]}"


def _write(patch: np.ndarray, target: Path) -> None:
    with atomic_path(target) as path:
        if target.suffix == ".png":
            Image.fromarray(patch).save(path, format="png", compress_level=3)
        else:
            write_jpeg(path, Image.fromarray(patch), quality=95, subsampling=0)


def read_record(root: str | Path, image: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Return the record of a finished slide, and ``x, y, tissue`` of its patches (quality and hashes if measured)."""
    folder = record_folder(root, image)
    with np.load(folder / MEASURES, allow_pickle=False) as content:
        return read_json(folder / RECORD), {name: content[name] for name in content.files}


def record_names(root: str | Path, image: str, measures: dict[str, np.ndarray], patch_format: str) -> list[str]:
    """Return the paths of a slide's patches, relative to the folder of the cohort."""
    folder = record_folder("", image).as_posix()
    corners = zip(measures["x"].tolist(), measures["y"].tolist())
    return [f"{folder}/{patch_name(number, x, y, patch_format)}" for number, (x, y) in enumerate(corners)]

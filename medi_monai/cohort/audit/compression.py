"""Compression of the source images of a cohort: scheme and JPEG quality, by center."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort.extraction import record_folder
from medi_monai.cohort.folder import SETTINGS_FILE
from medi_monai.cohort.prepare import SLIDES_FILE
from medi_monai.cohort.table import Cohort
from medi_monai.schema import missing_cells
from medi_monai.utils.files import read_json
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.tables import read_table
from medi_monai.wsi.readers import image_compression

__all__ = ["COMPRESSION", "LOSSY", "QUALITY", "compression_columns", "compression_section", "is_lossy", "source_files"]

#: columns of the scheme, of the JPEG quality, and of whether the scheme loses information
COMPRESSION, QUALITY, LOSSY = "compression", "jpeg_quality", "lossy"
#: largest number of patients of whom an image is inspected
MAX_PATIENTS = 1000
#: number of images that tell whether those of a cohort are lossy
NUM_INSPECTED = 64


def source_files(cohort: Cohort) -> pd.Series:
    """Return the path of the slide, tile or patch from which each image of a cohort was read.

    Args:
        cohort: a cohort, prepared here or elsewhere, or sampled images.

    Returns:
        One path per row; an empty string if the cohort does not record the file, as for captioned images.
    """
    table, settings = cohort.table, cohort.root / SETTINGS_FILE
    files = str(cohort.root) + "/" + table["image"].astype(str)
    files = files.mask(table["image"].str.startswith("/"), table["image"])
    written = table["image"].str.startswith("patches/")
    if not settings.is_file() or not written.any():
        return files
    slides = cohort.root / SLIDES_FILE
    if not slides.is_file():
        return files.mask(written, "")
    source = Path(read_json(settings)["source"]["root"])
    images = read_table(slides)["image"]
    by_folder = {record_folder("", image).as_posix(): str(source / image) for image in images}
    folders = table["image"].str.extract(r"^([^/]+/[^/]+/[^/]+)/", expand=False)
    return files.mask(written, folders.map(by_folder)).fillna("")


def compression_columns(cohort: Cohort, patient: str = "patient", seed: int = 0) -> pd.DataFrame:
    """Read the compression of one source image per patient, of at most :data:`MAX_PATIENTS` patients.

    Args:
        cohort: cohort of patches; only the headers of its source images are read.
        patient: column of the patient.
        seed: seed of the choice of patients and images.

    Returns:
        One row per row of the cohort, all strings: :data:`COMPRESSION`, :data:`QUALITY` and :data:`LOSSY` (``yes`` or
        ``no``). Cells are empty if the image was not inspected, or the file does not tell.
    """
    columns = pd.DataFrame("", index=cohort.table.index, columns=[COMPRESSION, QUALITY, LOSSY], dtype="str")
    if patient not in cohort.table or "image" not in cohort.table:
        return columns
    files = pd.DataFrame({"file": source_files(cohort), "patient": cohort.table[patient]})
    chosen = _one_per_patient(files[(files["file"] != "") & ~missing_cells(files["patient"])], seed)
    for file, rows in files[files["file"].isin(chosen)].groupby("file").groups.items():
        compression = image_compression(str(file))
        if compression is not None:
            quality = "" if compression.quality is None else str(compression.quality)
            columns.loc[rows] = [compression.scheme, quality, "yes" if compression.is_lossy else "no"]
    return columns


def _one_per_patient(files: pd.DataFrame, seed: int) -> set[str]:
    # sorted before the draws, so that they do not depend on the order of the rows
    distinct = files.drop_duplicates().sort_values(["patient", "file"], ignore_index=True)
    order = np.random.default_rng(seed_from("compression", seed)).permutation(len(distinct))
    return set(distinct.iloc[order].drop_duplicates("patient")["file"].head(MAX_PATIENTS))


def is_lossy(cohort: Cohort, seed: int = 0) -> bool | None:
    """Return whether most images come from files with lossy compression, judged by :data:`NUM_INSPECTED` of them.

    Args:
        cohort: a cohort, or sampled images.
        seed: seed of the choice of images.

    Returns:
        None if no file tells.
    """
    files = sorted(set(source_files(cohort)) - {""})
    chosen = np.random.default_rng(seed_from("lossy", seed)).permutation(len(files))[:NUM_INSPECTED]
    known = [found.is_lossy for index in chosen if (found := image_compression(files[index])) is not None]
    return 2 * sum(known) > len(known) if known else None


def compression_section(table: pd.DataFrame, patient: str, attributes: Sequence[str]) -> dict[str, Any] | None:
    """Summarize the compression of all inspected images, and by the values of attributes.

    Args:
        table: table of the cohort with the columns of :func:`compression_columns`.
        patient: column of the patient.
        attributes: attributes by which to group, such as the center.

    Returns:
        ``all``, and ``by`` with a list for each attribute: ``images``, ``schemes`` (share of each), ``lossy`` (share),
        and ``quality`` (``median``, ``lowest`` and ``highest`` JPEG quality, or None). None if no image was inspected.
    """
    names = [COMPRESSION, QUALITY, LOSSY]
    if not set(names) <= set(table):
        return None
    known = table.loc[table[COMPRESSION] != "", [patient, *attributes, *names]].drop_duplicates()
    if known.empty:
        return None
    return {
        "all": _summary(known.drop_duplicates([patient, *names])),
        "by": {
            name: [
                {"value": str(value), **_summary(images.drop_duplicates([patient, *names]))}
                for value, images in known[~missing_cells(known[name])].groupby(name)
            ]
            for name in attributes
        },
    }


def _summary(images: pd.DataFrame) -> dict[str, Any]:
    qualities, schemes = pd.to_numeric(images[QUALITY]).dropna(), images[COMPRESSION].value_counts(normalize=True)
    summary: dict[str, Any] = {
        "images": len(images),
        "schemes": {str(name): float(share) for name, share in schemes.items()},
        "lossy": float((images[LOSSY] == "yes").mean()),
        "quality": None,
    }
    if len(qualities):
        measures = {"median": qualities.median(), "lowest": qualities.min(), "highest": qualities.max()}
        summary["quality"] = {name: float(value) for name, value in measures.items()}
    return summary

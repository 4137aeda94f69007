"""The pixels of DICOM: series, slice by slice in the order of their positions, and single images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import require

__all__ = ["read_series", "read_single"]

#: what the place of an image in space follows from
GEOMETRY = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns")
#: relative difference between distances of slices that is rounding
UNEVEN = 0.02


def read_series(files: Sequence[Path], path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray, bool]:
    """The voxels of a series.

    Args:
        files: of the series, in any order.
        path: for messages.

    Returns:
        ``(columns, rows, slices)`` float32 with the rescale slope applied, in the order of their positions; the
        ``(4, 4)`` affine to RAS+ millimeters; and whether low values are shown bright (MONOCHROME1).

    Raises:
        InputError: if positions are missing, repeated or uneven, or slices differ in orientation or size.
    """
    datasets = [_dataset(file) for file in files]
    if len(datasets) == 1 and int(getattr(datasets[0], "NumberOfFrames", 1)) > 1:
        raise _frames(path, int(datasets[0].NumberOfFrames))
    for dataset in datasets:
        lacks = [tag for tag in GEOMETRY if dataset.get(tag) is None]
        if lacks:
            raise InputError(f"{path}: its DICOM images have no {lacks[0]}, so that their orientation is unknown")
    across, down = _directions(datasets[0])
    normal = np.cross(across, down)
    first = datasets[0]
    for dataset in datasets:
        same = [np.allclose(np.ravel(dataset.get(tag)), np.ravel(first.get(tag)), atol=1e-3) for tag in GEOMETRY[2:]]
        if not all(same) or not np.allclose(dataset.ImageOrientationPatient, first.ImageOrientationPatient, atol=1e-3):
            raise InputError(f"{path}: the images of the series differ in size, spacing or orientation")
    places = np.array([np.dot(normal, np.array(dataset.ImagePositionPatient, float)) for dataset in datasets])
    order = np.argsort(places, kind="stable")
    thickness = _distance(places[order], first, path)
    values = np.stack([_pixels(datasets[index]) for index in order], axis=-1)
    row_spacing, column_spacing = (float(value) for value in first.PixelSpacing)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = across * column_spacing, down * row_spacing, normal * thickness
    lps[:3, 3] = np.array(datasets[order[0]].ImagePositionPatient, float)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    return values.transpose(1, 0, 2), affine, _is_inverted(first)


def read_single(path: str | os.PathLike, page: int | None) -> tuple[np.ndarray, tuple[float, float] | None, bool]:
    """The values of one DICOM file, as it is displayed.

    Args:
        path: of the file.
        page: which frame of several.

    Returns:
        ``(rows, columns)`` float32, or ``(rows, columns, 3)`` uint8 for color; millimeters per pixel (vertical,
        horizontal), or None if unknown; and whether low values are shown bright.

    Raises:
        InputError: for several frames without a choice.
    """
    dataset = _dataset(Path(path))
    frames = int(getattr(dataset, "NumberOfFrames", None) or 1)
    if frames > 1 and (page is None or page >= frames):
        raise _frames(path, frames)
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    pixels = _pixels(dataset)
    size = (float(spacing[0]), float(spacing[1])) if spacing is not None else None
    return pixels[page] if frames > 1 else pixels, size, _is_inverted(dataset)


def _frames(path: str | os.PathLike, frames: int) -> InputError:
    return InputError(
        f"{path} has {frames} frames, of which one is read: set `page` to its number, 0 to {frames - 1}. For slices in "
        "a standard orientation, convert it to NIfTI (dcm2niix)"
    )


def _dataset(file: Path) -> Any:
    dicom = require("pydicom", "to read DICOM")
    try:
        return dicom.dcmread(file)
    except Exception as error:
        raise InputError(f"cannot read {file}: {_line(error)}") from error


def _pixels(dataset: Any) -> np.ndarray:
    try:
        if int(dataset.get("SamplesPerPixel", 1)) > 1:
            return np.asarray(dataset.pixel_array)
        return np.asarray(import_module("pydicom.pixels").apply_modality_lut(dataset.pixel_array, dataset), np.float32)
    except Exception as error:
        raise InputError(f"cannot read the pixels of {dataset.filename}: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _directions(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    cosines = np.array(dataset.ImageOrientationPatient, float)
    return cosines[:3], cosines[3:]


def _is_inverted(dataset: Any) -> bool:
    return str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"


def _distance(places: np.ndarray, first: Any, path: str | os.PathLike) -> float:
    if len(places) == 1:
        return float(first.get("SliceThickness") or 1)
    steps = np.diff(places)
    usual = float(np.median(steps))
    if usual <= 0 or (steps < usual * UNEVEN).any():
        raise InputError(
            f"{path}: several images of the series have the same position (echoes, times or b-values). Convert it to "
            "NIfTI and choose one with `page`"
        )
    if np.abs(steps - usual).max() > max(UNEVEN * usual, 0.01):
        raise InputError(
            f"{path}: the distances of the {len(places)} images of the series vary from {steps.min():.4g} to "
            f"{steps.max():.4g} mm; images are missing"
        )
    return float(places[-1] - places[0]) / (len(places) - 1)

"""Read the pixels of DICOM files: series, with slices in the order of their positions, and single images."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from medi_monai.utils.errors import InputError, one_line
from medi_monai.utils.optional import require

__all__ = ["read_series", "read_single"]

#: attributes that determine the position of an image in space
GEOMETRY = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "Rows", "Columns")
#: sequence of an enhanced image that contains each of these attributes, for one frame or for all frames
FUNCTIONAL_GROUPS = {
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "ImagePositionPatient": "PlanePositionSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
#: relative difference between distances of slices that counts as rounding
UNEVEN = 0.02


def read_series(files: Sequence[Path], path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray, bool]:
    """Read the voxels of a series.

    Args:
        files: files of the series, in any order; for an enhanced image, the one file with all frames.
        path: path of the series, for messages.

    Returns:
        ``(columns, rows, slices)`` float32 with the rescale slope applied, in the order of their positions; the
        ``(4, 4)`` affine to RAS+ millimeters; and whether low values are shown as bright (MONOCHROME1).

    Raises:
        InputError: if a file cannot be read, positions are missing, repeated or unevenly spaced, or slices differ in
            orientation, size or pixel spacing.
    """
    frames = [frame for file in files for frame in _frames(_dataset(file), path)]
    first = frames[0]
    for frame in frames:
        sizes = [np.allclose(getattr(frame, name), getattr(first, name), atol=1e-3) for name in ("spacing", "shape")]
        if not all(sizes) or not np.allclose(frame.directions, first.directions, atol=1e-3):
            raise InputError(f"{path}: the images of the series differ in size, spacing or orientation")
    across, down = first.directions
    normal = np.cross(across, down)
    places = np.array([np.dot(normal, frame.position) for frame in frames])
    order = np.argsort(places, kind="stable")
    thickness = _distance(places[order], first.thickness, path)
    values = np.stack([_frame_values(frames[index]) for index in order], axis=-1)
    row_spacing, column_spacing = first.spacing
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = across * column_spacing, down * row_spacing, normal * thickness
    lps[:3, 3] = frames[order[0]].position
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    return values.transpose(1, 0, 2), affine, _is_inverted(first.dataset)


def read_single(path: str | os.PathLike, page: int | None) -> tuple[np.ndarray, tuple[float, float] | None, bool]:
    """Read the values of a single DICOM image, oriented as in the file.

    Args:
        path: path of the file.
        page: index of the frame to read, if the file has several.

    Returns:
        ``(rows, columns)`` float32, or ``(rows, columns, 3)`` uint8 for color; millimeters per pixel (vertical,
        horizontal), or None if unknown; and whether low values are shown as bright.

    Raises:
        InputError: if the file cannot be read, or has several frames and ``page`` is not one of them.
    """
    dataset = _dataset(Path(path))
    frames = int(getattr(dataset, "NumberOfFrames", None) or 1)
    if frames > 1 and (page is None or page >= frames):
        raise InputError(
            f"{path} has {frames} frames, of which one is read: set `page` to its number, 0 to {frames - 1}"
        )
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    pixels = _pixels(dataset)
    size = (float(spacing[0]), float(spacing[1])) if spacing is not None else None
    return pixels[page] if frames > 1 else pixels, size, _is_inverted(dataset)


@dataclass(frozen=True)
class _Frame:
    """An image of a series.

    Args:
        dataset: DICOM dataset of the file.
        index: index of the frame, in a file with several frames; None in a file with a single image.
        rescale: slope and intercept of the values of this frame; None if those of the dataset apply.
        directions: ``(2, 3)`` unit vectors along a row of pixels and along a column, in LPS.
        position: ``(3,)`` position of the first pixel in LPS, in millimeters.
        spacing: millimeters per pixel (vertical, horizontal).
        shape: numbers of rows and columns.
        thickness: thickness of the slice in millimeters; 1 if unknown.
    """

    dataset: Any
    index: int | None
    rescale: tuple[float, float] | None
    directions: np.ndarray
    position: np.ndarray
    spacing: tuple[float, float]
    shape: tuple[int, int]
    thickness: float


def _frames(dataset: Any, path: str | os.PathLike) -> list[_Frame]:
    """Return the images of a file: a single one, or the frames of an enhanced image, each with its position."""
    count = int(dataset.get("NumberOfFrames") or 1)
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if groups is None and count == 1:
        return [_frame(dataset, None, dataset.get, None, path)]
    if groups is None or len(groups) != count:
        raise InputError(
            f"{path} has {count} frames without the position of each, so that their order is unknown: convert it to "
            "NIfTI (dcm2niix)"
        )
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]

    def value_in(group: Any, name: str) -> Any:
        sequence = FUNCTIONAL_GROUPS.get(name)
        if sequence is None:
            return dataset.get(name)
        items = group.get(sequence) or shared.get(sequence)
        return items[0].get(name) if items else None

    frames = []
    for index, group in enumerate(groups):
        slope, intercept = value_in(group, "RescaleSlope"), value_in(group, "RescaleIntercept")
        rescale = (float(1 if slope is None else slope), float(intercept or 0))
        frames.append(_frame(dataset, index, partial(value_in, group), rescale, path))
    return frames


def _frame(
    dataset: Any,
    index: int | None,
    value_of: Callable[[str], Any],
    rescale: tuple[float, float] | None,
    path: str | os.PathLike,
) -> _Frame:
    values = {name: value_of(name) for name in GEOMETRY}
    lacks = [name for name, value in values.items() if value is None]
    if lacks:
        raise InputError(f"{path}: its DICOM images have no {lacks[0]}, so that their orientation is unknown")
    spacing = values["PixelSpacing"]
    return _Frame(
        dataset,
        index,
        rescale,
        np.array(values["ImageOrientationPatient"], float).reshape(2, 3),
        np.array(values["ImagePositionPatient"], float),
        (float(spacing[0]), float(spacing[1])),
        (int(values["Rows"]), int(values["Columns"])),
        float(value_of("SliceThickness") or 1),
    )


def _frame_values(frame: _Frame) -> np.ndarray:
    """Return the ``(rows, columns)`` float32 values with the rescale slope and intercept applied."""
    if frame.index is None or frame.rescale is None:
        return _pixels(frame.dataset)
    slope, intercept = frame.rescale
    pixels = _stored_pixels(frame.dataset)
    return np.asarray((pixels[frame.index] if pixels.ndim > 2 else pixels) * slope + intercept, np.float32)


def _dataset(file: Path) -> Any:
    dicom = require("pydicom", "to read DICOM")
    try:
        return dicom.dcmread(file)
    except Exception as error:
        raise InputError(f"cannot read {file}: {one_line(error)}") from error


def _pixels(dataset: Any) -> np.ndarray:
    pixels = _stored_pixels(dataset)
    if int(dataset.get("SamplesPerPixel", 1)) > 1:
        return np.asarray(pixels)
    return np.asarray(import_module("pydicom.pixels").apply_modality_lut(pixels, dataset), np.float32)


def _stored_pixels(dataset: Any) -> np.ndarray:
    try:
        return dataset.pixel_array
    except Exception as error:
        if "missing dependencies" in str(error):
            require("gdcm", f"to read the pixels of {dataset.filename} ({dataset.file_meta.TransferSyntaxUID.name})")
        raise InputError(f"cannot read the pixels of {dataset.filename}: {one_line(error)}") from error


def _is_inverted(dataset: Any) -> bool:
    return str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1"


def _distance(places: np.ndarray, thickness: float, path: str | os.PathLike) -> float:
    if len(places) == 1:
        return thickness
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

"""Read slices of volumes as images: NIfTI, MetaImage and NRRD with MONAI's readers, DICOM series slice by slice."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medi_monai.cohort.tables.dicom import series_files
from medi_monai.cohort.volumes.rules import PLANES, VolumeRules, slice_of
from medi_monai.cohort.volumes.series import read_series, read_single
from medi_monai.utils.errors import InputError, one_line
from medi_monai.utils.files import file_fingerprint, json_digest
from medi_monai.utils.optional import require
from medi_monai.wsi.readers import PixelRules, read_plain
from medi_monai.wsi.readers.plain import file_kind

__all__ = ["Picture", "Volume", "VolumeReader", "image_fingerprint", "read_volume"]

ITK_SUFFIXES = (".mha", ".nrrd")
#: maximum number of characters of the reason in an error, because those of libraries can be long
LONGEST_REASON = 300
#: labels of the ends of each voxel axis, the low end first
RAS = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True)
class Picture:
    """An image before it is made square.

    Args:
        pixels: ``(H, W)`` or ``(H, W, 3)`` uint8.
        spacing: millimeters per pixel (vertical, horizontal), or None if the file does not contain it.
    """

    pixels: np.ndarray
    spacing: tuple[float, float] | None = None


@dataclass(frozen=True)
class Volume:
    """Voxels in RAS+ orientation: indices increase to the patient's right, to the front and to the head.

    Args:
        values: ``(X, Y, Z)`` float32.
        spacing: millimeters per voxel along each axis.
        limits: values shown as black and as white, the same for all slices.
        inverted: whether low values are shown as bright.
    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    limits: tuple[float, float]
    inverted: bool = False

    def picture(self, rules: VolumeRules, name: str) -> Picture:
        """Return a slice as radiologists see it.

        Args:
            rules: plane of the slice, and range from which slices are taken.
            name: one of ``rules.names``, or an index as text.
        """
        values = slice_of(self.values, rules.plane, rules.index_of(name, self.values))
        pixels = PixelRules(intensity_range=self.limits).gray_levels(values, "")
        across, down = (self.spacing[axis] for axis in range(3) if axis != PLANES[rules.plane])
        return Picture(np.ascontiguousarray(255 - pixels if self.inverted else pixels), (down, across))


class VolumeReader:
    """Reads images and slices of volumes; not to be shared by threads.

    The last volume is kept, because its slices are usually read one after the other.

    Args:
        volumes: which slices of volumes become images.
        pixels: how values are converted to gray levels.
    """

    def __init__(self, volumes: VolumeRules, pixels: PixelRules) -> None:
        self._volumes, self._rules = volumes, pixels
        self._last: tuple[tuple[str, str], Volume] | None = None

    def read(self, path: str | os.PathLike, name: str = "", series: str = "") -> Picture:
        """Read an image, or a slice of a volume.

        Args:
            path: path of an image file or a volume, or folder of a DICOM series.
            name: name of the slice, one of :attr:`VolumeRules.names` or an index; empty for an image file.
            series: ``SeriesInstanceUID``; needed if the folder has several series.

        Raises:
            InputError: for a file that cannot be read, or a slice that does not exist.
        """
        if name:
            key = os.fspath(path), series
            if self._last is None or self._last[0] != key:
                self._last = None
                self._last = key, read_volume(path, self._rules, series)
            try:
                return self._last[1].picture(self._volumes, name)
            except InputError as error:
                raise InputError(f"{path} {error}") from None
        if file_kind(path) == "DICOM":
            return self._single(path)
        return Picture(read_plain(path, self._rules))

    def _single(self, path: str | os.PathLike) -> Picture:
        values, spacing, inverted = read_single(path, self._rules.page)
        self._rules.check_size(path, values.shape[1], values.shape[0])
        pixels = self._rules.gray_levels(values, path)
        return Picture(np.ascontiguousarray(255 - pixels if inverted else pixels), spacing)


def read_volume(path: str | os.PathLike, rules: PixelRules, series: str = "") -> Volume:
    """Read a volume and convert it to RAS+ orientation.

    Args:
        path: a NIfTI, MetaImage or NRRD file, a folder of DICOM files, or one of these.
        rules: how values are converted to gray levels; ``page`` selects the volume of a 4D file.
        series: ``SeriesInstanceUID``; needed if the folder has several series.

    Raises:
        InputError: for a file that cannot be read or is too large, several volumes without ``page``, or an unknown
            orientation.
    """
    inverted = False
    if series or Path(path).is_dir() or file_kind(path) == "DICOM":
        values, affine, inverted = read_series(series_files(path, series), path)
    elif str(path).lower().endswith(ITK_SUFFIXES):
        require("itk", "to read MetaImage and NRRD files")
        values, affine = _load(path, "ITKReader")
    else:
        _check_nifti(path, rules)
        values, affine = _load(path, "NibabelReader")
    while values.ndim > 3:
        number = rules.chosen_page(path, f"{values.shape[-1]} volumes", values.shape[-1])
        values = values[..., number]
    values = values.reshape(*values.shape, *[1] * (3 - values.ndim))
    if values.size > rules.max_pixels:
        raise InputError(f"{path} has {values.size:,} voxels, more than max_pixels = {rules.max_pixels:,}")
    if not np.isfinite(values).all():
        raise InputError(f"cannot read the image {path}: it contains values that are not finite")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError(f"cannot read {path}: its affine is damaged, so that its orientation is unknown")
    values, spacing = _ras(values, affine)
    return Volume(values, spacing, rules.limits(values, path), inverted)


def image_fingerprint(path: str | os.PathLike, series: str = "") -> str:
    """Return the fingerprint of an image file, or of all files of a DICOM series."""
    if series or Path(path).is_dir():
        return json_digest([[file.name, file_fingerprint(file)] for file in series_files(path, series)])
    return file_fingerprint(path)


def _check_nifti(path: str | os.PathLike, rules: PixelRules) -> None:
    nibabel = require("nibabel", "to read NIfTI files")
    file_kind(path)
    try:
        image = nibabel.load(path)
        header, shape = image.header, image.shape
        codes = int(header["sform_code"]), int(header["qform_code"])
    except Exception as error:
        raise InputError(f"cannot read {path} as NIfTI: {one_line(error, LONGEST_REASON)}") from error
    if header.get_data_dtype().fields or header.get_data_dtype().kind == "c":
        raise InputError(f"cannot read {path}: its values are of type {header.get_data_dtype()}; scalars are read")
    if not 2 <= len(shape) <= 5 or 0 in shape:
        raise InputError(f"cannot read {path}: its shape is {shape}")
    if codes == (0, 0):
        raise InputError(
            f"{path} does not contain its orientation (sform_code and qform_code are 0), so that left and right are "
            "unknown. Set it in the file, if you know it (fslorient, or nibabel's set_sform)"
        )


def _load(path: str | os.PathLike, name: str) -> tuple[np.ndarray, np.ndarray]:
    # not LoadImage, because it also registers readers that print messages about missing packages
    from monai.data import image_reader

    try:
        reader = getattr(image_reader, name)()
        values, meta = reader.get_data(reader.read(os.fspath(path)))
        return np.asarray(values, np.float32), np.asarray(meta["affine"], np.float64)
    except Exception as error:
        raise InputError(f"cannot read {path}: {one_line(error, LONGEST_REASON)}") from error


def _ras(values: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Permute and flip the axes of voxels to be nearest to RAS+, without resampling; return voxels and spacing."""
    from monai.data import MetaTensor
    from monai.transforms import Orientation

    image: Any = MetaTensor(torch.from_numpy(np.ascontiguousarray(values))[None], affine=torch.from_numpy(affine))
    image = Orientation(axcodes="RAS", labels=RAS)(image)
    x, y, z = (float(size) for size in np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0))
    return np.asarray(image)[0], (x, y, z)

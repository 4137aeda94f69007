"""Read the features of slides from NumPy and HDF5 files, one file for each slide, as TRIDENT and CLAM write them."""

from __future__ import annotations

import os
import posixpath
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medi_monai.cohort.tables.files import walk_files
from medi_monai.utils.errors import InputError, one_line, unknown_value
from medi_monai.utils.optional import require
from medi_monai.utils.text import listed

__all__ = ["FEATURE_SUFFIXES", "SlideFeatures", "list_feature_files", "read_feature_file"]

#: suffixes of files with the features of one slide
FEATURE_SUFFIXES = (".h5", ".hdf5", ".npz")
#: names of the arrays in such a file
FEATURES, COORDS = "features", "coords"
#: key of the encoder's name, which TRIDENT writes to attributes of the features: itself, or in the name of the folder
ENCODER = "name of the encoder"
#: errors of NumPy, zip and HDF5 for a file that is damaged or of another format
DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class SlideFeatures:
    """Features of the patches of a slide.

    Args:
        features: ``(N, D)`` float32, N of 1 or more, all finite.
        coords: ``(N, 2)`` x and y of the patches in level 0 pixels; None if unknown.
        encoder: name of the encoder, if the file has it.
    """

    features: np.ndarray
    coords: np.ndarray | None = None
    encoder: str | None = None

    @classmethod
    def checked(
        cls, features: np.ndarray, coords: np.ndarray | None, where: object, encoder: str | None = None
    ) -> SlideFeatures:
        """Check arrays and convert them.

        Args:
            features: ``(N, D)`` numbers; ``(D,)`` for a single row; ``(1, N, D)``, with a batch dimension, as well.
            coords: ``(N, 2)`` or ``(1, N, 2)`` numbers, or None.
            where: where they come from, for the error message.
            encoder: name of the encoder, if known.

        Raises:
            InputError: for another shape, no rows, Python objects, text, or values that are not finite in float32.
        """
        values = _numbers(features, f"{where}: features")
        if values.ndim == 1:
            values = values[None]
        if values.ndim != 2 or not values.shape[1]:
            raise InputError(f"{where}: features have the shape {features.shape}, which should be patches by features")
        if not len(values):
            raise InputError(f"{where} has no patches: its features have the shape {features.shape}")
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, np.float32)
        wrong = np.flatnonzero(~np.isfinite(values).all(1))
        if len(wrong):
            raise InputError(
                f"{where}: features of {len(wrong):,} of {len(values):,} patches are not finite (NaN or infinite), the "
                f"first in row {wrong[0]}: compute them again"
            )
        if coords is None:
            return cls(values, None, encoder)
        places = _numbers(coords, f"{where}: coords")
        if places.shape != (len(values), 2):
            raise InputError(f"{where}: coords have the shape {coords.shape}, which should be {(len(values), 2)}")
        return cls(values, places, encoder)


def _numbers(values: np.ndarray, what: str) -> np.ndarray:
    if values.dtype.kind not in "fiu":
        kind = "Python objects" if values.dtype.kind == "O" else f"{values.dtype}"
        raise InputError(f"{what} are {kind}, not numbers: save them as an array of floats")
    return values[0] if values.ndim == 3 and values.shape[0] == 1 else values


def list_feature_files(folder: str | os.PathLike) -> dict[str, Path]:
    """Return the feature files in a folder, or in its only subfolder that has any, by name without suffix.

    Raises:
        InputError: for a folder without such files, several subfolders with such files, or two files of one name.
    """
    root = Path(folder)
    files = walk_files(root, "", FEATURE_SUFFIXES, 0)[0] or walk_files(root, "", FEATURE_SUFFIXES)[0]
    folders = sorted({posixpath.dirname(file) for file in files})
    if not files:
        raise InputError(f"feature_source = {str(root)!r}: the folder contains no {', '.join(FEATURE_SUFFIXES)} file")
    if len(folders) > 1:
        raise InputError(
            f"feature_source = {str(root)!r}: {len(folders)} folders in it contain features ({listed(folders, 4)}); "
            "name one of them, that of a single encoder"
        )
    by_name: dict[str, Path] = {}
    for file in files:
        name = posixpath.splitext(posixpath.basename(file))[0]
        if name in by_name:
            raise InputError(f"{by_name[name]} and {root / file} are both of {name!r}: keep one of them")
        by_name[name] = root / file
    return by_name


def read_feature_file(path: str | os.PathLike) -> SlideFeatures:
    """Read ``features`` and, if the file has them, ``coords`` and the name of the encoder; nothing in it is executed.

    Args:
        path: a ``.npz``, ``.h5`` or ``.hdf5`` file. Without an array ``features``, its only matrix of floats is taken.

    Raises:
        InputError: for a damaged file, arrays of Python objects, or arrays that are no features.
    """
    path = Path(path)
    try:
        with (_npz if path.suffix.lower() == ".npz" else _hdf5)(path) as arrays:
            features = _features(arrays, path)
            coords = arrays[COORDS]() if COORDS in arrays else None
            encoder = str(arrays[ENCODER]()) if ENCODER in arrays else None
    except InputError:
        raise
    except DAMAGED as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path} contains Python objects, which are not read because they may run code: save numbers, with "
                "np.savez(path, features=np.asarray(features, 'float32'))"
            ) from None
        raise InputError(f"cannot read the features in {path} ({one_line(error, 200)}): write the file again") from None
    return SlideFeatures.checked(features, coords, path, encoder)


def _features(arrays: Mapping[str, Callable[[], np.ndarray]], path: Path) -> np.ndarray:
    if FEATURES in arrays:
        return arrays[FEATURES]()
    others = {name: load for name, load in arrays.items() if name not in (COORDS, ENCODER)}
    matrices = [values for load in others.values() if _is_matrix(values := load())]
    if len(matrices) != 1:
        raise unknown_value("array", FEATURES, arrays, f"{path} should have an array of this name.")
    return matrices[0]


def _is_matrix(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and values.ndim == 2


@contextmanager
def _npz(path: Path) -> Iterator[dict[str, Callable[[], np.ndarray]]]:
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise InputError(f"{path} is not a .npz file: write it with np.savez(path, features=…, coords=…)")
    with np.load(path, allow_pickle=False) as archive:
        yield {name: partial(archive.__getitem__, name) for name in archive.files}


@contextmanager
def _hdf5(path: Path) -> Iterator[dict[str, Callable[[], np.ndarray]]]:
    h5py = require("h5py", f"to read {path.name}")
    # locks fail on some network drives, and nothing is written
    with h5py.File(path, "r", locking=False) as file:
        # a link may lead to a file elsewhere
        own = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        arrays: dict[str, Callable[[], np.ndarray]] = {
            name: partial(np.asarray, file[name]) for name in own if isinstance(file[name], h5py.Dataset)
        }
        encoder = _encoder(dict(file[FEATURES].attrs)) if FEATURES in arrays else None
        if encoder is not None:
            arrays[ENCODER] = partial(np.asarray, encoder)
        yield arrays


def _encoder(attributes: Mapping[str, object]) -> str | None:
    name, folder = (attributes.get(key) for key in ("encoder", "savetodir"))
    if isinstance(name, str) and name not in ("", "None"):
        return name
    last = posixpath.basename(folder.replace("\\", "/").rstrip("/")) if isinstance(folder, str) else ""
    return last.removeprefix("features_") if last.startswith("features_") else None

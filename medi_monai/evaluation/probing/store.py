"""Features on disk: an array, a table with one row per image, and a record of finished blocks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import (
    atomic_path,
    json_digest,
    read_json,
    writable_dir,
    write_json,
    write_table,
)
from medi_monai.utils.tables import read_parquet
from medi_monai.utils.workers import folder_lock, remove_temporaries

__all__ = ["FeatureStore"]

FEATURES_FILE, TABLE_FILE, STORE_FILE = "features.npy", "rows.parquet", "store.json"
#: folder with an empty file for each finished block of rows
DONE_DIR = "done"


class FeatureStore:
    """Folder of features that several processes can fill block by block, and that can be resumed.

    ``features.npy`` contains ``(N, D)`` float32, ``rows.parquet`` the table, and ``store.json`` describes the encoder
    and the images. :meth:`create_or_open` creates a store, :meth:`open` opens it for reading.

    Args:
        folder: folder of the store.

    Raises:
        InputError: for a folder without a store, or a damaged one.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        _check_files(self.folder)
        if not (self.folder / STORE_FILE).is_file():
            raise InputError(f"no features in {self.folder} ({STORE_FILE} is missing): embed the images first")
        stored = read_json(self.folder / STORE_FILE)
        try:
            self.fingerprint: dict[str, Any] = stored["fingerprint"]
            self.count, self.dim, self.block_size = (int(stored[name]) for name in ("count", "dim", "block_size"))
            self._array = np.load(self.folder / FEATURES_FILE, mmap_mode="r")
        except (KeyError, TypeError, ValueError, OSError, EOFError) as error:
            raise InputError(f"the features in {self.folder} are damaged ({error}); delete the folder") from error
        if self._array.shape != (self.count, self.dim) or self._array.dtype != np.float32:
            raise InputError(f"{self.folder / FEATURES_FILE} does not match {STORE_FILE}; delete the folder")

    @classmethod
    def open(cls, folder: str | os.PathLike) -> FeatureStore:
        """Open the store in ``folder``, which may be incomplete (see :attr:`complete`)."""
        return cls(folder)

    @classmethod
    def create_or_open(
        cls,
        folder: str | os.PathLike,
        table: pd.DataFrame,
        fingerprint: Mapping[str, Any],
        dim: int,
        block_size: int = 1024,
    ) -> FeatureStore:
        """Open the store in ``folder``, or create one for the rows of ``table``.

        Args:
            folder: folder of the store, created if it does not exist.
            table: one row per image; replaces the stored table, because labels may have been corrected.
            fingerprint: JSON of everything that determines the features: encoder description, and images in order.
            dim: number of features D.
            block_size: rows per block of a new store.

        Raises:
            InputError: for a folder with another fingerprint, or another number of rows or features, or without rows.
        """
        folder, fingerprint = Path(folder), dict(fingerprint)
        if len(table) == 0 or dim < 1 or block_size < 1:
            raise InputError(
                f"features of {len(table)} rows, {dim} dimensions and blocks of {block_size} cannot be stored in "
                f"{folder}: each has to be 1 or more"
            )
        if (folder / STORE_FILE).is_file() and not os.access(folder, os.W_OK):
            # a read-only folder can be used if nothing has to be written
            store = cls(folder)
            store._check(fingerprint, len(table), dim)
            return store
        try:
            writable_dir(folder / DONE_DIR)
        except InputError as error:
            raise InputError(f"{error} Features of images go there unless --features_dir names a folder.") from None
        with folder_lock(folder) as locked:
            if locked:
                remove_temporaries(folder)
            _check_files(folder)
            if (folder / STORE_FILE).is_file():
                store = cls(folder)
                store._check(fingerprint, len(table), dim)
                if not _stored_table(folder).equals(_plain(table)):
                    write_table(folder / TABLE_FILE, _plain(table))
                return store
            for marker in (folder / DONE_DIR).iterdir():
                marker.unlink()
            write_table(folder / TABLE_FILE, _plain(table))
            with atomic_path(folder / FEATURES_FILE) as path:
                np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(table), dim)).flush()
            # written last: a folder with this file has all files of a store
            content = {"fingerprint": fingerprint, "count": len(table), "dim": dim, "block_size": block_size}
            write_json(folder / STORE_FILE, content)
        return cls(folder)

    def _check(self, fingerprint: dict[str, Any], count: int, dim: int) -> None:
        stored = {**self.fingerprint, "rows": self.count, "dimensions": self.dim}
        requested = {**fingerprint, "rows": count, "dimensions": dim}
        if json_digest(stored) != json_digest(requested):
            differing = [
                key
                for key in {**stored, **requested}
                if json_digest(stored.get(key)) != json_digest(requested.get(key))
            ]
            raise InputError(
                f"{self.folder} holds other features ({', '.join(map(str, differing))} differ); choose another "
                "folder, or delete this one"
            )

    @property
    def num_blocks(self) -> int:
        """Number of blocks, the last of which may be shorter."""
        return -(-self.count // self.block_size)

    def rows(self, block: int) -> range:
        """Return the row numbers of a block."""
        if not 0 <= block < self.num_blocks:
            raise InputError(f"there is no block {block}: {self.folder} has {self.num_blocks} blocks")
        return range(block * self.block_size, min((block + 1) * self.block_size, self.count))

    def missing_blocks(self, rank: int = 0, world_size: int = 1) -> list[int]:
        """Return the unfinished blocks of one process's share: ``rank``, ``rank + world_size``, …"""
        finished = {path.name for path in (self.folder / DONE_DIR).iterdir()}
        return [block for block in range(rank, self.num_blocks, world_size) if str(block) not in finished]

    @property
    def complete(self) -> bool:
        """Whether all blocks are finished."""
        return not self.missing_blocks()

    def write(self, block: int, features: np.ndarray | torch.Tensor) -> None:
        """Store the features of a block, which is marked as finished once they are on disk.

        Args:
            block: number of the block.
            features: ``(rows of the block, D)`` features, stored as float32.

        Raises:
            InputError: for the wrong shape, or values that are not finite in float32; the message names the image.
            RunStopped: if the disk is full; the block is then not finished.
        """
        rows = self.rows(block)
        if isinstance(features, torch.Tensor):
            features = features.detach().cpu().float().numpy()
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(features, dtype=np.float32)
        if values.shape != (len(rows), self.dim):
            raise InputError(f"block {block} needs features of shape {(len(rows), self.dim)}, not {values.shape}")
        self._check_finite(rows, values)
        try:
            with open(self.folder / FEATURES_FILE, "r+b") as file:
                file.seek(self._array.offset + rows.start * self.dim * values.itemsize)
                file.write(values.data)
                file.flush()
                os.fsync(file.fileno())
            (self.folder / DONE_DIR / str(block)).touch()
        except OSError as error:
            raise RunStopped(
                f"could not write {self.folder / FEATURES_FILE}: {error.strerror}. Finished blocks are whole; free "
                "some space, then give the same command again."
            ) from error

    def _check_finite(self, rows: range, values: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            first = rows[int(bad[0])]
            name = f" ({self.table['image'].iloc[first]})" if "image" in self.table else ""
            raise InputError(
                f"the features of row {first}{name} are not finite (NaN or infinite), as those of {len(bad)} of "
                f"{len(rows)} images in its block: check the encoder and this image"
            )

    @property
    def features(self) -> np.ndarray:
        """``(N, D)`` float32 features, as a read-only memory map.

        Raises:
            InputError: while blocks are missing.
        """
        missing = len(self.missing_blocks())
        if missing:
            raise InputError(
                f"{missing} of {self.num_blocks} blocks of features in {self.folder} are missing; run the "
                "embedding again to resume"
            )
        return self._array

    @cached_property
    def table(self) -> pd.DataFrame:
        """The table, one row per image."""
        return _stored_table(self.folder)

    def __len__(self) -> int:
        return self.count


def _check_files(folder: Path) -> None:
    for name in (FEATURES_FILE, TABLE_FILE, STORE_FILE):
        if (folder / name).exists() and not (folder / name).is_file():
            raise InputError(f"the features in {folder} are damaged ({name} is no file); delete the folder")


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    return table.reset_index(drop=True)


def _stored_table(folder: Path) -> pd.DataFrame:
    try:
        return read_parquet(folder / TABLE_FILE)
    except (OSError, ValueError) as error:
        raise InputError(f"the table of features in {folder} is damaged ({error}); delete the folder") from error

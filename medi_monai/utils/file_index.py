"""Which files in a folder a run wrote: an index with their digests. What it does not name is the user's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, file_fingerprint, read_json, write_json

__all__ = ["FileIndex"]

FORMAT = 1
SHA256, FINGERPRINT = "sha256", "fingerprint"


class FileIndex:
    """An index of files that a run wrote into a folder.

    A file is entered before it gets its name, so that a run that is killed leaves no file that the index does not
    know. An entry without its file is therefore no error.

    Args:
        folder: of the files.
        name: of the index in it.
    """

    def __init__(self, folder: str | os.PathLike, name: str) -> None:
        self.folder, self.path = Path(folder), Path(folder) / name

    def exists(self) -> bool:
        """Whether a run has written the index."""
        return self.path.is_file()

    def read(self) -> dict[str, dict[str, Any]]:
        """Entries by the name of their file; none where there is no index.

        Raises:
            InputError: for an index that is damaged, or of a newer version.
        """
        if not self.exists():
            return {}
        content = read_json(self.path)
        remedy = "Move it away: files then count as written by medi_monai by their names alone"
        if isinstance(content, dict) and content.get("format") not in (None, FORMAT):
            raise InputError(
                f"{self.path} has the format {content['format']!r}, and this version of medi_monai reads format "
                f"{FORMAT}: update medi_monai"
            )
        files = content.get("files") if isinstance(content, dict) and "format" in content else None
        if not isinstance(files, dict) or not all(_is_entry(name, entry) for name, entry in files.items()):
            raise InputError(f"{self.path} is damaged: it is not an index of files. {remedy}")
        return files

    def add(self, name: str, written: Path, sha256: str, more: Mapping[str, Any] | None = None) -> None:
        """Enter a file that is about to be renamed to its name.

        Args:
            name: that it will have in the folder.
            written: where it lies now.
            sha256: of its bytes.
            more: further keys of the entry.
        """
        entry = {**(more or {}), SHA256: sha256, FINGERPRINT: file_fingerprint(written)}
        self._write({**self.read(), name: entry})

    def forget(self, names: Iterable[str]) -> None:
        """Remove entries, whether or not their files are there."""
        entries, removed = self.read(), set(names)
        if removed & entries.keys():
            self._write({name: entry for name, entry in entries.items() if name not in removed})

    def is_unchanged(self, name: str) -> bool:
        """Whether a file is the one that was entered, by its fingerprint: at little cost, whatever its size."""
        entry, path = self.read().get(name), self.folder / name
        return entry is not None and path.is_file() and file_fingerprint(path) == entry[FINGERPRINT]

    def is_whole(self, name: str) -> bool:
        """Whether a file is the one that was entered, by all of its bytes."""
        entry, path = self.read().get(name), self.folder / name
        return entry is not None and path.is_file() and file_digest(path) == entry[SHA256]

    def _write(self, entries: Mapping[str, Any]) -> None:
        write_json(self.path, {"format": FORMAT, "files": dict(sorted(entries.items()))})


def _is_entry(name: str, entry: Any) -> bool:
    plain = Path(name).name == name and name not in ("", ".", "..")
    return plain and isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in (SHA256, FINGERPRINT))

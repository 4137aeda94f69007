"""Index of the files that a run wrote to a folder, with their digests; all other files there belong to the user."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, file_fingerprint, write_json
from medi_monai.utils.records.documents import Document, read_document, sealed

__all__ = ["FileIndex"]

SHA256, FINGERPRINT = "sha256", "fingerprint"


class IndexEntry(BaseModel):
    """Entry of a file in an index."""

    model_config = ConfigDict(extra="forbid", strict=True)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    fingerprint: str
    step: int | None = None


class IndexDocument(Document):
    """Content of the JSON file of an index."""

    TITLE = "an index of files"
    files: dict[Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")], IndexEntry]
    digest: str


class FileIndex:
    """An index of the files that a run wrote to a folder.

    A file is entered before it gets its final name, so that a run that is killed leaves no file without an entry.
    Entries may therefore lack their file.

    Args:
        folder: folder of the files.
        name: file name of the index in this folder.
    """

    def __init__(self, folder: str | os.PathLike, name: str) -> None:
        self.folder, self.path = Path(folder), Path(folder) / name

    def exists(self) -> bool:
        """Return whether the index exists."""
        return self.path.is_file()

    def read(self) -> dict[str, dict[str, Any]]:
        """Return the entries by file name; empty if there is no index.

        Raises:
            InputError: for an index that is damaged or from a newer version.
        """
        if not self.exists():
            return {}
        try:
            return read_document(self.path, IndexDocument).model_dump()["files"]
        except InputError as error:
            raise InputError(f"{error}. Without the index, files count as ours by their names alone") from None

    def add(self, name: str, written: Path, sha256: str, step: int | None = None) -> None:
        """Enter a file that is about to get its final name.

        Args:
            name: final name of the file in the folder.
            written: present path of the file.
            sha256: SHA-256 of the file.
            step: step of the training that wrote it, if any.
        """
        entry = {SHA256: sha256, FINGERPRINT: file_fingerprint(written), "step": step}
        self._write({**self.read(), name: entry})

    def forget(self, names: Iterable[str]) -> None:
        """Remove entries, whether or not their files exist."""
        entries, removed = self.read(), set(names)
        if removed & entries.keys():
            self._write({name: entry for name, entry in entries.items() if name not in removed})

    def is_unchanged(self, name: str) -> bool:
        """Return whether a file has the fingerprint that was entered, which is quick to check at any size."""
        entry, path = self.read().get(name), self.folder / name
        return entry is not None and path.is_file() and file_fingerprint(path) == entry[FINGERPRINT]

    def is_whole(self, name: str) -> bool:
        """Return whether a file has the SHA-256 that was entered, which reads the whole file."""
        entry, path = self.read().get(name), self.folder / name
        return entry is not None and path.is_file() and file_digest(path) == entry[SHA256]

    def _write(self, entries: Mapping[str, Any]) -> None:
        write_json(self.path, sealed({"format": IndexDocument.FORMAT, "files": dict(sorted(entries.items()))}))

"""Which files in a folder a run wrote: an index with their digests. What it does not name is the user's."""

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
    """What an index knows of a file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    fingerprint: str
    step: int | None = None


class IndexDocument(Document):
    """The JSON of an index."""

    TITLE = "an index of files"
    files: dict[Annotated[str, Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")], IndexEntry]
    digest: str


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
        try:
            return read_document(self.path, IndexDocument).model_dump()["files"]
        except InputError as error:
            raise InputError(f"{error}. Without the index, files count as ours by their names alone") from None

    def add(self, name: str, written: Path, sha256: str, step: int | None = None) -> None:
        """Enter a file that is about to be renamed to its name.

        Args:
            name: that it will have in the folder.
            written: where it lies now.
            sha256: of its bytes.
            step: of the training that wrote it, if one did.
        """
        entry = {SHA256: sha256, FINGERPRINT: file_fingerprint(written), "step": step}
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
        write_json(self.path, sealed({"format": IndexDocument.FORMAT, "files": dict(sorted(entries.items()))}))

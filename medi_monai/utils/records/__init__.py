"""Records with which files are checked before use: JSON documents with a format number, and digests of files."""

from medi_monai.utils.records.documents import Document, parse_document, read_document, sealed, unknown_keys
from medi_monai.utils.records.file_index import FileIndex
from medi_monai.utils.records.results import (
    RESULTS,
    check_apart,
    check_results,
    check_unchanged,
    claim_results,
    foreign_files,
    was_changed,
)

__all__ = [
    "RESULTS",
    "Document",
    "FileIndex",
    "check_apart",
    "check_results",
    "check_unchanged",
    "claim_results",
    "foreign_files",
    "parse_document",
    "read_document",
    "sealed",
    "unknown_keys",
    "was_changed",
]

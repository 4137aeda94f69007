"""What is recorded of files, so that they can be checked before use: JSON with a format, and digests."""

from medi_monai.utils.records.documents import Document, parse_document, read_document, sealed, unknown_keys
from medi_monai.utils.records.file_index import FileIndex

__all__ = ["Document", "FileIndex", "parse_document", "read_document", "sealed", "unknown_keys"]

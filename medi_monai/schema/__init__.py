"""Fixed vocabulary of a model: its label and attributes, and the mapping from values to codes."""

from medi_monai.schema.columns import (
    MISSING_WORDS,
    NULL,
    UNKNOWN,
    CategoricalColumn,
    ContinuousColumn,
    is_missing,
    missing_cells,
)
from medi_monai.schema.conditioning import Conditioning
from medi_monai.schema.metadata_schema import MetadataSchema

__all__ = [
    "MISSING_WORDS",
    "NULL",
    "UNKNOWN",
    "CategoricalColumn",
    "Conditioning",
    "ContinuousColumn",
    "MetadataSchema",
    "is_missing",
    "missing_cells",
]

"""Schema of a model: its label and attributes with their vocabularies, and the mapping from values to codes."""

from medi_monai.schema.columns import (
    BUILT_IN,
    MISSING_WORDS,
    NULL,
    UNKNOWN,
    CategoricalColumn,
    ContinuousColumn,
    check_names,
    is_missing,
    missing_cells,
)
from medi_monai.schema.conditioning import Conditioning
from medi_monai.schema.extension import AddedValue, ExtendedSchema
from medi_monai.schema.metadata_schema import MetadataSchema
from medi_monai.schema.mixtures import Mixture, ValuePath, parse_mixture, parse_path

__all__ = [
    "BUILT_IN",
    "MISSING_WORDS",
    "NULL",
    "UNKNOWN",
    "AddedValue",
    "CategoricalColumn",
    "Conditioning",
    "ContinuousColumn",
    "ExtendedSchema",
    "MetadataSchema",
    "Mixture",
    "ValuePath",
    "check_names",
    "is_missing",
    "missing_cells",
    "parse_mixture",
    "parse_path",
]

"""Turn messy tables into clean columns: TCGA barcodes, GDC tables, TCGA-UT folders, mappings, centers, files."""

from medi_monai.cohort.tables.barcodes import BARCODE_PARTS, match_barcodes, parse_barcodes
from medi_monai.cohort.tables.cells import clean_cells
from medi_monai.cohort.tables.centers import CENTER_ALIASES, read_code_table, spellings
from medi_monai.cohort.tables.folders import list_folders
from medi_monai.cohort.tables.gdc import Cases, join_cases, read_cases, read_gdc, read_slides
from medi_monai.cohort.tables.layouts import LAYOUTS, TableContent, TableSpec
from medi_monai.cohort.tables.mapping import Bins, ColumnRule, Lookup, Mapped, parse_mapping
from medi_monai.cohort.tables.tcga_ut import list_tcga_ut

__all__ = [
    "BARCODE_PARTS",
    "Bins",
    "CENTER_ALIASES",
    "Cases",
    "ColumnRule",
    "LAYOUTS",
    "Lookup",
    "Mapped",
    "TableContent",
    "TableSpec",
    "clean_cells",
    "join_cases",
    "list_folders",
    "list_tcga_ut",
    "match_barcodes",
    "parse_barcodes",
    "parse_mapping",
    "read_cases",
    "read_code_table",
    "read_gdc",
    "read_slides",
    "spellings",
]

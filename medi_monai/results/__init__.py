"""Results of runs: figures, findings and results files, with the functions that write and read these files."""

from medi_monai.results.figure import Figure
from medi_monai.results.files import FORMAT, read_results, read_schema, write_results, write_run
from medi_monai.results.finding import LEVELS, Finding, print_findings
from medi_monai.results.typed import plain, typed

__all__ = [
    "FORMAT",
    "LEVELS",
    "Figure",
    "Finding",
    "plain",
    "print_findings",
    "read_results",
    "read_schema",
    "typed",
    "write_results",
    "write_run",
]

"""Pictures and pages for people."""

from medi_monai.report.grids import labeled_grid

__all__ = ["labeled_grid"]

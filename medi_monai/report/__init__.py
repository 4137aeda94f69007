"""Write HTML pages, plots and grids of images from results."""

from medi_monai.report.audit_page import write_audit_page
from medi_monai.report.evaluation_page import write_evaluation_page
from medi_monai.report.experiment_page import write_experiment_page
from medi_monai.report.grids import labeled_grid
from medi_monai.report.page import Page
from medi_monai.report.probe_page import write_probe_page
from medi_monai.report.quality_page import write_quality_page

__all__ = [
    "Page",
    "labeled_grid",
    "write_audit_page",
    "write_evaluation_page",
    "write_experiment_page",
    "write_probe_page",
    "write_quality_page",
]

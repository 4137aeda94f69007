"""Procedural H&E cohort with known ground truth: classes differ only in morphology, centers only in color."""

from medi_monai.cohort.demo.cohort import demo_dataset, demo_schema, write_demo_slides
from medi_monai.cohort.demo.profiles import CENTERS, TUMORS

__all__ = ["CENTERS", "TUMORS", "demo_dataset", "demo_schema", "write_demo_slides"]

"""A procedural H&E cohort with a known truth: classes differ in morphology alone, centers in color alone."""

from medi_monai.cohort.demo.cohort import demo_dataset, demo_schema, write_demo_slides
from medi_monai.cohort.demo.profiles import CENTERS, TUMORS

__all__ = ["CENTERS", "TUMORS", "demo_dataset", "demo_schema", "write_demo_slides"]

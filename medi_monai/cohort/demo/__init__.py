"""Procedural H&E cohort with known ground truth: classes differ in morphology, centers in preparation and scanner."""

from medi_monai.cohort.demo.cohort import (
    BRAIN_DEMO_NAMES,
    DEMO_NAMES,
    DemoCohort,
    are_made_up,
    demo_dataset,
    demo_schema,
    write_demo_slides,
)
from medi_monai.cohort.demo.profiles import CENTERS, TUMORS

__all__ = [
    "BRAIN_DEMO_NAMES",
    "CENTERS",
    "DEMO_NAMES",
    "TUMORS",
    "DemoCohort",
    "are_made_up",
    "demo_dataset",
    "demo_schema",
    "write_demo_slides",
]

"""Sample a plan: choose, check, draw and name its images, and write the results."""

from medi_monai.runs.sampling.names import image_name
from medi_monai.runs.sampling.plans import PlanSource, not_in_plan, resolve_plan
from medi_monai.runs.sampling.run import sample_plan
from medi_monai.runs.sampling.shares import run_folders

__all__ = ["PlanSource", "image_name", "not_in_plan", "resolve_plan", "run_folders", "sample_plan"]

"""Sampling a plan: which images, how they are checked, drawn and named, and what is written."""

from medi_monai.runs.sampling.names import image_name
from medi_monai.runs.sampling.plans import not_in_plan, resolve_plan
from medi_monai.runs.sampling.run import sample_plan
from medi_monai.runs.sampling.shares import run_folders

__all__ = ["image_name", "not_in_plan", "resolve_plan", "run_folders", "sample_plan"]

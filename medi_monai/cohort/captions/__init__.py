"""Captioned cohorts: tables of images with captions, composing captions from templates, and prompts for sampling."""

from medi_monai.cohort.captions.images import SquareFit
from medi_monai.cohort.captions.prepare import CaptionPreparation
from medi_monai.cohort.captions.prompts import make_prompts, named_subgroups, neutral_prompts, read_prompts
from medi_monai.cohort.captions.source import CaptionTable
from medi_monai.cohort.captions.splits import PatientSplit
from medi_monai.cohort.captions.templates import CaptionTemplates
from medi_monai.cohort.captions.words import names_attribute

__all__ = [
    "CaptionPreparation",
    "CaptionTable",
    "CaptionTemplates",
    "PatientSplit",
    "SquareFit",
    "make_prompts",
    "named_subgroups",
    "names_attribute",
    "neutral_prompts",
    "read_prompts",
]

"""Audit of a cohort: its contents, leakage across its split, and metadata that predict the class."""

from medi_monai.cohort.audit.findings import has_leakage
from medi_monai.cohort.audit.run import PROPERTIES, audit_cohort

__all__ = ["PROPERTIES", "audit_cohort", "has_leakage"]

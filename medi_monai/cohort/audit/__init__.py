"""Audit of a cohort: its contents, leakage across its split, and metadata that predict the class."""

from medi_monai.cohort.audit.compression import compression_columns
from medi_monai.cohort.audit.findings import has_leakage
from medi_monai.cohort.audit.run import PROPERTIES, audit_cohort

__all__ = ["PROPERTIES", "audit_cohort", "compression_columns", "has_leakage"]

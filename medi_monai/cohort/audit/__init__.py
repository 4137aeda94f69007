"""What a cohort with a split holds, what leaks across it, and what gives its classes away."""

from medi_monai.cohort.audit.findings import has_leakage
from medi_monai.cohort.audit.run import PROPERTIES, audit_cohort

__all__ = ["PROPERTIES", "audit_cohort", "has_leakage"]

"""Measures of generated images: functions on arrays."""

from medi_monai.metrics.stain import group_means, stain_regression

__all__ = ["group_means", "stain_regression"]

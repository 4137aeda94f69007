"""The command ``medi-monai init``: look at a folder or table, and propose the overlay of a cohort."""

from medi_monai.runs.init.command import propose_overlay

__all__ = ["propose_overlay"]

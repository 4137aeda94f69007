"""``medi_monai init``: looks at a folder or table and proposes the overlay of a cohort."""

from medi_monai.runs.init.command import main

__all__ = ["main"]

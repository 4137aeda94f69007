"""The command ``medi_monai init``: look at a folder or table, and propose the overlay of a cohort."""

from medi_monai.runs.init.command import main

__all__ = ["main"]

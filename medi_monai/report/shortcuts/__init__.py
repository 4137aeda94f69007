"""The page of the run ``shortcuts``."""

from medi_monai.report.shortcuts.page import write_shortcut_page

__all__ = ["write_shortcut_page"]

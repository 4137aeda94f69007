"""Section on the compression of the source images, by center."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medi_monai.report.page import Page

__all__ = ["add_compression"]


def add_compression(page: Page, audit: dict) -> None:
    """Add the section on compression to the page of an audit, if images were inspected.

    Args:
        page: page to extend.
        audit: result of :func:`~medi_monai.cohort.audit.audit_cohort`.
    """
    section = audit.get("compression")
    if section is None:
        return
    page.section(
        "Compression",
        f"Read from the headers of {section['all']['images']:,} source images, one per patient. The JPEG quality is "
        "estimated from the quantization table, as if libjpeg had written the file. Images that a model generates are "
        "not compressed, and encoders react to JPEG: see --compression of the evaluation.",
    )
    for name, groups in section["by"].items():
        rows = {group["value"]: _row(group) for group in groups} | {"all": _row(section["all"])}
        page.table(pd.DataFrame(rows).T.rename_axis(name).infer_objects(), f"Compression by {name}")
    if not section["by"]:
        page.table(pd.DataFrame([_row(section["all"])]))


def _row(group: dict[str, Any]) -> dict[str, Any]:
    quality = group["quality"] or {"median": None, "lowest": None, "highest": None}
    return {
        "images": group["images"],
        "schemes": ", ".join(f"{name} {share:.0%}" for name, share in group["schemes"].items()),
        "JPEG quality, median": quality["median"],
        "lowest": quality["lowest"],
        "highest": quality["highest"],
    }

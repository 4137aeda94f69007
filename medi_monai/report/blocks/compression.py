"""Compression: of the source images, by center, and its effect on distances."""

from __future__ import annotations

from typing import Any

import pandas as pd

from medi_monai.report.blocks.arms import arm_title
from medi_monai.report.page import Page
from medi_monai.results.measures import CompressionEffect
from medi_monai.utils.text import plural

__all__ = ["add_compression", "add_compression_effect"]


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
        "estimated from the quantization table, as if libjpeg had written the file. Generated images are seldom "
        "compressed, and encoders react to JPEG: see --compression of the evaluation.",
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


def add_compression_effect(page: Page, effect: CompressionEffect | None, floor: str) -> None:
    """Add a folded table of the distances with and without compression; nothing if they were not measured.

    Args:
        page: page to extend.
        effect: mean distances.
        floor: heading of the row of real images of other patients.
    """
    if effect is None:
        return
    rows = {
        floor if name == "floor" else arm_title(name): {
            "without": plain,
            "with compression": effect.compressed[name],
            "ratio": effect.compressed[name] / plain if plain else None,
        }
        for name, plain in effect.plain.items()
    }
    with page.fold(f"Effect of JPEG compression (quality {effect.quality}) on the Fréchet distance"):
        page.text(
            "Generated images are seldom compressed, real ones usually are, and encoders react to the difference. "
            "Here, the same images are embedded twice: as they are, and after all of them, real and generated, were "
            "compressed as JPEG of one quality (images from lossy files for a second time). If compression changes the "
            "order of arms, or brings them much closer to real images, differences in compression explain part of the "
            "distances. These figures use a subset of the images, so they differ from those above."
        )
        page.table(
            pd.DataFrame(rows).T.rename_axis("images"),
            f"Mean Fréchet distance over {plural(effect.num_combinations, 'combination')}, {effect.n:,} matched images",
        )

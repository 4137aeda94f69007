"""List the patches of TCGA-UT, a folder tree ``<cancer_type>/<slide>/<patch>.jpg``.

D. Komura and S. Ishikawa, "Histology images from uniform tumor regions in TCGA Whole Slide Images", Zenodo 2019. As
published, every cancer type has folders of six magnifications, ``<cancer_type>/<level>/<slide>/<patch>.jpg``, with
271,710 patches at each magnification.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort.tables.barcodes import match_barcodes
from medi_monai.cohort.tables.files import Entry, scan_folder
from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["TREE_COLUMNS", "list_tcga_ut"]

#: columns of the resulting table
TREE_COLUMNS = ("image", "slide", "patient", "site", "label")

PATCH_SUFFIXES = (".jpg", ".jpeg", ".png")

Strays = list[tuple[str, str]]


def list_tcga_ut(root: str | os.PathLike, level: str | None = None) -> tuple[pd.DataFrame, Strays]:
    """List the patches of a TCGA-UT folder tree.

    Args:
        root: folder of the cancer types.
        level: magnification folder between cancer type and slide, such as ``"0"``; ``None`` if the tree has none.

    Returns:
        A table of strings, sorted by image: ``image`` (path relative to ``root``), ``slide`` (name of its folder),
        ``patient`` and ``site`` (from the barcode of the slide), ``label`` (name of the cancer type's folder); and
        ``(path, reason)`` of everything that does not belong in such a tree: misplaced files, folders not named after a
        barcode, files that are not images, loops of symbolic links.

    Raises:
        InputError: for a folder that is missing or has no patches, or a level that the tree lacks.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"folder of TCGA-UT not found: {root}")
    slides, strays = _slide_folders(root, level)
    names, counts = [], []
    for folder in slides["folder"]:
        files = sorted(entry.name for entry in _taken(scan_folder(root, folder), "file", strays, "not a patch image"))
        names += files
        counts.append(len(files))
        if not files:
            strays.append((folder, "a slide folder without patches"))
    if not names:
        raise _no_patch(root, level)
    table = slides.loc[np.repeat(slides.index.to_numpy(), counts)].reset_index(drop=True)
    table["image"] = table["folder"] + "/" + pd.Series(names, dtype="str")
    return table[list(TREE_COLUMNS)].sort_values("image", ignore_index=True), sorted(strays)


def _slide_folders(root: Path, level: str | None) -> tuple[pd.DataFrame, Strays]:
    strays: Strays = []
    folders = []
    for label in _taken(scan_folder(root, ""), "folder", strays, "a file outside the folders of cancer types"):
        inside = scan_folder(root, label.path)
        if level is not None:
            levels = {entry.name: entry for entry in inside if entry.kind == "folder"}
            if level not in levels:
                strays.append((label.path, f"has no folder of the level {level!r}"))
                continue
            inside = scan_folder(root, levels[level].path)
        folders += [
            (slide.name, slide.path, label.name)
            for slide in _taken(inside, "folder", strays, "a file outside the slide folders")
        ]
    slides = pd.DataFrame(folders, columns=["slide", "folder", "label"], dtype="str")
    slides = slides.join(match_barcodes(slides["slide"])[["patient", "site"]])
    wrong = slides["patient"] == ""
    strays += [(folder, "not named after a TCGA slide barcode") for folder in slides.loc[wrong, "folder"]]
    return slides[~wrong].sort_values("folder", ignore_index=True), strays


def _taken(entries: list[Entry], kind: str, strays: Strays, reason: str) -> list[Entry]:
    taken = []
    for entry in entries:
        if entry.kind == kind and (kind == "folder" or entry.name.lower().endswith(PATCH_SUFFIXES)):
            taken.append(entry)
        else:
            strays.append((entry.path, entry.problem or (reason if entry.kind != kind else "not a patch image")))
    return taken


def _no_patch(root: Path, level: str | None) -> InputError:
    inside = {
        entry.name
        for label in scan_folder(root, "")
        if label.kind == "folder"
        for entry in scan_folder(root, label.path)
        if entry.kind == "folder"
    }
    levels = sorted(name for name in inside if name.isdigit())
    if levels and level is None:
        return InputError(
            f"{root} contains the levels {', '.join(levels)} below its cancer types, as published; choose one: level"
        )
    if levels and level not in levels:
        return unknown_value("level", level, levels, f"These are the folders below the cancer types of {root}.")
    return InputError(
        f"{root} contains no patches <cancer_type>/<slide>/<patch>.jpg in slide folders named by TCGA barcodes"
    )

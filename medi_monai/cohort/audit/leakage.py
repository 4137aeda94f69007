"""Detect patients, slides, images and near-duplicates that occur in more than one split."""

from __future__ import annotations

import numpy as np
import pandas as pd

from medi_monai.cohort.audit.counts import EXAMPLES
from medi_monai.cohort.audit.rows import MISSING, CodedRows, distinct
from medi_monai.cohort.duplicates import near_duplicates
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError

__all__ = ["checked_hashes", "conflict_section", "crossing", "crossing_images", "crossing_near_duplicates"]


def crossing(rows: CodedRows, column: str) -> dict:
    """Find patients or slides in more than one split; ``excluded`` rows and empty cells are ignored."""
    in_splits = rows.frame[rows.frame["split"].isin(rows.sides)]
    pairs = distinct(in_splits, [column, "split"])
    several = pairs[pairs[column].duplicated(keep=False)].sort_values([column, "split"])
    names = rows.names[column]
    examples = [
        {column: names[code], "splits": [rows.splits[split] for split in group["split"]]}
        for code, group in several[several[column].isin(several[column].unique()[:EXAMPLES])].groupby(column)
    ]
    affected = in_splits.loc[in_splits[column].isin(several[column]), "rows"].sum()
    return {"count": int(several[column].nunique()), "rows": int(affected), "examples": examples}


def crossing_images(images: pd.Series, splits: np.ndarray, rows: CodedRows) -> dict:
    """Find images listed in more than one split, and images listed more than once within a split."""
    doubled = images.duplicated(keep=False).to_numpy() & np.isin(splits, rows.sides)
    listed = pd.DataFrame({"image": images[doubled].astype(object), "split": splits[doubled]})
    listed = listed[~missing_cells(listed["image"]).to_numpy(bool)]
    by_image = listed.groupby("image")["split"].agg(["nunique", "size"])
    across = by_image.index[by_image["nunique"] > 1]
    # rows in ``excluded`` are not compared: an image listed there and in one split is not repeated
    repeated = by_image.index[(by_image["nunique"] == 1) & (by_image["size"] > 1)]
    examples = [
        {"image": str(image), "splits": [rows.splits[code] for code in sorted(set(group["split"]))]}
        for image, group in listed[listed["image"].isin(across[:EXAMPLES])].groupby("image")
    ]
    return {
        "count": len(across),
        "rows": int(listed["image"].isin(across).sum()),
        "examples": examples,
        "repeated": {"count": len(repeated), "examples": [str(image) for image in repeated[:EXAMPLES]]},
    }


def checked_hashes(hashes: np.ndarray, count: int) -> np.ndarray:
    """Return the hashes as an array after checking their type and number.

    Args:
        hashes: ``(N,)`` uint64, from :func:`medi_monai.cohort.hash_images`.
        count: number of rows of the table.

    Raises:
        InputError: unless the hashes are uint64, one per row.
    """
    hashes = np.asarray(hashes)
    if hashes.shape != (count,) or hashes.dtype != np.uint64:
        raise InputError(
            f"hashes have to be ({count},) uint64, one per row of the table, not {hashes.shape} {hashes.dtype}"
        )
    return hashes


def crossing_near_duplicates(
    table: pd.DataFrame, columns: dict[str, str], splits: np.ndarray, hashes: np.ndarray, rows: CodedRows, bits: int
) -> dict:
    """Find near-duplicates: patches in different splits whose hashes differ in at most ``bits`` bits.

    Args:
        table: cohort table, ``N`` rows.
        columns: column of each role (``slide``, ``patient``, ``image``), used to describe the examples.
        splits: ``(N,)`` split codes.
        hashes: ``(N,)`` uint64, from :func:`checked_hashes`.
        rows: coded cohort, which names the splits.
        bits: largest number of differing bits, of 64.
    """
    groups = np.where(np.isin(splits, rows.sides), splits, MISSING)
    duplicates = near_duplicates(hashes, groups, bits)
    return {
        "max_distance": bits,
        "count": duplicates.num_pairs,
        "rows": duplicates.num_rows,
        "plain_rows": duplicates.num_plain,
        "examples": _examples(table, columns, groups, hashes, rows, duplicates.pairs),
    }


def _examples(
    table: pd.DataFrame,
    columns: dict[str, str],
    groups: np.ndarray,
    hashes: np.ndarray,
    rows: CodedRows,
    pairs: pd.DataFrame,
) -> list[dict]:
    shown = _first_by_name(table[columns.get("image", columns["slide"])], groups, hashes, pairs)
    examples: dict[tuple, dict] = {}
    for pair in pairs.itertuples():
        # train comes before holdout
        ordered = sorted((pair.first, pair.second), key=lambda row: groups[row])
        ends = [shown[hashes[row], groups[row]] for row in ordered]
        # one pair of patches represents all pairs of its two slides
        key = tuple(str(table[columns["slide"]].iloc[row]) for row in ends)
        if key not in examples:
            both_named = [
                {role: str(table[column].iloc[row]) for role, column in columns.items()}
                | {"split": rows.splits[groups[row]]}
                for row in ends
            ]
            examples[key] = {"first": both_named[0], "second": both_named[1], "distance": int(pair.distance)}
        if len(examples) == EXAMPLES:
            break
    return list(examples.values())


def _first_by_name(
    names: pd.Series, groups: np.ndarray, hashes: np.ndarray, pairs: pd.DataFrame
) -> dict[tuple[int, int], int]:
    # which of several patches with equal hashes is shown must not depend on the order of the rows
    meant = hashes[pairs[["first", "second"]].to_numpy().ravel()]
    positions = np.flatnonzero(np.isin(hashes, meant) & (groups != MISSING))
    alike = pd.DataFrame(
        {
            "hash": hashes[positions],
            "group": groups[positions],
            "name": names.iloc[positions].astype(str),
            "row": positions,
        }
    )
    first = alike.sort_values("name", kind="stable").drop_duplicates(["hash", "group"])
    return dict(zip(zip(first["hash"], first["group"]), first["row"]))


def conflict_section(rows: CodedRows, label: str, attributes: list[str]) -> dict:
    """Find slides listed under several patients, and patients with several values of a patient-level column."""
    owners = distinct(rows.frame, ["slide", "patient"])["slide"].value_counts()
    shared = sorted(owners[owners > 1].index)
    section = {
        "slides_of_several_patients": {
            "count": len(shared),
            "examples": [rows.names["slide"][code] for code in shared[:EXAMPLES]],
        },
        "patients_with_several_values": {},
    }
    for column in (label, *attributes):
        values = distinct(rows.frame, ["patient", column])["patient"].value_counts()
        patients = sorted(values[values > 1].index)
        section["patients_with_several_values"][column] = {
            "count": len(patients),
            "examples": [rows.names["patient"][code] for code in patients[:EXAMPLES]],
        }
    return section

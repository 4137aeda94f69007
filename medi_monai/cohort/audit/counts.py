"""What a cohort holds: counts of class and attributes, association, missing metadata, what training never sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medi_monai.cohort.audit.rows import MISSING, CodedRows, distinct
from medi_monai.metrics.association import associate, contingency_table

__all__ = ["EXAMPLES", "attribute_section", "combination_section", "missing_section", "property_section", "split_sizes"]

#: so many examples are named where there are more
EXAMPLES = 20


def split_sizes(rows: CodedRows, label: str) -> dict[str, dict[str, int]]:
    """Rows, slides, patients and classes of the whole cohort and of each split."""
    sizes = {}
    for split in ("all", *rows.splits):
        part = rows.part(split)
        counts = {name: len(distinct(part, [name])) for name in ("slide", "patient", label)}
        sizes[split] = {
            "rows": int(part["rows"].sum()),
            "slides": counts["slide"],
            "patients": counts["patient"],
            "classes": counts[label],
        }
    return sizes


def attribute_section(rows: CodedRows, label: str, attribute: str, min_patients: int, seed: int) -> dict:
    """Counts and association of one attribute with the label."""
    patients = distinct(rows.frame, ["patient", label, attribute])
    table = contingency_table(patients[label].to_numpy(), patients[attribute].to_numpy())
    cells = patients.groupby([label, attribute]).size()
    rare = cells[cells < min_patients].sort_values(kind="stable")
    train = distinct(rows.part("train"), [label, attribute])
    num_cells = len(rows.names[label]) * len(rows.names[attribute])
    named = [
        {label: rows.names[label][one], attribute: rows.names[attribute][two], "patients": int(count)}
        for (one, two), count in rare.head(EXAMPLES).items()
    ]
    return {
        "num_classes": len(rows.names[label]),
        "num_values": len(rows.names[attribute]),
        "num_cells": num_cells,
        "empty_cells": num_cells - len(cells),
        "empty_cells_in_train": num_cells - len(train) if "train" in rows.splits else None,
        "rare_cells": {"count": len(rare), "examples": named},
        "classes_per_value": _classes_per_value(rows, attribute, (table > 0).sum(0), table.sum(0)),
        "association": {split: _associate(rows.part(split), label, attribute, seed) for split in _judged(rows)},
        "cells": _cells(rows, label, attribute),
    }


def _judged(rows: CodedRows) -> list[str]:
    return ["all", *(rows.splits[code] for code in rows.sides if len(rows.splits) > 1)]


def _associate(part: pd.DataFrame, label: str, attribute: str, seed: int) -> dict:
    # patches of a patient are no independent evidence: each patient counts once per class and value
    units = distinct(part, ["patient", label, attribute])
    table = contingency_table(units[label].to_numpy(), units[attribute].to_numpy())
    return associate(table, seed)


def _classes_per_value(rows: CodedRows, attribute: str, classes: np.ndarray, patients: np.ndarray) -> dict:
    names = rows.names[attribute]
    # a value without a known class or patient has no column in the table, or an empty one
    held = [place for place in range(len(classes)) if classes[place] > 0]
    single = [place for place in held if classes[place] == 1]
    largest = max(held, key=lambda place: classes[place], default=None)
    total = int(sum(patients[place] for place in held))
    return {
        "max": None if largest is None else int(classes[largest]),
        "max_value": None if largest is None else names[largest],
        "mean": float(sum(classes[place] for place in held) / len(held)) if held else None,
        "single_class": {
            "values": len(single),
            "of": len(held),
            "with_several_patients": sum(int(patients[place] > 1) for place in single),
            "share_of_patients": float(sum(patients[place] for place in single) / total) if total else None,
            "examples": [names[place] for place in single[:EXAMPLES]],
        },
    }


def _cells(rows: CodedRows, label: str, attribute: str) -> dict[str, list]:
    keys = [label, attribute, "split"]
    counts = pd.DataFrame({"rows": rows.frame.groupby(keys)["rows"].sum()})
    for name in ("slide", "patient"):
        units = rows.frame.loc[rows.frame[name] != MISSING, [*keys, name]].drop_duplicates()
        counts[f"{name}s"] = units.groupby(keys).size()
    counts = counts.fillna(0).astype(int).reset_index()
    columns: dict[str, list] = {key: [rows.name_of(key, code) for code in counts[key]] for key in keys}
    return {**columns, **{name: counts[name].tolist() for name in ("rows", "slides", "patients")}}


def combination_section(rows: CodedRows, columns: Sequence[str]) -> dict | None:
    """Which combinations of label and attributes each split holds, and which of them training holds too."""
    if "train" not in rows.splits:
        return None
    keys = list(columns)
    train = pd.MultiIndex.from_frame(rows.part("train")[keys].drop_duplicates())
    section: dict = {"columns": keys, "train": {"combinations": len(train)}}
    for split in (name for name in rows.splits if name != "train"):
        part = rows.part(split)
        counts = part.groupby(keys, as_index=False)["rows"].sum()
        # of one column too, a group is a tuple
        seen = pd.MultiIndex.from_frame(counts[keys]).isin(train)
        section[split] = {
            "combinations": len(counts),
            "seen_in_train": int(seen.sum()),
            "unseen_in_train": int((~seen).sum()),
            "rows_seen": int(counts.loc[seen, "rows"].sum()),
            "rows_unseen": int(counts.loc[~seen, "rows"].sum()),
            "values_unseen_in_train": {name: _unseen(rows, split, name) for name in keys},
        }
    return section


def _unseen(rows: CodedRows, split: str, column: str) -> list[str]:
    there, trained = (set(rows.part(name)[column]) - {MISSING} for name in (split, "train"))
    return [rows.names[column][code] for code in sorted(there - trained)]


def missing_section(rows: CodedRows, label: str, columns: Sequence[str]) -> dict:
    """Empty cells per column: rows and patients, and the share of patients in each class."""
    classes = rows.names[label]
    section = {}
    for column in columns:
        empty = rows.frame[rows.frame[column] == MISSING]
        total = distinct(rows.frame, ["patient", label]).groupby(label).size()
        lacking = distinct(empty, ["patient", label]).groupby(label).size()
        shares = (lacking.reindex(total.index, fill_value=0) / total).items()
        section[column] = {
            "rows": int(empty["rows"].sum()),
            "slides": len(distinct(empty, ["slide"])),
            "patients": len(distinct(empty, ["patient"])),
            "by_class": {} if column == label else {classes[code]: float(share) for code, share in shares},
        }
    return section


def property_section(rows: CodedRows, columns: Sequence[str], targets: Sequence[str], seed: int) -> list[dict]:
    """Whether properties of the files (size, type, resolution) give label or attributes away, over patients."""
    section = []
    for column in columns:
        values = len(distinct(rows.frame, [column]))
        entry: dict = {"property": column, "num_values": values, "targets": {}}
        if values > 1:
            found = {target: _associate(rows.frame, target, column, seed) for target in targets}
            names = ("n", "cramers_v", "normalized_mutual_information", "majority_rule")
            entry["targets"] = {target: {name: figures[name] for name in names} for target, figures in found.items()}
        section.append(entry)
    return section

"""Contents of a cohort: class and attribute counts, association, missing metadata, combinations unseen in training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medi_monai.cohort.audit.rows import MISSING, CodedRows, distinct
from medi_monai.metrics.association import associate, contingency_table

__all__ = ["EXAMPLES", "attribute_section", "combination_section", "missing_section", "property_section", "split_sizes"]

#: maximum number of examples listed
EXAMPLES = 20


def split_sizes(rows: CodedRows, label: str) -> dict[str, dict[str, int]]:
    """Count rows, slides, patients and classes in the whole cohort and in each split."""
    sizes = {}
    for split in ("all", *rows.splits):
        split_rows = rows.of_split(split)
        counts = {name: len(distinct(split_rows, [name])) for name in ("slide", "patient", label)}
        sizes[split] = {
            "rows": int(split_rows["rows"].sum()),
            "slides": counts["slide"],
            "patients": counts["patient"],
            "classes": counts[label],
        }
    return sizes


def attribute_section(rows: CodedRows, label: str, attribute: str, min_patients: int, seed: int) -> dict:
    """Count one attribute by class and measure its association with the label."""
    patients = distinct(rows.frame, ["patient", label, attribute])
    table = contingency_table(patients[label].to_numpy(), patients[attribute].to_numpy())
    cells = patients.groupby([label, attribute]).size()
    rare = cells[cells < min_patients].sort_values(kind="stable")
    train = distinct(rows.of_split("train"), [label, attribute])
    num_cells = len(rows.names[label]) * len(rows.names[attribute])
    examples = [
        {label: rows.names[label][class_code], attribute: rows.names[attribute][value_code], "patients": int(count)}
        for (class_code, value_code), count in rare.head(EXAMPLES).items()
    ]
    return {
        "num_classes": len(rows.names[label]),
        "num_values": len(rows.names[attribute]),
        "num_cells": num_cells,
        "empty_cells": num_cells - len(cells),
        "empty_cells_in_train": num_cells - len(train) if "train" in rows.splits else None,
        "rare_cells": {"count": len(rare), "examples": examples},
        "classes_per_value": _classes_per_value(rows, attribute, (table > 0).sum(0), table.sum(0)),
        "association": {split: _associate(rows.of_split(split), label, attribute, seed) for split in _judged(rows)},
        "cells": _cells(rows, label, attribute),
    }


def _judged(rows: CodedRows) -> list[str]:
    return ["all", *(rows.splits[code] for code in rows.sides if len(rows.splits) > 1)]


def _associate(frame: pd.DataFrame, label: str, attribute: str, seed: int) -> dict:
    # patches of one patient are not independent: each patient counts once per class and value
    units = distinct(frame, ["patient", label, attribute])
    table = contingency_table(units[label].to_numpy(), units[attribute].to_numpy())
    return associate(table, seed)


def _classes_per_value(rows: CodedRows, attribute: str, classes: np.ndarray, patients: np.ndarray) -> dict:
    names = rows.names[attribute]
    # a value without a known class or patient has no column in the table, or a column of zeros
    held = [code for code in range(len(classes)) if classes[code] > 0]
    single = [code for code in held if classes[code] == 1]
    largest = max(held, key=lambda code: classes[code], default=None)
    total = int(sum(patients[code] for code in held))
    return {
        "max": None if largest is None else int(classes[largest]),
        "max_value": None if largest is None else names[largest],
        "mean": float(sum(classes[code] for code in held) / len(held)) if held else None,
        "single_class": {
            "values": len(single),
            "of": len(held),
            "with_several_patients": sum(int(patients[code] > 1) for code in single),
            "share_of_patients": float(sum(patients[code] for code in single) / total) if total else None,
            "examples": [names[code] for code in single[:EXAMPLES]],
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
    """Count the combinations of label and attributes in each split, and how many of them occur in training."""
    if "train" not in rows.splits:
        return None
    keys = list(columns)
    train = pd.MultiIndex.from_frame(rows.of_split("train")[keys].drop_duplicates())
    section: dict = {"columns": keys, "train": {"combinations": len(train)}}
    for split in (name for name in rows.splits if name != "train"):
        split_rows = rows.of_split(split)
        counts = split_rows.groupby(keys, as_index=False)["rows"].sum()
        # a MultiIndex even for a single column, so that both sides hold tuples
        in_training = pd.MultiIndex.from_frame(counts[keys]).isin(train)
        section[split] = {
            "combinations": len(counts),
            "seen_in_train": int(in_training.sum()),
            "unseen_in_train": int((~in_training).sum()),
            "rows_seen": int(counts.loc[in_training, "rows"].sum()),
            "rows_unseen": int(counts.loc[~in_training, "rows"].sum()),
            "values_unseen_in_train": {name: _unseen(rows, split, name) for name in keys},
        }
    return section


def _unseen(rows: CodedRows, split: str, column: str) -> list[str]:
    split_codes, train_codes = (set(rows.of_split(name)[column]) - {MISSING} for name in (split, "train"))
    return [rows.names[column][code] for code in sorted(split_codes - train_codes)]


def missing_section(rows: CodedRows, label: str, columns: Sequence[str]) -> dict:
    """Count empty cells per column, as rows, as patients, and as the share of patients in each class."""
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
    """Measure, over patients, how well file properties (size, type, resolution) predict the label or attributes."""
    section = []
    for column in columns:
        values = len(distinct(rows.frame, [column]))
        entry: dict = {"property": column, "num_values": values, "targets": {}}
        if values > 1:
            by_target = {target: _associate(rows.frame, target, column, seed) for target in targets}
            names = ("n", "cramers_v", "normalized_mutual_information", "majority_rule")
            entry["targets"] = {
                target: {name: figures[name] for name in names} for target, figures in by_target.items()
            }
        section.append(entry)
    return section

"""The run ``auditing``: contents of a cohort, leakage across its split, and metadata that predict the class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort import Cohort, load_or_prepare, table_cohort
from medi_monai.cohort.audit import PROPERTIES, audit_cohort, compression_columns, has_leakage
from medi_monai.cohort.prepare import AnyPreparation, AuditColumns, read_quality
from medi_monai.report import write_audit_page
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import write_json
from medi_monai.utils.records import RESULTS, claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.wsi.readers import read_image

__all__ = ["audit_run", "audited_cohort", "check_measured", "is_quantity", "refuse_leakage", "write_audit"]

AUDIT_SOURCES = ("patches", "table")
#: number of distinct values above which a numeric attribute is compared in bins
MAX_CATEGORIES = 20


def audited_cohort(
    preparation: AnyPreparation,
    cohort_dir: str | os.PathLike,
    audit_source: str,
    on_error: str,
    num_workers: int | None,
    fail_on_leakage: bool = False,
) -> Cohort:
    """Return the cohort to audit.

    Args:
        preparation: source and splits.
        cohort_dir: folder of the prepared cohort, which is prepared on first use.
        audit_source: ``patches``, the prepared cohort, or ``table``, the rows of the source with the split that they
            would get, which needs no images.
        on_error: what to do with unreadable images; see :func:`medi_monai.cohort.prepare`.
        num_workers: number of processes; see :func:`medi_monai.cohort.prepare`.
        fail_on_leakage: whether leakage is an error (see :func:`audit_run`), which requires that patches are measured.
    """
    if audit_source not in AUDIT_SOURCES:
        raise unknown_value("choice of `audit_source`", audit_source, AUDIT_SOURCES)
    if audit_source == "table":
        print("auditing a table: only patients and slides are compared, not patches", flush=True)
        return table_cohort(preparation)
    check_measured(preparation, fail_on_leakage)
    return load_or_prepare(preparation, cohort_dir, on_error, num_workers)


def audit_run(
    cohort: Cohort,
    label: str,
    attributes: Sequence[str],
    output_dir: str | os.PathLike,
    continuous: Sequence[str] = (),
    fail_on_leakage: bool = False,
    combinations: Sequence[str] | None = None,
) -> dict:
    """Audit a cohort, and write ``audit.json``, ``audit.html`` and ``summary.json``.

    Args:
        cohort: cohort to audit; perceptual hashes are used if its folder contains them.
        label: column of the class.
        attributes: metadata columns.
        output_dir: output folder.
        continuous: numeric attributes.
        fail_on_leakage: whether to raise an error if patients, slides, files or near-duplicate patches cross the split.
        combinations: columns whose combinations are compared between splits; by default label and attributes.
    """
    output = Path(output_dir)
    claim_results(output, "auditing")
    set_aside(output, [output / name for name in RESULTS["auditing"][0]])
    audit = write_audit(cohort, AuditColumns(label, attributes, combinations), output, continuous)
    finish_run(
        "auditing",
        output,
        made={"findings": audit["findings"]},
        figures={"patches": len(cohort)},
        settings={"label": label, "attributes": list(attributes), "cohort_dir": str(cohort.root)},
        digests={"cohort": cohort.digest},
        where=output / "audit.html",
    )
    refuse_leakage(audit, output, fail_on_leakage)
    return audit


def check_measured(preparation: AnyPreparation, fail_on_leakage: bool) -> None:
    """Raise an :class:`InputError` if leakage is an error but near-duplicates would not be detected."""
    if fail_on_leakage and not preparation.is_measured:
        raise InputError(
            "fail_on_leakage is set, but with these values of --measure and --patch_format, patches are not read and "
            "near-duplicates are not detected; set --measure always"
        )


def write_audit(cohort: Cohort, columns: AuditColumns, folder: Path, continuous: Sequence[str] = ()) -> dict[str, Any]:
    """Write ``audit.json`` and ``audit.html``, and print leakage.

    Args:
        cohort: cohort to audit; perceptual hashes are used if its folder contains them.
        columns: label, attributes and combinations to audit.
        folder: output folder.
        continuous: numeric attributes.

    Returns:
        The content of ``audit.json``.
    """
    table, quality = _with_unique_images(cohort.table), read_quality(cohort)
    label, combinations = columns.label, columns.combinations
    attributes = [name for name in columns.attributes if name != label]
    numeric = [name for name in attributes if name in continuous or is_quantity(table[name])]
    # properties of the source files, because their size or resolution may reveal the center
    files = {name: quality[name].astype(str) for name in PROPERTIES if name in quality and name not in attributes}
    compression = compression_columns(cohort)
    if not set(compression) & set(table):
        files |= {name: compression[name] for name in compression}
    hashes = quality["hash"].to_numpy(np.uint64) if "hash" in quality else None
    if combinations is not None:
        combinations = [name for name in combinations if name in (label, *attributes)]
    fingerprints = quality["fingerprint"].fillna("").tolist() if "fingerprint" in quality else None
    audit = audit_cohort(
        table.assign(**files),
        label,
        attributes,
        continuous=numeric,
        split="split" if "split" in table else None,
        combinations=combinations,
        hashes=hashes,
        fingerprints=fingerprints,
    )
    write_json(folder / "audit.json", audit)
    has_files = "source_mpp" not in cohort.table.columns
    write_audit_page(audit, folder / "audit.html", (lambda name: read_image(cohort.root / name)) if has_files else None)
    for finding in audit["findings"]:
        if finding["level"] == "leakage":
            print(f"LEAKAGE: {finding['text']}", flush=True)
    return audit


def _with_unique_images(table: pd.DataFrame) -> pd.DataFrame:
    # patches that are read from the same image are not repeated images: name them by their position, too
    if "source_mpp" not in table or not table["image"].duplicated().any():
        return table
    unique = table.assign(image=table["image"] + " at " + table["x"] + ", " + table["y"])
    if "suffix" not in table:
        unique["suffix"] = table["image"].str.extract(r"(\.[^./]*)$", expand=False).fillna("")
    return unique


def is_quantity(column: pd.Series) -> bool:
    """Return whether a column has so many values, all of them numbers, that it is compared in bins."""
    values = pd.Series(column.unique())
    values = values[~missing_cells(values)]
    return len(values) > MAX_CATEGORIES and pd.to_numeric(values, errors="coerce").notna().all()


def refuse_leakage(audit: dict, folder: Path, refuse: bool) -> None:
    """If ``refuse`` is set, raise an :class:`InputError` for an audit that found leakage across the split."""
    if refuse and has_leakage(audit):
        raise InputError(
            f"the split leaks, and fail_on_leakage is set; details are in {folder / 'audit.html'}. Choose "
            "another split, or correct the patients in the table."
        )

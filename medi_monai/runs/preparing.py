"""The runs ``preparing`` and ``auditing``: from images to a cohort, alone or as one of many processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort import (
    Cohort,
    Preparation,
    audit_cohort,
    has_leakage,
    load_or_prepare,
    prepare,
    table_cohort,
)
from medi_monai.cohort.audit import PROPERTIES
from medi_monai.cohort.folder import read_rejected
from medi_monai.cohort.prepare import QUALITY_FILE
from medi_monai.engines.distributed import started_together
from medi_monai.report import write_audit_page, write_quality_page
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import file_digest, write_json
from medi_monai.utils.run_dir import finish_run
from medi_monai.wsi.readers import read_image

__all__ = ["audit_run", "audited_cohort", "prepare_run"]

AUDIT_SOURCES = ("patches", "table")
#: an attribute of numbers with more values than this is looked at in bins
MAX_CATEGORIES = 20


def prepare_run(
    preparation: Preparation,
    output_dir: str | os.PathLike,
    on_error: str = "skip",
    num_workers: int | None = None,
    backend: str = "auto",
    continuous: Sequence[str] = (),
    fail_on_leakage: bool = False,
) -> Cohort:
    """:func:`medi_monai.cohort.prepare` with its audit, both pages and a summary.

    Started by ``torchrun``, every process cuts a shard of the slides, on one machine or on many that see the same
    folders, and the first one writes the tables.

    Args:
        preparation: source, cutting and splits.
        output_dir: the cohort's folder.
        on_error: as for :func:`medi_monai.cohort.prepare`.
        num_workers: worker processes of each process; by default the cores of the machine, dealt among them.
        backend: of slides, as for :func:`medi_monai.wsi.open_slide`.
        continuous: attributes that hold numbers.
        fail_on_leakage: end with an error where patients, slides, files or near-duplicate patches cross the split.

    Raises:
        InputError: as :func:`medi_monai.cohort.prepare`, and for leakage where asked; also where leakage is to be
            refused, and patches would not be compared.
    """
    _check_measured(preparation, fail_on_leakage)
    with started_together() as shard:
        if num_workers is None:
            num_workers = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        cohort = prepare(preparation, output_dir, on_error, num_workers, backend, shard)
        if shard.rank > 0:
            return cohort
    root, table, source = cohort.root, cohort.table, preparation.source
    audit = _audit(cohort, source.label, source.attributes, root, continuous, preparation.splits.columns)
    write_quality_page(root, root / "quality.html")
    rejected = read_rejected(root)
    if len(rejected):
        print(f"preparing: {len(rejected)} rows or files were left out; {root / 'rejected.csv'} says why", flush=True)
    path = next(root / name for name in ("cohort.csv", "cohort.parquet") if (root / name).is_file())
    finish_run(
        "preparing",
        root,
        made={
            "patches": len(table),
            "slides": int(table["slide"].nunique()),
            "patients": int(table["patient"].nunique()),
            "rejected": len(rejected),
            "findings": audit["findings"],
        },
        figures={f"patches_{name}": int(count) for name, count in table["split"].value_counts().items()},
        settings=preparation.settings(),
        digests={path.name: file_digest(path)},
        where=f"{path}, pages quality.html and audit.html beside it",
    )
    _refuse_leakage(audit, root, fail_on_leakage)
    return cohort


def audited_cohort(
    preparation: Preparation,
    cohort_dir: str | os.PathLike,
    audit_source: str,
    on_error: str,
    num_workers: int | None,
    fail_on_leakage: bool = False,
) -> Cohort:
    """What the run ``auditing`` looks at.

    Args:
        preparation: source and splits.
        cohort_dir: the prepared cohort; prepared on first use.
        audit_source: ``patches`` of the cohort, or ``table``: the rows of the source with the split that they would
            have, for which no image needs to be there.
        on_error: as for :func:`medi_monai.cohort.prepare`.
        num_workers: as for :func:`medi_monai.cohort.prepare`.
        fail_on_leakage: as for :func:`audit_run`; then patches have to be measured.
    """
    if audit_source not in AUDIT_SOURCES:
        raise unknown_value("choice of `audit_source`", audit_source, AUDIT_SOURCES)
    if audit_source == "table":
        print("auditing: of a table, only patients and slides are compared, and no patches", flush=True)
        return table_cohort(preparation)
    _check_measured(preparation, fail_on_leakage)
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
    """Audit any cohort with a split: write ``audit.json``, ``audit.html`` and ``summary.json``.

    Args:
        cohort: its table; perceptual hashes are used where the folder of the cohort holds them.
        label: column of the class.
        attributes: columns of metadata.
        output_dir: where to write.
        continuous: attributes that hold numbers.
        fail_on_leakage: end with an error where patients, slides, files or near-duplicate patches cross the split.
        combinations: columns whose combinations are compared between splits; by default label and attributes.
    """
    output = Path(output_dir)
    audit = _audit(cohort, label, attributes, output, continuous, combinations)
    finish_run(
        "auditing",
        output,
        made={"findings": audit["findings"]},
        figures={"patches": len(cohort)},
        settings={"label": label, "attributes": list(attributes), "cohort_dir": str(cohort.root)},
        digests={"cohort": cohort.digest},
        where=output / "audit.html",
    )
    _refuse_leakage(audit, output, fail_on_leakage)
    return audit


def _check_measured(preparation: Preparation, fail_on_leakage: bool) -> None:
    cutting = preparation.cutting
    # tables of patches are measured in any case
    if fail_on_leakage and not cutting.measures and preparation.source.unit != "patches":
        raise InputError(
            f"fail_on_leakage is set, but with --measure {cutting.measure} and --patch_format {cutting.patch_format} "
            "patches are not read, and near-duplicates not looked for; choose --measure always"
        )


def _audit(
    cohort: Cohort,
    label: str,
    attributes: Sequence[str],
    folder: Path,
    continuous: Sequence[str],
    combinations: Sequence[str] | None,
) -> dict[str, Any]:
    table, quality = _told_apart(cohort.table), _quality(cohort)
    attributes = [name for name in attributes if name != label]
    numeric = [name for name in attributes if name in continuous or _is_quantity(table[name])]
    # what the files were that patches come from: a size or a scanner may give a center away
    files = {name: quality[name].astype(str) for name in PROPERTIES if name in quality and name not in attributes}
    hashes = quality["hash"].to_numpy(np.uint64) if "hash" in quality else None
    known = None if combinations is None else [name for name in combinations if name in (label, *attributes)]
    table = table.assign(**files)
    prints = quality["fingerprint"].fillna("").tolist() if "fingerprint" in quality else None
    audit = audit_cohort(
        table, label, attributes, continuous=numeric, combinations=known, hashes=hashes, fingerprints=prints
    )
    write_json(folder / "audit.json", audit)
    cut = "source_mpp" not in cohort.table.columns
    write_audit_page(audit, folder / "audit.html", (lambda name: read_image(cohort.root / name)) if cut else None)
    for finding in audit["findings"]:
        if finding["level"] == "leakage":
            print(f"LEAKAGE: {finding['text']}", flush=True)
    return audit


def _told_apart(table: pd.DataFrame) -> pd.DataFrame:
    # many patches are read from one image, and none of them is listed twice for that
    if "source_mpp" not in table or not table["image"].duplicated().any():
        return table
    told_apart = table.assign(image=table["image"] + " at " + table["x"] + ", " + table["y"])
    if "suffix" not in table:
        told_apart["suffix"] = table["image"].str.extract(r"(\.[^./]*)$", expand=False).fillna("")
    return told_apart


def _is_quantity(column: pd.Series) -> bool:
    values = pd.Series(column.unique())
    values = values[~missing_cells(values)]
    return len(values) > MAX_CATEGORIES and pd.to_numeric(values, errors="coerce").notna().all()


def _quality(cohort: Cohort) -> pd.DataFrame:
    # of a cohort that was made elsewhere, or of rows that were chosen since, nothing is known
    path = cohort.root / QUALITY_FILE
    quality = pd.read_parquet(path) if path.is_file() else pd.DataFrame()
    return quality if len(quality) == len(cohort) else pd.DataFrame()


def _refuse_leakage(audit: dict, folder: Path, refuse: bool) -> None:
    if refuse and has_leakage(audit):
        raise InputError(
            f"the split leaks, and fail_on_leakage is set; {folder / 'audit.html'} names what crosses it. Choose "
            "another split, or correct the patients in the table."
        )

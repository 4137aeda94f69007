"""The run ``preparing``: prepare a cohort from images, in one or several processes, and audit it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pandas as pd

from medi_monai.cohort import Cohort, prepare
from medi_monai.cohort.folder import REJECTED_FILE, read_rejected
from medi_monai.cohort.prepare import AnyPreparation
from medi_monai.cohort.table import find_table
from medi_monai.engines.distributed import torchrun_session
from medi_monai.report import write_quality_page
from medi_monai.runs.auditing import check_measured, refuse_leakage, write_audit
from medi_monai.schema import missing_cells
from medi_monai.utils.files import file_digest
from medi_monai.utils.records import check_results
from medi_monai.utils.run_dir import finish_run
from medi_monai.utils.text import are_intervals, in_order, plural

__all__ = ["prepare_run"]

#: maximum number of values of a column to print with their shares
MAX_SHOWN = 8


def prepare_run(
    preparation: AnyPreparation,
    output_dir: str | os.PathLike,
    on_error: str = "skip",
    num_workers: int | None = None,
    backend: str = "auto",
    continuous: Sequence[str] = (),
    fail_on_leakage: bool = False,
) -> Cohort:
    """Prepare slides, tiles, patches or captioned images with :func:`medi_monai.cohort.prepare`, and audit the cohort.

    With ``torchrun``, every process prepares a share of the images, on one machine or on several with shared folders,
    and the first process writes the tables.

    Args:
        preparation: source, images and splits.
        output_dir: folder of the cohort.
        on_error: what to do with unreadable images; see :func:`medi_monai.cohort.prepare`.
        num_workers: number of workers of each process; by default, the cores of the machine are divided among its
            processes.
        backend: library that reads slides; see :func:`medi_monai.wsi.open_slide`.
        continuous: numeric attributes.
        fail_on_leakage: whether to raise an error if patients, slides, files or near-duplicate patches cross the split.

    Raises:
        InputError: see :func:`medi_monai.cohort.prepare`; with ``fail_on_leakage``, also for leakage, or if
            near-duplicates would not be detected.
    """
    check_measured(preparation, fail_on_leakage)
    check_results(output_dir, "preparing")
    with torchrun_session() as shard:
        if num_workers is None:
            num_workers = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        cohort = prepare(preparation, output_dir, on_error, num_workers, backend, shard)
        if not shard.is_main:
            return cohort
    root, columns = cohort.root, preparation.audit_columns
    audit = write_audit(cohort, columns, root, continuous) if columns else {"findings": []}
    write_quality_page(root, root / "quality.html")
    pages = ["audit.html", "quality.html"] if columns else ["quality.html"]
    for name in [name for name in preparation.splits.columns or () if name in cohort.table]:
        print(f"preparing: {name}: {shares(cohort.table[name])}", flush=True)
    _finish(cohort, preparation, audit["findings"], pages)
    refuse_leakage(audit, root, fail_on_leakage)
    return cohort


def _finish(cohort: Cohort, preparation: AnyPreparation, findings: Any, pages: Sequence[str]) -> None:
    root, table = cohort.root, cohort.table
    rejected = len(read_rejected(root))
    if rejected:
        print(
            f"preparing: {plural(rejected, 'row or file was', 'rows or files were')} excluded; the reasons are in "
            f"{root / REJECTED_FILE}",
            flush=True,
        )
    path = find_table(root)
    assert path is not None
    finish_run(
        "preparing",
        root,
        made={
            "images": len(table),
            "slides": int(table["slide"].nunique()),
            "patients": int(table["patient"].nunique()),
            "rejected": rejected,
            "findings": findings,
        },
        figures={f"images_{split}": int(count) for split, count in table["split"].value_counts().items()},
        settings=preparation.settings(),
        digests={path.name: file_digest(path)},
        where=f"{path}, with {' and '.join(pages)}",
    )


def shares(column: pd.Series) -> str:
    """Return the values of a column with their shares, most frequent first (intervals in order), missing data last."""
    missing = missing_cells(column)
    counts = column[~missing].value_counts()
    if are_intervals(list(counts.index)):
        counts = counts[in_order(counts.index)]
    shown = [f"{value} {count / len(column):.1%}" for value, count in counts.head(MAX_SHOWN).items()]
    shown += [plural(len(counts) - MAX_SHOWN, "further value")] if len(counts) > MAX_SHOWN else []
    return ", ".join([*shown, *([f"missing {missing.mean():.1%}"] if missing.any() else [])])

"""Accuracy of linear probes on new patients of combinations in training, and on combinations that training lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort.splits import SplitScheme
from medi_monai.cohort.splits.patients import validation_patients
from medi_monai.evaluation.probing.arms import ImageSet
from medi_monai.evaluation.probing.correlation import correlation_sweep
from medi_monai.evaluation.probing.draws import Draw
from medi_monai.evaluation.probing.jobs import DrawContext, make_jobs, run_jobs
from medi_monai.evaluation.probing.protocol import ProbeProtocol
from medi_monai.evaluation.probing.scoring import TestUnits
from medi_monai.evaluation.probing.tables import (
    compare_arms,
    describe_test,
    describe_training,
    summarize_arm,
    test_df_of,
)
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.results.diagnostics import CorrelationSweep
from medi_monai.results.shortcuts import DomainAccuracy, UnseenAccuracy
from medi_monai.utils.seeding import seed_from

__all__ = ["IN_DOMAIN", "UNSEEN", "measure_unseen", "take_in_domain"]

#: test sets
IN_DOMAIN, UNSEEN = "in_domain", "unseen"


def take_in_domain(table: pd.DataFrame, split: pd.Series, scheme: SplitScheme) -> pd.Series:
    """Take patients out of training for the in-domain test, and return the split with ``in_domain``.

    The in-domain test has the same combinations as training: of each combination with at least three patients, the
    fraction of the scheme. Nothing is taken if the holdout itself has no combination that training lacks, as in folds
    of patients.

    Args:
        table: one row per image with ``patient`` and the columns of the scheme.
        split: ``train``, ``val``, ``holdout`` or ``excluded`` for each row.
        scheme: its columns, fraction and seed.
    """
    columns = list(scheme.columns)
    training, held = table[split == "train"], table[split == "holdout"]
    known = set(training[columns].itertuples(index=False, name=None))
    if known.issuperset(held[columns].itertuples(index=False, name=None)):
        return split
    units = training[["patient", *columns]].drop_duplicates()
    chosen = validation_patients(units, columns, scheme.fraction or 0.3, seed_from("in-domain test", scheme.seed))
    return split.mask((split == "train") & table["patient"].isin(chosen), IN_DOMAIN)


def measure_unseen(
    features: np.ndarray,
    table: pd.DataFrame,
    label: str,
    attributes: Sequence[str],
    settings: ProbeSettings,
    scheme: str,
    folder: Path,
    device: str = "cpu",
    num_workers: int | None = None,
) -> tuple[UnseenAccuracy, CorrelationSweep]:
    """Train probes for the class on draws of training patients, and test them in domain and on unseen combinations.

    Probes, draws and intervals are those of the run ``probing`` with the real images alone.

    Args:
        features: ``(N, D)`` features.
        table: N rows with ``image``, ``patient``, label, attributes, and ``split`` of :func:`take_in_domain`.
        label: column of the class.
        attributes: columns that form a combination with the label; the first is the center.
        settings: settings of the probes.
        scheme: name of the split scheme, for the results.
        folder: folder of the finished draws; an interrupted run resumes from them.
        device: device of the probes.
        num_workers: number of processes; by default one per core on the CPU.

    Returns:
        Accuracies, and accuracy as center and class become correlated.

    Raises:
        InputError: if training or holdout have no rows, or training has a single class.
    """
    protocol, undivided = (
        ProbeProtocol(
            {"real": ImageSet(features, table.assign(split=table["split"].replace(IN_DOMAIN, use)))},
            *({}, [], label, attributes, settings.c_values, settings.seed, device),
        )
        for use in ("excluded", "train")
    )
    tests = _tests(protocol, table["split"].to_numpy(dtype=str))
    context = DrawContext(protocol, next(iter(tests.values()))[1], settings, tests=tests)
    jobs = [job for job in make_jobs(context, ["real"], {}) if job.sweep == "main"]
    # this sweep divides all patients itself
    swept = make_jobs(replace(context, protocol=undivided), ["real"], {})
    draws = run_jobs([*jobs, *(job for job in swept if job.sweep == "correlation")], context, folder, num_workers)
    return _accuracies(protocol, tests, draws, scheme), correlation_sweep(
        draws, None, settings.probe_replicates, settings.seed
    )


def _tests(protocol: ProbeProtocol, split: np.ndarray) -> dict[str, tuple[np.ndarray, TestUnits]]:
    trained = np.isin(protocol.labels, protocol.labels[protocol.train])
    of_training = np.isin(protocol.groups[protocol.test], protocol.groups[protocol.train])
    held = {IN_DOMAIN: np.flatnonzero((split == IN_DOMAIN) & trained), UNSEEN: protocol.test}
    if of_training.all():
        held = {IN_DOMAIN: protocol.test}
    return {
        name: (rows, TestUnits.of(protocol.table.iloc[rows], protocol.label, protocol.attributes, ()))
        for name, rows in held.items()
        if len(rows)
    }


def _accuracies(
    protocol: ProbeProtocol,
    tests: Mapping[str, tuple[np.ndarray, TestUnits]],
    draws: Sequence[Draw],
    scheme: str,
) -> UnseenAccuracy:
    main = [draw for draw in draws if draw.sweep == "main"]
    by_test = {name: [[draw.arms[name] for draw in main]] for name in tests}
    df_of = {name: test_df_of(units) for name, (_, units) in tests.items()}
    accuracies = {
        name: DomainAccuracy(
            summarize_arm(by_test[name], len(rows), len(protocol.val), df_of[name]).balanced_accuracy,
            describe_test(protocol, units, rows),
        )
        for name, (rows, units) in tests.items()
    }
    drop = None
    if len(tests) == 2:
        fewest = {name: min(df[name] for df in df_of.values()) for name in df_of[UNSEEN]}
        rows = compare_arms(by_test, IN_DOMAIN, fewest)
        drop = replace(next(row for row in rows if row.figure == "balanced_accuracy"), p_holm=None)
    training = describe_training(protocol)
    chance = 1 / len(np.unique(protocol.labels[protocol.train]))
    return UnseenAccuracy(accuracies.get(IN_DOMAIN), accuracies.get(UNSEEN), drop, training, scheme, chance)

"""The run ``shortcuts``: audit of metadata, robustness index and probes of features that were computed elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort import Cohort, SplitScheme
from medi_monai.cohort.audit.rows import MISSING, code_numbers
from medi_monai.cohort.features import FeatureCohort, FeatureSource, features_path, read_feature_cohort
from medi_monai.cohort.groups import codes_of
from medi_monai.cohort.prepare import AuditColumns
from medi_monai.cohort.settings import FeatureSettings, check_named_once
from medi_monai.cohort.splits import ChosenSplit, choose_split
from medi_monai.evaluation.probing.unseen import IN_DOMAIN, measure_unseen, take_in_domain
from medi_monai.evaluation.settings import ProbeSettings
from medi_monai.evaluation.shortcuts.figures import column_accuracy, predicted_rows, shortcut_figures
from medi_monai.evaluation.verdicts.shortcuts import shortcut_conclusions
from medi_monai.report.shortcuts import write_shortcut_page
from medi_monai.results import Figure, Finding, write_run
from medi_monai.results.diagnostics import CorrelationSweep
from medi_monai.results.shortcuts import AttributeShortcut, FeatureSet, ShortcutResults
from medi_monai.runs.auditing import is_quantity, write_audit
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest
from medi_monai.utils.records import RESULTS, claim_results
from medi_monai.utils.run_dir import set_aside
from medi_monai.utils.text import plural

__all__ = ["labeled_features", "shortcut_run"]

#: plural of a unit
PLURALS = {"patch": "patches", "slide": "slides", "patient": "patients"}
#: version of the draws' content; stored draws of another version are not used
DRAWS_VERSION = 2


def labeled_features(features: FeatureSettings, cohort: Mapping[str, Any], on_error: str) -> FeatureCohort:
    """Read the features of a run with their metadata.

    Args:
        features: where the features are.
        cohort: settings of the group ``feature_cohort``: those of the table, ``label``, ``metadata_columns``,
            ``max_patches_per_slide`` and ``split_seed``.
        on_error: ``stop`` or ``skip``.

    Raises:
        InputError: see :func:`~medi_monai.cohort.features.read_feature_cohort`; also without attributes.
    """
    check_named_once("metadata_columns", cohort["metadata_columns"], cohort["label"])
    if not cohort["metadata_columns"]:
        raise InputError("metadata_columns is empty: name the attributes that may be shortcuts, first the center")
    if cohort["split_columns"][:1] != [cohort["label"]]:
        raise InputError(f"split_columns = {cohort['split_columns']}: the label, {cohort['label']!r}, has to be first")
    if cohort["columns"].get("split") and cohort["split_scheme"] != "auto":
        raise InputError(
            f"split_scheme = {cohort['split_scheme']!r}, but the table has a split (columns: {{split: "
            f"{cohort['columns']['split']}}}): leave out one of them"
        )
    for name in cohort["split_columns"][1:]:
        if name not in cohort["metadata_columns"]:
            raise unknown_value("column of split_columns", name, cohort["metadata_columns"], "List it there as well.")
    source = FeatureSource(
        features_path(features.feature_source),
        features.feature_columns,
        features.pooling,
        cohort["max_patches_per_slide"],
        cohort["split_seed"],
        on_error,
    )
    metadata = {name: cohort[name] for name in ("dataset_dir", "table", "columns", "mapping", "missing", "label")}
    return read_feature_cohort(source, {**metadata, "attributes": cohort["metadata_columns"]})


def shortcut_run(
    cohort: FeatureCohort,
    features: FeatureSettings,
    settings: Mapping[str, Any],
    output_dir: str | os.PathLike,
    probe: Mapping[str, Any],
    continuous: Sequence[str] = (),
    device: str = "cpu",
    num_workers: int | None = None,
) -> ShortcutResults:
    """Measure shortcuts in features; write ``shortcuts.json``, ``shortcuts.csv``, ``audit.html`` and ``report.html``.

    Args:
        cohort: features with their metadata.
        features: where the features are, for the results.
        settings: settings of the group ``feature_cohort``: ``label``, ``metadata_columns`` (the first is the center)
            and the split.
        output_dir: output folder; earlier results are moved to ``earlier-<n>``.
        probe: settings of the probes that differ from the defaults of :class:`ProbeSettings`.
        continuous: numeric attributes, which are compared in bins.
        device: device of the probes.
        num_workers: number of processes that fit probes; by default one per core on the CPU.

    Raises:
        InputError: for a label or attribute that has no value or a single one, or a split that is impossible.
    """
    output, label, attributes = Path(output_dir), settings["label"], list(settings["metadata_columns"])
    probing, scheme = ProbeSettings(**probe), _scheme(settings)
    numeric = [name for name in attributes if name in continuous or is_quantity(cohort.table[name])]
    binned = replace(cohort, table=_with_bins(cohort.table, numeric))
    known = _known(binned, [label, *dict.fromkeys([attributes[0], *scheme.columns[1:]])])
    if not len(known.table):
        raise InputError(f"no row has values of {label!r} and {attributes[0]!r}: check --label and --metadata_columns")
    _check_values(binned, label, attributes)
    chosen = _chosen(known.table, scheme, settings["columns"].get("split"))
    domains = take_in_domain(known.table, chosen.split, scheme)
    claim_results(output, "shortcuts")
    shown = {**dict(features), **settings, **dict(probing), "continuous": numeric}
    digest = json_digest({"version": DRAWS_VERSION, "features": cohort.digest, **{k: str(v) for k, v in shown.items()}})
    unseen, correlation = measure_unseen(
        known.features,
        known.table.assign(split=domains),
        label,
        list(dict.fromkeys([attributes[0], *scheme.columns[1:]])),
        probing,
        chosen.scheme,
        output / "repeats" / digest[:8],
        device,
        num_workers,
    )
    unseen = replace(unseen, split_reason=chosen.reason)
    of_label, shortcuts = _measured(binned, label, attributes, probing, correlation)
    set_aside(output, [output / name for name in RESULTS["shortcuts"][0] if name != "repeats"])
    audited = _audited(cohort.table, known.table, domains)
    audit = write_audit(Cohort(audited, output), AuditColumns(label, attributes, scheme.columns), output, continuous)
    results = ShortcutResults(
        label=label,
        features=FeatureSet(
            str(features.feature_source),
            cohort.unit,
            features.pooling,
            len(cohort.table),
            cohort.table["slide"].nunique(),
            cohort.table["patient"].nunique(),
            cohort.features.shape[1],
        ),
        label_probe_accuracy=of_label,
        attributes={
            name: AttributeShortcut(
                _association(audit, name), shortcuts[name], int(missing_cells(cohort.table[name]).sum())
            )
            for name in attributes
        },
        unseen=unseen,
        conclusions=shortcut_conclusions(label, attributes[0], shortcuts[attributes[0]], unseen),
        warnings=_warnings(cohort, binned, attributes, numeric, audit),
        settings=shown,
        digests={"features": cohort.digest, "draws": digest},
    )
    figures = {
        "label_probe_accuracy": of_label.value,
        "center_probe_accuracy": results.shortcut.center_probe_accuracy.value,
        "robustness_index": results.shortcut.robustness_index.value,
    }
    made = {"rows": len(cohort.table), "attributes": len(attributes)}
    table = _long_table(results)
    return write_run(
        "shortcuts", output, "shortcuts", results, {"shortcuts.csv": table}, write_shortcut_page, made, figures
    )


def _scheme(settings: Mapping[str, Any]) -> SplitScheme:
    return SplitScheme(
        columns=settings["split_columns"],
        name=settings["split_scheme"],
        fraction=settings["holdout_fraction"],
        values=settings["holdout_values"],
        seed=settings["split_seed"],
        **{name: settings[name] for name in ("num_folds", "fold", "val_fraction")},
    )


def _chosen(table: pd.DataFrame, scheme: SplitScheme, given: str | None) -> ChosenSplit:
    """Return the split of the table if it has one (the column ``given``), otherwise that of the scheme."""
    if not given:
        return choose_split(table, scheme)
    for name in ("train", "holdout"):
        if not (table["split"] == name).any():
            raise InputError(
                f"the column {given!r} has no usable row of the split {name!r}: a probe needs training and held-out "
                "rows (names: train, val, holdout; test means holdout)"
            )
    return ChosenSplit(table["split"], "given", f"column {given}")


def _check_values(cohort: FeatureCohort, label: str, attributes: Sequence[str]) -> None:
    for name, setting in ((label, "label"), *((name, "metadata_columns") for name in attributes)):
        values = cohort.table[name][~missing_cells(cohort.table[name])].unique()
        if len(values) == 1:
            remedy = f"check --{setting}" if name in (label, attributes[0]) else f"leave it out of --{setting}"
            raise InputError(
                f"all {PLURALS[cohort.unit]} have the same {name}, {values[0]!r}, so there is nothing to compare: "
                f"{remedy}"
            )


def _with_bins(table: pd.DataFrame, numeric: Sequence[str]) -> pd.DataFrame:
    binned = {}
    for name in numeric:
        codes, names = code_numbers(table[name], strict=True)
        binned[name] = np.where(codes == MISSING, "", np.array([*names, ""], dtype=object)[codes])
    return table.assign(**binned)


def _known(cohort: FeatureCohort, columns: Sequence[str]) -> FeatureCohort:
    missing = pd.concat([missing_cells(cohort.table[name]) for name in columns], axis=1).any(axis=1).to_numpy(bool)
    return replace(cohort, features=cohort.features[~missing], table=cohort.table[~missing].reset_index(drop=True))


def _measured(
    cohort: FeatureCohort, label: str, attributes: Sequence[str], probing: ProbeSettings, correlation: CorrelationSweep
) -> tuple[Any, dict[str, Any]]:
    c_values, seed, replicates = probing.c_values, probing.seed, probing.probe_replicates
    rows = predicted_rows(cohort.table, codes_of(cohort.table, [label, attributes[0]])[0], seed)
    of_label = column_accuracy(cohort.features[rows], cohort.table.iloc[rows], label, c_values, seed, replicates)
    shortcuts = {}
    for name in attributes:
        known = _known(cohort, [label, name])
        if not len(known.table):
            raise InputError(f"no row has values of {label!r} and {name!r}: leave it out of --metadata_columns")
        rows = predicted_rows(known.table, codes_of(known.table, [label, name])[0], seed)
        shortcuts[name] = shortcut_figures(
            known.features[rows],
            known.table.iloc[rows],
            label,
            name,
            c_values,
            seed,
            correlation if name == attributes[0] else None,
            replicates,
            of_label if len(rows) == len(cohort.table) else None,
        )
    return of_label, shortcuts


def _audited(table: pd.DataFrame, known: pd.DataFrame, domains: pd.Series) -> pd.DataFrame:
    # for the audit, patients of the in-domain test are held out as well
    split = pd.Series(domains.replace(IN_DOMAIN, "holdout").to_numpy(), index=known["image"])
    return table.assign(split=table["image"].map(split).fillna("excluded"))


def _association(audit: Mapping[str, Any], attribute: str) -> Figure:
    found = audit["attributes"][attribute]["association"]["all"]
    interval = found["cramers_v"]["ci95"]
    return Figure(found["cramers_v"]["value"], interval and tuple(interval), found["n"])


def _warnings(
    cohort: FeatureCohort, binned: FeatureCohort, attributes: Sequence[str], numeric: Sequence[str], audit: Any
) -> tuple[Finding, ...]:
    findings = [Finding("note", text) for text in cohort.notes]
    for name in numeric:
        number = binned.table[name].nunique()
        findings.append(Finding("note", f"{name} is a number and is compared in {plural(number, 'bin')}."))
    for name in attributes:
        lacking = int(missing_cells(cohort.table[name]).sum())
        if lacking:
            text = (
                f"{plural(lacking, cohort.unit, 'patches' if cohort.unit == 'patch' else '')} without {name}: left out"
            )
            findings.append(Finding("note", f"{text} of its figures."))
    findings += [
        Finding(finding["level"], finding["text"], name=finding["name"])
        for finding in audit["findings"]
        if finding["level"] in ("leakage", "error")
    ]
    return tuple(findings)


def _long_table(results: ShortcutResults) -> pd.DataFrame:
    """Return one row per figure: of the class, of each attribute, and of the test sets."""
    rows: list[dict[str, Any]] = []

    def add(column: str, figure: str, value: Figure) -> None:
        rows.append({"column": column, "figure": figure, **value.cells()})

    add(results.label, "probe_accuracy", results.label_probe_accuracy)
    for name, attribute in results.attributes.items():
        add(name, "probe_accuracy", attribute.shortcut.center_probe_accuracy)
        add(name, "robustness_index", attribute.shortcut.robustness_index.figure)
        add(name, "clustering_score", attribute.shortcut.clustering_score.figure)
        add(name, "cramers_v_with_label", attribute.association)
    for test, accuracy in (("in_domain", results.unseen.in_domain), ("unseen", results.unseen.unseen)):
        if accuracy is not None:
            add(results.label, f"balanced_accuracy_{test}", accuracy.balanced_accuracy)
    if results.unseen.drop is not None:
        add(results.label, "drop", results.unseen.drop.difference)
    for arm in results.correlation.arms.values():
        add(results.label, "average_performance_drop", arm.average_performance_drop)
        add(results.label, "average_performance_drop_other_centers", arm.outside_drop)
    return pd.DataFrame(rows)

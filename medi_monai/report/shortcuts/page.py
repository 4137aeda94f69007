"""The page of the run ``shortcuts``: what features reveal about class and attributes, and what that costs."""

from __future__ import annotations

import os
from pathlib import Path

from medi_monai.report.page import LEVELS, Page
from medi_monai.report.sections import add_correlation, add_findings, add_provenance
from medi_monai.report.shortcuts.plots import column_plot, domain_plot
from medi_monai.report.words import DASH, figure_text, number, p_statement, share_table, span
from medi_monai.results.shortcuts import DomainAccuracy, ShortcutResults
from medi_monai.utils.text import plural

__all__ = ["write_shortcut_page"]

#: plural of a unit
UNITS = {"patch": "patches", "slide": "slides", "patient": "patients"}
#: split schemes that are not named on the page as in the settings
SPLITS = {"given": "that of the table"}
#: titles of test sets
IN_DOMAIN, UNSEEN = "in domain", "unseen combinations"
POOLED = {
    "none": "",
    "slides": " Each slide is the mean of the features of its patches.",
    "patients": " Each patient is the mean of the features of all patches.",
}


def write_shortcut_page(results: ShortcutResults, path: str | os.PathLike) -> Path:
    """Write the page of a run.

    Args:
        results: results of the run; ``audit.html`` is in the same folder.
        path: file to write.

    Returns:
        ``path``.
    """
    features = results.features
    page = Page(
        "Shortcuts in features",
        f"{plural(features.dim, 'feature')} of {plural(features.n, features.unit, UNITS[features.unit])} "
        f"({plural(features.slides, 'slide')}, {plural(features.patients, 'patient')})."
        f"{POOLED[features.pooling]} Class: {results.label}; attributes: {', '.join(results.attributes)}.",
    )
    levels = [finding.level for finding in results.conclusions]
    page.answer([finding.text for finding in results.conclusions], min(levels, key=LEVELS.index))
    page.figures(
        [
            (
                column_plot(results.label, _accuracies(results)),
                f"Linear probes for {results.label} (blue) and attributes (orange) on other patients, with 95% "
                "intervals over these patients. Dotted line: chance. An attribute that is predicted well can be a "
                "shortcut.",
            ),
            (
                domain_plot(results.label, _tests(results), results.unseen.chance),
                f"A probe for {results.label} on new patients with combinations in training (in domain), and with "
                "combinations that training lacks. The 95% intervals are also over training patients.",
            ),
        ]
    )
    add_findings(page, list(results.warnings), "Cautions")
    _add_columns(page, results)
    _add_unseen(page, results)
    add_correlation(page, results, {"real": f"Probe for {results.label}"})
    page.section(
        "Metadata",
        f"How strongly the metadata alone, without any features, couple {results.label} and attributes: counts of "
        "patients by class and value, missing data, and leakage between splits.",
    )
    page.link("Audit of the metadata", "audit.html")
    add_provenance(page, results.settings, results.digests)
    return page.write(path)


def _accuracies(results: ShortcutResults) -> dict:
    of_attributes = {name: part.shortcut.center_probe_accuracy for name, part in results.attributes.items()}
    return {results.label: results.label_probe_accuracy, **of_attributes}


def _domains(results: ShortcutResults) -> dict[str, DomainAccuracy]:
    parts = {IN_DOMAIN: results.unseen.in_domain, UNSEEN: results.unseen.unseen}
    return {title: part for title, part in parts.items() if part is not None}


def _tests(results: ShortcutResults) -> dict:
    return {title: part.balanced_accuracy for title, part in _domains(results).items()}


def _add_columns(page: Page, results: ShortcutResults) -> None:
    page.section(
        "Class and attributes in the features",
        f"Each attribute next to {results.label}. Cramér's V: how strongly the metadata couple it with {results.label} "
        "(0 none, 1 complete). Robustness index: 1, neighbors share the class; 0, the attribute. Clustering score: 1, "
        "clusters are the classes; −1, the values of the attribute.",
    )
    rows = {}
    for name, accuracy in _accuracies(results).items():
        attribute = results.attributes.get(name)
        index = attribute and attribute.shortcut.robustness_index
        score = attribute and attribute.shortcut.clustering_score
        rows[name] = {
            "balanced accuracy": figure_text(accuracy, 3),
            "chance": number(accuracy.chance, 3),
            "values": accuracy.num_values,
            f"Cramér's V with {results.label}": figure_text(attribute.association, 2) if attribute else DASH,
            "robustness index": number(index.value, 2) + span(index.ci95, 2) if index else DASH,
            "k": (index and index.k) or DASH,
            "clustering score": number(score.value, 2) + span(score.ci95, 2) if score else DASH,
            UNITS[results.features.unit]: accuracy.n,
        }
    page.table(share_table(rows, "column"))
    page.text(
        "Each third of the patients is predicted by a probe trained on another third. Intervals are over the "
        "predicted patients, not over other training patients. Class and attribute have separate probes: where the "
        "metadata couple the two, each probe also benefits from what the features reveal about the other. The "
        "robustness index compares equal numbers of all four combinations of two classes and values."
    )
    _add_pairs(page, results)


def _add_pairs(page: Page, results: ShortcutResults) -> None:
    index, score = results.shortcut.robustness_index, results.shortcut.clustering_score
    center, units = results.center, UNITS[results.features.unit]
    page.text(
        f"Robustness index and clustering score are PathoROB's, for {center} over {index.num_pairs:,} and "
        f"{score.num_pairs:,} pairs of classes and of {center} ({index.n:,} and {score.n:,} {units}). Of the k {units} "
        f"of other slides that are most similar to one, those that share only its {results.label} or only the "
        f"attribute are counted, and the index is the fraction that share {results.label}. Their 95% intervals are "
        "over patients: other patients would be other neighbors, and form other clusters. They do not count another "
        "choice of k, of the number of clusters, or of the pairs."
    )


def _add_unseen(page: Page, results: ShortcutResults) -> None:
    unseen, training = results.unseen, results.unseen.training
    reason = f", {unseen.split_reason}" if unseen.split_reason else ""
    page.section(
        f"Accuracy for {results.label} in domain and on unseen combinations",
        f"Trained on {plural(training.n, results.features.unit, UNITS[results.features.unit])} of "
        f"{plural(training.patients, 'patient')} in {plural(int(results.settings['num_repeats']), 'draw')}. Split: "
        f"{SPLITS.get(unseen.split_scheme, unseen.split_scheme)}{reason}. In parentheses: 95% intervals over test "
        "combinations or patients and over training patients.",
    )
    rows = {
        title: {
            "balanced accuracy": figure_text(part.balanced_accuracy, 3),
            "test": part.test.what,
            UNITS[results.features.unit]: part.test.n,
            "patients": part.test.patients,
            "combinations": len(part.test.groups),
        }
        for title, part in _domains(results).items()
    }
    page.table(share_table(rows, "test set"))
    if unseen.drop is not None:
        page.text(
            f"Difference: {figure_text(unseen.drop.difference, 3)}, {p_statement(unseen.drop.p_value)}. Chance: "
            f"{number(unseen.chance, 3)}. The drop includes the cost of the shortcut, and how much harder these "
            "combinations are in themselves."
        )

"""The page of the run ``experiment``: the answer, examples, fidelity, accuracy, cohort and run time."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medi_monai.report.evaluation_page import add_distances, fidelity_figure, fidelity_sentences
from medi_monai.report.page import Page, Picture
from medi_monai.report.plots import forest_plot
from medi_monai.report.probe_page import chance_marks, main_figures
from medi_monai.report.sections import NOTICES, StageTime, add_findings, add_provenance, add_run_time
from medi_monai.report.words import arm_title, figure_text, known, number, share_table
from medi_monai.results import Finding, typed
from medi_monai.results.experiment import CohortSummary, ExperimentResults, TrainingSummary
from medi_monai.results.probing import ProbeResults
from medi_monai.utils.text import listed, plural

__all__ = ["write_experiment_page"]

LINKS = {"audit": "Full cohort audit", "evaluation": "Full evaluation", "probing": "Full probing results"}
ACCURACIES = {"balanced_accuracy": "balanced accuracy", "worst_group_accuracy": "worst-group accuracy"}
#: maximum number of findings of the audit on the page; the audit page, to which it links, has all
MOST_FINDINGS = 5


def write_experiment_page(
    results: ExperimentResults,
    path: str | os.PathLike,
    audit: Mapping[str, Any] | None = None,
    samples: Picture | None = None,
) -> Path:
    """Write the page of an experiment.

    Args:
        results: results of the experiment.
        path: file to write; links are relative to its folder.
        audit: content of ``audit.json``.
        samples: picture of real and generated images side by side.

    Returns:
        ``path``.
    """
    page = Page("Effect of metadata on generated images and classifiers", results.question)
    _add_answer(page, results)
    add_findings(page, results.verdict[1:])
    if samples is not None:
        page.section("Example images")
        page.figure(samples, "Real and generated images of the same combinations, chosen at random.")
    add_distances(page, results.fidelity)
    page.text(" ".join(fidelity_sentences(results.fidelity)[-2:]))
    page.figure(fidelity_figure(results.fidelity), "Points with 95% confidence intervals; dotted: real images.")
    _add_link(page, results.links, "evaluation")
    _add_accuracy(page, results.probe)
    _add_link(page, results.links, "probing")
    _add_trainings(page, results.trainings)
    _add_cohort(page, results.cohort, audit)
    _add_link(page, results.links, "audit")
    for name in results.links:
        if name not in LINKS:
            _add_link(page, results.links, name)
    add_run_time(page, {stage: StageTime(seconds) for stage, seconds in results.seconds.items()})
    add_provenance(page, results.settings, results.fidelity.digests, results.fidelity.encoder)
    return page.write(path)


def _add_link(page: Page, links: Mapping[str, str], name: str) -> None:
    if name in links:
        page.link(LINKS.get(name, name), links[name])


def _add_answer(page: Page, results: ExperimentResults) -> None:
    answer, probe = results.verdict[0], results.probe
    headline, _, rest = answer.text.partition(". ")
    page.answer([f"{headline.removesuffix('.')}.", *([rest] if rest else [])], answer.level)
    titles = {arm: arm_title(arm, probe.generated) for arm in probe.arms}
    page.figure(
        forest_plot(main_figures(probe), ACCURACIES, titles, chance_marks(probe)),
        f"Accuracy of a linear classifier of {probe.label} on {plural(probe.test.n, 'image')} of "
        f"{plural(probe.test.patients, 'patient')}, by training data, with 95% confidence intervals. Dotted line: "
        f"chance.{' Small dots: single trainings.' if len(results.trainings) > 1 else ''}",
    )


def _add_trainings(page: Page, trainings: Sequence[TrainingSummary]) -> None:
    if len(trainings) == 1:
        return
    page.section("Trainings", "Figures of each training; those above are of all, Fréchet distances of the first one.")
    rows = {}
    for training in trainings:
        row: dict[str, str] = {}
        for arm, figures in training.arms.items():
            title = arm_title(arm)
            row |= {
                f"balanced accuracy, Real + {title}": number(figures.balanced_accuracy, 3),
                f"Fréchet distance, {title}": number(figures.frechet_distance, 2),
                f"unseen, {title}": number(figures.frechet_distance_unseen, 2),
                f"class as requested, {title}": number(figures.label_fidelity, 2),
            }
        rows[f"seed {training.seed}"] = row
    page.table(share_table(rows, "training"))
    for training in trainings[1:]:
        page.link(f"Evaluation of seed {training.seed}", training.evaluation)


def _add_accuracy(page: Page, probe: ProbeResults) -> None:
    page.section(
        "Classifier accuracy",
        f"Linear classifiers of {probe.label} on frozen features, tested on {probe.test.what}. The worst "
        f"group is the combination of {listed([probe.label, *probe.attributes])} with the lowest accuracy. In "
        "brackets: 95% confidence intervals.",
    )
    rows = {
        arm_title(arm, probe.generated): {
            **{head: figure_text(getattr(of_arm, name), 3) for name, head in ACCURACIES.items()},
            "worst group": of_arm.worst_group_accuracy.group,
        }
        for arm, of_arm in probe.arms.items()
    }
    page.table(share_table(rows, "training data"))


def _add_cohort(page: Page, cohort: CohortSummary, audit: Mapping[str, Any] | None) -> None:
    page.section("Cohort")
    page.text(f"Class: {cohort.label}. Attributes: {listed(cohort.attributes)}.")
    page.table(share_table({split: vars(counts) for split, counts in cohort.counts.items()}, "split"))
    page.text(
        f"Combinations of {' and '.join([cohort.label, *cohort.attributes])}: {cohort.combinations.seen:,} in "
        f"training, {cohort.combinations.unseen:,} held out."
    )
    if audit is None:
        return
    _add_association(page, cohort, audit)
    findings = [typed(Finding, finding) for finding in audit["findings"]]
    for finding in findings[:MOST_FINDINGS]:
        page.notice(finding.text, NOTICES.get(finding.level, finding.level))
    if len(findings) > MOST_FINDINGS:
        page.text(f"{MOST_FINDINGS} of {len(findings)} findings of the audit are shown.")


def _add_association(page: Page, cohort: CohortSummary, audit: Mapping[str, Any]) -> None:
    for name in cohort.attributes:
        by_split = ((audit.get("attributes") or {}).get(name) or {}).get("association") or {}
        split = "train" if by_split.get("train") else "all"
        association = by_split.get(split)
        if not association:
            continue
        rule, strength = association["majority_rule"], association["cramers_v"]
        patients = "training patients" if split == "train" else "all patients"
        sentence = (
            f"Association of {name} and {cohort.label} among {patients}: Cramér's V {number(strength['value'], 2)} "
            f"(0: independent, 1: {name} determines {cohort.label} or the reverse)."
        )
        if known(rule.get("balanced_accuracy")) is not None:
            sentence += (
                f" Guessing {cohort.label} from {name} alone, without an image, has a balanced accuracy of "
                f"{number(rule['balanced_accuracy'], 2)} (chance {number(rule['chance'], 2)})."
            )
        page.text(sentence)

"""The page of the run ``experiment``: the answer, images, an overview, findings, and details in folds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Plot

from medi_monai.report.audit_page import count_heat_map, held_out_cells, patients_table
from medi_monai.report.blocks.experiment_answer import MOST_BASELINES, SENTENCES, answer_sentences
from medi_monai.report.blocks.gallery import Gallery
from medi_monai.report.blocks.overview import (
    SMALL,
    accuracy_caption,
    accuracy_forest,
    cohort_bars,
    fidelity_overview,
    main_arms,
    shortcut_overview,
)
from medi_monai.report.blocks.second_encoder import add_second_encoder, distance_sentence
from medi_monai.report.evaluation_page import add_distances, fidelity_sentences
from medi_monai.report.page import Card, Page
from medi_monai.report.plots import forest_plot
from medi_monai.report.probe_page import add_class_accuracies, chance_marks, main_figures
from medi_monai.report.sections import StageTime, add_findings, add_provenance, add_run_time
from medi_monai.report.words import (
    DEMO,
    arm_title,
    arm_words,
    figure_text,
    known,
    number,
    percent_text,
    share_table,
)
from medi_monai.results import Finding, typed
from medi_monai.results.experiment import CohortSummary, ExperimentResults
from medi_monai.results.probing import ProbeResults
from medi_monai.utils.text import listed

__all__ = ["write_experiment_page"]

LINKS = {"evaluation": "Full evaluation", "probing": "Full probing results", "audit": "Full cohort audit"}
ACCURACIES = {"balanced_accuracy": "balanced accuracy", "worst_group_accuracy": "worst-group accuracy"}
#: what patients of a split are for
USES = {"train": "training", "val": "validation", "holdout": "testing", "test": "testing"}
#: maximum numbers of classes and of values in the plot of the cohort; the audit page, to which it links, has more
MOST_CELLS = 30
#: maximum number of findings of the audit on the page; the audit page, to which it links, has all
MOST_FINDINGS = 5


@dataclass(frozen=True)
class _Content:
    """What the page is written from; see :func:`write_experiment_page`."""

    results: ExperimentResults
    audit: Mapping[str, Any] | None
    samples: Gallery | None

    @property
    def titles(self) -> dict[str, str]:
        """Titles of the arms of the probing."""
        return {arm: arm_title(arm, self.results.probe.generated) for arm in self.results.probe.arms}

    def link(self, name: str) -> tuple[str, str] | None:
        """Return the text and the target of the link to the page of a stage, or None."""
        return (LINKS.get(name, name), self.results.links[name]) if name in self.results.links else None


def write_experiment_page(
    results: ExperimentResults,
    path: str | os.PathLike,
    audit: Mapping[str, Any] | None = None,
    samples: Gallery | None = None,
) -> Path:
    """Write the page of an experiment.

    Args:
        results: results of the experiment.
        path: file to write; links are relative to its folder.
        audit: content of ``audit.json``.
        samples: real and generated images of the same combinations.

    Returns:
        ``path``.
    """
    lead = DEMO if results.cohort.demo else ""
    page, content = (
        Page("Effect of metadata on generated images and classifiers", lead),
        _Content(results, audit, samples),
    )
    for add in ANSWER:
        add(page, content)
    with page.folded_sections():
        for add in DETAILS:
            add(page, content)
    return page.write(path)


def _add_answer(page: Page, content: _Content) -> None:
    results = content.results
    probe = results.probe
    level = results.verdict[0].level
    # an error comes before the figures that it makes unreliable
    if level == "error":
        page.answer(answer_sentences(results), level, SENTENCES)
    page.forest(accuracy_forest(probe), accuracy_caption(probe))
    if level != "error":
        page.answer(answer_sentences(results), level, SENTENCES)


def _add_words(page: Page, content: _Content) -> None:
    probe = content.results.probe
    with page.fold("What was compared"):
        rows = {content.titles[arm]: {"trained on": _training_images(arm, probe)} for arm in probe.arms}
        page.table(share_table(rows, "training data"))
    page.glossary()


def _training_images(arm: str, probe: ProbeResults) -> str:
    words = arm_words(arm)
    return f"real images, and images {words}".removesuffix(" ") if arm in probe.generated else words


def _add_samples(page: Page, content: _Content) -> None:
    if content.samples is not None:
        page.section("Randomly chosen images by combination")
        page.gallery(content.samples)


def _add_overview(page: Page, content: _Content) -> None:
    page.cards([_fidelity_card(content), _shortcut_card(content), _cohort_card(content)])


def _fidelity_card(content: _Content) -> Card:
    fidelity = content.results.fidelity
    kind = "unseen" if any(of_arm.frechet_distance.unseen.value for of_arm in fidelity.arms.values()) else "mean"
    distances = {arm: getattr(of_arm.frechet_distance, kind) for arm, of_arm in fidelity.arms.items()}
    shown = listed(f"{arm_title(arm)} {number(distance.value)}" for arm, distance in distances.items())
    floors = [of_arm.frechet_distance for of_arm in fidelity.arms.values()]
    floor = (floors[0].floor_unseen if kind == "unseen" else floors[0].floor).value if floors else None
    where = " for combinations not in training" if kind == "unseen" else ""
    shares = listed(
        f"{percent_text(of_arm.label_fidelity, False)} ({arm_title(arm)})" for arm, of_arm in fidelity.arms.items()
    )
    text = (
        f"Fréchet distance to real images{where}: {shown}; real images of other patients {number(floor)}. A classifier "
        f"recognizes the requested class in {shares} of images."
    )
    titles = {arm: arm_title(arm) for arm in fidelity.arms}
    return Card("Similarity to real images", fidelity_overview(fidelity, titles), text, content.link("evaluation"))


def _shortcut_card(content: _Content) -> Card:
    probe = content.results.probe
    center, accuracy = probe.center, probe.shortcut.center_probe_accuracy
    text = (
        f"The {center} of an image can be predicted from its features with a balanced accuracy of "
        f"{number(accuracy.value, 2)} (chance {number(accuracy.chance, 2)}): a possible shortcut."
    )
    curves = {arm: curve.curve for arm, curve in probe.shortcut.correlation.arms.items() if curve.curve}
    shown = [arm for arm in main_arms(probe) if arm in curves]
    if shown:
        changes = listed(
            f"{number(curves[arm][0].value, 2)} to {number(curves[arm][-1].value, 2)} ({content.titles[arm]})"
            for arm in shown
        )
        text += (
            " In a separate test on two classes and two centers at a time (chance 0.50), balanced accuracy changes "
            f"from {changes} as {center} and class become correlated in training."
        )
    left_out = [arm for arm in probe.shortcut.correlation.left_out if arm in content.titles]
    if left_out:
        names = listed(content.titles[arm] for arm in left_out)
        text += (
            f" Not shown: {names}. Their generators were trained on images that this test withholds; "
            "the results above are not affected."
        )
    return Card(f"Shortcuts by {center}", shortcut_overview(probe, content.titles), text, content.link("probing"))


def _cohort_card(content: _Content) -> Card:
    cohort, counts = content.results.cohort, content.results.cohort.counts
    patients = listed(f"{of_split.patients:,} for {USES[split]}" for split, of_split in counts.items() if split in USES)
    text = f"Patients: {patients}. " if patients else ""
    text += (
        f"Combinations of {' and '.join(['class', *cohort.attributes])}: {cohort.combinations.seen:,} in "
        f"training, {cohort.combinations.unseen:,} held out."
    )
    table = _patients(cohort, content.audit)
    if table is None:
        return Card("Cohort", cohort_bars(counts), text, content.link("audit"))
    numbers, held_out = table
    text += " Numbers are patients; red frames mark held-out combinations." if held_out else " Numbers are patients."
    return Card("Cohort", _cohort_plot(numbers, held_out), text, content.link("audit"))


def _cohort_plot(numbers: pd.DataFrame, held_out: set[tuple[str, str]]) -> Plot:
    # the plot shares a row with smaller ones: classes become columns where that makes it less wide
    if numbers.shape[1] > numbers.shape[0]:
        numbers, held_out = numbers.T, {(value, label) for label, value in held_out}
    return count_heat_map(numbers, held_out, (SMALL[0], max(SMALL[1], 0.9 + 0.22 * len(numbers))))


def _patients(
    cohort: CohortSummary, audit: Mapping[str, Any] | None
) -> tuple[pd.DataFrame, set[tuple[str, str]]] | None:
    """Return patients by class and value of the first attribute, and the held-out pairs; None if not in the audit."""
    name = cohort.attributes[0] if cohort.attributes else ""
    cells = (((audit or {}).get("attributes") or {}).get(name) or {}).get("cells")
    if audit is None or not cells:
        return None
    table = patients_table(cells, cohort.label, name, audit["settings"]["continuous"])
    if table.empty or max(table.shape) > MOST_CELLS:
        return None
    return table, held_out_cells(cells, cohort.label, name)


def _add_findings(page: Page, content: _Content) -> None:
    # the first finding is the answer; of the audit, only what voids results is not folded
    audit = content.audit
    found = [typed(Finding, finding) for finding in audit["findings"]] if audit else []
    serious = [finding for finding in found if finding.level in ("leakage", "error")]
    add_findings(page, [*content.results.verdict[1:], *serious])
    others = [finding for finding in found if finding not in serious]
    if others:
        with page.fold(f"Findings on the data ({len(others)})"):
            for finding in others[:MOST_FINDINGS]:
                page.notice(finding.text, finding.level)
            if len(others) > MOST_FINDINGS:
                page.text(f"{MOST_FINDINGS} of {len(others)} are shown.")


def _add_links(page: Page, content: _Content) -> None:
    # the others are on the cards
    for name in content.results.links:
        if name not in LINKS:
            page.link(name, content.results.links[name])


def _add_fidelity(page: Page, content: _Content) -> None:
    add_distances(page, content.results.fidelity)
    sentences = [*fidelity_sentences(content.results.fidelity)[-2:], distance_sentence(content.results.second)]
    page.text(" ".join(sentences).strip())


def _add_second_encoder(page: Page, content: _Content) -> None:
    add_second_encoder(page, content.results)


def _add_accuracy(page: Page, content: _Content) -> None:
    probe, titles = content.results.probe, content.titles
    page.section(
        "Classifier accuracy",
        f"Linear classifiers of {probe.label} on frozen features, tested on {probe.test.what}. The worst "
        f"group is the combination of {listed([probe.label, *probe.attributes])} with the lowest accuracy. In "
        "parentheses: 95% confidence intervals.",
    )
    page.figure(forest_plot(main_figures(probe), ACCURACIES, titles, chance_marks(probe)), "Dotted line: chance.")
    rows = {
        titles[arm]: {
            **{head: figure_text(getattr(of_arm, name), 3) for name, head in ACCURACIES.items()},
            "worst group": of_arm.worst_group_accuracy.group,
        }
        for arm, of_arm in probe.arms.items()
    }
    page.table(share_table(rows, "training data"))
    page.text(f"The share of test images of each {probe.label} that are classified correctly:")
    shown = (*main_arms(probe), *probe.baselines[:MOST_BASELINES])
    add_class_accuracies(page, probe, {arm: titles[arm] for arm in shown})


def _add_trainings(page: Page, content: _Content) -> None:
    trainings = content.results.trainings
    if len(trainings) == 1:
        return
    page.section(
        "Trainings",
        "Results of each training. Those above are over all trainings, except for Fréchet distances, which are of the "
        "first one.",
    )
    rows = {}
    for training in trainings:
        row: dict[str, str] = {}
        for arm, figures in training.arms.items():
            title = arm_title(arm)
            row |= {
                f"balanced accuracy, Real + {title}": number(figures.balanced_accuracy, 3),
                f"Fréchet distance, {title}": number(figures.frechet_distance, 2),
                f"unseen, {title}": number(figures.frechet_distance_unseen, 2),
                f"class predicted as requested, {title}": number(figures.label_fidelity, 2),
            }
        rows[f"seed {training.seed}"] = row
    page.table(share_table(rows, "training"))
    for training in trainings[1:]:
        page.link(f"Evaluation of seed {training.seed}", training.evaluation)


def _add_cohort(page: Page, content: _Content) -> None:
    cohort = content.results.cohort
    page.section("Cohort", f"Class: {cohort.label}. Attributes: {listed(cohort.attributes)}.")
    page.table(share_table({split: vars(counts) for split, counts in cohort.counts.items()}, "split"))
    for name in cohort.attributes:
        sentence = _association(cohort.label, name, content.audit or {})
        if sentence:
            page.text(sentence)


def _association(label: str, name: str, audit: Mapping[str, Any]) -> str:
    by_split = ((audit.get("attributes") or {}).get(name) or {}).get("association") or {}
    split = "train" if by_split.get("train") else "all"
    association = by_split.get(split)
    if not association:
        return ""
    rule, strength = association["majority_rule"], association["cramers_v"]
    patients = "training patients" if split == "train" else "all patients"
    sentence = (
        f"Association of {name} and {label} among {patients}: Cramér's V {number(strength['value'], 2)} "
        f"(0: independent, 1: {name} determines {label} or the reverse)."
    )
    if known(rule.get("balanced_accuracy")) is not None:
        sentence += (
            f" Guessing {label} from {name} alone, without an image, has a balanced accuracy of "
            f"{number(rule['balanced_accuracy'], 2)} (chance {number(rule['chance'], 2)})."
        )
    return sentence


def _add_run_time(page: Page, content: _Content) -> None:
    add_run_time(page, {stage: StageTime(seconds) for stage, seconds in content.results.seconds.items()})


def _add_provenance(page: Page, content: _Content) -> None:
    results = content.results
    add_provenance(page, results.settings, results.fidelity.digests, results.fidelity.encoder)


#: parts of the page in order: those that answer, then the folded details
Part = Callable[[Page, _Content], None]
ANSWER: Sequence[Part] = (_add_answer, _add_samples, _add_overview, _add_words, _add_findings, _add_links)
DETAILS: Sequence[Part] = (
    _add_accuracy,
    _add_fidelity,
    _add_second_encoder,
    _add_trainings,
    _add_cohort,
    _add_run_time,
    _add_provenance,
)

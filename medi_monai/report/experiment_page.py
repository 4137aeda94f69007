"""The page of the run ``experiment``: the answer, examples, fidelity, accuracy, cohort and run time."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medi_monai.report.evaluation_page import add_distances, fidelity_figure, fidelity_sentences
from medi_monai.report.page import Page
from medi_monai.report.plots import forest_plot
from medi_monai.report.sections import NOTICES, add_findings, add_provenance, add_run_time
from medi_monai.report.words import arm_title, figure_text, known, listed, number, share_table

__all__ = ["write_experiment_page"]

LINKS = {"audit": "Full cohort audit", "evaluation": "Full evaluation", "probing": "Full probing results"}
ACCURACIES = {"balanced_accuracy": "balanced accuracy", "worst_group_accuracy": "worst-group accuracy"}
#: findings of the audit that the page shows; the others are behind the link
MOST_FINDINGS = 5


def write_experiment_page(content: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write the page of an experiment.

    Args:
        content: ``question``, ``verdict``, ``cohort``, ``audit``, ``samples``, ``fidelity``, ``probe``, ``links``,
            ``seconds`` and ``settings``, as the experiment gathers them; what a stage did not make is None.
        path: of the page; ``links`` are relative to its folder.

    Returns:
        ``path``.
    """
    page = Page("Effect of metadata on generated images and classifiers", content["question"])
    links = content.get("links") or {}
    _add_answer(page, content)
    add_findings(page, content["verdict"][1:])
    if content.get("samples") is not None:
        page.section("Example images")
        page.figure(content["samples"], "Real and generated images of the same combinations, chosen at random.")
    if content.get("fidelity"):
        add_distances(page, content["fidelity"])
        page.text(" ".join(fidelity_sentences(content["fidelity"])[-2:]))
        page.figure(fidelity_figure(content["fidelity"]), "Points with 95% confidence intervals; dotted: real images.")
    _add_link(page, links, "evaluation")
    if content.get("probe"):
        _add_accuracy(page, content["probe"])
    _add_link(page, links, "probing")
    _add_cohort(page, content)
    _add_link(page, links, "audit")
    for name in links:
        if name not in LINKS:
            _add_link(page, links, name)
    add_run_time(page, {stage: {"seconds": value} for stage, value in (content.get("seconds") or {}).items()})
    fidelity = content.get("fidelity") or {}
    add_provenance(page, content.get("settings") or {}, fidelity.get("digests"), fidelity.get("encoder"))
    return page.write(path)


def _add_link(page: Page, links: Mapping[str, str | None], name: str) -> None:
    target = links.get(name)
    if target:
        page.link(LINKS.get(name, name), target)


def _add_answer(page: Page, content: Mapping[str, Any]) -> None:
    if not content["verdict"]:
        page.answer(["Not reported: a stage of the experiment has no figures."], "warning")
        return
    answer = content["verdict"][0]
    headline, _, rest = answer["text"].partition(". ")
    page.answer([f"{headline.removesuffix('.')}.", *([rest] if rest else [])], answer["level"])
    probe = content.get("probe")
    if probe:
        titles = {arm: arm_title(arm, probe["settings"]["arms"]) for arm in probe["arms"]}
        chance = 1 / len(probe["training"]["classes"]) if probe["training"]["classes"] else None
        page.figure(
            forest_plot(probe["arms"], ACCURACIES, titles, {"balanced_accuracy": chance}),
            f"Accuracy of a linear classifier of {probe['label']} on {probe['test']['n']:,} images of "
            f"{probe['test']['patients']:,} patients, by training data, with 95% confidence intervals. Dotted line: "
            "chance.",
        )


def _add_accuracy(page: Page, probe: Mapping[str, Any]) -> None:
    page.section(
        "Classifier accuracy",
        f"Linear classifiers of {probe['label']} on frozen features, tested on {probe['test']['what']}. The worst "
        f"group is the combination of {listed([probe['label'], *probe['attributes']])} with the lowest accuracy. In "
        "brackets: 95% confidence intervals.",
    )
    rows = {}
    for arm, figures in probe["arms"].items():
        worst = figures.get("worst_group_accuracy") or {}
        rows[arm_title(arm, probe["settings"]["arms"])] = {
            **{head: figure_text(figures.get(name), 3) for name, head in ACCURACIES.items()},
            "worst group": worst.get("group"),
        }
    page.table(share_table(rows, "training data"))


def _add_cohort(page: Page, content: Mapping[str, Any]) -> None:
    cohort, audit = content["cohort"], content.get("audit")
    page.section("Cohort")
    page.text(f"Class: {cohort['label']}. Attributes: {listed(cohort['attributes'])}.")
    page.table(share_table(dict(cohort["counts"]), "split"))
    combinations = cohort.get("combinations") or {}
    if combinations:
        page.text(
            f"Combinations of {' and '.join([cohort['label'], *cohort['attributes']])}: {combinations['seen']:,} in "
            f"training, {combinations['unseen']:,} held out."
        )
    if not audit:
        return
    _add_association(page, cohort, audit)
    findings = list(audit.get("findings") or [])
    for finding in findings[:MOST_FINDINGS]:
        page.notice(finding["text"], NOTICES.get(finding["level"], finding["level"]))
    if len(findings) > MOST_FINDINGS:
        page.text(f"{MOST_FINDINGS} of {len(findings)} findings of the audit are shown.")


def _add_association(page: Page, cohort: Mapping[str, Any], audit: Mapping[str, Any]) -> None:
    for name in cohort["attributes"]:
        by_split = ((audit.get("attributes") or {}).get(name) or {}).get("association") or {}
        split = "train" if by_split.get("train") else "all"
        association = by_split.get(split)
        if not association:
            continue
        rule, strength = association["majority_rule"], association["cramers_v"]
        patients = "training patients" if split == "train" else "all patients"
        sentence = (
            f"Association of {name} and {cohort['label']} among {patients}: Cramér's V {number(strength['value'], 2)} "
            f"(0: independent, 1: {name} determines {cohort['label']} or the reverse)."
        )
        if known(rule.get("balanced_accuracy")) is not None:
            sentence += (
                f" Guessing {cohort['label']} from {name} alone, without an image, has a balanced accuracy of "
                f"{number(rule['balanced_accuracy'], 2)} (chance {number(rule['chance'], 2)})."
            )
        page.text(sentence)

"""The whole experiment as one page: question, verdict, cohort, samples, fidelity, probes, and what it took."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from medi_monai.report.evaluation_page import add_fidelity
from medi_monai.report.page import Page
from medi_monai.report.probe_page import add_probes
from medi_monai.report.words import add_settings, known, listed, number, share_table

__all__ = ["write_experiment_page"]

#: of the findings of an audit; leakage voids what follows
NOTICES = {"leakage": "error", "warning": "warning", "note": "note"}
LINKS = {"audit": "the audit of the cohort", "evaluation": "the evaluation", "probing": "the probes"}


def write_experiment_page(content: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write the page of an experiment.

    Args:
        content: ``question``, ``verdict``, ``cohort``, ``audit``, ``samples``, ``fidelity``, ``closest``, ``probe``,
            ``links``, ``seconds`` and ``settings``, as the experiment gathers them; what a stage did not make is None.
        path: of the page; ``links`` are relative to its folder.

    Returns:
        ``path``.
    """
    page = Page("Does metadata help?", content["question"])
    _add_verdict(page, content)
    _add_cohort(page, content)
    if content.get("samples") is not None:
        page.section("Samples side by side")
        page.figure(
            content["samples"], "Real and generated images of the same combinations, drawn at random and not picked."
        )
    if content.get("fidelity"):
        add_fidelity(page, content["fidelity"], content.get("closest") or {})
    if content.get("probe"):
        add_probes(page, content["probe"])
    _add_cost(page, content.get("seconds") or {})
    page.section("Settings of the experiment")
    add_settings(page, content.get("settings") or {})
    return page.write(path)


def _add_verdict(page: Page, content: Mapping[str, Any]) -> None:
    page.section("Verdict")
    for line in content["verdict"]:
        page.notice(line["text"], line["level"])
    if not content["verdict"]:
        page.text("No verdict: a stage of the experiment has no figures.")


def _add_cohort(page: Page, content: Mapping[str, Any]) -> None:
    cohort, audit = content["cohort"], content.get("audit")
    page.section("The cohort and its audit")
    page.text(f"Label: {cohort['label']}. Attributes: {listed(cohort['attributes'])}. Read from {cohort['dir']}.")
    page.table(share_table(dict(cohort["counts"]), "split"))
    combinations = cohort.get("combinations") or {}
    if combinations:
        page.text(
            f"Combinations of {' × '.join([cohort['label'], *cohort['attributes']])}: {combinations['seen']:,} in "
            f"training, {combinations['unseen']:,} held out and never in training."
        )
    if audit:
        _add_association(page, cohort, audit)
        for finding in audit.get("findings") or []:
            page.notice(finding["text"], NOTICES.get(finding["level"], "note"))
    _add_links(page, content.get("links") or {})


def _add_association(page: Page, cohort: Mapping[str, Any], audit: Mapping[str, Any]) -> None:
    for name in cohort["attributes"]:
        parts = ((audit.get("attributes") or {}).get(name) or {}).get("association") or {}
        split = "train" if parts.get("train") else "all"
        given = parts.get(split)
        if not given:
            continue
        rule, strength = given["majority_rule"], given["cramers_v"]
        where = "among training patients" if split == "train" else "among all patients"
        sentence = f"{name} and {cohort['label']} {where}: Cramér's V {number(strength['value'], 2)}"
        sentence += " (0: independent, 1: one decides the other)."
        if known(rule.get("balanced_accuracy")) is not None:
            sentence += (
                f" Guessing {cohort['label']} from {name} alone, without an image, has a balanced accuracy of "
                f"{number(rule['balanced_accuracy'], 2)}; chance is {number(rule['chance'], 2)}."
            )
        page.text(sentence)


def _add_links(page: Page, links: Mapping[str, str]) -> None:
    shown = [
        # quoted, a colon cannot make a scheme of it
        Markup('<a href="{}">{}</a>').format(quote(str(target)), escape(LINKS.get(name, name)))
        for name, target in links.items()
        if target
    ]
    if shown:
        page.text(Markup("More: {}").format(Markup(", ").join(shown)))


def _add_cost(page: Page, seconds: Mapping[str, Any]) -> None:
    if not seconds:
        return
    rows = {str(stage).replace("_", " "): {"time": _duration(value)} for stage, value in seconds.items()}
    total = [known(value) for value in seconds.values()]
    rows["all stages"] = {"time": _duration(sum(value for value in total if value is not None))}
    page.section("What it took").table(share_table(rows, "stage"))


def _duration(seconds: Any) -> str:
    given = known(seconds)
    if given is None:
        return "–"
    if given < 60:
        return f"{given:.1f} s"
    minutes, rest = divmod(round(given), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

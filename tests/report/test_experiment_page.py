import html
import re

import numpy as np
import pytest
from result_contents import arms_content, probe_content

from medi_monai.report import write_experiment_page
from medi_monai.report.blocks.gallery import Gallery
from medi_monai.results import typed
from medi_monai.results.experiment import ExperimentResults

ASSOCIATION = {
    "cramers_v": {"value": 0.47, "ci95": [0.33, 0.6]},
    "majority_rule": {"balanced_accuracy": 0.55, "chance": 0.25},
}

CELLS = {"tumor": ["T0", "T1", "T1"], "center": ["Fir", "Fir", "Elm"], "split": ["train", "train", "holdout"],
         "patients": [3, 4, 2]}  # fmt: skip

AUDIT = {
    "attributes": {"center": {"association": {"train": ASSOCIATION}}},
    "findings": [{"level": "leakage", "text": "Patients in two splits: 1"}, {"level": "note", "text": "Rare."}],
}


def training(seed):
    figures = {"balanced_accuracy": 0.7 + seed / 1000, "frechet_distance": 5.25, "frechet_distance_unseen": None}
    figures |= {"label_fidelity": 0.8, "attribute_fidelity": {"center": 0.9}}
    return {"seed": seed, "arms": {"cls": figures, "medi": figures}, "evaluation": f"training_{seed}/report.html"}


def experiment(**changes):
    content = {
        "question": "Does a classifier of tumors lean on the hospital?",
        "cohort": {
            "label": "tumor",
            "attributes": ["center"],
            "counts": {"train": {"patches": 8814, "slides": 90, "patients": 74},
                       "holdout": {"patches": 3517, "slides": 32, "patients": 32}},
            "combinations": {"seen": 22, "unseen": 10},
            "dir": "cohort",
        },
        "fidelity": arms_content(),
        "probe": probe_content(),
        "trainings": [training(0)],
        "links": {"audit": "cohort/audit.html"},
        "settings": {"max_steps": 1000, "sampling": {"num_steps": 50}},
        "seconds": {"training_cls": 512.2, "sampling": 30.0, "probing": 4000, "verdict": None},
        "verdict": [{"level": "note", "text": "No effect: the difference is 0.01."}],
    }  # fmt: skip
    return {**content, **changes}


def source_of(tmp_path, content, audit=AUDIT, samples=None):
    results = typed(ExperimentResults, content)
    return write_experiment_page(results, tmp_path / "report.html", audit, samples).read_text(encoding="utf-8")


def text_of(tmp_path, content, audit=AUDIT, samples=None):
    return html.unescape(source_of(tmp_path, content, audit, samples)).replace("\xa0", " ")


def test_the_page_answers_first_and_its_details_are_folded(tmp_path):
    samples = Gallery(["Real"], [["T0", "Fir"]], {("Real", 0): [np.zeros((32, 32, 3), np.uint8)]}, mpp=0.5)
    text = text_of(tmp_path, experiment(), samples=samples).partition("<main>")[2]
    order = ['<table class="forest">', "lean on the hospital?", "No effect: the difference", "Tested on 3,517 images"]
    order += [
        ">Randomly chosen images",
        "Similarity to real images",
        "Shortcuts by center",
        "<h3>Cohort",
        "What was compared",
        "Words on this page",
    ]
    order += ["Patients in two splits: 1", '<details class="section">', "Classifier accuracy", ">Fidelity<"]
    order += ["8 min 32 s", "Settings and"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    unfolded = text.partition('<details class="section">')[0]
    assert unfolded.count("<table>") == 1, "only that of the arms, in a fold"
    assert "real images, and images generated from class and metadata" in unfolded
    assert 'class="notice error"><b>ERROR</b>Patients in two splits: 1' in unfolded
    assert "Cramér's V 0.47" in text and "balanced accuracy of 0.55 (chance 0.25)" in text
    assert "sampling.num_steps" in text and "30.0 s" in text and "1 h 6 min" in text and "1 h 15 min" in text


def test_findings_that_need_no_attention_are_folded_but_none_is_lost(tmp_path):
    levels = ("note", "warning", "ok", "error")
    verdict = [{"level": "warning", "text": "The answer."}]
    verdict += [{"level": level, "text": f"A finding of level {level}."} for level in levels]
    text = text_of(tmp_path, experiment(verdict=verdict), audit=None)
    visible, _, folded = text.partition(">Findings</h2>")[2].partition("Other findings (2)")
    assert [level for level in levels if f"of level {level}." in visible] == ["warning", "error"]
    assert [level for level in levels if f"of level {level}." in folded] == ["note", "ok"]
    assert "2 findings need attention" in text


def test_links_are_relative_and_cannot_run_anything(tmp_path):
    links = {"audit": "cohort/audit page.html", "probing": "javascript:alert(1)", "<b>": 'x" onclick="y'}
    source = source_of(tmp_path, experiment(links=links))
    targets = re.findall(r'<a href="([^"#]+)">', source)
    # of the cards, and of the others
    assert targets == ["javascript%3Aalert%281%29", "cohort/audit%20page.html", "x%22%20onclick%3D%22y"]
    assert "<b>" not in source.replace('"><b>', "").replace("<p><b>", "") and "Full cohort audit</a>" in source


def test_what_is_not_known_leaves_no_section(tmp_path):
    text = text_of(tmp_path, experiment(links={}, seconds={}), audit=None)
    assert "Run time" not in text and ">Randomly chosen" not in text and "Cramér" not in text and "audit" not in text


@pytest.mark.parametrize(("cells", "text"), [(CELLS, "Numbers are patients; red frames"), (None, "22 in training, 10")])
def test_the_cohort_is_a_plot_of_patients_or_of_its_splits(tmp_path, cells, text):
    attributes = {"center": {"association": {"train": ASSOCIATION}} | ({"cells": cells} if cells else {})}
    audit = {"attributes": attributes, "findings": [], "settings": {"continuous": []}}
    page = text_of(tmp_path, experiment(), audit)
    assert text in page and page.count("<img") == 4, "three cards, and the folded plot of accuracy"


def test_an_association_that_is_undefined_is_a_dash(tmp_path):
    empty = {"cramers_v": {"value": None, "ci95": None}, "majority_rule": {"balanced_accuracy": None, "chance": None}}
    audit = {"attributes": {"center": {"association": {"all": empty}}}, "findings": []}
    text = text_of(tmp_path, experiment(), audit)
    assert "among all patients: Cramér's V –" in text and "Guessing tumor" not in text and "None" not in text


def test_every_training_has_a_row_and_a_link(tmp_path):
    content = experiment(trainings=[training(3), training(4)])
    for arm in ("cls", "medi"):
        content["probe"]["arms"][arm]["balanced_accuracy"] |= {"trainings": [0.6, 0.7]}
    text = text_of(tmp_path, content)
    assert "seed 3" in text and "0.704" in text and "5.25" in text
    assert 'href="training_4/report.html"' in text and 'href="training_3/report.html"' not in text
    assert "Small dots: single trainings." in text
    assert "seed 0" not in text_of(tmp_path, experiment())


def test_a_demo_cohort_is_said_to_be_one(tmp_path):
    content = experiment()
    assert "Demonstration" not in text_of(tmp_path, content)
    content["cohort"] |= {"demo": True}
    assert '<p class="lead">Demonstration: all images, including those called real, were drawn' in text_of(
        tmp_path, content
    )


def test_the_figure_at_the_top_has_accuracy_and_difference_of_every_arm(tmp_path):
    figure = text_of(tmp_path, experiment()).partition('<table class="forest">')[2].partition("</table>")[0]
    rows = {re.search('scope="row">([^<]*)', row)[1]: row for row in figure.split("<tr>")[2:] if 'scope="row"' in row}
    assert list(rows) == ["Real", "Real + Class-only", "Real + MeDi", "Stain-normalized"]
    assert "recoloring" in rows["Stain-normalized"] and "generated from class and metadata" in rows["Real + MeDi"]
    assert "advantage of MeDi" in figure and "<b>+0.1" in rows["Real"] and "<b>+" not in rows["Real + MeDi"]


def test_an_error_comes_before_the_figures_that_it_makes_unreliable(tmp_path):
    for level, first in (("error", "The generator is not trained"), ("warning", '<table class="forest">')):
        verdict = [{"level": level, "text": "The generator is not trained: 2%."}]
        text = text_of(tmp_path, experiment(verdict=verdict)).partition("<main>")[2]
        places = [text.index(part) for part in ("The generator is not trained", '<table class="forest">')]
        assert min(places) == text.index(first)

import copy

from result_contents import arms_content, figure, probe_content

from medi_monai.evaluation.verdicts.second_encoder import compare_encoders
from medi_monai.report.blocks.second_encoder import add_second_encoder, distance_sentence, second_sentence
from medi_monai.report.page import Page
from medi_monai.results import plain, typed
from medi_monai.results.experiment import ExperimentResults, SecondEncoderResults
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults


def second(name="lite"):
    given = copy.deepcopy(arms_content())
    given["arms"]["medi"]["frechet_distance"]["mean"]["value"] = 77.7
    for arm in given["arms"].values():
        arm["memorization"]["copies"] = figure(None, n=0)
    probe = copy.deepcopy(probe_content(repeats=5))
    probe["shortcut"]["center_probe_accuracy"]["value"] = 0.321
    fidelity, probe = typed(ArmsMetrics, given), typed(ProbeResults, probe)
    first = typed(ArmsMetrics, arms_content()), typed(ProbeResults, probe_content())
    rows = compare_encoders(first, (fidelity, probe))
    distances = {"cls": (12.0, 14.0), "medi": (None, 77.7)}
    return SecondEncoderResults(name, fidelity, probe, distances, rows, {"Probing by lite": "probing_lite/report.html"})


def experiment(given, trainings=1):
    return typed(
        ExperimentResults,
        {
            "question": "?",
            "cohort": {"label": "tumor", "attributes": ["center"], "counts": {}, "dir": "cohort",
                       "combinations": {"seen": 1, "unseen": 0}},
            "verdict": [{"level": "note", "text": "No effect."}],
            "fidelity": arms_content(), "probe": probe_content(), "links": {}, "settings": {}, "seconds": {},
            "trainings": [{"seed": seed, "arms": {}, "evaluation": "r.html"} for seed in range(trainings)],
            "second": None if given is None else plain(given),
        },
    )  # fmt: skip


def text_of(given, trainings=1):
    page = Page("Title")
    add_second_encoder(page, experiment(given, trainings))
    return page.html().partition("<main>")[2].replace("\xa0", " ")


def test_each_difference_distance_and_shortcut_figure_has_both_encoders():
    text = text_of(second())
    assert "Second encoder" in text and "5 draws of training patients instead of 12" in text
    words = ("embedded", "MeDi − Real, balanced accuracy", "MeDi / Class-only", "agree", "robustness index")
    for shown in (*words, "77.7", "2.50", "31.08", "0.321", "0.998", "probing_lite/report.html"):
        assert shown in text, shown
    assert "Range over the trainings" not in text
    assert "Class-only 12.0 to 14.0, MeDi 77.7 to 77.7" in text_of(second(), 2)


def test_the_same_network_with_other_settings_is_told_apart():
    text = text_of(second("embedded"))
    assert "embedded (first)" in text and "embedded (second)" in text


def test_without_a_second_encoder_there_is_no_section_and_no_sentence():
    assert "Second" not in text_of(None) and second_sentence(None) == distance_sentence(None) == ""


def test_sentences_for_the_answer_and_for_fidelity():
    given = second()
    assert second_sentence(given) == (
        "With a second encoder, lite: MeDi − Real +0.10 (p = 0.0063), MeDi − Class-only +0.12 (p = 0.0063), "
        "MeDi − Stain-normalized +0.11 (p = 0.0063); all agree with the first one in direction and significance."
    )
    assert distance_sentence(given).startswith("Mean Fréchet distance with the second encoder, lite: Class-only 12.")
    assert "MeDi 77.7" in distance_sentence(given) and "real images of other patients 2.50" in distance_sentence(given)

"""The page opens with the answer, names the unit, and shows every column; what is undefined is a dash."""

import re
from dataclasses import replace

import pytest

from medi_monai.report.shortcuts import write_shortcut_page
from medi_monai.report.shortcuts.plots import column_plot, domain_plot
from medi_monai.results import Figure, Finding
from medi_monai.results.diagnostics import ClusteringScore, CorrelationSweep, RobustnessIndex, Shortcut
from medi_monai.results.measures import ProbeAccuracy
from medi_monai.results.probing import Comparison, RepeatedFigure, TestSet, TrainingSet
from medi_monai.results.shortcuts import (
    AttributeShortcut,
    DomainAccuracy,
    FeatureSet,
    ShortcutResults,
    UnseenAccuracy,
)

LABEL = ProbeAccuracy(0.712, (0.65, 0.77), 90, chance=0.5, num_values=2)
CENTER = ProbeAccuracy(0.934, (0.9, 0.96), 90, chance=0.25, num_values=4)


def results():
    test = TestSet(20, 8, 0, (), "combinations not seen in training", "patient", 8)
    part = DomainAccuracy(RepeatedFigure(0.655, (0.6, 0.7), 20), test)
    drop = Comparison("balanced_accuracy", ("in_domain", "unseen"), Figure(0.123, (0.05, 0.2), 3), p_value=0.004)
    center = Shortcut(
        LABEL, CENTER, RobustnessIndex(0.213, 31, 4, 80, ci95=(0.15, 0.29)), CorrelationSweep(),
        ClusteringScore(-0.4, 0.1, 0.5, num_pairs=3, n=60, ci95=(-0.62, -0.18)),
    )  # fmt: skip
    nothing = Shortcut(LABEL, replace(CENTER, value=None, chance=None, ci95=None), RobustnessIndex(None, None, 0, 0),
                       CorrelationSweep())  # fmt: skip
    return ShortcutResults(
        label="tumor",
        features=FeatureSet("/f", "slide", "slides", 90, 90, 60, 1024),
        label_probe_accuracy=LABEL,
        attributes={
            "hospital <b>": AttributeShortcut(Figure(0.31, (0.2, 0.4), 60), center, 0),
            "sex": AttributeShortcut(Figure(None), nothing, 90),
        },
        unseen=UnseenAccuracy(
            part, part, drop, TrainingSet(50, 30, 10, ("A", "B")), "subpopulation_holdout", 0.5, "the first that fits"
        ),
        conclusions=(Finding("warning", "The answer."), Finding("note", "Its figures.")),
        warnings=(Finding("note", "3 files were left out."),),
        settings={"num_repeats": 3},
        digests={"features": "0" * 64},
    )


def test_the_answer_comes_first_and_every_column_is_shown(tmp_path):
    page = write_shortcut_page(results(), tmp_path / "report.html").read_text()
    assert page.index("The answer.") < page.index("Its figures.") < page.index("<img") < page.index("<h2")
    assert "1,024 features of 90 slides (90 slides, 60 patients)" in page
    assert "Each slide is the mean of the features of its patches." in page
    text = " ".join(re.sub(r"<[^>]+>", " ", page).replace("\xa0", " ").split())
    assert (
        "hospital &lt;b&gt; 0.934 (0.900 to 0.960) 0.250 4 0.31 (0.20 to 0.40) 0.21 (0.15 to 0.29) 31 "
        "−0.40 (−0.62 to −0.18) 90"
    ) in text
    assert "sex – (n = 90) – 4 – – – – 90" in text
    # once only
    assert text.count("0.934 (0.900 to 0.960)") == 1 and text.count("0.21 (0.15 to 0.29)") == 1
    assert "over 4 and 3 pairs of classes and of hospital &lt;b&gt; (80 and 60 slides)" in text
    assert "Split: subpopulation_holdout, the first that fits" in text
    assert "Difference: 0.123 (0.050 to 0.200), p = 0.004" in text and 'href="audit.html"' in page
    assert "3 files were left out." in text and "hospital <b>" not in page


@pytest.mark.parametrize("missing", ["in_domain", "unseen"])
def test_a_test_that_was_not_possible_is_left_out(tmp_path, missing):
    full = results()
    page = write_shortcut_page(
        replace(full, unseen=replace(full.unseen, **{missing: None, "drop": None})), tmp_path / "report.html"
    ).read_text()
    assert "Difference:" not in page and page.count("combinations not seen in training") == 1


def test_plots_mark_chance_and_undefined_accuracies():
    axes = column_plot("tumor", {"tumor": LABEL, "sex": replace(LABEL, value=None, ci95=None, chance=None)}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["undefined"]
    assert [line.get_xdata()[0] for line in axes.lines] == [0.65, 0.712, 0.5]
    marks = domain_plot("tumor", {"in domain": LABEL}, 0.5).axes[0]
    assert [tick.get_text() for tick in marks.get_yticklabels()] == ["in domain"]

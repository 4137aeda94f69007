import re

import numpy as np
import pytest
from result_contents import NONE, VALUES, alignment_content, alignment_with

from medi_monai.report.alignment_page import write_alignment_page
from medi_monai.report.alignment_plots import curve_plot, proportion_bars
from medi_monai.results import typed
from medi_monai.results.alignment import AlignmentMetrics, TuningCurve


@pytest.fixture
def page(tmp_path):
    def write(given, pairs=None):
        pixels = np.full((16, 16, 3), 99, np.uint8)
        pairs = {"stayed": {"male (70)": [(pixels, pixels)] * 3}, "changed": {}} if pairs is None else pairs
        closest = {"after": [(pixels, pixels, 0.5)], "held_out": []}
        metrics = typed(AlignmentMetrics, given)
        return write_alignment_page(metrics, pairs, closest, tmp_path / "page.html").read_text()

    return write


def visible(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html.partition("<main>")[2]).split())


def test_the_page_says_all_of_it(page):
    html = page(alignment_content())
    text = visible(html)
    assert "The target is missed. Shares, corrected" in text and "so much is known." in text and "below 500" in text
    assert "female 10.0% before and 40.0% after alignment (target 50%)" in text
    for shown in (
        "0.970", "0.31", "0.987", "20.0% (18.0%", "Real training images", "total variation, guide", "12 (few)",
        "No pair changed its predicted", "female: not reported, too few images", "c0ffee", "0.910 (0.880",
    ):  # fmt: skip
        assert shown in text, shown
    assert "axial &lt;FLAIR&gt; &amp; more" in html and "<FLAIR>" not in html
    # bars, curves, three pairs that stayed, a closest pair
    assert html.count("<img ") == 9 and 'class="scale"' not in html
    assert "None" not in text and "nan" not in text


def test_what_is_not_there_is_left_out(page):
    given = alignment_content()
    given |= {"curve": None, "named_prompts": {}, "clip_score": {"before": NONE, "after": NONE}, "readers": {}}
    given["training"] = {}
    given["distance_to_target"]["after"]["sex"]["corrected"] = {
        "proportions": dict.fromkeys(VALUES, NONE), "total_variation": NONE, "kl": NONE, "undefined": "no reason",
    }  # fmt: skip
    given["consistency"] = {"after": {"all": NONE, "stayed": NONE, "changed": NONE, "unrelated": NONE,
                                      "score_change": NONE, "num_stayed": 0, "num_changed": 0}}  # fmt: skip
    text = visible(page(given, {"stayed": {}, "changed": {}}))
    assert "no CLIP model was given" in text and "not corrected, because no reason" in text
    assert "After alignment, corrected" not in text
    for distances in given["distance_to_target"].values():
        distances["sex"]["corrected"] = given["distance_to_target"]["after"]["sex"]["corrected"]
    assert len(proportion_bars(typed(AlignmentMetrics, given), "sex").axes) == 1
    assert "Distance to the target during tuning" not in text and "Prompt adherence" not in text


def test_other_arms_have_their_answers_and_no_pairs(page):
    given = alignment_with("resampled")
    text = visible(page(given))
    assert "Resampled. Like the real ones." in text and "Alternatives" in text
    # nothing is said of pairs that cannot be
    assert "Resampled" not in text.partition("same noise before alignment")[2].partition("CLIP score: cosine")[0]
    assert "The first arms" not in text and "Alternatives" not in visible(page(alignment_content()))


def test_the_distance_of_a_prompt_is_told_of_every_arm_and_its_shares_of_two(page):
    html = page(alignment_with("retrained", "resampled"))
    heads = re.findall(r"<th[^>]*>([^<]*): (images|shares|distance)</th>", html)
    assert heads.count(("Before alignment", "shares")) == heads.count(("After alignment", "shares")) == 1
    assert ("Retrained", "shares") not in heads and ("Retrained", "distance") in heads


def test_bars_stand_at_the_shares_and_the_target_across(page):
    figure = proportion_bars(typed(AlignmentMetrics, alignment_content()), "sex")
    left, right = figure.axes
    assert [round(bar.get_height(), 3) for bar in left.patches] == [0.1, 0.9, 0.4, 0.6]
    assert [round(bar.get_height(), 3) for bar in right.patches] == [0.1, 0.1, 0.4, 0.4]
    target = [line for line in left.lines if line.get_color() == "#111"]
    assert [list(line.get_ydata()) for line in target] == [[0.5, 0.5], [0.5, 0.5]]
    interval = [list(line.get_ydata()) for line in left.lines if line.get_color() == "#222"]
    assert interval[0] == pytest.approx([0.05, 0.15])


def test_curves_are_those_of_the_record_with_the_kept_update():
    (axes,) = curve_plot(typed(TuningCurve, alignment_content()["curve"])).axes
    guide, _, judge, kept = axes.lines
    assert list(guide.get_xdata()) == [0, 10, 20] and list(judge.get_ydata()) == pytest.approx([0.4, 0.3, 0.2])
    assert list(kept.get_xdata()) == [10, 10]


def test_the_distance_within_prompts_has_a_plot_of_its_own():
    curve = alignment_content()["curve"]
    for row in curve["rows"]:
        for seen in row["classifiers"].values():
            seen["distance_of_prompts"] = seen["distance"]
    assert len(curve_plot(typed(TuningCurve, curve)).axes) == 1
    curve["rows"][2]["classifiers"]["judge"]["distance_of_prompts"] = 0.35
    left, right = curve_plot(typed(TuningCurve, curve)).axes
    assert list(left.lines[2].get_ydata()) == pytest.approx([0.4, 0.3, 0.2])
    assert list(right.lines[2].get_ydata()) == pytest.approx([0.4, 0.3, 0.35])
    assert list(right.lines[3].get_xdata()) == [10, 10]


def test_a_demo_cohort_is_said_to_be_one(page):
    # the lead stands in the page's header
    notice = "Demonstration: all images, including those called real"
    assert notice not in page(alignment_content())
    assert notice in page({**alignment_content(), "demo": True})

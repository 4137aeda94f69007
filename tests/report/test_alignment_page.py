import json
import re

import numpy as np
import pytest

from medi_monai.report.alignment_page import write_alignment_page
from medi_monai.report.alignment_plots import curve_plot, proportion_bars

VALUES = ("female", "male")


def fig(value, low=None, high=None, n=100):
    return {"value": value, "ci95": None if low is None else [low, high], "n": n}


NONE = fig(None, n=0)


def shares(female):
    return {"sex": {"female": fig(female, female - 0.05, female + 0.05), "male": fig(1 - female, 0.9 - female, 1.0)}}


def distances(value, corrected=True):
    made = {"total_variation": fig(value, 0.0, value + 0.05), "kl": fig(value**2)}
    behind = {"proportions": {name: fig(0.5 - value) for name in VALUES}, "undefined": None, **made}
    return {"sex": {**made, "corrected": behind}} if corrected else {"sex": made}


def reading(corrected=True):
    return {
        "proportions": {"before": shares(0.1), "after": shares(0.4)},
        "distance_to_target": {"before": distances(0.4, corrected), "after": distances(0.1, corrected)},
        "change": {"after": {"sex": fig(-0.3, -0.35, -0.25)}},
    }


def measured():
    accuracy = fig(0.91, 0.88, 0.94, 300)
    recall = dict.fromkeys(VALUES, accuracy)
    return {"sex": {"chance": 0.5, "n": 300, "num_patients": 100, "balanced_accuracy": accuracy, "recall": recall}}


def content():
    metrics = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
    figures = {metric: fig(2.0, 1.5, 2.5, 64) for metric in metrics}
    arms = {"before": {**figures, "ratio": NONE}, "after": {**figures, "ratio": fig(0.81, 0.7, 0.93)}}
    counts = {"before": 200, "after": 200, "reference": 400}
    group = {"matched": 64, "counts": counts, "one_patient": False, "floor": figures, "arms": arms}
    spread = {"ms_ssim": {**fig(0.6), "ratio": fig(1.02)}, "features": {**fig(9.0), "ratio": fig(0.97)}}
    prompt = {"n": 12, "few": True, "proportions": shares(0.25)["sex"], "total_variation": fig(0.25, n=12)}
    prompts = [
        {"prompt": "axial <FLAIR> & more", "arms": {"before": prompt, "after": {**prompt, "n": 40, "few": False}}}
    ]
    memory = {"distance": 1.0, "ratio": 0.98, "copies": fig(0.01, 0.0, 0.02), "correlation": None}
    rows = [{"step": step, **{name: {"distance": 0.4 - step / 100} for name in ("guide", "validation", "judge")}}
            for step in (0, 10, 20)]  # fmt: skip
    finding = {"level": "warning", "text": "The target is missed: so much is known."}
    return {
        "part": "sex",
        "target": {
            "attributes": ["sex"],
            "target": {"female": 0.5, "male": 0.5},
            "parts": {"sex": {"female": 0.5, "male": 0.5}},
        },
        "judge": {"held_out": measured(), "at_chance": []},
        "training": {"sex": {"female": fig(0.2, 0.18, 0.22, 3000), "male": fig(0.8, 0.78, 0.82, 3000)}},
        **reading(),
        "readers": {"guide": {**reading(False), "held_out": {}}},
        "by_prompt": {"sex": {"prompts": prompts, "least_images": 30,
                              "mean": {arm: {**NONE, "by_chance": None} for arm in ("before", "after")}}},
        "consistency": {"after": {"all": fig(0.95), "stayed": fig(0.97), "changed": NONE, "unrelated": fig(0.7),
                                  "num_stayed": 70, "num_changed": 0}},
        "clip_score": {"before": fig(0.31), "after": fig(0.3)},
        "fidelity": {"all": group, "female": {**group, "matched": 0}, "male": group},
        "diversity": {value: dict.fromkeys(("before", "after", "reference"), spread) for value in VALUES},
        "memorization": {"before": memory, "after": memory, "held_out": memory},
        "named_prompts": {"sex": {arm: {"share": fig(0.9), "by_value": {value: fig(0.9) for value in VALUES},
                                        "left_out": 3, "ratio": fig(0.987, 0.97, 1.0)} for arm in ("before", "after")}},
        "curve": {"rows": rows, "kept_step": 10},
        "settings_that_differ": {},
        "encoder": {"name": "embedded", "dim": 81},
        "settings": {"tolerance": 0.05, "arms": {"before": "b", "after": "a"}},
        "digests": {"cohort": "c0ffee"},
        "verdict": {"after": {"answer": "missed", "quality_lost": False, "findings": [finding]}},
        "warnings": [{"level": "warning", "text": "after has 200 images: below 500, intervals are wide."}],
    }  # fmt: skip


def with_arms(*arms):
    """The content with further arms; those chosen among other images have no pairs."""
    given = content()
    for arm in arms:
        for read in (given, *given["readers"].values()):
            for part in ("proportions", "distance_to_target", "change"):
                read[part][arm] = read[part]["after"]
        for group in given["fidelity"].values():
            group["arms"][arm] = group["arms"]["after"]
        for by_name in given["diversity"].values():
            by_name[arm] = by_name["after"]
        for row in given["by_prompt"]["sex"]["prompts"]:
            row["arms"][arm] = row["arms"]["after"]
        for part in (given["by_prompt"]["sex"]["mean"], given["clip_score"], given["memorization"]):
            part[arm] = part["after"]
        given["consistency"][arm] = given["consistency"]["after"]
        given["verdict"][arm] = {"answer": "met", "findings": [{"level": "ok", "text": "Like the real ones."}]}
    if "resampled" in arms:
        none = dict.fromkeys(("all", "stayed", "changed", "unrelated"), NONE)
        given["consistency"]["resampled"] = {**none, "num_stayed": 0, "num_changed": 0}
    return given


@pytest.fixture
def page(tmp_path):
    def write(given, pairs=None):
        pixels = np.full((16, 16, 3), 99, np.uint8)
        pairs = {"stayed": {"male (70)": [(pixels, pixels)] * 3}, "changed": {}} if pairs is None else pairs
        closest = {"after": [(pixels, pixels, 0.5)], "held_out": []}
        given = json.loads(json.dumps(given))
        return write_alignment_page(given, pairs, closest, tmp_path / "page.html").read_text()

    return write


def visible(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html.partition("<main>")[2]).split())


def test_the_page_says_all_of_it(page):
    html = page(content())
    text = visible(html)
    assert "The target is missed. Shares, corrected" in text and "so much is known." in text and "below 500" in text
    assert "female 10.0% before and 40.0% after alignment (target 50%)" in text
    for shown in (
        "0.970", "0.31", "0.987", "20.0% (18.0%", "Real training images", "total variation, guide", "12 (few)",
        "No pair changed its predicted", "female: not reported, too few images", "c0ffee", "0.910 (0.880",
    ):  # fmt: skip
        assert shown in text, shown
    assert "axial &lt;FLAIR&gt; &amp; more" in html and "<FLAIR>" not in html
    # bars, curves, pairs that stayed, a closest pair
    assert html.count("<img ") == 4
    assert "None" not in text and "nan" not in text


def test_what_is_not_there_is_left_out(page):
    given = content()
    given |= {"curve": None, "named_prompts": {}, "clip_score": {"before": NONE, "after": NONE}, "readers": {}}
    given["training"] = {}
    given["distance_to_target"]["after"]["sex"]["corrected"] = {
        "proportions": dict.fromkeys(VALUES, NONE), "total_variation": NONE, "kl": NONE, "undefined": "no reason",
    }  # fmt: skip
    given["consistency"] = {"after": {"all": NONE, "stayed": NONE, "changed": NONE, "unrelated": NONE,
                                      "num_stayed": 0, "num_changed": 0}}  # fmt: skip
    text = visible(page(given, {"stayed": {}, "changed": {}}))
    assert "no CLIP model was given" in text and "not corrected, because no reason" in text
    assert "After alignment, corrected" not in text
    for one in given["distance_to_target"].values():
        one["sex"]["corrected"] = given["distance_to_target"]["after"]["sex"]["corrected"]
    assert len(proportion_bars(given, "sex").axes) == 1
    assert "Distance to the target during tuning" not in text and "Prompt adherence" not in text


def test_other_arms_have_their_answers_and_no_pairs(page):
    given = with_arms("resampled")
    text = visible(page(given))
    assert "Resampled. Like the real ones." in text and "Alternatives" in text
    # nothing is said of pairs that cannot be
    assert "Resampled" not in text.partition("same noise before alignment")[2].partition("CLIP score: cosine")[0]
    assert "The first arms" not in text and "Alternatives" not in visible(page(content()))


def test_the_distance_of_a_prompt_is_told_of_every_arm_and_its_shares_of_two(page):
    html = page(with_arms("retrained", "resampled"))
    heads = re.findall(r"<th[^>]*>([^<]*): (images|shares|distance)</th>", html)
    assert heads.count(("Before alignment", "shares")) == heads.count(("After alignment", "shares")) == 1
    assert ("Retrained", "shares") not in heads and ("Retrained", "distance") in heads


def test_bars_stand_at_the_shares_and_the_target_across(page):
    figure = proportion_bars(content(), "sex")
    left, right = figure.axes
    assert [round(bar.get_height(), 3) for bar in left.patches] == [0.1, 0.9, 0.4, 0.6]
    assert [round(bar.get_height(), 3) for bar in right.patches] == [0.1, 0.1, 0.4, 0.4]
    target = [line for line in left.lines if line.get_color() == "#111"]
    assert [list(line.get_ydata()) for line in target] == [[0.5, 0.5], [0.5, 0.5]]
    interval = [list(line.get_ydata()) for line in left.lines if line.get_color() == "#222"]
    assert interval[0] == pytest.approx([0.05, 0.15])


def test_curves_are_those_of_the_record_with_the_kept_update():
    (axes,) = curve_plot(content()["curve"]).axes
    guide, _, judge, kept = axes.lines
    assert list(guide.get_xdata()) == [0, 10, 20] and list(judge.get_ydata()) == pytest.approx([0.4, 0.3, 0.2])
    assert list(kept.get_xdata()) == [10, 10]


def test_the_distance_within_prompts_has_a_plot_of_its_own():
    curve = content()["curve"]
    for row in curve["rows"]:
        for look in row.values():
            if isinstance(look, dict):
                look["distance_of_prompts"] = look["distance"]
    assert len(curve_plot(curve).axes) == 1
    curve["rows"][2]["judge"]["distance_of_prompts"] = 0.35
    left, right = curve_plot(curve).axes
    assert list(left.lines[2].get_ydata()) == pytest.approx([0.4, 0.3, 0.2])
    assert list(right.lines[2].get_ydata()) == pytest.approx([0.4, 0.3, 0.35])
    assert list(right.lines[3].get_xdata()) == [10, 10]

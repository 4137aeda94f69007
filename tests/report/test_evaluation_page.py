import copy
import html
import re

import numpy as np
import pytest
from result_contents import METRICS, arms_content, figure

from medi_monai.report import write_evaluation_page
from medi_monai.report.blocks.gallery import Gallery
from medi_monai.report.combinations import MOST_WORST
from medi_monai.report.evaluation_page import FLOOR, REAL
from medi_monai.results import typed
from medi_monai.results.metrics import ArmsMetrics


def undefined(content):
    """All figures without a value; counts stay."""
    if isinstance(content, dict):
        without = {"value": None, "ci95": None, "floor": None} if "value" in content else {}
        return {name: undefined(value) for name, value in {**content, **without}.items() if name in content}
    return [*map(undefined, content)] if isinstance(content, list) else content


def source_of(tmp_path, content, closest=None):
    return write_evaluation_page(typed(ArmsMetrics, content), closest or {}, tmp_path / "report.html").read_text(
        encoding="utf-8"
    )


def text_of(tmp_path, content, closest=None):
    return html.unescape(source_of(tmp_path, content, closest)).replace("\xa0", " ")


def row_of(text, name, nth=0):
    rows = re.findall(rf'<tr><th scope="row">(?:<i [^>]*></i>)?{re.escape(name)}</th>(.*?)</tr>', text)
    return re.findall(r"<td[^>]*>(.*?)</td>", rows[nth])


def test_figures_stand_in_the_row_of_their_arm_beside_the_floor(tmp_path):
    text = text_of(tmp_path, arms_content())
    assert row_of(text, FLOOR)[:3] == ["2.50 (2.25 to 2.75)", "2.00", "3.50"]
    assert row_of(text, "Class-only")[:3] == ["12.0 (10.8 to 13.2)", "9.60 (8.64 to 10.6)", "15.6 (14.0 to 17.2)"]
    assert row_of(text, "MeDi")[0] == "32.0 (28.8 to 35.2)" and row_of(text, "MeDi")[-1] == "12.8"
    assert row_of(text, "Class-only", 1)[-2:] == ["0.432", "0.923"] and row_of(text, FLOOR, 1)[-2:] == [
        "0.411",
        "–",
    ]
    assert row_of(text, "Class-only", 2) == ["86.9% (85.0% to 88.0%)", "12.7% (11.3% to 14.3%)", "81.2%"]
    assert row_of(text, REAL) == ["91.0%", "99.8%", "–"] and "Chance: tumor 33.3%, center 33.3%." in text
    memorization = ["0.8% (0.4% to 1.2%)", "51.2% (48.0% to 54.5%)", "0.970", "0.951"]
    assert row_of(text, "Class-only", 3) == memorization
    assert row_of(text, "Held-out real images") == ["0.7% (0.4% to 1.2%)", "–", "1.00", "0.944"]
    assert row_of(text, "stained like another patient") == ["94.5% (90.4% to 96.9%)"]
    assert row_of(text, "unchanged") == ["100.0% (98.1% to 100.0%)"] and "held-out real images (val)" in text
    assert row_of(text, "T0")[:3] == ["0.770", "6.00 (1.23 to 4.56)", "16.0 (1.23 to 4.56)"]
    assert "71.2%" in row_of(text, "T0") and "Class-only 0.0345" in text
    assert "<td>30.4 (22.4 to 41.2)</td><td>&lt; 0.001</td>" in text.replace("< 0.001", "&lt; 0.001")
    assert "weights sha256" in text and "44316a" in text and text.count("<img") == 3


def test_results_of_earlier_versions_have_no_planted_copies(tmp_path):
    content = arms_content()
    del content["real"]["copy_search"]
    text = text_of(tmp_path, content)
    assert "planted" not in text and "the 99th percentile of held-out real images if that is higher" in text


def test_limitations_are_notices(tmp_path):
    content = arms_content()
    assert 'class="notice' not in source_of(tmp_path, content)
    content["settings_that_differ"] = {"steps": {"cls": 50, "medi": 100}}
    content["arms"]["medi"]["memorization"] |= {
        "copies": figure(0.2, 0.18, 0.22),
        "nearer": figure(0.6, 0.55, 0.65),
    }
    content["arms"]["medi"]["frechet_distance"]["mean"] |= figure(1.0, 0.9, 1.1)
    text = text_of(tmp_path, content)
    assert (
        "steps (Class-only: 50, MeDi: 100)" in text
        and "Closer to real images than those of other patients: MeDi." in text
    )
    assert "MeDi reproduces training images: 20.0% (18.0% to 22.0%)" in text
    assert "CLS) reproduces" not in text


def test_warnings_and_a_generator_of_noise_are_told_at_the_top(tmp_path):
    content = arms_content()
    content["warnings"] = [{"level": "warning", "text": "Trained on another cohort.", "figures": {}, "name": ""}]
    content["real"]["floor"]["precision"] |= {"value": 0.8}
    text = text_of(tmp_path, content)
    assert "Trained on another cohort." in text and "not trained" not in text
    content["arms"]["medi"]["precision"]["mean"] |= {"value": 0.012}
    text = text_of(tmp_path, content)
    assert text.index("A generator is not trained: only 1.2% of MeDi images") < text.index("Mean Fréchet distance")


@pytest.mark.parametrize(("matched", "sentence"), [(20, "Few images could be matched: median 20"), (64, None)])
def test_few_matched_images_call_for_a_warning(tmp_path, matched, sentence):
    content = arms_content()
    for figures in content["arms"].values():
        for row in figures["frechet_distance"]["by_combination"]:
            row["n"] = matched
    text = text_of(tmp_path, content)
    assert (sentence in text) if sentence else "Few images" not in text


def test_few_and_missing_combinations_are_told(tmp_path):
    content = arms_content(pairs=[("T0", "C0"), ("T0", "C1"), ("T1", "C1"), ("T1", "C2")])
    for figures in content["arms"].values():
        figures["frechet_distance"]["by_combination"][0] |= {"n": 0, "value": None, "ci95": None, "floor": None}
        figures["frechet_distance"]["by_combination"][3] |= {"n": 0, "value": None, "ci95": None, "floor": None}
    text = text_of(tmp_path, content)
    assert (
        "Only 2 combinations were compared" in text
        and "2 of 4 combinations are excluded: they have fewer than 16" in text
    )
    assert "No combination not in training has enough images" in text and "one patient" not in text
    for figures in content["arms"].values():
        figures["frechet_distance"]["by_combination"][1]["one_patient"] = True
    assert "In 1 of 2 combinations, all real images come from one patient" in text_of(tmp_path, content)


def test_what_is_undefined_is_a_dash_with_its_count(tmp_path):
    content = undefined(arms_content(names=("another",)))
    content["comparisons"] = []
    for row in content["arms"]["another"]["frechet_distance"]["by_combination"]:
        row["n"] = 0
    text = text_of(tmp_path, content)
    assert row_of(text, "another")[0] == "– (n = 640)" and "Not reported: no combination has enough images." in text
    shown = re.sub(r'src="data:[^"]*"', "", text.partition("<main>")[2])
    assert not re.search(r"\b(nan|NaN|None|inf)\b", shown)


def test_many_combinations_become_a_distribution_and_the_worst(tmp_path):
    pairs = [(f"T{row:02d}", f"C{column:03d}") for row in range(32) for column in range(185) if (row + column) % 8 == 0]
    text = text_of(tmp_path, arms_content(pairs=pairs))
    assert f"Share of the {len(pairs):,} combinations" in text
    assert f"The {MOST_WORST} combinations with the largest distance" in text and text.count("<img") == 2
    shown = re.findall(r'<tr><th scope="row">(T\d\d · C\d\d\d)</th>', text)
    assert shown == [" · ".join(pair) for pair in pairs[::-1][:MOST_WORST]] and len(text) < 400_000


def test_names_are_escaped_and_no_formula(tmp_path):
    pairs = [("<script>x</script>", "$\\frac$"), ("b & c", "_d" * 60)]
    source = source_of(tmp_path, arms_content(names=("_<b>a", "medi"), pairs=pairs))
    assert "<script>" not in source and "_<b>a" not in source and "&lt;script&gt;x" in source


def test_closest_pairs_are_shown_for_arms_and_for_held_out_images(tmp_path):
    image = np.zeros((16, 16, 3), np.uint8)
    pairs = [(image, image, 0.9 - place / 10) for place in range(2)]
    text = text_of(tmp_path, arms_content(), {"held_out": pairs, "cls": pairs, "medi": []})
    assert text.count("<img") == 3 + 4 and text.count("correlation 0.900") == 4
    assert text.index("<p>Held-out real images") < text.rindex("<p>Class-only") and "<p>MeDi</p>" not in text


def test_a_second_attribute_is_in_the_names_and_averaged_in_the_map(tmp_path):
    content = arms_content()
    content["attributes"] = ["center", "race"]
    for figures in content["arms"].values():
        for metric in METRICS:
            rows = figures[metric]["by_combination"]
            figures[metric]["by_combination"] = [
                {**row, "values": {**row["values"], "race": race}} for row in rows for race in ("a", "b")
            ]
        figures["attribute_fidelity"]["race"] = None
    text = text_of(tmp_path, copy.deepcopy(content))
    assert "Each cell is the mean over race." in text and "race predicted as requested" in text


def test_images_and_closest_pairs_have_a_scale_bar(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    samples = Gallery(["Real", "MeDi"], [["T0", "C1"]], {("Real", 0): [image], ("MeDi", 0): [image]}, mpp=1.0)
    results, path = typed(ArmsMetrics, arms_content()), tmp_path / "report.html"
    source = write_evaluation_page(results, {"medi": [(image, image, 0.9)]}, path, samples).read_text(encoding="utf-8")
    # 10 of 32 micrometers, and 20 of the two images and the gap of a pair
    widths = [float(width) for width in re.findall(r'class="scale"><i style="width: ([\d.]+)%', source)]
    assert widths == [31.25, pytest.approx(100 * 20 / (32 * 196 / 96), abs=0.01)]
    assert source.index(">Images</h2>") < source.index(">Fidelity</h2>")

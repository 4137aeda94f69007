import html
import re

import pytest
from matplotlib.colors import to_hex
from result_contents import FIGURES, probe_content

from medi_monai.report import write_probe_page
from medi_monai.report.blocks.arms import ARMS, arm_look, arm_looks
from medi_monai.report.plots import forest_plot, sweep_curves
from medi_monai.results import Figure, typed
from medi_monai.results.probing import ProbeResults, SweepPoint


def undefined(content):
    """All figures without a value; counts stay."""
    if isinstance(content, dict):
        content = {name: undefined(value) for name, value in content.items()}
        names = ("value", "ci95", "balanced_accuracy_ci95", "worst_group_accuracy_ci95", "p_holm", "p_value")
        figures = {
            name: None for name, value in content.items() if name in names or (name in FIGURES and "point" in content)
        }
        return {**content, **figures}
    return [*map(undefined, content)] if isinstance(content, list) else content


def source_of(tmp_path, content):
    return write_probe_page(typed(ProbeResults, content), tmp_path / "report.html").read_text(encoding="utf-8")


def text_of(tmp_path, content):
    return html.unescape(source_of(tmp_path, content)).replace("\xa0", " ")


def row_of(text, name, nth=0):
    rows = re.findall(rf'<tr><th scope="row">(?:<i [^>]*></i>)?{re.escape(name)}</th>(.*?)</tr>', text)
    return re.findall(r"<td[^>]*>(.*?)</td>", rows[nth])


def test_sweeps_say_of_how_many_trainings_they_are_means(tmp_path):
    content = probe_content()
    one = text_of(tmp_path, content)
    assert "Means over 3 draws, with 95% intervals over training patients, generated images;" in one
    for point in content["sweeps"]["ratio"]:
        point["num_trainings"] = 3 if point["arm"] == "medi" else 1
    content["shortcut"]["correlation"]["arms"]["medi"]["num_trainings"] = 3
    text = text_of(tmp_path, content)
    assert "Means over 3 draws (Real + MeDi: of each of 3 trainings), with 95% intervals over training patients" in text
    assert "Means over 12 draws (Real + MeDi: of each of 3 trainings), with 95% intervals over" in text
    assert "generated images, trainings of the generators; all points share the test images." in text


def test_figures_stand_in_the_row_of_their_arm(tmp_path):
    text = text_of(tmp_path, probe_content())
    assert row_of(text, "Real + MeDi")[:3] == ["0.800 (0.700 to 0.900)", "0.810 (0.700 to 0.900)", "T1 · Fir (n = 118)"]
    assert row_of(text, "Stain-normalized")[0] == "0.600 (0.500 to 0.700)"
    # differences: the worst group has no other combinations, only other patients
    pair = "MeDi − Class-only"
    assert row_of(text, pair) == ["+0.120 (+0.070 to +0.400)", "0.002", "0.006", "test combinations (75%)"]
    assert row_of(text, pair, 1) == ["+0.120 (+0.070 to +0.400)", "0.002", "0.006", "test patients (75%)"]
    assert "over test combinations, training patients, generated images" in text and "trainings of" not in text
    assert row_of(text, "tumor")[:2] == ["0.853", "0.500"] and row_of(text, "center")[0] == "0.998"
    assert "−0.214 (−0.320 to −0.135)" in text and "Robustness index (PathoROB): 0.014 over 64 pairs" in text
    assert row_of(text, "Real + MeDi", 1)[:4] == [
        "−0.214 (−0.320 to −0.135)", "−0.251 (−0.400 to −0.100)",
        "−0.377 (−0.500 to −0.250)", "−0.433 (−0.600 to −0.200)",
    ]  # fmt: skip
    assert "Clustering score (PathoROB): −0.412 over 16 pairs (n = 6,400)" in text and "k = 5)" in text
    assert "race: asian (n = 574), white (n = 2,063)" in text and "– (n = 3,517)" in text
    assert "MeDi − Real: +0.100 (+0.050 to +0.400), p = 0.0063 (Holm)." in text
    assert "Differences between MeDi and other arms" in text and "bc7e5d" in text
    # two forests, two sweeps, the correlation
    assert text.count("<img") == 5 and "Accuracy by number of centers" not in text


def test_the_answer_compares_with_the_best_other_arm(tmp_path):
    answer = "MeDi − Stain-normalized: +0.110 (+0.060 to +0.400), p < 0.001 (Holm)."
    content = probe_content()
    for row in content["comparisons"]:
        row["p_holm"] = 0.0002
    assert answer not in text_of(tmp_path, content)
    content["arms"]["stain_normalized"]["balanced_accuracy"]["value"] = 0.75
    assert answer in text_of(tmp_path, content)


def test_limitations_are_notices(tmp_path):
    text = text_of(tmp_path, probe_content())
    assert "510 of 1,640 test images here (31%) are from patients" in text
    assert "2 test groups with fewer than 10 images" in text and "patients, intervals are rough" not in text
    content = probe_content(repeats=3)
    content["settings_that_differ"] = {"images": {"cls": 10, "medi": 20}}
    content["arms"]["cls"]["training"]["converged"] = 0.5
    content["sweeps"]["ratio"][-1]["num_added"] = 700.0
    text = text_of(tmp_path, content)
    assert (
        "With only 3 draws of training patients, intervals are rough" in text
        and "images (Class-only: 10, MeDi: 20)" in text
    )
    assert "did not converge: Real + Class-only" in text
    assert (
        "Too few generated images for the largest ratio: Real + MeDi has 700 for 1,000 real images at a ratio of 2."
        in text
    )


def test_arms_that_saw_what_the_sweep_withholds_are_left_out_and_named(tmp_path):
    text = text_of(tmp_path, probe_content(left_out=("cls", "medi")))
    assert "Not shown: Real + Class-only, Real + MeDi. The generative model was trained on images" in text
    # of the sweep, real images alone are left, to which patients of the generator do not matter
    assert (
        "−0.377 (−0.500 to −0.250)" in row_of(text, "Real", 1) and "are from patients in the training data" not in text
    )
    assert "Test: 1,000 images of other patients" in text and "640 of the same classes with another center" in text
    assert "Not shown" not in text_of(tmp_path, probe_content())


def test_what_is_undefined_is_a_dash_with_its_count(tmp_path):
    text = text_of(tmp_path, undefined(probe_content()))
    assert row_of(text, "Real")[0] == "– (n = 3,517)" and row_of(text, "Real", 1)[0] == "– (n = 12)"
    shown = re.sub(r'src="data:[^"]*"', "", text.partition("<main>")[2])
    assert not re.search(r"\b(nan|NaN|None|inf)\b", shown)


def test_one_arm_no_sweep_no_square_and_no_demographics(tmp_path):
    content = probe_content(names=("other",))
    content["sweeps"] = {"ratio": [], "real_per_class": [], "num_centers": []}
    content["shortcut"]["correlation"] = {"levels": [], "arms": {}, "num_squares": 0}
    content["demographics"] = []
    text = text_of(tmp_path, content)
    assert "Not measured: no two classes" in text and text.count("<img") == 1 and "Real + other" in text
    assert "Differences between" not in text and "Gaps between demographic groups" not in text


def test_many_centers_are_cut_and_counted(tmp_path):
    content = probe_content(
        centers=[f"C{place:03d}" for place in range(185)], classes=[f"T{place:02d}" for place in range(32)]
    )
    text = text_of(tmp_path, content)
    assert text.count("60 of 185 rows are shown.") == 2
    # the largest center first
    assert "C184" in text and row_of(text, "C184")[0] == "194" and "C100</th>" not in text


def test_an_error_is_the_first_sentence(tmp_path):
    error = {"level": "error", "text": "No generated image was added.", "figures": {}, "name": "no_image_added"}
    text = text_of(tmp_path, {**probe_content(), "warnings": [error]})
    assert text.index("No generated image was added.") < text.index("balanced accuracy")


def test_names_are_escaped(tmp_path):
    source = source_of(tmp_path, probe_content(names=("real", "<b>_$x$"), centers=["<script>"]))
    assert "<script>" not in source and "<b>" not in source.replace('"><b>', "") and "Real + &lt;b&gt;_$x$" in source


@pytest.mark.parametrize("arms", [["real", "cls", "medi"], ["medi", "new"], ["new", "medi", "cls", "oversampled"]])
def test_an_arm_keeps_its_color_whatever_else_is_shown(arms):
    styles = arm_looks(arms)
    assert styles["medi"] == arm_look("medi") and len(set(styles.values())) == len(arms)


def test_a_forest_has_points_and_intervals_where_they_belong():
    arms = {"real": {"mcc": Figure(0.3, (0.2, 0.5))}, "medi": {"mcc": Figure(None)}}
    axes = forest_plot(arms, {"mcc": "MCC"}, {"real": "real", "medi": "Real + MeDi"}).axes[0]
    interval, point = axes.lines
    assert list(interval.get_xdata()) == [0.2, 0.5] and list(point.get_xdata()) == [0.3]
    assert to_hex(point.get_color()) == ARMS["real"].color
    assert [text.get_text() for text in axes.texts] == ["undefined"]


def test_ranges_of_a_sweep_lie_within_its_axes():
    points = [SweepPoint(point, "medi", 3, 1, 0.5, (0.05, 0.95), None, None, 100.0, 100.0) for point in (25, 1600)]
    left, right = sweep_curves(points, "images", {"medi": "medi"}, log=True).axes
    low, high = left.get_ylim()
    assert low <= 0.05 and high >= 0.95 and left.get_xscale() == "log"
    assert left.get_xlim()[0] <= 25 and left.get_xlim()[1] >= 1600
    assert [text.get_text() for text in right.texts] == ["undefined"]

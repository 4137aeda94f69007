import copy
import html
import json
import re

import numpy as np
import pytest

from medi_monai.report import write_evaluation_page
from medi_monai.report.combinations import MOST_WORST
from medi_monai.report.evaluation_page import FLOOR, REAL
from medi_monai.report.sections import DISTANCES, QUALITY

METRICS = (*DISTANCES, *QUALITY)


def figure(value, low=None, high=None, n=640, **more):
    return {"value": value, "ci95": None if low is None else [low, high], "n": n, **more}


def combinations(pairs, level):
    return [
        {"tumor": tumor, "center": center, "seen": place % 3 > 0, "floor": 1.0 + place / 10, "num_combinations": 1}
        | figure(level + place / 10, n=64)
        for place, (tumor, center) in enumerate(pairs)
    ]


def arm(level, pairs):
    parts = {}
    for metric in METRICS:
        parts[metric] = {
            part: figure(level * scale, 0.9 * level * scale, 1.1 * level * scale, num_combinations=len(pairs))
            for part, scale in (("mean", 1.0), ("seen", 0.8), ("unseen", 1.3))
        } | {"floor": figure(2.5, 2.25, 2.75), "floor_seen": figure(2.0), "floor_unseen": figure(3.5)}
        parts[metric]["by_combination"] = combinations(pairs, level)
        parts[metric]["by_label"] = {
            tumor: figure(level, n=320, floor=2.4, pooled=figure(level / 2, range_over_halves=[1.23, 4.56]),
                          pooled_floor=figure(0.77)) for tumor in sorted({pair[0] for pair in pairs})
        }  # fmt: skip
    parts["frechet_distance"]["all_images"] = figure(0.0345)
    return parts | {
        "label_fidelity": figure(0.86868, 0.85, 0.88, by_value={pairs[0][0]: 0.7123}),
        "attribute_fidelity": {"center": figure(0.127, 0.113, 0.143)},
        "diversity": figure(0.4321, n=10),
        "memorization": {
            "distance": 3.0,
            "copies": figure(0.008, 0.004, 0.012),
            "correlation": 0.951,
            "ratio": 0.97,
            "nearer": figure(0.512, 0.48, 0.545),
        },
    }


def evaluation(names=("cls", "medi"), pairs=None):
    pairs = pairs or [(f"T{row}", f"C{column}") for row in range(3) for column in range(8)]
    ceiling = {"value": 0.91, "chance": 1 / 3, "n": 900, "num_values": 3}
    return {
        "label": "tumor",
        "attributes": ["center"],
        "encoder": {"name": "embedded", "dim": 81, "mean": [0.0, 0.0, 0.0], "weights_sha256": "0f12"},
        "settings": {"min_images": 16, "k": 5, "image_size": 32, "arms": dict.fromkeys(names, "sampled")},
        "settings_that_differ": {},
        "digests": {"cohort": "44316a"},
        "real": {
            "floor": {metric: figure(2.5, 2.25, 2.75, num_combinations=24) for metric in METRICS},
            "label_fidelity": ceiling,
            "attribute_fidelity": {"center": {**ceiling, "value": 0.998}},
            "diversity": figure(0.4111, n=10),
            "memorization": {"distance": 3.1, "copies": figure(0.007, 0.004, 0.012), "correlation": 0.944, "ratio": 1},
        },
        "arms": {name: arm(12.0 + 20 * place, pairs) for place, name in enumerate(names)},
        "comparisons": [
            {"arms": list(names), "combinations": "all", "ratio_of_means": 28.37,
             "log_ratio": {"difference": figure(float(np.log(30.4)), float(np.log(22.4)), float(np.log(41.2))),
                           "p_value": 5e-5, "n": 24}}
        ],
    }  # fmt: skip


def undefined(content):
    """All floats None, as JSON has what is undefined; counts stay."""
    if isinstance(content, dict):
        return {name: undefined(value) for name, value in content.items()}
    if isinstance(content, list):
        return None if content and all(isinstance(value, float) for value in content) else [*map(undefined, content)]
    return None if isinstance(content, float) else content


def source_of(tmp_path, content, closest=None):
    return write_evaluation_page(content, closest or {}, tmp_path / "report.html").read_text(encoding="utf-8")


def text_of(tmp_path, content, closest=None):
    return html.unescape(source_of(tmp_path, content, closest)).replace("\xa0", " ")


def row_of(text, name, nth=0):
    rows = re.findall(rf'<tr><th scope="row">{re.escape(name)}</th>(.*?)</tr>', text)
    return re.findall(r"<td[^>]*>(.*?)</td>", rows[nth])


def test_figures_stand_in_the_row_of_their_arm_beside_the_floor(tmp_path):
    text = text_of(tmp_path, json.loads(json.dumps(evaluation())))
    assert row_of(text, FLOOR)[:3] == ["2.50 (2.25 to 2.75)", "2.00", "3.50"]
    assert row_of(text, "Class-only (CLS)")[:3] == ["12.0 (10.8 to 13.2)", "9.60 (8.64 to 10.6)", "15.6 (14.0 to 17.2)"]
    assert row_of(text, "MeDi")[0] == "32.0 (28.8 to 35.2)" and row_of(text, "MeDi")[-1] == "12.8"
    assert row_of(text, "Class-only (CLS)", 1)[-1] == "0.432" and row_of(text, FLOOR, 1)[-1] == "0.411"
    assert row_of(text, "Class-only (CLS)", 2) == ["86.9% (85.0% to 88.0%)", "12.7% (11.3% to 14.3%)"]
    assert row_of(text, REAL) == ["91.0%", "99.8%"] and "Chance: tumor 33.3%, center 33.3%." in text
    memorization = ["0.8% (0.4% to 1.2%)", "51.2% (48.0% to 54.5%)", "0.970", "0.951"]
    assert row_of(text, "Class-only (CLS)", 3) == memorization
    assert row_of(text, "Held-out real images") == ["0.7% (0.4% to 1.2%)", "–", "1.00", "0.944"]
    assert row_of(text, "T0")[:3] == ["0.770", "6.00 (1.23 to 4.56)", "16.0 (1.23 to 4.56)"]
    assert "71.2%" in row_of(text, "T0") and "Class-only (CLS) 0.0345" in text
    assert "<td>30.4 (22.4 to 41.2)</td><td>&lt; 0.001</td>" in text.replace("< 0.001", "&lt; 0.001")
    assert "weights sha256" in text and "44316a" in text and text.count("<img") == 3


def test_what_a_reader_has_to_know_is_a_notice(tmp_path):
    content = evaluation()
    assert 'class="notice' not in source_of(tmp_path, content)
    content["settings_that_differ"] = {"steps": {"cls": 50, "medi": 100}}
    content["arms"]["medi"]["memorization"] |= {
        "copies": figure(0.2, 0.18, 0.22),
        "nearer": figure(0.6, 0.55, 0.65),
    }
    content["arms"]["medi"]["frechet_distance"]["mean"] = figure(1.0, 0.9, 1.1)
    text = text_of(tmp_path, content)
    assert "steps (Class-only (CLS): 50, MeDi: 100)" in text and "real images of other patients are: MeDi." in text
    assert "MeDi reproduces training images: 20.0% (18.0% to 22.0%)" in text
    assert "CLS) reproduces" not in text


@pytest.mark.parametrize(("matched", "sentence"), [(20, "Few images could be matched: median 20"), (64, None)])
def test_few_matched_images_call_for_a_warning(tmp_path, matched, sentence):
    content = evaluation()
    for figures in content["arms"].values():
        for row in figures["frechet_distance"]["by_combination"]:
            row["n"] = matched
    text = text_of(tmp_path, content)
    assert (sentence in text) if sentence else "Few images" not in text


def test_few_and_missing_combinations_are_told(tmp_path):
    content = evaluation(pairs=[("T0", "C0"), ("T0", "C1"), ("T1", "C1"), ("T1", "C2")])
    for figures in content["arms"].values():
        figures["frechet_distance"]["by_combination"][0] |= {"n": 0, "value": None, "floor": None}
        figures["frechet_distance"]["by_combination"][3] |= {"n": 0, "value": None, "floor": None}
    text = text_of(tmp_path, content)
    assert (
        "Only 2 combinations were compared" in text
        and "2 of 4 combinations are excluded: they have fewer than 16" in text
    )
    assert "No combination not in training has enough images" in text and "one patient" not in text
    for figures in content["arms"].values():
        figures["frechet_distance"]["by_combination"][1]["one_patient"] = True
    assert "In 1 of 2 combinations all real images come from one patient" in text_of(tmp_path, content)


def test_what_is_undefined_is_a_dash_with_its_count(tmp_path):
    content = undefined(evaluation(names=("another",)))
    content["comparisons"] = []
    for row in content["arms"]["another"]["frechet_distance"]["by_combination"]:
        row["n"] = 0
    text = text_of(tmp_path, content)
    assert row_of(text, "another")[0] == "– (n = 640)" and "Not reported: no combination has enough images." in text
    shown = re.sub(r'src="data:[^"]*"', "", text.partition("<main>")[2])
    assert not re.search(r"\b(nan|NaN|None|inf)\b", shown)


def test_many_combinations_become_a_distribution_and_the_worst(tmp_path):
    pairs = [(f"T{row:02d}", f"C{column:03d}") for row in range(32) for column in range(185) if (row + column) % 8 == 0]
    text = text_of(tmp_path, evaluation(pairs=pairs))
    assert f"Share of the {len(pairs):,} combinations" in text
    assert f"The {MOST_WORST} combinations with the largest distance" in text and text.count("<img") == 2
    shown = re.findall(r'<tr><th scope="row">(T\d\d · C\d\d\d)</th>', text)
    assert shown == [" · ".join(pair) for pair in pairs[::-1][:MOST_WORST]] and len(text) < 400_000


def test_names_are_escaped_and_no_formula(tmp_path):
    pairs = [("<script>x</script>", "$\\frac$"), ("b & c", "_d" * 60)]
    source = source_of(tmp_path, evaluation(names=("_<b>a", "medi"), pairs=pairs))
    assert "<script>" not in source and "_<b>a" not in source and "&lt;script&gt;x" in source


def test_closest_pairs_are_shown_for_arms_and_for_held_out_images(tmp_path):
    image = np.zeros((16, 16, 3), np.uint8)
    pairs = [(image, image, 0.9 - place / 10) for place in range(2)]
    text = text_of(tmp_path, evaluation(), {"held_out": pairs, "cls": pairs, "medi": []})
    assert text.count("<img") == 3 + 4 and text.count("correlation 0.900") == 4
    assert text.index("<p>Held-out real images") < text.rindex("<p>Class-only (CLS)") and "<p>MeDi</p>" not in text


def test_a_second_attribute_is_in_the_names_and_averaged_in_the_map(tmp_path):
    content = evaluation()
    content["attributes"] = ["center", "race"]
    for figures in content["arms"].values():
        for metric in METRICS:
            rows = figures[metric]["by_combination"]
            figures[metric]["by_combination"] = [{**row, "race": race} for row in rows for race in ("a", "b")]
        figures["attribute_fidelity"]["race"] = None
    text = text_of(tmp_path, copy.deepcopy(content))
    assert "Each cell is the mean over race." in text and "race predicted as requested" in text

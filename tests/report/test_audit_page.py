import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from medi_monai.cohort.audit import audit_cohort
from medi_monai.cohort.demo.cohort import demo_slide_table
from medi_monai.report.audit_page import HELD_OUT, association_bars, count_heat_map, write_audit_page
from medi_monai.utils.errors import InputError


def cohort(num_classes=3, num_centers=5, patients=80, seed=0):
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"patient": [f"p{place}" for place in range(patients)]})
    table["slide"] = table["patient"] + "-1"
    table["image"] = table["slide"] + "/0.png"
    table["tumor"] = [f"t{value}" for value in rng.integers(num_classes, size=patients)]
    table["center"] = [f"center {value}" for value in rng.integers(num_centers, size=patients)]
    table["split"] = np.where(table["tumor"].eq("t0") & table["center"].eq("center 1"), "holdout", "train")
    return table


def page_of(tmp_path, audit, **arguments):
    return html.unescape(write_audit_page(audit, tmp_path / "audit.html", **arguments).read_text(encoding="utf-8"))


def test_every_finding_is_on_the_page_and_the_audit_may_come_from_json(tmp_path):
    audit = json.loads(json.dumps(audit_cohort(cohort(), "tumor", ["center"])))
    text = page_of(tmp_path, audit)
    assert audit["findings"] and all(finding["text"] in text for finding in audit["findings"])
    assert "No leakage: no patient, slide, or image is in more than one split." in text
    assert text.count("<img") == 2


def test_leakage_stands_in_place_of_the_all_clear(tmp_path):
    table = cohort()
    table = pd.concat([table, table[table["split"] == "train"].head(1).assign(split="holdout")])
    text = page_of(tmp_path, audit_cohort(table, "tumor", ["center"]))
    assert "No leakage" not in text and text.count('class="notice error"') == 3
    assert "Patients: 1 (2 rows)" in text and "train, holdout" in text


def numbers_of(figure):
    axes = figure.axes[0]
    return {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}


def frames_of(figure):
    return {
        (round(patch.get_y() + 0.44), round(patch.get_x() + 0.44))
        for patch in figure.axes[0].patches
        if to_hex(patch.get_edgecolor()) == HELD_OUT
    }


def test_the_heat_map_shows_each_count_where_it_belongs():
    table = pd.DataFrame([[1, 0, 999], [12_345, 1_234, 0]], index=["x", "y"], columns=["a", "b", "c"])
    figure = count_heat_map(table, {("x", "b"), ("y", "a")})
    assert numbers_of(figure) == {(0, 0): "1", (0, 2): "999", (1, 0): "12k", (1, 1): "1.2k"}
    assert frames_of(figure) == {(0, 1), (1, 0)}
    dots = figure.axes[0].lines[0]
    assert sorted(zip(dots.get_ydata(), dots.get_xdata())) == [(0, 1), (1, 2)]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["a", "b", "c"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["x", "y"]


def test_darker_is_more_and_a_single_patient_is_not_white():
    figure = count_heat_map(pd.DataFrame([[1, 10, 100, 1000]], index=["x"], columns=list("abcd")))
    image = figure.axes[0].images[0]
    shades = image.to_rgba(image.get_array())[0, :, :3].mean(axis=1)
    assert (np.diff(shades) < -0.1).all() and shades[0] < 0.95


def test_names_are_taken_as_they_are():
    name = r"$\frac$ of a" + "\n very long name of a hospital that goes on and on"
    figure = count_heat_map(pd.DataFrame({name: [1]}, index=["$"]))
    figure.savefig(io.BytesIO())
    assert figure.axes[0].get_xticklabels()[0].get_text() == r"$\frac$ of a very long name of a …"


def test_a_large_table_is_cut_to_its_largest_values_and_says_so(tmp_path):
    audit = audit_cohort(cohort(32, 200, 4000), "tumor", ["center"])
    text = page_of(tmp_path, audit)
    assert "Of 200 values, the 40 with the most patients are shown." in text
    counts = cohort(32, 200, 4000)["center"].value_counts()
    assert f"The values not shown contain {1 - counts.head(40).sum() / 4000:.0%} of patients" in text


def test_what_is_held_out_and_never_trained_is_framed(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "medi_monai.report.audit_page.count_heat_map",
        lambda table, framed: drawn.append((table, framed)) or count_heat_map(table, framed),
    )
    table = cohort()
    shared = table[table["split"] == "train"].head(1).assign(patient="other", slide="other", split="holdout")
    unknown = table.head(3).assign(center="")
    text = page_of(tmp_path, audit_cohort(pd.concat([table, shared, unknown]), "tumor", ["center"]))
    ((counts, framed),) = drawn
    assert framed == {("t0", "center 1")} and "Red frames mark held-out combinations" in text
    patients = pd.concat([table, shared]).groupby(["tumor", "center"])["patient"].nunique()
    assert list(counts.columns) == list(table["center"].value_counts().index) and "" not in counts.columns
    assert counts.stack()[lambda cells: cells > 0].sort_index().to_dict() == patients.to_dict()


def test_bins_of_numbers_keep_their_order(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "medi_monai.report.audit_page.count_heat_map",
        lambda table, framed: drawn.append(list(table.columns)) or count_heat_map(table, framed),
    )
    table = cohort().assign(age=[str(5 + place * 17 % 101) for place in range(80)])
    page_of(tmp_path, audit_cohort(table, "tumor", ["age"], continuous=["age"]))
    lows = [float(name.split(" to ")[0]) for name in drawn[0]]
    assert lows == sorted(lows) and lows[0] < 10 < 100 < lows[-1] + 20


def test_the_bars_are_the_figures_of_training():
    table = cohort().assign(code=lambda rows: rows["tumor"], one="same")
    audit = audit_cohort(table, "tumor", ["center", "code", "one"])
    left, right = association_bars(audit).axes
    trained = [audit["attributes"][name]["association"]["train"] for name in ("center", "code", "one")]
    widths = [bar.get_width() for bar in left.patches]
    assert widths[::2] == [figures["cramers_v"]["value"] or 0 for figures in trained]
    assert widths[1::2] == [figures["normalized_mutual_information"]["value"] or 0 for figures in trained]
    assert [bar.get_width() for bar in right.patches] == [f["majority_rule"]["balanced_accuracy"] for f in trained]
    assert [text.get_text() for text in left.texts] == ["undefined"]


def near_duplicates(table):
    hashes = np.arange(1, len(table) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    first, second = (np.flatnonzero(table["split"] == name)[0] for name in ("train", "holdout"))
    hashes[second] = hashes[first] ^ np.uint64(1)
    return hashes, table["image"].iloc[[first, second]].tolist()


def test_near_duplicates_are_shown_side_by_side(tmp_path):
    table = cohort()
    hashes, names = near_duplicates(table)
    audit = audit_cohort(table, "tumor", ["center"], hashes=hashes)
    asked = []
    text = page_of(tmp_path, audit, thumbnails=lambda name: asked.append(name) or np.full((9, 9, 3), 99, np.uint8))
    assert sorted(asked) == sorted(names) and text.count("<img") == 3
    assert "1 of 64 bits differ" in text and "Near-duplicate pairs: 1 (2 rows)" in text
    assert page_of(tmp_path, audit).count("<img") == 2


@pytest.mark.parametrize("error", [InputError("no such file"), FileNotFoundError("gone")])
def test_an_image_that_cannot_be_read_is_left_out(tmp_path, error):
    def fail(name):
        raise error

    table = cohort()
    audit = audit_cohort(table, "tumor", ["center"], hashes=near_duplicates(table)[0])
    text = page_of(tmp_path, audit, thumbnails=fail)
    assert text.count("<img") == 2 and "Near-duplicate pairs: 1" in text


def test_pages_of_poor_cohorts(tmp_path):
    """No split, no attribute, no value, no patient, one class: each is a page, and none says nan."""
    table = cohort()
    audits = [
        audit_cohort(table.drop(columns=["split", "image"]), "tumor", ["center"], split=None),
        audit_cohort(table, "tumor", []),
        audit_cohort(table.assign(center=""), "tumor", ["center"]),
        audit_cohort(table.assign(patient=""), "tumor", ["center"]),
        audit_cohort(table.assign(tumor="t0"), "tumor", ["center"]),
        audit_cohort(table.assign(split="excluded"), "tumor", ["center"]),
        audit_cohort(table.head(1), "tumor", ["center"]),
    ]
    for audit in audits:
        text = re.sub(r"base64,[^\"]*", "", page_of(tmp_path, audit))
        assert "nan" not in text and "None" not in text


def test_names_cannot_break_the_page(tmp_path):
    name = "<script>alert(1)</script>"
    table = cohort().assign(center=name, patient=lambda rows: name + rows["patient"])
    table = pd.concat([table, table.head(1).assign(split="val")])
    write_audit_page(audit_cohort(table, "tumor", ["center"]), tmp_path / "audit.html")
    assert "<script>" not in (tmp_path / "audit.html").read_text()


def test_the_page_of_the_demo(tmp_path):
    table = demo_slide_table().rename(columns={"slide_submitter_id": "slide", "case_submitter_id": "patient"})
    audit = audit_cohort(table, "project_id", ["center", "tissue_source_site"], split=None)
    text = page_of(tmp_path, audit, title="The demo")
    assert "<h1>The demo</h1>" in text
    assert "32 of 32 values of tissue_source_site occur in only one project_id" in text


def test_the_page_of_tcga(tmp_path, real_data):
    slides = pd.read_csv(real_data / "tcga" / "slides.csv", dtype=str, keep_default_na=False)
    slides["site"] = slides["case_submitter_id"].str.split("-").str[1]
    roles = {"patient": "case_submitter_id", "slide": "slide_submitter_id"}
    text = page_of(tmp_path, audit_cohort(slides, "project_id", ["site", "race"], split=None, **roles))
    assert "8,726 rows, 8,726 slides, and 7,168 patients in 32 classes of project_id." in text
    assert "Of 626 values, the 40 with the most patients are shown." in text

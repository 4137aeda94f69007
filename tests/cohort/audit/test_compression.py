"""Compression by center: files of known qualities, found from the cohort that was cut from them."""

import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import medi_monai.cohort.audit.compression as compression
from medi_monai.cohort import Cohort, Cutting, ImageTable, Preparation, SplitScheme, prepare
from medi_monai.cohort.audit import audit_cohort, compression_columns
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.cohort.folder import SETTINGS_FILE
from medi_monai.wsi import PatchGrid

QUALITIES = {"north": 72, "south": 90}


def patches(root, num_patients=12, per_patient=2):
    """JPEG patches: half of the centers have one quality, those of the west are PNG."""
    rng, rows = np.random.default_rng(0), []
    for patient in range(num_patients):
        center = ("north", "south", "west")[patient % 3]
        for number in range(per_patient):
            pixels = Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            name = f"{patient}-{number}" + (".png" if center == "west" else ".jpg")
            pixels.save(root / name, **({"quality": QUALITIES[center]} if center in QUALITIES else {}))
            rows.append((name, f"s{patient}", f"p{patient}", "ab"[patient % 2], center, "train"))
    columns = ["image", "slide", "patient", "tumor", "center", "split"]
    return Cohort(pd.DataFrame(rows, columns=columns), root)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return patches(tmp_path_factory.mktemp("patches"))


def audited(cohort, **arguments):
    return audit_cohort(cohort.table.assign(**compression_columns(cohort)), "tumor", ["center"], **arguments)


def test_one_image_per_patient_is_inspected(cohort):
    columns = compression_columns(cohort)
    inspected = columns["compression"] != ""
    assert cohort.table["patient"][inspected].tolist() == cohort.table["patient"].unique().tolist()
    by_center = columns[inspected].groupby(cohort.table["center"]).agg(set)
    assert by_center["jpeg_quality"].to_dict() == {"north": {"72"}, "south": {"90"}, "west": {""}}
    assert by_center["lossy"].to_dict() == {"north": {"yes"}, "south": {"yes"}, "west": {"no"}}


def test_the_choice_depends_on_the_seed_alone(cohort, monkeypatch):
    monkeypatch.setattr(compression, "MAX_PATIENTS", 5)
    order = np.random.default_rng(1).permutation(len(cohort))
    shuffled = Cohort(cohort.table.iloc[order].reset_index(drop=True), cohort.root)
    columns, other = compression_columns(cohort), compression_columns(shuffled)
    assert (columns["compression"] != "").sum() == 5
    pd.testing.assert_frame_equal(columns.iloc[order].reset_index(drop=True), other)
    assert not columns.equals(compression_columns(cohort, seed=1))


def test_section_finding_and_association(cohort):
    audit = audited(cohort)
    section = audit["compression"]
    assert section["all"]["images"] == 12 and section["all"]["lossy"] == pytest.approx(2 / 3)
    assert section["all"]["schemes"] == pytest.approx({"JPEG": 2 / 3, "PNG": 1 / 3})
    assert [group["value"] for group in section["by"]["center"]] == ["north", "south", "west"]
    assert section["by"]["center"][0] == {
        **{"value": "north", "images": 4, "schemes": {"JPEG": 1.0}, "lossy": 1.0},
        "quality": {"median": 72.0, "lowest": 72.0, "highest": 72.0},
    }
    assert section["by"]["center"][2]["quality"] is None
    found = {finding["name"]: finding for finding in audit["findings"]}
    text = found["compression_differs"]["text"]
    assert "JPEG (north) and PNG (west)" in text
    assert "median JPEG quality 72 (north) to 90 (south)" in text
    warned = [f["figures"] for f in audit["findings"] if f["name"] == "property_differs"]
    assert ("compression", "center") in [(figures["property"], figures["target"]) for figures in warned]


def test_no_finding_without_a_difference(cohort):
    north = cohort.table[cohort.table["center"] == "north"].reset_index(drop=True)
    audit = audited(Cohort(north, cohort.root))
    assert "compression_differs" not in [finding["name"] for finding in audit["findings"]]


def test_quality_that_gives_the_class_away_is_a_warning(tmp_path):
    cohort = patches(tmp_path, 36, 1)
    tumors = cohort.table["center"].map({"north": "a", "south": "b", "west": "b"})
    audit = audited(Cohort(cohort.table.assign(tumor=tumors), tmp_path))
    warned = [finding["figures"] for finding in audit["findings"] if finding["name"] == "property_differs"]
    assert ("jpeg_quality", "tumor") in [(figures["property"], figures["target"]) for figures in warned]


def test_a_table_without_images_has_no_section(cohort, tmp_path):
    assert audited(Cohort(cohort.table, tmp_path / "elsewhere"))["compression"] is None
    assert audit_cohort(cohort.table, "tumor", ["center"])["compression"] is None


@pytest.mark.parametrize("patch_format", ["png", "jpeg", "none"])
def test_patches_are_traced_to_their_slides(tmp_path, patch_format, monkeypatch):
    # in this process, for a new one takes seconds to start
    here = lambda function, jobs, *_: (function(job) for job in jobs)  # noqa: E731
    monkeypatch.setattr(sys.modules["medi_monai.cohort.patches"], "map_processes", here)
    (tmp_path / "data").mkdir()
    rng, rows = np.random.default_rng(0), []
    for number, quality in enumerate((60, 85, 70, 90)):
        pixels = np.full((128, 128, 3), (180, 90, 160)) + rng.integers(-40, 40, (128, 128, 1))
        write_pyramid(tmp_path / "data" / f"s{number}.tiff", pixels.astype(np.uint8), 0.5, quality)
        rows.append((f"s{number}.tiff", f"s{number}", f"p{number}", "ab"[number % 2], "xy"[number // 2]))
    table = pd.DataFrame(rows, columns=["image", "slide", "patient", "tumor", "center"])
    table.to_csv(tmp_path / "data" / "slides.csv", index=False)
    source = ImageTable(tmp_path / "data", "slides.csv", "tumor", ["center"])
    scheme = SplitScheme(["tumor", "center"], name="site_holdout", values=["y"], val_fraction=0.0)
    cutting = Cutting(PatchGrid(32, 1.0, min_tissue=0.0), patch_format)
    cohort = prepare(Preparation(source, cutting, scheme), tmp_path / "cohort")
    columns = compression_columns(cohort)
    # all patches of a slide share its file
    qualities = {"s0": "60", "s1": "85", "s2": "70", "s3": "90"}
    assert columns["jpeg_quality"].tolist() == cohort.table["slide"].map(qualities).tolist()


def test_images_whose_files_are_not_recorded(cohort, tmp_path):
    (tmp_path / SETTINGS_FILE).write_text("{}")
    captioned = cohort.table.assign(image="patches/" + cohort.table["image"])
    assert (compression_columns(Cohort(captioned, tmp_path)) == "").all(axis=None)

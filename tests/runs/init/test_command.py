import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from phantom import affine, head, write_dicom
from PIL import Image

from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.cohort.settings import CohortSettings, patch_preparation
from medi_monai.runs.configs.files import read_config_file
from medi_monai.runs.init import propose_overlay
from medi_monai.runs.init.command import flow
from medi_monai.utils.errors import InputError


@pytest.fixture
def work(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def picture(path, side=64, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(path)


def proposed(work, capsys):
    (overlay,) = (work / "work").glob("*.yaml")
    return read_config_file(overlay), capsys.readouterr().out


def test_patches_in_folders(work, capsys):
    for center in ("Aspen hospital", "Birch hospital"):
        for label in ("tumor", "normal"):
            for patient in range(2):
                picture(work / "my data" / center / label / f"{center[0]}{label[0]}{patient}_1.png")
    propose_overlay(work / "my data")
    overlay, out = proposed(work, capsys)
    assert overlay["table"] == "{center}/{diagnosis}/{patient}_*.png" and overlay["unit"] == "patches"
    assert overlay["subpopulation_columns"] == ["diagnosis", "center"]
    assert (overlay["mpp"], overlay["source_mpp"], overlay["image_size"]) == (0.5, 0.5, 64)
    assert "8 patches can be used, of 8 patients" in out and "source_mpp: 0.5 is a guess" in out
    assert re.search(
        r"run preparing --bundle_root \S*pathology_medi_diffusion .*\\\n.*prepare.json', 'my_data.yaml'", out
    )


def test_slides_with_a_messy_table(work, capsys):
    root = work / "slides"
    (root / "scans").mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    rows = []
    for n in range(4):
        write_pyramid(root / "scans" / f"S-{n}.{n}77.tiff", pixels, 0.25)
        rows.append((f"S-{n}", f"P{n}", ["Köln", "Aspen"][n % 2], ["A", "a"][n % 2], ["F", "?"][n % 2]))
    table = pd.DataFrame(rows, columns=["Slide No.", "Patient", "Hospital", "Diagnosis", "sex"])
    table.to_csv(root / "export.csv", sep=";", index=False, encoding="cp1252")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    propose_overlay(root / "export.csv", Path("mine.yaml"))
    overlay, out = proposed(work, capsys)
    assert overlay["table"] == {"path": "export.csv", "encoding": "cp1252"} and overlay["unit"] == "slides"
    assert overlay["columns"] == {
        "image": "scans/{Slide No.}.*.tiff", "slide": "Slide No.", "patient": "Patient", "mpp": None
    }  # fmt: skip
    assert overlay["mapping"]["diagnosis"] == {"column": "Diagnosis", "merge": {"A": ["a"]}}
    assert "source_mpp" not in overlay and "sex" not in overlay["metadata_columns"]
    assert "4 slides can be used, of 4 patients" in out and "column 'sex': looks like the sex, but has 1 value" in out
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    known = {name: value for name, value in overlay.items() if name in CohortSettings.model_fields}
    rows = patch_preparation(CohortSettings(**known)).source.rows()
    assert set(rows["diagnosis"]) == {"A"} and set(rows["center"]) == {"Köln", "Aspen"}


def test_volumes_with_a_table_of_participants(work, capsys):
    rows = []
    for n in range(4):
        for kind in ("T1w", "seg"):
            path = work / "bids" / f"sub-{n}" / "anat" / f"sub-{n}_{kind}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        rows.append((f"sub-{n}", "MF"[n % 2], 40 + n, "AB"[n // 2]))
    table = pd.DataFrame(rows, columns=["participant_id", "sex", "age", "site"])
    table.to_csv(work / "bids" / "participants.tsv", sep="\t", index=False)
    propose_overlay(work / "bids")
    overlay, out = proposed(work, capsys)
    assert overlay["columns"]["image"] == "{participant_id}/anat/{participant_id}_T1w.nii.gz"
    assert overlay["attributes"] == ["center", "sex", "age"] and overlay["attribute"] == "sex"
    assert overlay["templates"]["words"]["sex"] == {"F": "woman", "M": "man"}
    assert "volumes of another kind: seg" in out and "brain_mri_fair_text_diffusion" in out


def test_slides_of_patients_in_a_table_of_patients(work, capsys):
    (work / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    rows = []
    for n in range(6):
        for k in (1, 2):
            write_pyramid(work / "data" / f"P{n}_{k}.tiff", pixels, 0.25)
        rows.append((f"P{n}", "AB"[n % 2], "Aspen" if n < 3 else "Birch", "FM"[n % 2]))
    table = pd.DataFrame(rows, columns=["Pat.-Nr.", "Diagnose", "Klinik", "Geschlecht"])
    table.to_csv(work / "data" / "clinical.csv", sep=";", index=False)
    propose_overlay(work / "data")
    overlay, out = proposed(work, capsys)
    assert overlay["table"] == {
        "layout": "folders", "path": "{patient}_*.tiff", "clinical": "clinical.csv", "key": "Pat.-Nr."
    }  # fmt: skip
    assert (overlay["label"], overlay["metadata_columns"]) == ("diagnose", ["center", "sex"])
    assert "12 slides can be used, of 6 patients" in out and "slides by diagnose: A 6, B 6" in out
    assert "slides by center: Aspen 6, Birch 6" in out and "slides by sex: F 6, M 6" in out


def test_volumes_of_several_visits_with_a_table_of_participants(work, capsys):
    rows = []
    for n in range(6):
        for visit in (1, 2):
            for kind in ("T1w", "FLAIR"):
                path = work / "bids" / f"sub-{n}" / f"ses-{visit}" / f"sub-{n}_ses-{visit}_{kind}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
        rows.append((f"sub-{n}", "MF"[n % 2], 40 + n))
    pd.DataFrame(rows, columns=["participant_id", "sex", "age"]).to_csv(
        work / "bids" / "participants.tsv", sep="\t", index=False
    )
    propose_overlay(work / "bids")
    overlay, out = proposed(work, capsys)
    assert overlay["table"] == {
        "layout": "folders", "path": "{patient}/*/{patient}_*_FLAIR.nii.gz", "clinical": "participants.tsv",
        "key": "participant_id",
    }  # fmt: skip
    assert overlay["attributes"] == ["sex", "age"] and overlay["templates"]["words"]["sex"] == {
        "F": "woman",
        "M": "man",
    }
    assert "36 slices of 12 volumes can be used, of 6 patients" in out and "slices by sex: F 18, M 18" in out
    assert "volumes of another kind: t1w" in out and "12 files will not be used" in out


def test_dicom_without_suffixes(work, capsys):
    pytest.importorskip("pydicom", reason='pydicom is not installed: pip install "medi_monai[mr]"')
    for n in range(4):
        tags = {"PatientID": f"P{n}", "PatientSex": "FM"[n % 2], "InstitutionName": "North", "Manufacturer": "GE"}
        write_dicom(work / "scans" / str(n), head(), affine(), f"1.2.{n}", PatientAge=f"0{50 + n}Y", **tags)
        for file in (work / "scans" / str(n)).iterdir():
            file.rename(file.with_suffix(""))
    propose_overlay(work / "scans")
    overlay, out = proposed(work, capsys)
    assert overlay["table"] == {"layout": "dicom", "path": "."} and overlay["attributes"] == ["sex", "age"]
    assert overlay["mapping"] == {"sex": {"column": "PatientSex"}, "age": {"column": "PatientAge"}}
    assert "4 series of 4 patients" in out and "12 slices of 4 volumes can be used" in out
    assert "tag InstitutionName: 'North' in all series" in out and "tag MagneticFieldStrength: empty" in out


def test_of_several_series_one_kind_is_chosen(work, capsys):
    pytest.importorskip("pydicom", reason='pydicom is not installed: pip install "medi_monai[mr]"')
    for n in range(4):
        # FLAIR is preferred, but few patients have it; a localizer is none
        for k, kind in enumerate(("localizer", "t2_tse [tra]", "T1 MPRAGE", *(["FLAIR"] if n == 0 else []))):
            folder = work / "scans" / str(n) / str(k)
            write_dicom(folder, head(), affine(), f"1.{n}.{k}", PatientID=f"P{n}", SeriesDescription=kind)
    propose_overlay(work / "scans")
    overlay, out = proposed(work, capsys)
    assert overlay["table"] == {"layout": "dicom", "path": ".", "series": "T1 MPRAGE"}
    assert "FLAIR (1), localizer (4), t2_tse [tra] (4); to take one, change `series`" in out
    assert "12 slices of 4 volumes can be used, of 4 patients" in out


def test_gray_pictures_with_captions_are_for_the_text_to_image_bundle(work, capsys):
    root = work / "slices"
    root.mkdir()
    for n in range(4):
        Image.fromarray(np.full((48, 64), 10 * n, np.uint8)).save(root / f"{n}.png")
    cells = {
        "image": [f"{n}.png" for n in range(4)],
        "patient": list("abcd"),
        "Report": [f"text {n}" for n in range(4)],
    }
    pd.DataFrame(cells | {"sex": ["F", "M"] * 2}).to_csv(root / "slices.csv", index=False)
    propose_overlay(root)
    overlay, out = proposed(work, capsys)
    assert overlay["columns"] == {"image": "{image}", "patient": "patient", "caption": "Report"}
    assert overlay["templates"] == {"words": {"sex": {"F": "woman", "M": "man"}}}
    assert "the pictures are gray" in out and "4 images can be used, of 4 patients" in out


def test_slides_without_anything_else_ask_for_a_class(work, capsys):
    (work / "wsi").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    write_pyramid(work / "wsi" / "a.tiff", pixels, 0.25)
    propose_overlay(work / "wsi")
    overlay, out = proposed(work, capsys)
    assert overlay["table"] == "{slide}.tiff" and overlay["columns"] == {"patient": None}
    assert "nothing tells classes apart" in out and "needs an edit first: unknown column 'diagnosis'" in out


def test_nothing_is_written_over(work):
    picture(work / "data" / "A" / "1.png")
    (work / "work" / "data.yaml").write_text("mine")
    with pytest.raises(InputError, match="data.yaml exists and is not overwritten"):
        propose_overlay(work / "data")
    assert (work / "work" / "data.yaml").read_text() == "mine"
    with pytest.raises(InputError, match="does not exist"):
        propose_overlay(work / "absent")
    (work / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image: files that end in"):
        propose_overlay(work / "empty")


@pytest.mark.parametrize(
    "value", ["no", "on", "null", "1", "a: b", "#x", "Köln", "'--", "{a}/*.png", "a\nb", True, 0.5]
)
def test_what_is_written_is_what_yaml_reads(value):
    text = flow({"k": [value, {"inner": value}]})
    assert yaml.safe_load(io.StringIO(f"x: {text}")) == {"x": {"k": [value, {"inner": value}]}}

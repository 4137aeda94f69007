"""Cohorts of volumes, from the settings to the squares."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from phantom import SPACING, affine, head, stored_as, write_dicom
from PIL import Image

from medi_monai.cohort import prepare
from medi_monai.cohort.captions import CaptionPreparation, CaptionTable, PatientSplit, SquareFit
from medi_monai.cohort.folder import read_rejected
from medi_monai.cohort.settings import CaptionSettings, caption_preparation
from medi_monai.cohort.volumes import VolumeRules
from medi_monai.cohort.volumes.rules import slice_of
from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers import PixelRules

nibabel = pytest.importorskip("nibabel", reason='nibabel is not installed: pip install "medi_monai[mr]"')
pytest.importorskip("pydicom", reason='pydicom is not installed: pip install "medi_monai[mr]"')

NUM_PATIENTS = 8
TEMPLATES = {"templates": ["FLAIR slice of a {sex}", "brain of a {sex}"], "words": {"sex": {"F": "woman", "M": "man"}}}


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A volume of each patient in an orientation of its own, brighter from one to the next."""
    root = tmp_path_factory.mktemp("volumes")
    rows = []
    for number, axes in enumerate(["RAS", "LPI", "PIR", "SAL", "ASR", "ILP", "LAS", "RPI"]):
        image = nibabel.Nifti1Image(*stored_as(head() + number, affine(), axes))
        nibabel.save(image, root / f"p{number}.nii.gz")
        rows.append((f"p{number}.nii.gz", f"P{number}", "FM"[number % 2]))
    pd.DataFrame(rows, columns=["image", "patient", "sex"]).to_csv(root / "volumes.csv", index=False)
    return root


def squares(cohort):
    return [np.asarray(Image.open(cohort.root / image)) for image in cohort.table["image"]]


def settings(root, **changes):
    given = {"dataset_dir": str(root), "table": "volumes.csv", "attributes": ["sex"], "templates": TEMPLATES}
    given |= {"columns": {"image": "{image}", "patient": "patient"}, "holdout_fraction": 0.25, "val_fraction": 0.25}
    return CaptionSettings(**{**given, "intensity_range": [0, 255], "image_size": 24, **changes})


@pytest.mark.parametrize(("plane", "axes"), [("axial", (1, 0)), ("coronal", (2, 0)), ("sagittal", (2, 1))])
def test_slices_of_every_volume_at_one_spacing(volumes, tmp_path, plane, axes):
    # as many pixels as voxels down, and fewer across
    spacing = SPACING[axes[0]]
    made = caption_preparation(settings(volumes, plane=plane, slices=[12, 15], spacing=spacing, pad="black"), None)
    cohort = prepare(made, tmp_path / "out")
    table = cohort.table
    assert len(table) == 2 * NUM_PATIENTS and set(table["slide"]) == {f"p{number}.nii.gz" for number in range(8)}
    assert table.groupby("patient")["split"].nunique().max() == 1
    assert set(table["split"]) == {"train", "val", "holdout"}
    quality = pd.read_parquet(cohort.root / "quality.parquet")
    size = np.array(head().shape)[list(axes)]
    assert (quality[["height", "width"]] == size).all(axis=None)
    for number, square in enumerate(squares(cohort)):
        voxels = np.minimum(255, slice_of(head() + int(table["patient"][number][1:]), plane, (12, 15)[number % 2]))
        # every voxel in 12 parts across, of which a pixel has 18, 24 or 16
        parts, width = np.repeat(voxels, 12, axis=1), round(12 * spacing / SPACING[axes[1]])
        margin = 24 * width - parts.shape[1]
        if margin > 0:
            parts = np.pad(parts, ((0, 0), (margin // 2, margin // 2)))
        else:
            parts = parts[:, -margin // 2 : 24 * width - margin // 2]
        expected = parts.reshape(len(parts), 24, width).mean(axis=2)
        top = (len(expected) - 24) // 2
        np.testing.assert_allclose(square, expected[top : top + 24], atol=0.51)


def test_without_a_spacing_the_whole_slice_is_shown_with_square_pixels(volumes, tmp_path):
    made = caption_preparation(settings(volumes, plane="coronal", image_size=48, slices=1), None)
    assert made.source.volumes == VolumeRules("coronal", 1, [0.3, 0.7])
    cohort = prepare(made, tmp_path / "out")
    for patient, square in zip(cohort.table["patient"], squares(cohort)):
        # tissue from 5 to 34: the middle slice; 32 x 24 voxels of 1 x 2 mm are 32 x 48 mm
        expected = np.repeat(slice_of(head() + int(patient[1:]), "coronal", 20), 2, axis=0)
        np.testing.assert_allclose(square[:, 8:40].astype(int), expected, atol=64)  # interpolated between voxels
        assert np.abs(square[:, 8:40] - expected).mean() < 3
        assert (square[:, :8] == square[0, 0]).all()


def test_a_table_of_slices(volumes, tmp_path):
    rows = [(f"p{number}.nii.gz", f"P{number}", "FM"[number % 2], index) for number in range(8) for index in (9, 12)]
    rows.append(("p0.nii.gz", "P0", "F", 24))
    pd.DataFrame(rows, columns=["image", "patient", "sex", "k"]).to_csv(volumes / "slices.csv", index=False)
    columns = {"image": "{image}", "patient": "patient", "slice": "k"}
    made = caption_preparation(settings(volumes, table="slices.csv", columns=columns, image_size=40, pad="black"), None)
    with pytest.raises(InputError, match="p0.nii.gz has 24 axial slices, numbered from 0; slice 24 does not exist"):
        prepare(made, tmp_path / "out")
    cohort = prepare(made, tmp_path / "out", on_error="skip")
    assert len(cohort) == 16
    rejected = read_rejected(cohort.root)
    assert rejected["image"].tolist() == ["p0.nii.gz axial slice 24"]


def test_a_tree_of_dicom_with_its_tags(tmp_path):
    for number in range(NUM_PATIENTS):
        tags = {"PatientID": f"P{number}", "PatientSex": "FM"[number % 2], "PatientAge": f"0{40 + number}Y"}
        tags |= {"InstitutionName": "North", "ManufacturerModelName": "Skyra"}
        for series, name in enumerate(("FLAIR", "T1")):
            values = (head() + number) / (series + 1)
            folder = tmp_path / "data" / f"p{number}"
            write_dicom(folder / name, values, affine(), f"1.{number}.{series}", SeriesDescription=name, **tags)
            if number == 7:
                # both series in one folder
                for file in sorted((folder / name).iterdir()):
                    file.rename(folder / f"{name}_{file.name}")
                (folder / name).rmdir()
    attributes = ["PatientSex", "PatientAge", "InstitutionName", "ManufacturerModelName"]
    templates = {"templates": ["{PatientSex} of {PatientAge}"], "words": {"PatientSex": {"F": "woman", "M": "man"}}}
    table = {"layout": "dicom", "path": ".", "series": "FLAIR"}
    changes = {"table": table, "attributes": attributes, "attribute": "PatientSex", "templates": templates}
    made = caption_preparation(settings(tmp_path / "data", **changes, slices=2, image_size=40, spacing=1.5), None)
    cohort = prepare(made, tmp_path / "out")
    rows = cohort.table
    assert len(rows) == 2 * NUM_PATIENTS and rows.groupby("patient")["split"].nunique().max() == 1
    first = rows[rows["patient"] == "P1"].iloc[0]
    assert first[attributes].tolist() == ["M", "41", "North", "Skyra"] and first["caption"] == "man of 41"
    for patient, square in zip(rows["patient"], squares(cohort)):
        # most of the head is tissue, which is twice as bright in FLAIR as in T1
        values, counts = np.unique(square[square > 60], return_counts=True)
        assert values[counts.argmax()] == 100 + int(patient[1:])
    assert read_rejected(cohort.root).empty


def test_the_overlay_of_volumes_reads_bids(tmp_path):
    path = Path(__file__).parents[3] / "configs" / "cohorts" / "volumes.yaml"
    content = yaml.safe_load(path.read_text())
    rows = []
    for number in range(NUM_PATIENTS):
        name = f"sub-{number:02d}"
        (tmp_path / name / "anat").mkdir(parents=True)
        image = nibabel.Nifti1Image(head() + number, affine())
        nibabel.save(image, tmp_path / name / "anat" / f"{name}_T1w.nii.gz")
        rows.append((name, "FM"[number % 2], str(30 + 10 * number) if number else "n/a", "Leeds"))
    table = pd.DataFrame(rows, columns=["participant_id", "sex", "age", "site"])
    table.to_csv(tmp_path / "participants.tsv", sep="\t", index=False)
    cohort = prepare(caption_preparation(settings(tmp_path, **content), None), tmp_path / "out")
    assert len(cohort) == 3 * NUM_PATIENTS and read_rejected(cohort.root).empty
    assert cohort.table["sex"].value_counts().to_dict() == {"F": 12, "M": 12}
    assert (cohort.table["age"] == "").sum() == 3 and set(cohort.table["site"]) == {"Leeds"}
    captions = cohort.table[cohort.table["caption"].str.contains(" of a (?:young|middle-aged|old) ")]
    for _, row in captions.iterrows():
        age = ["young", "middle-aged", "old"][(int(row["age"]) >= 40) + (int(row["age"]) >= 60)]
        assert row["caption"].endswith(f"of a {age} {'woman' if row['sex'] == 'F' else 'man'}")
    assert len(captions) > 0


def test_a_volume_that_cannot_be_read_is_skipped_with_its_reason(volumes, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    for number in range(8):
        (root / f"p{number}.nii.gz").write_bytes((volumes / f"p{number}.nii.gz").read_bytes())
    (root / "volumes.csv").write_bytes((volumes / "volumes.csv").read_bytes())
    (root / "p3.nii.gz").write_bytes(b"\x1f\x8bno volume at all")
    made = caption_preparation(settings(root, slices=2), None)
    with pytest.raises(InputError, match="p3.nii.gz"):
        prepare(made, tmp_path / "out")
    cohort = prepare(made, tmp_path / "out", on_error="skip")
    assert len(cohort) == 14 and "P3" not in set(cohort.table["patient"])
    rejected = read_rejected(cohort.root)
    assert rejected["reason"].str.contains("p3.nii.gz").all() and len(rejected) == 2


def test_images_without_a_size_of_pixels_are_refused_at_a_spacing(volumes, tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(volumes / "a.png")
    pd.DataFrame({"image": ["a.png"], "patient": ["A"], "sex": ["F"]}).to_csv(volumes / "images.csv", index=False)
    source = CaptionTable(volumes, "images.csv", ("sex",), templates=TEMPLATES)
    splits = PatientSplit(holdout_fraction=0, val_fraction=0)
    made = CaptionPreparation(source, SquareFit(8, spacing=1.0), splits, PixelRules())
    with pytest.raises(InputError, match="a.png: it does not contain the size of its pixels, which `spacing` needs"):
        prepare(made, tmp_path / "out")

import pandas as pd

from medi_monai.cohort.volumes import FILE, SERIES, SLICE, VolumeRules, expand_volumes


def table(images, slices=None, series=None):
    rows = pd.DataFrame({"image": images, SLICE: slices or [""] * len(images), SERIES: series or [""] * len(images)})
    return rows.assign(problem="", patient=[f"P{number}" for number in range(len(images))]).astype("str")


def test_volumes_get_a_row_per_slice_and_images_stay(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "IM0001").touch()
    rows = expand_volumes(table(["a.nii.gz", "b.PNG", "series", "IM0001"]), tmp_path, VolumeRules(slices=[3, 7]))
    assert rows["image"].tolist() == [
        *("a.nii.gz axial slice 3", "a.nii.gz axial slice 7", "b.PNG"),
        *("series axial slice 3", "series axial slice 7", "IM0001"),
    ]
    assert rows[FILE].tolist() == ["a.nii.gz", "a.nii.gz", "b.PNG", "series", "series", "IM0001"]
    assert rows[SLICE].tolist() == ["3", "7", "", "3", "7", ""]
    assert rows["patient"].tolist() == ["P0", "P0", "P1", "P2", "P2", "P3"]
    assert (rows["problem"] == "").all()


def test_a_table_of_slices_has_its_own_indices(tmp_path):
    names = ["a.nii", "a.nii", "b.nii", "b.nii", "b.nii"]
    rows = expand_volumes(table(names, ["4", "5.0", "x", "-1", ""]), tmp_path, VolumeRules("sagittal", slices=2))
    assert rows["image"].tolist() == [
        *("a.nii sagittal slice 4", "a.nii sagittal slice 5", "b.nii sagittal slice x", "b.nii sagittal slice -1"),
        *("b.nii sagittal slice 1 of 2", "b.nii sagittal slice 2 of 2"),
    ]
    wrong = "slice '{}' is not a whole number from 0"
    assert rows["problem"].tolist() == ["", "", wrong.format("x"), wrong.format("-1"), "", ""]


def test_the_same_slice_twice_is_named(tmp_path):
    rows = expand_volumes(table(["a.nii", "a.nii", "b.png", "b.png"], ["4", "4", "", ""]), tmp_path, VolumeRules())
    assert rows["problem"].str.startswith("several rows of the table name this image").all()


def test_series_of_one_folder_are_told_apart(tmp_path):
    rows = expand_volumes(table(["s", "s"], series=["1.2.3", "1.2.4"]), tmp_path, VolumeRules())
    assert rows["image"].tolist() == ["s series 1.2.3 axial slice 1 of 1", "s series 1.2.4 axial slice 1 of 1"]
    assert (rows["problem"] == "").all()

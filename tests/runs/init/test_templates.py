import pandas as pd
import pytest

from medi_monai.runs.init.templates import column_pattern, guess_pattern, guess_volume_pattern


@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        (["A/x.png", "B/y.png"], "{diagnosis}/*.png"),
        (["tumor/p1_0.png", "tumor/p1_1.png", "normal/p2_0.png", "normal/p3_1.png"], "{diagnosis}/{patient}_*.png"),
        (["hospital 1/tumor/1.png", "hospital 2/tumor/2.png", "hospital 1/normal/3.png"], "{center}/{diagnosis}/*.png"),
        (["LUAD/Aspen/1.jpg", "LUSC/Aspen/1.jpg", "LUSC/Birch/2.jpg"], "{diagnosis}/{center}/*.jpg"),
        (["train/A/1.png", "test/A/2.png", "train/B/3.png"], "*/{diagnosis}/*.png"),
        (["data/A/1.png", "data/B/2.png"], "data/{diagnosis}/*.png"),
        ([f"{c}/{d}/{c}{d}{p}/{k}.png" for c in "AB" for d in "xy" for p in range(9) for k in (0, 1)],
         "{diagnosis}/{center}/{patient}/*.png"),
        (["tumor/patch_1.png", "normal/patch_2.png"], "{diagnosis}/*.png"),
    ],
)  # fmt: skip
def test_folders_become_columns(images, pattern):
    assert guess_pattern(images) == pattern


@pytest.mark.parametrize(
    ("cells", "images", "pattern"),
    [
        ({"file": ["a/1.png", "b/2.png"], "n": ["1", "2"]}, ["a/1.png", "b/2.png"], "{file}"),
        ({"id": ["S1", "S2"]}, ["scans/S1.svs", "scans/S2.svs"], "scans/{id}.svs"),
        ({"id": ["S1", "S10"]}, ["scans/S1.svs", "scans/S10.svs"], "scans/{id}.svs"),
        ({"bar": ["T-1-DX1", "T-2-DX1"]}, ["u1/T-1-DX1.abc.svs", "u2/T-2-DX1.def.svs"], "*/{bar}.*.svs"),
        ({"p": ["sub-1", "sub-2"]}, ["sub-1/a/sub-1_T1w.nii.gz", "sub-2/a/sub-2_T1w.nii.gz"], "{p}/a/{p}_T1w.nii.gz"),
        ({"center": ["x", "y"]}, ["S1.svs", "S2.svs"], None),
    ],
)
def test_the_column_that_names_files_is_found(cells, images, pattern):
    found = column_pattern(pd.DataFrame(cells), images)
    assert (None if found is None else found[0]) == pattern
    assert found is None or found[1] == 1


def test_of_several_volumes_of_a_patient_one_kind_is_taken():
    images = [f"sub-{n}/anat/sub-{n}_{kind}.nii.gz" for n in range(3) for kind in ("T1w", "FLAIR", "seg")]
    pattern, files, others = guess_volume_pattern(images)
    assert pattern == "{patient}/anat/{patient}_FLAIR.nii.gz" and others == ["seg", "t1w"]
    assert files == [f"sub-{n}/anat/sub-{n}_FLAIR.nii.gz" for n in range(3)]
    assert guess_volume_pattern(["a_t1.nii", "b_t1.nii"])[0] == "{patient}_t1.nii"

import pytest

from medi_monai.runs.init.folders import guess_pattern, guess_volume_pattern

CLASSES = ("Adenocarcinoma", "Normal")


@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        # several suffixes: none of the images is lost
        ([f"{c}/{c[0]}{p}_{k}.{s}" for c in CLASSES for p in range(3) for k, s in enumerate(("png", "jpg"))],
         "{diagnosis}/{patient}_*.*"),
        # the number of a patient is not the first word of a name
        ([f"{c}/{h}_{p + 3 * (c[0] == 'N')}_x{x}.png" for c in CLASSES for h in ("Hos", "Kli") for p in range(3)
          for x in (0, 128)], "{diagnosis}/{center}_{patient}_*.png"),
        ([f"{c}_p{p}_{k}.png" for c in ("LUAD", "LUSC") for p in range(3) for k in range(2)],
         "{diagnosis}_{patient}_*.png"),
        # the same patients in all classes
        ([f"{c}/patient_{p}_tile_{k}.png" for c in CLASSES for p in range(3) for k in range(2)],
         "{diagnosis}/patient_{patient}_*.png"),
        ([f"pat{p}/{c}/{k}.png" for c in CLASSES for p in range(3) for k in range(2)], "{patient}/{diagnosis}/*.png"),
        ([f"{8863 + p}/{c}/{8863 + p}_x{x}_class{c}.png" for p in range(5) for c in (0, 1) for x in (1, 51)],
         "{patient}/{diagnosis}/*.png"),
        # the name of the class in front is no patient
        ([f"{c}/{c}-{'QRST'[k]}.tif" for k in range(4) for c in ("ADI", "BACK", "DEB")], "{diagnosis}/*.tif"),
        # running numbers and coordinates are no patients
        ([f"{c}/img_{k + 9 * (c[0] == 'N')}.png" for c in CLASSES for k in range(9)], "{diagnosis}/*.png"),
        ([f"{c}/x{x}_y{y}.png" for c in CLASSES for x in range(3) for y in range(3)], "{diagnosis}/*.png"),
        ([f"tile_{k}.png" for k in range(9)], "{slide}.png"),
    ],
)  # fmt: skip
def test_patients_and_groups_in_names_of_patches(images, pattern):
    assert guess_pattern(images) == pattern


@pytest.mark.parametrize(
    ("images", "pattern", "others"),
    [
        ([f"{'MF'[n % 2]}_{30 + n:03d}_site{'AB'[n % 3 == 0]}.nii.gz" for n in range(8)],
         "{sex}_{patient}_{center}.nii.gz", []),
        ([f"OAS{n}-{'MF'[n % 2]}-{('GE', 'Siemens')[n % 3 == 0]}.nii.gz" for n in range(8)],
         "{patient}-{sex}-{scanner}.nii.gz", []),
        ([f"BraTS_{n:03d}_{kind}.nii" for n in range(8) for kind in ("t1", "flair", "seg")],
         "BraTS_{patient}_flair.nii", ["seg", "t1"]),
        ([f"site{n % 2}/M_{n}.nii" for n in range(8)], "{center}/M_{patient}.nii", []),
        ([f"{'control' if n < 4 else 'patient'}/{n}.nii" for n in range(8)], "{diagnosis}/{patient}.nii", []),
        ([f"sub-{n}/ses-{s}/anat/sub-{n}_ses-{s}_T1w.nii.gz" for n in range(4) for s in (1, 2)],
         "{patient}/*/anat/{patient}_*_T1w.nii.gz", []),
        ([f"sub-{n}_{'run-1_' * (n % 2)}{kind}.nii.gz" for n in range(4) for kind in ("T1w", "seg")],
         "{patient}_*T1w.nii.gz", ["seg"]),
        ([f"{n}.nii" for n in range(3)], "{patient}.nii", []),
        # a sequence that few patients have is not chosen
        ([f"{n}_{kind}.nii" for n in range(8) for kind in (("T1w", "FLAIR") if n < 2 else ("T1w",))],
         "{patient}_T1w.nii", ["flair"]),
        # scans have names of their own
        ([f"002_S_{p:04d}/200{d}-04-18/I{3 * p + d}/T1_{3 * p + d}.nii" for p in range(6) for d in range(3)],
         "{patient}/*/*/T1_*.nii", []),
    ],
)  # fmt: skip
def test_patients_and_attributes_in_names_of_volumes(images, pattern, others):
    proposed, files, left_out = guess_volume_pattern(images)
    assert (proposed, left_out) == (pattern, others) and set(files) <= set(images)


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


def test_of_several_volumes_of_a_patient_one_kind_is_taken():
    images = [f"sub-{n}/anat/sub-{n}_{kind}.nii.gz" for n in range(3) for kind in ("T1w", "FLAIR", "seg")]
    pattern, files, others = guess_volume_pattern(images)
    assert pattern == "{patient}/anat/{patient}_FLAIR.nii.gz" and others == ["seg", "t1w"]
    assert files == [f"sub-{n}/anat/sub-{n}_FLAIR.nii.gz" for n in range(3)]
    assert guess_volume_pattern(["a_t1.nii", "b_t1.nii"])[0] == "{patient}_t1.nii"

import io
import os

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.measure import block_reduce

from medi_monai.cohort import Cohort, PatchDataset, default_cohort_dir, load_or_prepare, prepare
from medi_monai.cohort.audit import audit_cohort
from medi_monai.cohort.captions import (
    CaptionPreparation,
    CaptionTable,
    PatientSplit,
    SquareFit,
)
from medi_monai.cohort.prepare import QUALITY_FILE
from medi_monai.cohort.reading import PatchReader
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.wsi.readers import PixelRules

TEMPLATES = {
    "templates": ["{modality} MR slice of the brain of a {age:.0f}-year-old {sex}", "{modality} slice of a brain"],
    "words": {"sex": {"male": "man", "female": "woman"}},
}
NUM_PATIENTS = 24


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    rng = np.random.default_rng(0)
    rows = []
    for number in range(NUM_PATIENTS):
        for slice_ in range(2):
            image = f"slices/p{number}_{slice_}.png"
            shape = (64, 64, 3) if number == 0 else (48, 64) if number == 1 else (64, 64)
            (root / "slices").mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / image)
            sex = "male" if number % 4 else "female"
            rows.append((image, f"P{number}", sex, "" if number == 5 else str(20 + number), "FLAIR"))
    table = pd.DataFrame(rows, columns=["image", "patient", "sex", "age", "modality"])
    table.to_csv(root / "slices.csv", index=False)
    return root


def preparation(folder, image_size=32, **changes):
    settings = {"table": "slices.csv", "attributes": ("sex", "age"), "templates": TEMPLATES}
    return CaptionPreparation(CaptionTable(folder, **{**settings, **changes}), SquareFit(image_size))


def files(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*.png"))}


def test_a_cohort_as_any_other(folder, tmp_path):
    cohort = prepare(preparation(folder), tmp_path / "out", num_workers=2)
    table = cohort.table
    columns = ["image", "slide", "patient", "x", "y", "mpp", "sex", "age", "modality", "caption", "split"]
    assert table.columns.tolist() == columns
    assert len(table) == 2 * NUM_PATIENTS
    assert (table[["x", "y"]] == "0").all(axis=None) and (table["mpp"] == "").all()
    assert sorted(os.listdir(tmp_path / "out")) == [
        *(".lock", ".medi_files.jsonl", "cohort.csv", "patches", "preparation.json", "quality.parquet", "rejected.csv")
    ]
    assert table.groupby("patient")["split"].nunique().max() == 1
    assert set(table["split"]) == {"train", "val", "holdout"}
    composed = "FLAIR MR slice of the brain of a 23-year-old man"
    assert set(table.loc[table["patient"] == "P3", "caption"]) <= {composed, "FLAIR slice of a brain"}
    assert set(table.loc[table["patient"] == "P5", "caption"]) == {"FLAIR slice of a brain"}
    pd.testing.assert_frame_equal(Cohort.read(tmp_path / "out").table, table)


def test_pixels_are_those_of_the_pictures(folder, tmp_path):
    cohort = prepare(preparation(folder), tmp_path / "out")
    reader = PatchReader(cohort, 32)
    for patch, slide, patient in zip(reader.read(range(len(cohort))), cohort.table["slide"], cohort.table["patient"]):
        original = np.asarray(Image.open(folder / slide))
        if patient == "P1":
            padded = np.pad(original, ((8, 8), (0, 0)))
            expected = block_reduce(padded, 2, np.mean)[4:28, :, None].repeat(3, axis=2)
            np.testing.assert_allclose(patch[4:28], expected, atol=0.5)
            assert (patch[:4] == patch[0, 0]).all() and (patch[28:] == patch[0, 0]).all()
            continue
        color = original if original.ndim == 3 else original[..., None].repeat(3, axis=2)
        assert patch.shape == (32, 32, 3) and patch.dtype == np.uint8
        np.testing.assert_allclose(patch, block_reduce(color, (2, 2, 1), np.mean), atol=0.5)
    gray = cohort.table["image"][cohort.table["patient"] != "P0"]
    assert {Image.open(cohort.root / image).mode for image in gray} == {"L"}


def test_the_data_set_and_the_audit_take_the_cohort_unchanged(folder, tmp_path):
    cohort = prepare(preparation(folder), tmp_path / "out")
    schema = MetadataSchema.from_table(cohort.table, "sex")
    dataset = PatchDataset(cohort, schema, 32)
    assert dataset[0]["image"].shape == (3, 32, 32) and len(dataset) == len(cohort)
    quality = pd.read_parquet(cohort.root / QUALITY_FILE)
    assert len(quality) == len(cohort) and quality["hash"].nunique() == len(cohort)
    small = quality["height"].to_numpy() == 48
    assert (cohort.table["patient"][small] == "P1").all() and small.sum() == 2
    audit = audit_cohort(cohort.table, "sex", ["age"], continuous=["age"], hashes=quality["hash"].to_numpy(np.uint64))
    assert not [finding for finding in audit["findings"] if finding["level"] == "leakage"]


def test_the_same_call_again_does_nothing(folder, tmp_path):
    out = tmp_path / "out"
    first = prepare(preparation(folder), out)
    before, quality = files(out), pd.read_parquet(out / QUALITY_FILE)
    again = prepare(preparation(folder), out)
    assert files(out) == before and again.digest == first.digest
    pd.testing.assert_frame_equal(pd.read_parquet(out / QUALITY_FILE), quality)


def test_what_lacks_is_made_and_what_was_replaced_is_made_again(folder, tmp_path):
    out = tmp_path / "out"
    first = prepare(preparation(folder), out)
    (out / "cohort.csv").unlink()
    (out / first.table["image"][7]).unlink()
    before = files(out)
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / first.table["slide"][9])
    second = prepare(preparation(folder), out)
    after = files(out)
    changed = first.table["image"] != second.table["image"]
    assert changed.tolist() == [number == 9 for number in range(len(first))]
    assert out / first.table["image"][9] not in after
    assert not np.asarray(Image.open(out / second.table["image"][9])).any()
    assert all(after[path] == before[path] for path in after if path in before)
    assert len(after) == len(second)


def test_other_settings_into_the_same_folder_are_an_error(folder, tmp_path):
    prepare(preparation(folder), tmp_path / "out")
    with pytest.raises(InputError, match="different settings .*square.image_size: was 32, now 16"):
        prepare(preparation(folder, 16), tmp_path / "out")
    with pytest.raises(InputError, match="does not contain a cohort"):
        prepare(preparation(folder), folder)


def test_files_of_the_user_beside_squares_stay_and_a_changed_table_is_refused(folder, tmp_path):
    out = tmp_path / "out"
    first = prepare(preparation(folder), out)
    square = out / first.table["image"][0]
    mine = [square.with_name("mine.png"), square.with_name("mine_01234567.png"), square.with_name("text_89abcdef.png")]
    Image.new("L", (8, 8)).save(mine[0])
    Image.new("L", (8, 8)).save(mine[1])
    mine[2].write_text("no image")
    pixels = np.asarray(Image.open(folder / first.table["slide"][0]))
    Image.fromarray(255 - pixels).save(folder / first.table["slide"][0])
    prepare(preparation(folder), out)
    assert not square.exists() and all(path.is_file() for path in mine)
    with open(out / "cohort.csv", "a") as file:
        file.write("\n")
    with pytest.raises(InputError, match="cohort.csv was changed after a run wrote it, and preparing would take its"):
        prepare(preparation(folder), out)


def test_names_and_loading(folder, tmp_path):
    plan = preparation(folder)
    assert plan.name.startswith("data_32px_") and plan.name != preparation(folder, 16).name
    where = default_cohort_dir(plan, tmp_path)
    assert where == str(tmp_path / "output" / "preparing" / plan.name)
    cohort = load_or_prepare(plan, where)
    assert default_cohort_dir(preparation(where), tmp_path) == where
    assert load_or_prepare(preparation(folder, 16), where).digest == cohort.digest
    cohort.table.drop(columns="caption").to_csv(tmp_path / "cohort.csv", index=False)
    with pytest.raises(InputError, match="no column .caption|unknown column .caption"):
        load_or_prepare(plan, tmp_path)


def test_what_cannot_be_used_stops_or_is_listed(folder, tmp_path):
    (folder / "slices/p3_0.png").write_bytes(b"broken")
    (folder / "slices/p4_0.png").unlink()
    Image.new("L", (8, 8)).save(folder / "slices/stray.png")
    with pytest.raises(InputError, match=r"row 9 \(slices/p4_0.png\): file not found. To continue"):
        prepare(preparation(folder), tmp_path / "out")
    cohort = prepare(preparation(folder), tmp_path / "out", on_error="skip")
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv").set_index("image")["reason"]
    assert sorted(rejected.index) == ["slices/p3_0.png", "slices/p4_0.png", "slices/stray.png"]
    assert "cannot read the image" in rejected["slices/p3_0.png"]
    assert len(cohort) == 2 * NUM_PATIENTS - 2
    # what can be read does not change who is held out
    Image.new("L", (64, 64)).save(folder / "slices/p3_0.png")
    Image.new("L", (64, 64)).save(folder / "slices/p4_0.png")
    whole = prepare(preparation(folder), tmp_path / "whole").table.set_index("slide")["split"]
    assert (cohort.table.set_index("slide")["split"] == whole[cohort.table["slide"]]).all()
    (folder / "slices/p3_0.png").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot read the image .* --on_error skip"):
        prepare(preparation(folder), tmp_path / "other")
    with pytest.raises(InputError, match="did you mean 'skip'"):
        prepare(preparation(folder), tmp_path / "other", on_error="skipp")


def test_nothing_left_is_an_error(folder, tmp_path):
    for path in (folder / "slices").iterdir():
        path.write_bytes(b"")
    with pytest.raises(InputError, match="no image of .* can be used: the image .*0_0.png is empty"):
        prepare(preparation(folder), tmp_path / "out", on_error="skip")
    assert not (tmp_path / "out" / "cohort.csv").exists()


def test_a_table_that_comes_split(folder, tmp_path):
    table = pd.read_csv(folder / "slices.csv", dtype=str)
    table["part"] = np.where(table["patient"].isin(["P1", "P2"]), "test", "train")
    table.to_csv(folder / "slices.csv", index=False)
    cohort = prepare(preparation(folder, columns={"split": "part"}), tmp_path / "out")
    assert set(cohort.table["patient"][cohort.table["split"] == "holdout"]) == {"P1", "P2"}
    assert set(cohort.table["split"]) == {"train", "holdout"}


def test_real_brain_slices(real_data, tmp_path):
    root = real_data / "brain_mr_lgg"
    if not root.is_dir():
        pytest.skip("no brain_mr_lgg among the real data")
    templates = {
        "templates": [
            "{modality} MR slice of the brain of a {age:.0f}-year-old {race} {sex}",
            "{modality} MR slice of the brain of a {age:.0f}-year-old {sex}",
        ],
        "words": {"sex": {"male": "man", "female": "woman"}, "race": {"black or african american": "Black"}},
    }
    source = CaptionTable(root, attributes=("sex", "race", "grade", "age"), templates=templates)
    plan = CaptionPreparation(source, SquareFit(32), PatientSplit(["sex", "grade"]))
    cohort = prepare(plan, tmp_path / "out")
    slices = pd.read_csv(root / "slices.csv", dtype=str, keep_default_na=False).set_index("image")
    table = cohort.table.set_index("slide")
    assert sorted(table.index) == sorted(slices.index) and len(table) == 240
    for image, caption in table["caption"].items():
        row = slices.loc[image]
        word = {"male": "man", "female": "woman"}[row["sex"]]
        years = int(row["age"])
        an = "an" if years in (11, 18) or 80 <= years <= 89 else "a"
        race = {"black or african american": "Black "}.get(row["race"], f"{row['race']} ")
        start = f"FLAIR MR slice of the brain of {an} {years}-year-old"
        allowed = {f"{start} {word}"} | ({f"{start} {race}{word}"} if row["race"] else set())
        assert caption in allowed
    assert slices.index[slices["race"] == ""].size == 3
    patients = cohort.table.drop_duplicates("patient")
    assert cohort.table.groupby("patient")["split"].nunique().max() == 1 and len(patients) == 80
    shares = pd.crosstab(patients["sex"], patients["split"], normalize="index")
    assert ((shares[["val", "holdout"]] > 0.1) & (shares[["val", "holdout"]] < 0.2)).all(axis=None)
    pixels = np.stack(PatchReader(cohort, 32).read(range(3)))
    original = np.asarray(Image.open(root / cohort.table["slide"][0]))
    np.testing.assert_allclose(pixels[0][..., 0], block_reduce(original, 8, np.mean), atol=0.5)


def test_pictures_are_upright_opaque_and_scaled_as_the_rules_say(folder, tmp_path):
    table = pd.read_csv(folder / "slices.csv")
    scene = np.random.default_rng(5).integers(0, 200, (64, 48), dtype=np.uint8)
    side = Image.Exif()
    side[274] = 6
    Image.fromarray(np.rot90(scene)).save(folder / table["image"][6], exif=side)
    hidden = np.dstack([scene, np.where(scene < 100, 255, 0).astype(np.uint8)])
    Image.fromarray(hidden).save(folder / table["image"][7])
    Image.fromarray(scene.astype(np.uint16) * 10).save(folder / table["image"][8])
    rules = PixelRules(intensity_range=[0, 2550], background="black")
    made = CaptionPreparation(preparation(folder).source, SquareFit(64, pad="black"), pixels=rules)
    expected = np.pad(scene, ((0, 0), (8, 8)))
    pictures = [expected, np.where(expected < 100, expected, 0), expected]
    for attempt in range(2):
        cohort = prepare(made, tmp_path / "out")
        quality = pd.read_parquet(cohort.root / QUALITY_FILE)
        for number, picture in zip((6, 7, 8), pictures):
            row = cohort.table.index[cohort.table["slide"] == table["image"][number]][0]
            np.testing.assert_array_equal(np.asarray(Image.open(cohort.root / cohort.table["image"][row])), picture)
            assert quality.loc[row, ["width", "height"]].tolist() == [48, 64]
        if attempt == 0:
            (cohort.root / "cohort.csv").unlink()


@pytest.mark.parametrize("kind", ["AVIF", "DDS", "WEBP", "TIFF"])
def test_a_damaged_image_of_another_format_named_png_is_skipped_and_listed(folder, tmp_path, kind):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(file, kind)
    content = file.getvalue()
    # cut, and with the second half overwritten
    (folder / "slices/p3_0.png").write_bytes(content[: len(content) // 2])
    (folder / "slices/p4_0.png").write_bytes(content[: len(content) // 2] + b"\xff" * (len(content) // 2))
    cohort = prepare(preparation(folder), tmp_path / "out", on_error="skip")
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv").set_index("image")["reason"]
    # of an uncompressed TIFF, the second half are pixels, which may be anything
    names = {"slices/p3_0.png", *([] if kind == "TIFF" else ["slices/p4_0.png"])}
    assert set(rejected.index) == names and len(cohort) == 2 * NUM_PATIENTS - len(names)
    assert all("cannot read the image" in reason for reason in rejected)
    if kind in ("AVIF", "DDS"):
        read = f"it contains {kind}. PNG, JPEG, TIFF, BMP, GIF, WebP and JPEG 2000 are read"
        assert len(rejected) == 2 and all(read in reason for reason in rejected)

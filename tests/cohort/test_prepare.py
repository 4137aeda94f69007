import dataclasses
import shutil

import numpy as np
import openslide
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

from medi_monai.cohort import (
    Cohort,
    Cutting,
    ImageTable,
    Preparation,
    SplitScheme,
    load_or_prepare,
    prepare,
    table_cohort,
)
from medi_monai.cohort.duplicates import hash_images
from medi_monai.cohort.extraction import record_folder
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.tables import read_table
from medi_monai.wsi import PatchGrid

SIDE = 128  # of a patch of 64 pixels at 1.0 microns per pixel, on slides of 0.5
GRID = PatchGrid(64, 1.0)
BROKEN = "tiles/z_broken.png"


def patches_of(cohort, image):
    """``{(x, y): pixels}`` of one image."""
    own = cohort.table[cohort.table["slide"] == image]
    return {
        (int(row.x), int(row.y)): np.asarray(Image.open(cohort.root / row.image)) for row in own.itertuples(index=False)
    }


@pytest.mark.parametrize("number", [0, 9])
def test_patches_of_a_tile_equal_its_crops_resized(prepared, number, tile):
    patches = patches_of(prepared, f"tiles/{number:02d}.png")
    assert sorted(patches) == [(0, 0), (SIDE, 0)]
    for (x, y), pixels in patches.items():
        crop = Image.fromarray(tile(number)).crop((x, y, x + SIDE, y + SIDE))
        assert np.array_equal(pixels, np.asarray(crop.reduce(SIDE // 64)))


def test_patches_of_a_slide_are_its_tissue_at_the_resolution_asked_for(prepared, data, slide):
    patches = patches_of(prepared, "slides/S.tiff")
    assert sorted(patches) == [(x * SIDE, y * SIDE) for x in range(2) for y in range(4)]
    whole = Image.fromarray(slide())
    with openslide.OpenSlide(data / "slides/S.tiff") as reference:
        for (x, y), pixels in patches.items():
            assert np.array_equal(pixels, np.asarray(reference.read_region((x, y), 1, (64, 64)).convert("RGB")))
            expected = np.asarray(whole.crop((x, y, x + SIDE, y + SIDE)).reduce(2))
            assert np.abs(pixels.astype(int) - expected).mean() < 3, "JPEG changes a little"


def test_the_table_has_the_metadata_of_every_image(prepared, data):
    table = prepared.table
    assert list(table) == ["image", "slide", "patient", "x", "y", "mpp", "tumor", "site", "split"]
    assert len(table) == 16 * 2 + 8 and table["image"].is_unique
    assert set(table["mpp"]) == {"1.0"} and set(table["site"]) == {"NA", "01"}
    source = read_table(data / "tiles.csv").set_index("slide")[["patient", "tumor", "site"]]
    expected = source.loc[table["slide"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[["patient", "tumor", "site"]], expected, check_dtype=False)
    assert all((prepared.root / image).is_file() for image in table["image"])


def test_the_written_table_equals_the_returned_one(prepared):
    assert Cohort.read(prepared.root).table.to_dict("list") == prepared.table.to_dict("list")


def test_what_gave_no_patch_is_listed_with_its_reason(prepared):
    rejected = read_table(prepared.root / "rejected.csv").set_index("image")["reason"]
    assert sorted(rejected.index) == ["tiles/blank.png", "tiles/unlabeled.png", BROKEN]
    assert rejected["tiles/unlabeled.png"].startswith("no tumor: 'not reported' means missing data")
    assert rejected["tiles/blank.png"].startswith("no tissue") and "tiles/blank.png" in rejected["tiles/blank.png"]
    assert BROKEN in rejected[BROKEN]
    assert not set(rejected.index) & set(prepared.table["slide"])


def test_the_split_is_one_of_patients(prepared):
    assert (prepared.table.groupby("patient")["split"].nunique() == 1).all()
    patients = prepared.table.drop_duplicates("patient")
    assert pd.crosstab(patients["tumor"], patients["split"]).to_dict("list") == {"train": [3, 3], "val": [1, 1]}


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory, preparation):
    """The folder and the error of a preparation that may not skip the broken tile, the last of all images."""
    root = tmp_path_factory.mktemp("stopped")
    with pytest.raises(InputError) as caught:
        prepare(preparation(data, "labeled.csv", max_patches_per_slide=3), root, num_workers=2)
    return root, str(caught.value)


def test_an_unreadable_image_stops_by_name_and_a_blank_one_does_not(stopped):
    root, error = stopped
    assert BROKEN in error and "--on_error skip" in error
    assert not (root / "cohort.csv").exists() and (record_folder(root, "tiles/blank.png") / "slide.json").is_file()


def test_nothing_depends_on_the_order_of_the_rows_the_place_or_the_processes(
    data, stopped, prepared, tmp_path, in_process, preparation, contents
):
    shutil.copytree(data, tmp_path / "data")
    table = read_table(data / "labeled.csv")
    cohorts = []
    for name, rows in (("as_it_is", table), ("shuffled", table.sample(frac=1, random_state=0))):
        rows.to_csv(tmp_path / "data/labeled.csv", index=False)
        limited = preparation(tmp_path / "data", "labeled.csv", max_patches_per_slide=3)
        cohorts.append(prepare(limited, tmp_path / name, on_error="skip"))
    sizes = {f"tiles/{number:02d}.png": 2 for number in range(16)} | {"slides/S.tiff": 3}
    assert cohorts[0].table.groupby("slide").size().to_dict() == sizes
    for file in ("cohort.csv", "quality.parquet", "slides.csv", "rejected.csv"):
        first, second = (read_table(cohort.root / file) for cohort in cohorts)
        where = str(tmp_path)
        assert first.to_csv().replace(where, "") == second.to_csv().replace(where, "")
    # two processes cut the one, this process the others
    pixels = contents(cohorts[0].root)
    assert pixels == contents(cohorts[1].root) == contents(stopped[0])
    everything = contents(prepared.root)
    assert pixels == {path: everything[path] for path in pixels}


def test_what_was_measured_lies_beside_the_patch_that_it_was_measured_on(prepared):
    quality = pd.read_parquet(prepared.root / "quality.parquet")
    images = np.stack([np.asarray(Image.open(prepared.root / name)) for name in prepared.table["image"]])
    assert quality["hash"].dtype == np.uint64 and len(quality) == len(prepared)
    assert np.array_equal(quality["hash"], hash_images(images)) and quality["sharpness"].nunique() == len(quality)
    edges = [ndimage.laplace(image.astype(float).mean(2)).var() for image in images]
    assert np.allclose(quality["sharpness"], edges, rtol=1e-3)
    slides = pd.read_csv(prepared.root / "slides.csv").set_index("image")
    assert slides["patches"].to_dict() == prepared.table.groupby("slide").size().to_dict()
    medians = quality.groupby(prepared.table["slide"].to_numpy())[["sharpness", "background"]].median()
    assert np.allclose(medians, slides.loc[medians.index, ["sharpness", "background"]], rtol=1e-3, atol=1e-3)
    assert slides.loc["slides/S.tiff", ["width", "height", "levels"]].tolist() == [4 * SIDE, 4 * SIDE, 3]


def test_a_preview_counts_what_would_be_cut(prepared, data, tmp_path, in_process, preparation):
    seen = prepare(preparation(data, patch_format="none", measure="never"), tmp_path, on_error="skip")
    shared = ["slide", "patient", "x", "y", "mpp", "tumor", "site", "split"]
    assert seen.table[shared].equals(prepared.table[shared])
    assert seen.table["image"].tolist() == [str(data.resolve() / name) for name in prepared.table["slide"]]
    assert set(seen.table["source_mpp"]) == {"0.5"}
    expected, previewed = (pd.read_parquet(cohort.root / "quality.parquet") for cohort in (prepared, seen))
    assert set(expected.columns) - set(previewed.columns) == {"sharpness", "background", "hash"}
    assert np.array_equal(previewed["tissue"], expected["tissue"]) and not list(tmp_path.rglob("*.png"))


def test_a_table_without_any_label_is_refused(data, tmp_path, preparation):
    shutil.copytree(data, tmp_path / "data")
    read_table(data / "tiles.csv").assign(tumor="not reported").to_csv(tmp_path / "data/tiles.csv", index=False)
    with pytest.raises(InputError, match="tiles.csv.*'tumor'"):
        prepare(preparation(tmp_path / "data"), tmp_path / "cohort", on_error="skip")


def test_where_no_image_gives_a_patch_the_reasons_are_left(data, tmp_path, in_process, preparation):
    shutil.copytree(data, tmp_path / "data")
    rows = read_table(data / "labeled.csv")
    rows[rows["image"].isin(["tiles/blank.png", BROKEN])].to_csv(tmp_path / "data/labeled.csv", index=False)
    with pytest.raises(InputError, match="no image of labeled.csv can be used; the reasons are in .*rejected.csv"):
        prepare(preparation(tmp_path / "data", "labeled.csv"), tmp_path / "out", on_error="skip")
    reasons = read_table(tmp_path / "out" / "rejected.csv").set_index("image")["reason"]
    assert reasons["tiles/blank.png"].startswith("no tissue") and BROKEN in reasons[BROKEN]
    assert not (tmp_path / "out" / "cohort.csv").exists()


def test_a_row_that_cannot_be_used_stops_by_its_number_where_nothing_may_be_skipped(data, tmp_path, preparation):
    reason = r"tiles.csv, row 19 \(tiles/unlabeled.png\): no tumor: 'not reported' means missing data.*--on_error skip"
    with pytest.raises(InputError, match=reason):
        prepare(preparation(data), tmp_path)
    assert not list(tmp_path.iterdir())


def test_mistakes_in_the_settings_are_named(data, tmp_path, preparation):
    with pytest.raises(InputError, match="'skp'.*did you mean 'skip'"):
        prepare(preparation(data), tmp_path, on_error="skp")
    with pytest.raises(InputError, match="max_patches_per_slide = 0"):
        preparation(data, max_patches_per_slide=0)
    with pytest.raises(InputError, match="'jpg': did you mean 'jpeg'"):
        preparation(data, patch_format="jpg")
    with pytest.raises(InputError, match="'alway': did you mean 'always'"):
        preparation(data, measure="alway")


def test_preparations_share_a_name_exactly_where_they_share_their_settings(data, monkeypatch, preparation):
    base = preparation(data)
    assert base.name.startswith(f"{data.name}_64px_")
    monkeypatch.chdir(data.parent)
    assert preparation(data.name).name == base.name
    others = [
        preparation(data, seed=1),
        dataclasses.replace(base, cutting=Cutting(PatchGrid(64, 1.0, stride=32))),
        dataclasses.replace(base, splits=SplitScheme(["tumor"], val_fraction=0.2)),
        dataclasses.replace(base, source=dataclasses.replace(base.source, attributes=[])),
    ]
    assert len({other.name for other in [base, *others]}) == 5


def test_images_of_one_stem_and_paths_that_look_alike_keep_their_own_pixels(tmp_path, in_process):
    tones = {"a.png": 90, "a.jpg": 120, "b/c.png": 150, "b__c.png": 180}
    (tmp_path / "data/b").mkdir(parents=True)
    for name, tone in tones.items():
        Image.fromarray(np.full((16, 16, 3), (tone + 40, tone, tone + 40), np.uint8)).save(tmp_path / "data" / name)
    rows = [(name, name, f"P{number}", "X") for number, name in enumerate(tones)]
    pd.DataFrame(rows, columns=["image", "slide", "patient", "tumor"]).to_csv(tmp_path / "data/t.csv", index=False)
    source = ImageTable(tmp_path / "data", "t.csv", "tumor", source_mpp=1.0)
    splits = SplitScheme(["tumor"], fraction=0.0, val_fraction=0.0)
    cohort = prepare(Preparation(source, Cutting(PatchGrid(16, 1.0)), splits), tmp_path / "out")
    seen = {
        row.slide: int(np.asarray(Image.open(cohort.root / row.image))[8, 8, 1]) for row in cohort.table.itertuples()
    }
    assert all(abs(seen[name] - tone) < 3 for name, tone in tones.items()) and len(cohort) == 4


def test_tiles_of_one_slide_keep_its_name_where_a_row_is_a_tile(data, tmp_path, in_process):
    shutil.copytree(data, tmp_path / "data")
    table = read_table(data / "labeled.csv").head(16)
    table.assign(slide=table["patient"]).to_csv(tmp_path / "data/t.csv", index=False)
    source = ImageTable(tmp_path / "data", "t.csv", "tumor", ["site"], source_mpp=0.5, unit="tiles")
    whole = Preparation(source, Cutting(GRID), SplitScheme(["tumor"], val_fraction=0.25))
    cohort = prepare(whole, tmp_path / "tiles", "skip")
    assert cohort.table.groupby("slide").size().tolist() == [4] * 8
    assert cohort.table["image"].is_unique and (cohort.table["slide"] == cohort.table["patient"]).all()
    with pytest.raises(InputError, match="slide 'P0' is the name of several images"):
        prepare(dataclasses.replace(whole, source=dataclasses.replace(source, unit="slides")), tmp_path / "slides")


BARCODES = ("TCGA-A1-A0SB-01Z-00-DX1", "TCGA-A2-A04P-01Z-00-DX1", "TCGA-02-0001-01Z-00-DX1", "TCGA-02-0003-01Z-00-DX2")


def test_a_long_cohort_is_written_as_parquet(data, prepared, tmp_path, in_process, monkeypatch, preparation):
    monkeypatch.setattr("medi_monai.cohort.table.MAX_CSV_ROWS", 39)
    long = prepare(preparation(data), tmp_path, "skip")
    assert (tmp_path / "cohort.parquet").is_file() and not (tmp_path / "cohort.csv").exists()
    assert long.table.equals(prepared.table) and long.digest == prepared.digest == Cohort.read(tmp_path).digest
    assert load_or_prepare(preparation(data), tmp_path).digest == prepared.digest


def test_a_table_can_be_looked_at_before_an_image_is_there(data, prepared, tmp_path, preparation):
    (tmp_path / "tiles.csv").write_bytes((data / "tiles.csv").read_bytes())
    cohort = table_cohort(preparation(tmp_path))
    split = prepared.table.drop_duplicates("slide").set_index("slide")["split"]
    splits = cohort.table.set_index("slide")["split"]
    assert splits[split.index].equals(split) and len(cohort) == 19 and "tiles/unlabeled.png" not in splits.index


def test_a_misspelled_cohort_is_not_replaced_by_that_of_the_demo(data, preparation, tmp_path):
    asked = preparation(data)
    demo = dataclasses.replace(asked, source=dataclasses.replace(asked.source, root=None))
    with pytest.raises(InputError, match="chort holds no cohort, and dataset_dir is null: correct cohort_dir"):
        load_or_prepare(demo, tmp_path / "chort")
    assert not (tmp_path / "chort").exists()


def test_a_class_called_none_in_a_cohort_of_others_is_a_class(tmp_path, preparation, capsys):
    rows = [(f"{n}.png", f"s{n}", f"p{n}", "none" if n % 2 else "tumor", "", "train") for n in range(4)]
    table = pd.DataFrame(rows, columns=["image", "slide", "patient", "tumor", "center", "split"])
    table.to_csv(tmp_path / "cohort.csv", index=False)
    cohort = load_or_prepare(preparation(tmp_path), tmp_path)
    assert "tumor has the value 'none' in 2 rows, a value like any other" in capsys.readouterr().out
    schema = MetadataSchema.from_table(cohort.table, "tumor", ["center"])
    assert schema.label.values == ("none", "tumor")
    assert schema.encode(cohort.table).tolist() == [[1, -1], [0, -1], [1, -1], [0, -1]]


def test_a_class_called_none_is_kept_where_the_words_do_not_name_it(tmp_path, preparation):
    cells = {"image": ["a.png", "b.png"], "slide": ["s", "t"], "patient": ["p", "q"], "tumor": ["none", "x"]}
    pd.DataFrame(cells | {"site": ["NA", "not reported"]}).to_csv(tmp_path / "tiles.csv", index=False)
    source = preparation(tmp_path).source
    rows = source.rows(check_files=False)
    assert rows["tumor"].tolist() == ["", "x"] and rows["site"].tolist() == ["NA", ""]
    assert rows["problem"][0].startswith("no tumor: 'none' means missing data; to keep it, rename it in `mapping`")
    kept = dataclasses.replace(source, missing=["not reported"]).rows(check_files=False)
    assert kept["tumor"].tolist() == ["none", "x"] and kept["site"].tolist() == ["NA", ""]
    renamed = dataclasses.replace(source, mapping={"tumor": {"rename": {"none": "no tumor"}}}).rows(check_files=False)
    assert renamed["tumor"].tolist() == ["no tumor", "x"]


def test_a_table_that_cannot_be_split_can_be_looked_at_too(data, tmp_path, preparation, capsys):
    table = read_table(data / "tiles.csv")
    table.assign(site="one").to_csv(tmp_path / "tiles.csv", index=False)
    splits = SplitScheme(["tumor", "site"], "subpopulation_holdout")
    cohort = table_cohort(dataclasses.replace(preparation(tmp_path), splits=splits))
    assert "cannot be split, and is audited without a split. subpopulation_holdout keeps" in capsys.readouterr().out
    assert "split" not in cohort.table and len(cohort) == len(table)

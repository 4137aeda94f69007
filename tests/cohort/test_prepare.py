import dataclasses
import os
import shutil
import sys
import threading
from multiprocessing import get_context

import numpy as np
import openslide
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import ndimage

from medi_monai.cohort import (
    Cohort,
    Cutting,
    ImageTable,
    PatchDataset,
    Preparation,
    Share,
    SplitScheme,
    StreamedPatchDataset,
    default_cohort_dir,
    load_or_prepare,
    prepare,
    table_cohort,
)
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.cohort.duplicates import hash_images
from medi_monai.cohort.extraction import record_folder
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json, read_table, write_json
from medi_monai.wsi import PatchGrid

SIDE = 128  # of a patch of 64 pixels at 1.0 microns per pixel, on slides of 0.5
GRID = PatchGrid(64, 1.0)
BROKEN = "tiles/z_broken.png"


def stained(seed, height, width):
    """Noise in the colors of hematoxylin and eosin."""
    rng = np.random.default_rng(seed)
    amount = rng.random((height, width, 1))
    colors = amount * (95, 60, 130) + (1 - amount) * (225, 150, 190) + rng.integers(-10, 11, (height, width, 3))
    return colors.astype(np.uint8)


def tile(seed, width=2 * SIDE + 20):
    return stained(seed, SIDE + 5, width)


def slide():
    """Blocks of tissue on the left, glass on the right."""
    pixels = np.kron(stained(0, 4 * SIDE // 16, 4 * SIDE // 16), np.ones((16, 16, 1), np.uint8))
    pixels[:, 2 * SIDE :] = 245
    return pixels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight patients with two tiles each, one of them with a slide too; a broken, a blank and an unlabeled tile."""
    root = tmp_path_factory.mktemp("data")
    (root / "tiles").mkdir()
    (root / "slides").mkdir()
    rows = []
    for place in range(16):
        patient = place // 2
        rows.append((f"tiles/{place:02d}.png", f"P{patient}", ("UCS", "KIRC")[patient % 2], ("NA", "01")[patient // 4]))
        Image.fromarray(tile(place)).save(root / rows[-1][0])
    write_pyramid(root / "slides/S.tiff", slide(), 0.5)
    Image.fromarray(np.full((SIDE, SIDE, 3), 250, np.uint8)).save(root / "tiles/blank.png")
    Image.fromarray(tile(98)).save(root / "tiles/unlabeled.png")
    Image.fromarray(tile(99)).save(root / BROKEN)
    (root / BROKEN).write_bytes((root / BROKEN).read_bytes()[:2000])
    rows += [
        ("slides/S.tiff", "P0", "UCS", "NA"),
        ("tiles/blank.png", "P1", "KIRC", "NA"),
        ("tiles/unlabeled.png", "P2", "not reported", "NA"),
        (BROKEN, "P3", "KIRC", "NA"),
    ]
    table = pd.DataFrame(rows, columns=["image", "patient", "tumor", "site"])
    table = table.assign(slide=table["image"])
    table.to_csv(root / "tiles.csv", index=False)
    table[table["tumor"] != "not reported"].to_csv(root / "labeled.csv", index=False)
    return root


def preparation(root, table="tiles.csv", grid=GRID, **cutting):
    source = ImageTable(root, table, "tumor", ["site"], source_mpp=0.5)
    splits = SplitScheme(["tumor"], val_fraction=0.25)
    return Preparation(source, Cutting(grid, **cutting), splits)


def _map_here(function, jobs, num_workers, task, unit):
    yield from map(function, jobs)


@pytest.fixture
def in_process(monkeypatch):
    """Work in this process: a new one takes seconds to start."""
    # the function `prepare` hides the module of its name
    monkeypatch.setattr(sys.modules["medi_monai.cohort.prepare"], "map_processes", _map_here)


@pytest.fixture(scope="module")
def prepared(data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["medi_monai.cohort.prepare"], "map_processes", _map_here)
        return prepare(preparation(data), tmp_path_factory.mktemp("cohort"), on_error="skip")


def patches_of(cohort, image):
    """``{(x, y): pixels}`` of one image."""
    own = cohort.table[cohort.table["slide"] == image]
    return {
        (int(row.x), int(row.y)): np.asarray(Image.open(cohort.root / row.image)) for row in own.itertuples(index=False)
    }


def files_in(root):
    """All files of the patches with their last change."""
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.rglob("patches/**/*.*") if path.is_file()}


def contents(root, pattern="*.png"):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob(pattern)}


@pytest.mark.parametrize("place", [0, 9])
def test_patches_of_a_tile_equal_its_crops_resized(prepared, place):
    patches = patches_of(prepared, f"tiles/{place:02d}.png")
    assert sorted(patches) == [(0, 0), (SIDE, 0)]
    for (x, y), pixels in patches.items():
        crop = Image.fromarray(tile(place)).crop((x, y, x + SIDE, y + SIDE))
        assert np.array_equal(pixels, np.asarray(crop.reduce(SIDE // 64)))


def test_patches_of_a_slide_are_its_tissue_at_the_resolution_asked_for(prepared, data):
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
    assert rejected["tiles/unlabeled.png"] == "no tumor"
    assert rejected["tiles/blank.png"].startswith("no tissue") and "tiles/blank.png" in rejected["tiles/blank.png"]
    assert BROKEN in rejected[BROKEN]
    assert not set(rejected.index) & set(prepared.table["slide"])


def test_the_split_is_one_of_patients(prepared):
    assert (prepared.table.groupby("patient")["split"].nunique() == 1).all()
    patients = prepared.table.drop_duplicates("patient")
    assert pd.crosstab(patients["tumor"], patients["split"]).to_dict("list") == {"train": [3, 3], "val": [1, 1]}


def test_a_repeated_call_does_the_half_done_again_and_nothing_else(prepared, data, in_process):
    pixels = contents(prepared.root)
    deleted = record_folder(prepared.root, "tiles/04.png")
    whole = record_folder(prepared.root, "slides/S.tiff")
    half = whole.with_name(f".{whole.name}.part")
    shutil.rmtree(deleted)
    whole.rename(half)
    next(half.glob("000/*")).rename(half / "000" / "patch_7_7.png")
    before = files_in(prepared.root)

    again = prepare(preparation(data), prepared.root, on_error="skip")
    assert again.table.equals(prepared.table)
    assert contents(prepared.root) == pixels
    after = files_in(prepared.root)
    kept = {path for path in before if path in after and half.name not in path.parts}
    changed = {path for path in kept if before[path] != after[path]}
    assert {path.name for path in changed} <= {"problems-0.json"} and len(kept) > 60
    assert deleted.is_dir() and not half.exists()


@pytest.mark.parametrize("patch_format", ["png", "none"])
def test_a_slide_that_was_replaced_is_cut_again_and_no_other(data, tmp_path, in_process, capsys, patch_format):
    shutil.copytree(data, tmp_path / "data")
    root, made = tmp_path / "out", preparation(tmp_path / "data", "labeled.csv", patch_format=patch_format)
    first = prepare(made, root, on_error="skip")
    before = files_in(root)
    folder = record_folder("", "tiles/04.png")
    Image.fromarray(tile(77, 3 * SIDE)).save(tmp_path / "data/tiles/04.png")
    capsys.readouterr()
    second = prepare(made, root, on_error="skip")
    assert "1 of the images are other files than those that were cut" in capsys.readouterr().out
    sizes = [cohort.table.groupby("slide").size()["tiles/04.png"] for cohort in (first, second)]
    assert sizes == [2, 3]
    changed = {path for path, time in files_in(root).items() if before.get(path) != time}
    assert {path.parts[:3] for path in changed if path.name != "problems-0.json"} == {folder.parts}
    # a record of an older version counts as finished
    record = root / folder / "slide.json"
    write_json(record, {name: value for name, value in read_json(record).items() if name != "fingerprint"})
    Image.fromarray(tile(78)).save(tmp_path / "data/tiles/04.png")
    third = prepare(made, root, on_error="skip")
    assert third.table.equals(second.table) and "other files" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
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
    data, stopped, prepared, tmp_path, in_process
):
    shutil.copytree(data, tmp_path / "data")
    table = read_table(data / "labeled.csv")
    made = []
    for name, rows in (("as_it_is", table), ("shuffled", table.sample(frac=1, random_state=0))):
        rows.to_csv(tmp_path / "data/labeled.csv", index=False)
        limited = preparation(tmp_path / "data", "labeled.csv", max_patches_per_slide=3)
        made.append(prepare(limited, tmp_path / name, on_error="skip"))
    sizes = {f"tiles/{place:02d}.png": 2 for place in range(16)} | {"slides/S.tiff": 3}
    assert made[0].table.groupby("slide").size().to_dict() == sizes
    for file in ("cohort.csv", "quality.parquet", "slides.csv", "rejected.csv"):
        one, other = (read_table(cohort.root / file) for cohort in made)
        where = str(tmp_path)
        assert one.to_csv().replace(where, "") == other.to_csv().replace(where, "")
    # two processes cut the one, this process the others
    pixels = contents(made[0].root)
    assert pixels == contents(made[1].root) == contents(stopped[0])
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


def test_a_preview_counts_what_would_be_cut(prepared, data, tmp_path, in_process):
    seen = prepare(preparation(data, patch_format="none", measure="never"), tmp_path, on_error="skip")
    shared = ["slide", "patient", "x", "y", "mpp", "tumor", "site", "split"]
    assert seen.table[shared].equals(prepared.table[shared])
    assert seen.table["image"].tolist() == [str(data.resolve() / name) for name in prepared.table["slide"]]
    assert set(seen.table["source_mpp"]) == {"0.5"}
    expected, found = (pd.read_parquet(cohort.root / "quality.parquet") for cohort in (prepared, seen))
    assert set(expected.columns) - set(found.columns) == {"sharpness", "background", "hash"}
    assert np.array_equal(found["tissue"], expected["tissue"]) and not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"grid": PatchGrid(32, 1.0)}, r"cutting.grid.image_size: 64 there, 32 now\)"),
        ({"max_patches_per_slide": 5}, r"\(cutting.max_patches_per_slide: None there, 5 now\)"),
        ({"patch_format": "none"}, r"\(cutting.patch_format: png there, none now\)"),
    ],
)
def test_a_folder_prepared_with_other_settings_is_refused_with_what_changed(prepared, data, changes, says):
    before = files_in(prepared.root)
    other = preparation(data, **changes)
    with pytest.raises(InputError, match=says):
        prepare(other, prepared.root, on_error="skip")
    assert files_in(prepared.root) == before


def test_a_folder_prepared_with_another_split_is_refused(prepared, data):
    other = dataclasses.replace(preparation(data), splits=SplitScheme(["tumor"], val_fraction=0.25, seed=1))
    with pytest.raises(InputError, match=r"\(splits.seed: 0 there, 1 now\)"):
        prepare(other, prepared.root, on_error="skip")


def test_a_folder_with_other_files_is_refused_and_left_alone(data, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        prepare(preparation(data), tmp_path, on_error="skip")
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_table_without_any_label_is_refused(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    read_table(data / "tiles.csv").assign(tumor="not reported").to_csv(tmp_path / "data/tiles.csv", index=False)
    with pytest.raises(InputError, match="tiles.csv.*'tumor'"):
        prepare(preparation(tmp_path / "data"), tmp_path / "cohort", on_error="skip")


def test_where_no_image_gives_a_patch_the_reasons_are_left(data, tmp_path, in_process):
    shutil.copytree(data, tmp_path / "data")
    rows = read_table(data / "labeled.csv")
    rows[rows["image"].isin(["tiles/blank.png", BROKEN])].to_csv(tmp_path / "data/labeled.csv", index=False)
    with pytest.raises(InputError, match="no image of labeled.csv gave a patch; .*rejected.csv says why"):
        prepare(preparation(tmp_path / "data", "labeled.csv"), tmp_path / "out", on_error="skip")
    reasons = read_table(tmp_path / "out" / "rejected.csv").set_index("image")["reason"]
    assert reasons["tiles/blank.png"].startswith("no tissue") and BROKEN in reasons[BROKEN]
    assert not (tmp_path / "out" / "cohort.csv").exists()


def test_a_row_that_cannot_be_used_stops_by_its_number_where_nothing_may_be_skipped(data, tmp_path):
    with pytest.raises(InputError, match=r"tiles.csv, row 19 \(tiles/unlabeled.png\): no tumor. .*--on_error skip"):
        prepare(preparation(data), tmp_path)
    assert not list(tmp_path.iterdir())


def test_mistakes_in_the_settings_are_named(data, tmp_path):
    with pytest.raises(InputError, match="'skp'.*did you mean 'skip'"):
        prepare(preparation(data), tmp_path, on_error="skp")
    with pytest.raises(InputError, match="max_patches_per_slide = 0"):
        preparation(data, max_patches_per_slide=0)
    with pytest.raises(InputError, match="'jpg': did you mean 'jpeg'"):
        preparation(data, patch_format="jpg")
    with pytest.raises(InputError, match="'alway': did you mean 'always'"):
        preparation(data, measure="alway")


def test_preparations_share_a_name_exactly_where_they_share_their_settings(data, monkeypatch):
    one = preparation(data)
    assert one.name.startswith(f"{data.name}_64px_")
    monkeypatch.chdir(data.parent)
    assert preparation(data.name).name == one.name
    others = [
        preparation(data, seed=1),
        dataclasses.replace(one, cutting=Cutting(PatchGrid(64, 1.0, stride=32))),
        dataclasses.replace(one, splits=SplitScheme(["tumor"], val_fraction=0.2)),
        dataclasses.replace(one, source=dataclasses.replace(one.source, attributes=[])),
    ]
    assert len({other.name for other in [one, *others]}) == 5


def test_a_prepared_cohort_is_loaded_from_its_folder_or_the_data_sets(prepared, data, tmp_path):
    before = files_in(prepared.root)
    assert load_or_prepare(preparation(data), prepared.root).table.equals(Cohort.read(prepared.root).table)
    assert default_cohort_dir(preparation(prepared.root), tmp_path) == str(prepared.root)
    elsewhere = default_cohort_dir(preparation(data), tmp_path)
    assert elsewhere == str(tmp_path / "output" / "preparing" / preparation(data).name)
    assert files_in(prepared.root) == before


def test_images_of_one_stem_and_paths_that_look_alike_keep_their_own_pixels(tmp_path, in_process):
    tones = {"a.png": 90, "a.jpg": 120, "b/c.png": 150, "b__c.png": 180}
    (tmp_path / "data/b").mkdir(parents=True)
    for name, tone in tones.items():
        Image.fromarray(np.full((16, 16, 3), (tone + 40, tone, tone + 40), np.uint8)).save(tmp_path / "data" / name)
    rows = [(name, name, f"P{place}", "X") for place, name in enumerate(tones)]
    pd.DataFrame(rows, columns=["image", "slide", "patient", "tumor"]).to_csv(tmp_path / "data/t.csv", index=False)
    source = ImageTable(tmp_path / "data", "t.csv", "tumor", source_mpp=1.0)
    splits = SplitScheme(["tumor"], fraction=0.0, val_fraction=0.0)
    made = prepare(Preparation(source, Cutting(PatchGrid(16, 1.0)), splits), tmp_path / "out")
    seen = {row.slide: int(np.asarray(Image.open(made.root / row.image))[8, 8, 1]) for row in made.table.itertuples()}
    assert all(abs(seen[name] - tone) < 3 for name, tone in tones.items()) and len(made) == 4


def test_several_processes_share_the_work(data, prepared, tmp_path, in_process):
    barrier, done = threading.Barrier(2), []

    def work(rank):
        share = Share(rank, 2, lambda: barrier.wait(60))
        done.append(prepare(preparation(data), tmp_path, "skip", share=share))

    ranks = [threading.Thread(target=work, args=(rank,)) for rank in (1, 0)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert len(done) == 2 and all(cohort.table.equals(prepared.table) for cohort in done)
    assert contents(tmp_path) == contents(prepared.root)
    for file in ("cohort.csv", "rejected.csv", "slides.csv"):
        assert (tmp_path / file).read_bytes() == (prepared.root / file).read_bytes()
    # each did its part: the broken tile is the last of 19
    problems = [read_json(tmp_path / "patches" / f"problems-{rank}.json") for rank in (0, 1)]
    assert list(problems[0]) == [BROKEN] and problems[1] == {}


def _prepare_alone(root, data, barrier):
    sys.modules["medi_monai.cohort.prepare"].map_processes = _map_here
    barrier.wait(60)
    prepare(preparation(data), root, "skip")


def test_two_runs_at_once_in_one_folder_leave_what_one_leaves(data, prepared, tmp_path):
    context = get_context("fork")
    barrier = context.Barrier(2)
    runs = [context.Process(target=_prepare_alone, args=(tmp_path, data, barrier), daemon=True) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0]
    assert contents(tmp_path) == contents(prepared.root) and Cohort.read(tmp_path).table.equals(prepared.table)
    assert not list(tmp_path.rglob("*.part"))


def test_a_mended_slide_is_read_by_the_next_call(data, tmp_path, in_process):
    shutil.copytree(data, tmp_path / "data")
    assert BROKEN not in set(prepare(preparation(tmp_path / "data"), tmp_path / "out", "skip").table["slide"])
    Image.fromarray(tile(99)).save(tmp_path / "data" / BROKEN)
    before = files_in(tmp_path / "out")
    mended = prepare(preparation(tmp_path / "data"), tmp_path / "out", "skip")
    assert (mended.table["slide"] == BROKEN).sum() == 2
    after = files_in(tmp_path / "out")
    assert all(after[path] == before[path] for path in before if path.name.startswith("patch_"))
    assert BROKEN not in set(read_table(tmp_path / "out" / "rejected.csv")["image"])


def test_tiles_of_one_slide_keep_its_name_where_a_row_is_a_tile(data, tmp_path, in_process):
    shutil.copytree(data, tmp_path / "data")
    table = read_table(data / "labeled.csv").head(16)
    table.assign(slide=table["patient"]).to_csv(tmp_path / "data/t.csv", index=False)
    source = ImageTable(tmp_path / "data", "t.csv", "tumor", ["site"], source_mpp=0.5, unit="tiles")
    whole = Preparation(source, Cutting(GRID), SplitScheme(["tumor"], val_fraction=0.25))
    made = prepare(whole, tmp_path / "tiles", "skip")
    assert made.table.groupby("slide").size().tolist() == [4] * 8
    assert made.table["image"].is_unique and (made.table["slide"] == made.table["patient"]).all()
    with pytest.raises(InputError, match="slide 'P0' is the name of several images"):
        prepare(dataclasses.replace(whole, source=dataclasses.replace(source, unit="slides")), tmp_path / "slides")


BARCODES = ("TCGA-A1-A0SB-01Z-00-DX1", "TCGA-A2-A04P-01Z-00-DX1", "TCGA-02-0001-01Z-00-DX1", "TCGA-02-0003-01Z-00-DX2")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """TCGA-UT: three patches of 256 pixels of each of four slides, one of them broken, and a file that is none."""
    root = tmp_path_factory.mktemp("tcga_ut")
    for place, barcode in enumerate(BARCODES):
        folder = root / ("Breast", "Glioma")[place // 2] / barcode
        folder.mkdir(parents=True)
        for number in range(3):
            image = Image.fromarray(stained(10 * place + number, 64, 64)).resize((256, 256))
            image.save(folder / f"{number}.jpg", quality=90)
    broken = root / "Breast" / BARCODES[0] / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:1500])
    (root / "Glioma" / "notes.txt").write_text("mine")
    return root


def patch_tree(root, image_size, mpp):
    source = ImageTable(
        root,
        {"layout": "tcga_ut", "path": "."},
        "label",
        ["site"],
        {"image": "{image}", "slide": "slide", "patient": "patient"},
        source_mpp=0.5,
        unit="patches",
    )
    return Preparation(source, Cutting(PatchGrid(image_size, mpp)), SplitScheme(["label"], val_fraction=0.0))


def test_a_tree_of_patches_is_taken_as_it_is(tree, tmp_path, in_process):
    whole = prepare(patch_tree(tree, 256, 0.5), tmp_path / "whole", "skip")
    assert len(whole) == 11 and not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("*.jpg"))
    assert whole.table.groupby("label")["site"].agg(set).to_dict() == {"Breast": {"A1", "A2"}, "Glioma": {"02"}}
    files = [np.asarray(Image.open(name)) for name in whole.table["image"]]
    codes = MetadataSchema.from_table(whole.table, "label", ["site"])
    assert np.array_equal(PatchDataset(whole, codes, 256).images.permute(0, 2, 3, 1), np.stack(files))
    half = prepare(patch_tree(tree, 128, 1.0), tmp_path / "half", "skip")
    expected = np.stack(files).reshape(11, 128, 2, 128, 2, 3).mean((2, 4))
    for dataset in (PatchDataset(half, codes, 128), StreamedPatchDataset(half, codes, 128)):
        found = torch.stack([dataset[place]["image"] for place in range(11)]).permute(0, 2, 3, 1)
        assert np.abs(found.numpy() - expected).max() <= 0.5
    quality = pd.read_parquet(half.root / "quality.parquet")
    assert np.array_equal(quality["hash"], hash_images(found.numpy())) and set(quality["width"]) == {256}
    rejected = read_table(half.root / "rejected.csv").set_index("image")["reason"]
    assert len(rejected) == 2 and "truncated" in rejected[f"Breast/{BARCODES[0]}/2.jpg"]
    assert "Glioma/notes.txt" in rejected.index


def test_a_repeated_call_looks_at_patches_again_only_where_some_could_not_be_read(
    tree, tmp_path, in_process, monkeypatch
):
    shutil.copytree(tree, tmp_path / "data")
    monkeypatch.setattr(sys.modules["medi_monai.cohort.prepare"], "PATCHES_PER_SCAN", 4)
    first = prepare(patch_tree(tmp_path / "data", 128, 1.0), tmp_path / "out", "skip")
    scans = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")}
    assert len(scans) == 3 and len(first) == 11
    shutil.copy(tree / "Breast" / BARCODES[0] / "1.jpg", tmp_path / "data" / "Breast" / BARCODES[0] / "2.jpg")
    second = prepare(patch_tree(tmp_path / "data", 128, 1.0), tmp_path / "out", "skip")
    assert len(second) == 12
    again = [path for path, time in scans.items() if path.stat().st_mtime_ns != time]
    assert len(again) == 1


def test_a_long_cohort_is_written_as_parquet(data, prepared, tmp_path, in_process, monkeypatch):
    monkeypatch.setattr("medi_monai.cohort.table.MAX_CSV_ROWS", 39)
    long = prepare(preparation(data), tmp_path, "skip")
    assert (tmp_path / "cohort.parquet").is_file() and not (tmp_path / "cohort.csv").exists()
    assert long.table.equals(prepared.table) and long.digest == prepared.digest == Cohort.read(tmp_path).digest
    assert load_or_prepare(preparation(data), tmp_path).digest == prepared.digest


def test_a_table_can_be_looked_at_before_an_image_is_there(data, prepared, tmp_path):
    (tmp_path / "tiles.csv").write_bytes((data / "tiles.csv").read_bytes())
    cohort = table_cohort(preparation(tmp_path))
    split = prepared.table.drop_duplicates("slide").set_index("slide")["split"]
    found = cohort.table.set_index("slide")["split"]
    assert found[split.index].equals(split) and len(cohort) == 19 and "tiles/unlabeled.png" not in found.index

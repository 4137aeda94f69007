"""Tables and trees whose rows are patches: files that stay where they are."""

import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.cohort import (
    Cutting,
    ImageTable,
    PatchDataset,
    Preparation,
    SplitScheme,
    StreamedPatchDataset,
    load_or_prepare,
    prepare,
)
from medi_monai.cohort.duplicates import hash_images
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.tables import read_table
from medi_monai.wsi import PatchGrid

BARCODES = ("TCGA-A1-A0SB-01Z-00-DX1", "TCGA-A2-A04P-01Z-00-DX1", "TCGA-02-0001-01Z-00-DX1", "TCGA-02-0003-01Z-00-DX2")


@pytest.fixture(scope="module")
def tree(tmp_path_factory, stained):
    """TCGA-UT: three patches of 256 pixels of each of four slides, one of them broken, and a file that is none."""
    root = tmp_path_factory.mktemp("tcga_ut")
    for number, barcode in enumerate(BARCODES):
        folder = root / ("Breast", "Glioma")[number // 2] / barcode
        folder.mkdir(parents=True)
        for patch in range(3):
            image = Image.fromarray(stained(10 * number + patch, 64, 64)).resize((256, 256))
            image.save(folder / f"{patch}.jpg", quality=90)
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
        read = torch.stack([dataset[index]["image"] for index in range(11)]).permute(0, 2, 3, 1)
        assert np.abs(read.numpy() - expected).max() <= 0.5
    quality = pd.read_parquet(half.root / "quality.parquet")
    assert np.array_equal(quality["hash"], hash_images(read.numpy())) and set(quality["width"]) == {256}
    rejected = read_table(half.root / "rejected.csv").set_index("image")["reason"]
    assert len(rejected) == 2 and "truncated" in rejected[f"Breast/{BARCODES[0]}/2.jpg"]
    assert "Glioma/notes.txt" in rejected.index


def test_a_repeated_call_looks_at_patches_again_only_where_some_could_not_be_read(
    tree, tmp_path, in_process, monkeypatch
):
    shutil.copytree(tree, tmp_path / "data")
    monkeypatch.setattr(sys.modules["medi_monai.cohort.patches"], "PATCHES_PER_SCAN", 4)
    first = prepare(patch_tree(tmp_path / "data", 128, 1.0), tmp_path / "out", "skip")
    scans = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npz")}
    assert len(scans) == 3 and len(first) == 11
    shutil.copy(tree / "Breast" / BARCODES[0] / "1.jpg", tmp_path / "data" / "Breast" / BARCODES[0] / "2.jpg")
    second = prepare(patch_tree(tmp_path / "data", 128, 1.0), tmp_path / "out", "skip")
    assert len(second) == 12
    again = [path for path, time in scans.items() if path.stat().st_mtime_ns != time]
    assert len(again) == 1


def test_patches_that_were_replaced_are_looked_at_again_and_until_then_refused(tree, tmp_path, in_process):
    shutil.copytree(tree, tmp_path / "tree")
    preparation, root = patch_tree(tmp_path / "tree", 256, 0.5), tmp_path / "cohort"
    first = prepare(preparation, root, "skip")
    before = first.digest
    assert load_or_prepare(preparation, root).digest == before
    hashes = pd.read_parquet(root / "quality.parquet")["hash"]
    replaced = tmp_path / "tree" / "Glioma" / BARCODES[2] / "1.jpg"
    Image.open(replaced).rotate(90).save(replaced, quality=90)
    with pytest.raises(InputError, match="1 image of the cohort .* changed since .* example .*/1.jpg: run"):
        load_or_prepare(preparation, root)
    again = prepare(preparation, root, "skip")
    assert again.table.equals(first.table) and again.digest != before
    changed = (pd.read_parquet(root / "quality.parquet")["hash"] != hashes).to_numpy()
    assert again.table["image"][changed].tolist() == [str(replaced)]
    assert load_or_prepare(preparation, root).digest == again.digest


def test_settings_of_the_user_that_an_existing_cohort_contradicts_are_refused(tree, tmp_path, in_process):
    preparation = patch_tree(tree, 256, 0.5)
    prepare(preparation, tmp_path, "skip")
    coarser = replace(preparation, cutting=replace(preparation.cutting, grid=PatchGrid(image_size=256, mpp=1.0)))
    assert load_or_prepare(coarser, tmp_path).mpp == 0.5, "a default of a config has no say"
    message = f"mpp = 1.0: the cohort in {tmp_path} was prepared with 0.5. Leave mpp out, or prepare another"
    with pytest.raises(InputError, match=re.escape(message)):
        load_or_prepare(replace(coarser, given={"mpp"}), tmp_path)
    other = replace(preparation, splits=replace(preparation.splits, seed=7), given={"split_seed"})
    with pytest.raises(InputError, match="split_seed = 7: .* was prepared with 0"):
        load_or_prepare(other, tmp_path)
    assert len(load_or_prepare(replace(preparation, given={"mpp", "split_seed", "table"}), tmp_path))
    # a cohort that was made elsewhere says its resolution
    (tmp_path / "preparation.json").unlink()
    with pytest.raises(InputError, match=re.escape(message)):
        load_or_prepare(replace(coarser, given={"mpp"}), tmp_path)
    assert len(load_or_prepare(replace(other, given={"split_seed"}), tmp_path))

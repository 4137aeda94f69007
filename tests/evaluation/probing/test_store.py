import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from medi_monai.evaluation.probing import FeatureStore
from medi_monai.utils.errors import InputError, RunStopped

COUNT, DIM, BLOCK = 23, 5, 4
FEATURES = np.random.default_rng(0).normal(size=(COUNT, DIM)).astype(np.float32)
TABLE = pd.DataFrame({"image": [f"p/{number}.png" for number in range(COUNT)], "center": ["NA", "1"] * 11 + ["01"]})
FINGERPRINT = {"encoder": {"name": "e", "mean": [0.5, 0.5, 0.5]}, "images": "abc"}


def make(folder, table=TABLE, fingerprint=FINGERPRINT, dim=DIM, block_size=BLOCK):
    return FeatureStore.create_or_open(folder, table, fingerprint, dim, block_size)


def fill(store, blocks):
    for block in blocks:
        rows = store.rows(block)
        store.write(block, FEATURES[rows.start : rows.stop])


@pytest.fixture
def filled(tmp_path):
    store = make(tmp_path / "s")
    fill(store, store.missing_blocks())
    return store


def test_features_and_rows_come_back_in_their_order(filled):
    read = FeatureStore.open(filled.folder)
    assert read.complete and len(read) == COUNT and read.dim == DIM and read.fingerprint == FINGERPRINT
    assert np.array_equal(read.features, FEATURES) and isinstance(read.features, np.memmap)
    assert np.array_equal(np.load(filled.folder / "features.npy"), FEATURES)
    assert read.table.equals(TABLE) and pd.read_parquet(filled.folder / "rows.parquet").equals(TABLE)
    with pytest.raises(ValueError, match="read-only"):
        read.features[0, 0] = 1
    said = json.loads((filled.folder / "store.json").read_text())
    assert said["fingerprint"] == FINGERPRINT and said["count"] == COUNT and said["dim"] == DIM


def test_blocks_cover_every_row_once_and_ranks_share_them(tmp_path):
    store = make(tmp_path / "s")
    assert store.num_blocks == 6
    assert [row for block in range(6) for row in store.rows(block)] == list(range(COUNT))
    for world_size in (1, 2, 4, 7):
        shares = [store.missing_blocks(rank, world_size) for rank in range(world_size)]
        assert sorted(sum(shares, [])) == list(range(6))
        assert all(block % world_size == rank for rank, share in enumerate(shares) for block in share)


def test_an_interrupted_store_goes_on_and_says_that_it_is_not_complete(tmp_path):
    fill(make(tmp_path / "s"), [0, 3])
    again = make(tmp_path / "s", block_size=7)
    assert again.block_size == BLOCK and not again.complete
    assert again.missing_blocks() == [1, 2, 4, 5] and again.missing_blocks(1, 2) == [1, 5]
    with pytest.raises(InputError, match="4 of 6 blocks .* are missing"):
        _ = again.features
    fill(again, again.missing_blocks())
    assert np.array_equal(FeatureStore.open(tmp_path / "s").features, FEATURES)


def test_a_block_that_was_cut_off_is_not_done(tmp_path, monkeypatch):
    store = make(tmp_path / "s")

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunStopped, match="No space left"):
        patch.setattr(os, "fsync", full)
        fill(store, [2])
    assert 2 in store.missing_blocks()


def test_a_killed_process_leaves_whole_blocks_alone(tmp_path):
    make(tmp_path / "s")
    code = f"""
import os, signal
import numpy as np
from medi_monai.evaluation.probing import FeatureStore
store = FeatureStore.open({str(tmp_path / "s")!r})
store.write(0, np.ones((4, 5)))
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
store.write(1, np.ones((4, 5)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == -signal.SIGKILL
    store = make(tmp_path / "s")
    assert store.missing_blocks() == [1, 2, 3, 4, 5]
    fill(store, range(6))
    assert np.array_equal(store.features, FEATURES)


def test_a_folder_left_before_it_was_whole_is_made_anew(tmp_path):
    fill(make(tmp_path / "s"), [0])
    (tmp_path / "s" / "store.json").unlink()
    with pytest.raises(InputError, match="no features in .*store.json is missing"):
        FeatureStore.open(tmp_path / "s")
    assert make(tmp_path / "s").missing_blocks() == list(range(6))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fingerprint": {**FINGERPRINT, "images": "abd"}}, "images"),
        ({"fingerprint": {**FINGERPRINT, "encoder": {"name": "f"}}}, "encoder"),
        ({"fingerprint": {**FINGERPRINT, "recipe": {"jitter": 0.2}}}, "recipe"),
        ({"dim": 6}, "dimensions"),
        ({"table": TABLE.head(22)}, "rows"),
    ],
)
def test_features_of_something_else_are_refused(filled, change, named):
    with pytest.raises(InputError, match=rf"other features \({named} differ\)"):
        make(filled.folder, **change)
    assert np.array_equal(FeatureStore.open(filled.folder).features, FEATURES)


def test_corrected_labels_take_the_place_of_the_old_ones(filled):
    corrected = TABLE.assign(center="2", race="x")
    store = make(filled.folder, corrected)
    assert store.complete and store.table.equals(corrected)
    shuffled = corrected.set_index(pd.Index(range(5, 5 + COUNT)))
    assert make(filled.folder, shuffled).table.equals(corrected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_features_that_are_not_finite_name_the_image(tmp_path, value):
    store, features = make(tmp_path / "s"), FEATURES[4:8].astype(np.float64)
    features[2, 3] = value
    with pytest.raises(InputError, match=r"row 6 \(p/6.png\) are not finite .* 1 of 4 images"):
        store.write(1, features)
    assert 1 in store.missing_blocks()


def test_other_shapes_and_blocks_are_refused(tmp_path):
    store = make(tmp_path / "s")
    for features in (FEATURES[:3], FEATURES[:4, :4], FEATURES[0], FEATURES[:4, None]):
        with pytest.raises(InputError, match=r"block 0 needs features of shape \(4, 5\)"):
            store.write(0, features)
    for block in (-1, 6):
        with pytest.raises(InputError, match="has 6 blocks"):
            store.write(block, FEATURES[:4])
    store.write(5, torch.from_numpy(FEATURES[20:]).double().requires_grad_())
    assert store.missing_blocks() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("change", [{"table": TABLE.head(0)}, {"dim": 0}, {"block_size": 0}])
def test_an_empty_store_is_refused(tmp_path, change):
    with pytest.raises(InputError, match="has to be 1 or more"):
        make(tmp_path / "s", **change)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("spoil", ["truncate", "empty", "folder", "lose", "other", "json", "rows"])
def test_a_damaged_folder_is_named(filled, spoil):
    array = filled.folder / "features.npy"
    if spoil == "truncate":
        array.write_bytes(array.read_bytes()[:-4])
    elif spoil == "empty":
        array.write_bytes(b"")
    elif spoil == "folder":
        array.unlink()
        array.mkdir()
    elif spoil == "lose":
        array.unlink()
    elif spoil == "other":
        np.save(array, FEATURES.astype(np.float64))
    elif spoil == "json":
        (filled.folder / "store.json").write_text("{}")
    else:
        (filled.folder / "rows.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="delete the folder"):
        _ = FeatureStore.open(filled.folder).table


def test_a_table_without_images_names_the_row_alone(tmp_path):
    store = make(tmp_path / "s", pd.DataFrame({"site": ["a"] * COUNT}))
    with pytest.raises(InputError, match="row 0 are not finite"):
        store.write(0, np.full((4, 5), np.nan))

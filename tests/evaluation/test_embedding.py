from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.transforms import Compose
from PIL import Image

from medi_monai.cohort import Cohort, Shard, StreamedPatchDataset
from medi_monai.evaluation.embedding import Embedder, ImageSets, embed_images
from medi_monai.evaluation.probing import FeatureStore
from medi_monai.networks.encoders import Encoder
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.wsi.transforms import patch_transforms

SIZE, COUNT, BLOCK = 8, 600, 256


class Means(Encoder):
    """Mean and standard deviation of each channel: what NumPy says as well."""

    def __init__(self, scale=1.0):
        super().__init__("means", None)
        self.register_buffer("scale", torch.tensor(scale))
        self.dim, self.seen = 6, 0

    def encode(self, images):
        self.seen += len(images)
        return torch.cat([images.mean((2, 3)), images.std((2, 3), correction=0)], 1) * self.scale


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory, pixels):
    root = tmp_path_factory.mktemp("patches")
    # not in the order of their names
    names = [f"{(7 * number) % COUNT:03d}.png" for number in range(COUNT)]
    for name, image in zip(names, pixels):
        Image.fromarray(image).save(root / name, compress_level=0)
    table = pd.DataFrame({"image": names, "x": "0", "y": "0", "mpp": "1.0", "center": ["NA", "1", "01"] * 200})
    return Cohort(table, root)


@pytest.fixture(scope="module")
def expected(pixels):
    scaled = pixels / 255
    return np.hstack([scaled.mean((1, 2)), scaled.std((1, 2))])


@pytest.fixture
def nothing_is_read(monkeypatch):
    def refuse(*_):
        raise AssertionError("an image was read")

    def start():
        monkeypatch.setattr(StreamedPatchDataset, "__getitems__", refuse)

    return start


def test_features_are_those_of_each_image_in_the_order_of_the_rows(cohort, expected, tmp_path):
    store = embed_images(cohort, Means(), tmp_path, SIZE)
    np.testing.assert_allclose(store.features, expected, atol=1e-6)
    assert store.table.equals(cohort.table)
    assert store.folder.parent == tmp_path and store.folder.name.startswith("means_")
    assert store.fingerprint["encoder"] == Means().describe() and store.fingerprint["image_size"] == SIZE


@pytest.mark.parametrize("batch_size", [1, 100, 256, 1000])
def test_any_size_of_batches_will_do(cohort, expected, tmp_path, batch_size):
    few = Cohort(cohort.table.head(300), cohort.root)
    store = embed_images(few, Means(), tmp_path, SIZE, batch_size=batch_size)
    np.testing.assert_allclose(store.features, expected[:300], atol=1e-6)


def test_what_is_there_is_opened_without_reading(cohort, tmp_path, nothing_is_read):
    first = embed_images(cohort, Means(), tmp_path, SIZE)
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    nothing_is_read()
    encoder = Means()
    again = embed_images(cohort, encoder, tmp_path, SIZE, batch_size=17)
    assert encoder.seen == 0 and again.folder == first.folder and np.array_equal(again.features, first.features)
    assert {path.name: path.stat().st_mtime_ns for path in again.folder.iterdir()} == before
    relabelled = Cohort(cohort.table.assign(center="x"), cohort.root)
    assert set(embed_images(relabelled, encoder, tmp_path, SIZE).table["center"]) == {"x"}


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": Means(2.0)},
        {"recipe": {"checkpoint": "b"}},
        {"rows": [1, 0]},
        {"columns": {"x": "8"}},
        {"columns": {"seed": "1"}},
        {"beside": ("sampling.json", '{"checkpoint": "c"}')},
        {"beside": ("preparation.json", '{"cutting": {}}')},
    ],
)
def test_whatever_decides_the_features_has_a_store_of_its_own(cohort, tmp_path, change):
    names = cohort.table["image"].head(2)
    folders = []
    for changes in ({}, change):
        root = tmp_path / f"patches{len(folders)}"
        root.mkdir()
        for name in names:
            (root / name).symlink_to(cohort.root / name)
        if "beside" in changes:
            (root / changes["beside"][0]).write_text(changes["beside"][1])
        table = cohort.table.head(2).iloc[changes.get("rows", [0, 1])].assign(**changes.get("columns", {}))
        encoder = changes.get("encoder", Means())
        store = embed_images(Cohort(table, root), encoder, tmp_path / "f", SIZE, recipe=changes.get("recipe"))
        folders.append(store.folder)
    assert folders[0] != folders[1]


class Killed(Means):
    """Ends in the middle, as on Ctrl-C."""

    def encode(self, images):
        if self.seen >= 300:
            raise KeyboardInterrupt
        return super().encode(images)


def test_an_interrupted_run_goes_on_to_the_same_bytes(cohort, tmp_path):
    whole = embed_images(cohort, Means(), tmp_path / "whole", SIZE, batch_size=50)
    with pytest.raises(KeyboardInterrupt):
        embed_images(cohort, Killed(), tmp_path / "parts", SIZE, batch_size=50)
    folder = next((tmp_path / "parts").iterdir())
    # six batches of fifty to a block
    assert FeatureStore.open(folder).missing_blocks() == [1]
    encoder = Means()
    again = embed_images(cohort, encoder, tmp_path / "parts", SIZE, batch_size=50)
    assert encoder.seen == COUNT - 300 and again.folder.name == whole.folder.name
    assert (again.folder / "features.npy").read_bytes() == (whole.folder / "features.npy").read_bytes()


def test_two_processes_leave_what_one_leaves(cohort, tmp_path):
    whole = embed_images(cohort, Means(), tmp_path / "one", SIZE)
    encoders = [Means(), Means()]
    with pytest.raises(RunStopped, match="another process stopped"):
        embed_images(cohort, encoders[0], tmp_path / "two", SIZE, shard=Shard(0, 2))
    store = embed_images(cohort, encoders[1], tmp_path / "two", SIZE, shard=Shard(1, 2))
    assert [encoder.seen for encoder in encoders] == [COUNT - BLOCK, BLOCK]
    assert (store.folder / "features.npy").read_bytes() == (whole.folder / "features.npy").read_bytes()


def test_the_first_process_makes_the_store_that_the_others_wait_for(cohort, tmp_path):
    waits = []

    def wait():
        # what the first process does until both wait: it makes the store, and embeds its shard
        waits.append(len(list(tmp_path.iterdir())))
        if len(waits) == 1:
            with pytest.raises(RunStopped):
                embed_images(cohort, Means(), tmp_path, SIZE, shard=Shard(0, 2))

    assert embed_images(cohort, Means(), tmp_path, SIZE, shard=Shard(1, 2, wait)).complete
    assert waits == [0, 1]


def test_workers_read_the_same_and_their_errors_are_one_line(cohort, expected, tmp_path):
    root = tmp_path / "patches"
    root.mkdir()
    for name in cohort.table["image"]:
        (root / name).symlink_to(cohort.root / name)
    last = root / cohort.table["image"].iloc[-1]
    last.unlink()
    Image.new("RGB", (5, 5)).save(last)
    with pytest.raises(InputError) as raised:
        embed_images(Cohort(cohort.table, root), Means(), tmp_path / "f", SIZE, num_workers=1)
    assert str(raised.value) == f"{last.name} has 5 x 5 pixels, expected {SIZE}"
    assert FeatureStore.open(next((tmp_path / "f").iterdir())).missing_blocks() == [2]
    last.unlink()
    last.symlink_to(cohort.root / last.name)
    store = embed_images(Cohort(cohort.table, root), Means(), tmp_path / "f", SIZE, num_workers=1)
    np.testing.assert_allclose(store.features, expected, atol=1e-6)


def test_images_of_the_same_names_that_were_replaced_have_other_features(cohort, pixels, tmp_path):
    for name, image in zip(cohort.table["image"], pixels):
        Image.fromarray(image).save(tmp_path / name, compress_level=0)
    copied = Cohort(cohort.table, tmp_path)
    before = embed_images(copied, Means(), tmp_path / "features", SIZE)
    assert copied.digest == cohort.digest
    Image.fromarray(255 - pixels[1]).save(tmp_path / cohort.table["image"].iloc[1], compress_level=0)
    after = embed_images(copied, Means(), tmp_path / "features", SIZE)
    assert copied.digest != cohort.digest
    inverted = Means()(torch.from_numpy(255 - pixels[1]).permute(2, 0, 1)[None])[0]
    np.testing.assert_allclose(after.features[1], inverted, atol=1e-6)
    assert not np.array_equal(before.features[1], after.features[1])
    np.testing.assert_array_equal(np.delete(before.features, 1, 0), np.delete(after.features, 1, 0))


def test_a_missing_image_and_one_of_another_size_are_named(cohort, tmp_path):
    with pytest.raises(InputError, match="image not found: .*absent.png"):
        embed_images(Cohort(cohort.table.head(3).assign(image="absent.png"), cohort.root), Means(), tmp_path, SIZE)
    with pytest.raises(InputError, match="000.png has 8 x 8 pixels, expected 16"):
        embed_images(cohort, Means(), tmp_path, 16)


def test_a_gray_file_counts_as_three_equal_channels(cohort, pixels, tmp_path):
    Image.fromarray(pixels[0, :, :, 0]).save(tmp_path / "gray.png")
    gray = Cohort(cohort.table.head(1).assign(image="gray.png"), tmp_path)
    features = embed_images(gray, Means(), tmp_path / "f", SIZE).features
    np.testing.assert_allclose(features[0, :3], np.full(3, pixels[0, :, :, 0].mean() / 255), atol=1e-6)


def test_features_that_are_not_finite_name_the_image_and_are_not_stored(cohort, tmp_path):
    with pytest.raises(InputError, match=r"row 0 \(000.png\) are not finite"):
        embed_images(cohort, Means(float("nan")), tmp_path, SIZE)
    assert FeatureStore.open(next(tmp_path.iterdir())).missing_blocks() == [0, 1, 2]


def test_a_transform_changes_the_images_and_has_to_be_described(cohort, pixels, tmp_path):
    few = Cohort(cohort.table.head(5), cohort.root)

    def inverted(image):
        assert image.dtype == torch.uint8 and image.shape == (3, SIZE, SIZE)
        return 255 - image

    store = embed_images(few, Means(), tmp_path, SIZE, transform=inverted, recipe={"inverted": True})
    np.testing.assert_allclose(store.features[:, :3], (255 - pixels[:5]).mean((1, 2)) / 255, atol=1e-6)
    with pytest.raises(InputError, match="describe it in `recipe`"):
        embed_images(few, Means(), tmp_path, SIZE, transform=inverted)
    for wrong in (lambda image: image / 255, lambda image: image[:1] if image[0, 0, 0] > 99 else image):
        with pytest.raises(
            InputError, match="after the transform; images of a batch must be uint8 and have the same shape"
        ):
            embed_images(few, Means(), tmp_path, SIZE, transform=wrong, recipe={"wrong": str(wrong)})


@pytest.mark.parametrize("make", [lambda: patch_transforms(geometry=False, stain_jitter=0.2), None])
def test_what_a_transform_draws_depends_on_image_and_recipe_alone(cohort, tmp_path, make):
    few = Cohort(cohort.table.head(40), cohort.root)
    make = make or (lambda: patch_transforms(geometry=False, stain_jitter=0.2).transforms[0])
    assert isinstance(make(), Compose) or hasattr(make(), "set_random_state")
    first = embed_images(few, Means(), tmp_path / "a", SIZE, transform=make(), recipe={"round": 0}).features
    turned = Cohort(few.table.iloc[::-1], few.root)
    again = embed_images(turned, Means(), tmp_path / "b", SIZE, 7, transform=make(), recipe={"round": 0}).features
    other = embed_images(few, Means(), tmp_path / "c", SIZE, transform=make(), recipe={"round": 1}).features
    plain = embed_images(few, Means(), tmp_path / "d", SIZE).features
    np.testing.assert_allclose(again[::-1], first, atol=1e-6)
    assert (np.abs(first - other).max(1) > 1e-3).mean() > 0.9 and (np.abs(first - plain).max(1) > 1e-3).mean() > 0.9


@pytest.mark.parametrize(
    ("change", "message"), [({"batch_size": 0}, "batch_size 0"), ({"num_workers": -1}, "num_workers -1")]
)
def test_numbers_that_cannot_be_are_refused(cohort, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        embed_images(cohort, Means(), tmp_path, SIZE, **change)
    with pytest.raises(InputError, match="no image to embed"):
        embed_images(Cohort(cohort.table.head(0), cohort.root), Means(), tmp_path, SIZE)


def test_sets_hold_the_rows_of_every_group_in_the_order_of_names():
    tables = {
        "real": pd.DataFrame({"image": ["c", "a", "b", "d"], "patient": ["q", "p", "p", "q"]}),
        "arm": pd.DataFrame({"image": ["z", "y"]}),
    }
    images = {name: Cohort(table, Path()) for name, table in tables.items()}
    features = {name: np.zeros((len(table), 2)) for name, table in tables.items()}
    codes = {"real": np.array([1, 0, 1, -1]), "arm": np.array([1, 1])}
    sets = ImageSets.of(images, features, ["dark", "bright", "none"], codes)
    assert [rows.tolist() for rows in sets.rows["real"]] == [[1], [2, 0], []]
    assert [rows.tolist() for rows in sets.rows["arm"]] == [[], [1, 0], []]
    assert sets.arms == ["arm"] and sets.counts(1) == {"real": 2, "arm": 2}
    assert sets.patients.tolist() == [1, 0, 0, 1]


def test_features_of_images_on_a_share_go_to_a_folder_of_the_user(pixels, tmp_path, nothing_is_read):
    images = {}
    for name in ("share", "arm"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels[len(images)]).save(tmp_path / name / "0.png")
        # as a share that cannot be written
        (tmp_path / name / "features").write_text("")
        table = pd.DataFrame({"image": ["0.png"], "x": "0", "y": "0", "mpp": "1.0"})
        images[name] = Cohort(table, tmp_path / name)
    with pytest.raises(InputError, match="cannot write to .*features.*--features_dir names a folder"):
        Embedder(Means(), SIZE).embed_all(images)
    embedder = Embedder(Means(), SIZE, features_dir=tmp_path / "mine")
    first, _ = embedder.embed_all(images)
    assert len(list((tmp_path / "mine").iterdir())) == 2 and not np.allclose(first["share"], first["arm"])
    nothing_is_read()
    again, _ = embedder.embed_all(images)
    assert all(np.array_equal(again[name], first[name]) for name in first)


def test_complete_features_are_opened_where_nothing_can_be_written(
    cohort, tmp_path, nothing_is_read, monkeypatch, expected
):
    embed_images(cohort, Means(), tmp_path, SIZE)
    nothing_is_read()
    monkeypatch.setattr("os.access", lambda *_: False)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    np.testing.assert_allclose(embed_images(cohort, Means(), tmp_path, SIZE).features, expected, atol=1e-6)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times

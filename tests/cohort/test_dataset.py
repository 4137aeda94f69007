import itertools
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import DataLoader as MonaiLoader
from monai.data import Dataset as MonaiDataset
from monai.data import ThreadDataLoader
from PIL import Image
from scipy import stats
from torch.utils.data import DataLoader, Subset

from medi_monai.cohort import (
    BalancedBatchSampler,
    Cohort,
    Cutting,
    ImageTable,
    PatchDataset,
    Preparation,
    SplitScheme,
    StreamedPatchDataset,
    patch_dataset,
    prepare,
)
from medi_monai.cohort.demo import CENTERS, TUMORS
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import is_installed
from medi_monai.wsi import PatchGrid

SIZE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def cohort(tmp_path):
    """Six patches of two tumors and three centers."""
    table = pd.DataFrame(
        {
            "image": [f"patches/{number}.png" for number in range(len(PIXELS))],
            "slide": list("abcdef"),
            "patient": list("abcdef"),
            # "t" and "10" read together as "t1" and "0" do, and are another subpopulation
            "tumor": ["t", "t1", "t", "t1", "t", "t1"],
            "center": ["10", "0", "0", "2", "10", ""],
            "split": "train",
        }
    )
    (tmp_path / "patches").mkdir()
    for name, pixels in zip(table["image"], PIXELS):
        Image.fromarray(pixels).save(tmp_path / name)
    return Cohort(table, tmp_path)


@pytest.fixture
def schema(cohort):
    return MetadataSchema.from_table(cohort.table, "tumor", ["center"])


def truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def test_items_are_the_files_pixels_and_the_schemas_codes(cohort, schema):
    dataset = PatchDataset(cohort, schema, SIZE)
    assert len(dataset) == 6 and dataset.images.dtype == torch.uint8
    for index in range(6):
        item = dataset[index]
        assert np.array_equal(item["image"].permute(1, 2, 0), PIXELS[index])
        assert torch.equal(item["conditions"], schema.encode(cohort.table.iloc[[index]])[0])
        assert item["index"] == index
    assert dataset.skipped == {} and dataset.table.equals(cohort.table)


@pytest.mark.parametrize("spoil", [truncate, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_an_unreadable_image_is_named_with_the_choice_to_skip_it(cohort, schema, spoil):
    spoil(cohort.root / "patches/2.png")
    with pytest.raises(InputError, match="patches/2.png.*--on_error skip"):
        PatchDataset(cohort, schema, SIZE)


def test_skipped_images_are_listed_and_dropped_everywhere_alike(cohort, schema):
    for number in (0, 3):
        truncate(cohort.root / f"patches/{number}.png")
    dataset = PatchDataset(cohort, schema, SIZE, on_error="skip")
    kept = [1, 2, 4, 5]
    assert list(dataset.skipped) == ["patches/0.png", "patches/3.png"]
    assert all(name in reason for name, reason in dataset.skipped.items())
    assert dataset.table["slide"].tolist() == list("bcef") and dataset.table.index.tolist() == [0, 1, 2, 3]
    assert np.array_equal(dataset.images.permute(0, 2, 3, 1), PIXELS[kept])
    assert torch.equal(dataset.conditions, schema.encode(cohort.table.iloc[kept]))
    assert len(dataset) == len(dataset.groups(["tumor"], "class")) == 4


def test_an_image_of_another_size_is_refused_with_both_sizes(cohort, schema):
    Image.fromarray(PIXELS[0, :12]).save(cohort.root / "patches/4.png")
    with pytest.raises(InputError, match=r"patches/4.png has 16 x 12 pixels, expected 16"):
        PatchDataset(cohort, schema, SIZE)
    assert list(PatchDataset(cohort, schema, SIZE, on_error="skip").skipped) == ["patches/4.png"]


def test_nothing_to_read_is_refused(cohort, schema):
    with pytest.raises(InputError, match="no patch"):
        PatchDataset(cohort.split("val"), schema, SIZE)
    with pytest.raises(InputError, match="none of the 6 images"):
        PatchDataset(cohort, schema, SIZE + 1, on_error="skip")
    with pytest.raises(InputError, match="'skipp'.*did you mean 'skip'"):
        PatchDataset(cohort, schema, SIZE, on_error="skipp")


def test_values_that_the_model_never_saw_are_refused_or_unknown(cohort, schema):
    narrow = MetadataSchema.from_table(cohort.table.query("center != '2'"), "tumor", ["center"])
    with pytest.raises(InputError, match="'2'"):
        PatchDataset(cohort, narrow, SIZE)
    conditions = PatchDataset(cohort, narrow, SIZE, unseen="unknown").conditions
    assert conditions[3, 1] == conditions[5, 1] == schema.encode({"tumor": ["t"], "center": [""]})[0, 1]


@pytest.mark.parametrize(
    ("balance", "used"), [("class", ["tumor"]), ("subpopulation", ["tumor", "center"]), ("none", [])]
)
def test_patches_share_a_group_exactly_where_they_share_its_columns(cohort, schema, balance, used):
    groups = PatchDataset(cohort, schema, SIZE).groups(["tumor", "center"], balance)
    assert groups.min() == 0 and len(set(groups)) == groups.max() + 1
    for first, second in itertools.combinations(range(6), 2):
        alike = cohort.table.loc[first, used].tolist() == cohort.table.loc[second, used].tolist()
        assert (groups[first] == groups[second]) == alike


def test_an_unknown_balance_is_named(cohort, schema):
    with pytest.raises(InputError, match="'classes'.*did you mean 'class'"):
        PatchDataset(cohort, schema, SIZE).groups(["tumor"], "classes")


# sizes 600, 40 and 3, in mixed order; a group number without members does not count
SKEWED = np.random.default_rng(1).permutation(np.repeat([0, 1, 4], [600, 40, 3]))


def test_a_batch_depends_on_seed_and_step_alone():
    sampler = BalancedBatchSampler(SKEWED, 8, 50, seed=3)
    torch.manual_seed(0)
    batches = list(sampler)
    torch.manual_seed(1)
    other = BalancedBatchSampler(SKEWED, 8, 20, seed=3)
    assert [other.batch(step) for step in (20, 7, 1)] == [batches[19], batches[6], batches[0]]
    assert list(sampler) == batches
    assert len({tuple(batch) for batch in batches}) == 50
    assert BalancedBatchSampler(SKEWED, 8, 50, seed=4).batch(1) != batches[0]


def test_groups_are_drawn_alike_and_so_are_the_members_of_each():
    drawn = np.array(list(BalancedBatchSampler(SKEWED, 64, 400))).ravel()
    assert drawn.min() >= 0 and drawn.max() < len(SKEWED)
    for group in (0, 1, 4):
        members = np.flatnonzero(np.equal(SKEWED, group))
        count = np.isin(drawn, members).sum()
        assert stats.binomtest(int(count), len(drawn), 1 / 3).pvalue > 1e-3
        frequencies = [np.sum(drawn == member) for member in members]
        assert stats.chisquare(frequencies).pvalue > 1e-3


def test_one_group_draws_every_patch_alike():
    drawn = np.array(list(BalancedBatchSampler(np.zeros(50, int), 50, 200))).ravel()
    assert stats.chisquare(np.bincount(drawn, minlength=50)).pvalue > 1e-3


def test_ranks_partition_the_batch_of_a_single_process():
    whole = BalancedBatchSampler(SKEWED, 12, 5, seed=2)
    ranks = [BalancedBatchSampler(SKEWED, 4, 5, seed=2, rank=rank, world_size=3) for rank in range(3)]
    for step in range(1, 6):
        assert sum((rank.batch(step) for rank in ranks), []) == whole.batch(step)


@pytest.mark.parametrize("done", [0, 1, 6, 9])
def test_a_resumed_sampler_goes_on_with_the_very_next_batch(done):
    whole = list(BalancedBatchSampler(SKEWED, 4, 9))
    resumed = BalancedBatchSampler(SKEWED, 4, 9)
    resumed.start_step = done
    assert list(resumed) == whole[done:] and len(resumed) == 9 - done


def test_a_loader_gives_the_batches_of_the_sampler(cohort, schema):
    dataset = PatchDataset(cohort, schema, SIZE)
    sampler = BalancedBatchSampler(dataset.groups(["tumor"], "class"), 5, 3)
    for step, batch in enumerate(DataLoader(dataset, batch_sampler=sampler), start=1):
        assert batch["index"].tolist() == sampler.batch(step)
        assert torch.equal(batch["image"], dataset.images[batch["index"]])
        assert batch["conditions"].shape == (5, 2)
    assert step == 3


@pytest.mark.parametrize(("batch_size", "steps"), [(0, 5), (4, 0), (-1, 5)])
def test_sizes_below_one_are_refused(batch_size, steps):
    with pytest.raises(InputError, match=f"batch_size {batch_size} and max_steps {steps}"):
        BalancedBatchSampler(SKEWED, batch_size, steps)


NUM_SLIDES, SIDE = 6, 32
BACKENDS = ["openslide", pytest.param("cucim", marks=pytest.mark.skipif(not is_installed("cucim"), reason="no cuCIM"))]


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory):
    """One cohort of six slides at a resolution between two levels: as PNG, as JPEG, and left in the slides."""
    root = tmp_path_factory.mktemp("slides")
    rows = []
    for seed in range(NUM_SLIDES):
        rng = np.random.default_rng(seed)
        pixels = scan(*draw_stains(TUMORS[seed % 4], 320, 0.5, rng), CENTERS[seed], 0.5, rng)
        write_pyramid(root / f"s{seed}.tiff", pixels, 0.5)
        rows.append((f"s{seed}.tiff", f"s{seed}", f"P{seed}", "AB"[seed % 2], "xyz"[seed % 3]))
    columns = ["image", "slide", "patient", "tumor", "center"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "t.csv", index=False)
    source = ImageTable(root, "t.csv", "tumor", ["center"])
    prepared = {}
    with pytest.MonkeyPatch.context() as patch:
        here = lambda function, jobs, *more: (function(job) for job in jobs)  # noqa: E731
        patch.setattr(sys.modules["medi_monai.cohort.patches"], "map_processes", here)
        for name in ("png", "jpeg", "none"):
            cutting = Cutting(PatchGrid(SIDE, 0.8, stride=24), name)
            splits = SplitScheme(["tumor"], fraction=0.0, val_fraction=0.0)
            prepared[name] = prepare(Preparation(source, cutting, splits), tmp_path_factory.mktemp(name))
    return prepared


@pytest.fixture(scope="module")
def written(cohorts):
    """The patches of the PNG files, by Pillow."""
    table = cohorts["png"].table
    pixels = np.stack([np.asarray(Image.open(cohorts["png"].root / name)) for name in table["image"]])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def codes(cohorts):
    return MetadataSchema.from_table(cohorts["png"].table, "tumor", ["center"])


def test_regions_read_on_the_fly_equal_the_files_pixel_for_pixel(cohorts, written, codes):
    assert len(written) > 200 and cohorts["png"].table["slide"].nunique() == NUM_SLIDES
    shared = [name for name in cohorts["png"].table.columns if name != "image"]
    assert cohorts["none"].table[shared].equals(cohorts["png"].table[shared])
    assert set(cohorts["none"].table.columns) - set(cohorts["png"].table.columns) == {"source_mpp"}
    for name in ("png", "none"):
        memory = PatchDataset(cohorts[name], codes, SIDE)
        assert torch.equal(memory.images, written)
        streamed = StreamedPatchDataset(cohorts[name], codes, SIDE, max_open=2)
        assert torch.equal(
            torch.stack([streamed[index]["image"] for index in range(0, len(streamed), 7)]), written[::7]
        )
        assert torch.equal(memory.conditions, streamed.conditions) and len(memory) == len(streamed) == len(written)
    difference = (PatchDataset(cohorts["jpeg"], codes, SIDE).images.int() - written.int()).abs()
    assert 0 < difference.float().mean() < 2.5 and difference.max() < 40


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loader", [DataLoader, MonaiLoader])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_loaders_give_shuffled_batches_of_many_slides(cohorts, written, codes, backend, loader, num_workers):
    dataset = StreamedPatchDataset(cohorts["none"], codes, SIDE, backend=backend, max_open=2)
    dataset[0]  # the parent of forked workers has a slide open
    options = {"multiprocessing_context": "fork"} if num_workers else {}
    batches = loader(dataset, batch_size=16, shuffle=True, num_workers=num_workers, **options)
    seen = []
    for batch in batches:
        assert torch.equal(torch.as_tensor(batch["image"]), written[batch["index"]])
        assert torch.equal(torch.as_tensor(batch["conditions"]), dataset.conditions[batch["index"]])
        seen += batch["index"].tolist()
    assert sorted(seen) == list(range(len(written))) != seen


def test_a_spawned_worker_opens_slides_of_its_own(cohorts, written, codes):
    dataset = StreamedPatchDataset(cohorts["none"], codes, SIDE, max_open=2)
    dataset.__getitems__([0, 100, 200])
    loader = DataLoader(dataset, batch_size=32, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), written)


def test_threads_as_workers_get_the_same_patches(cohorts, written):
    dataset = StreamedPatchDataset(cohorts["none"], None, SIDE, max_open=1)
    loader = ThreadDataLoader(dataset, batch_size=8, shuffle=True, num_workers=2, use_thread_workers=True)
    seen = []
    for batch in loader:
        assert torch.equal(torch.as_tensor(batch["image"]), written[batch["index"]])
        seen += batch["index"].tolist()
    assert sorted(seen) == list(range(len(written)))


@pytest.mark.parametrize("name", ["png", "none"])
def test_a_batch_comes_in_its_order_with_repetitions(cohorts, written, codes, name):
    dataset = StreamedPatchDataset(cohorts[name], codes, SIDE)
    rows = [250, 5, 5, 120, 0, 250]
    items = dataset.__getitems__(rows)
    assert [item["index"] for item in items] == rows
    assert torch.equal(torch.stack([item["image"] for item in items]), written[rows])
    assert all(item["image"].dtype == torch.uint8 and item["image"].shape == (3, SIDE, SIDE) for item in items)
    # one item may be changed without the other of the same row, or what is read next
    items[1]["image"].zero_()
    assert torch.equal(items[2]["image"], written[5]) and torch.equal(dataset[5]["image"], written[5])


def test_a_transform_gets_every_item_and_gives_what_the_loader_gets(cohorts, written, codes):
    def lighter(item):
        assert set(item) == {"image", "index", "conditions"}
        return {**item, "image": 255 - item["image"]}

    dataset = StreamedPatchDataset(cohorts["none"], codes, SIDE, transform=lighter)
    assert torch.equal(dataset[3]["image"], 255 - written[3])
    for subset in (Subset(dataset, [9, 2]), MonaiDataset([9, 2], lambda index: dataset[index])):
        (batch,) = DataLoader(subset, batch_size=2)
        assert torch.equal(batch["image"], 255 - written[[9, 2]])
    assert set(StreamedPatchDataset(cohorts["none"], None, SIDE)[0]) == {"image", "index"}


def test_a_copy_by_pickle_reads_the_same(cohorts, written, codes):
    dataset = StreamedPatchDataset(cohorts["none"], codes, SIDE, max_open=1)
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[200]["image"], written[200]) and torch.equal(dataset[200]["image"], written[200])


def test_groups_and_batches_do_not_depend_on_where_patches_are(cohorts, codes):
    memory, streamed = PatchDataset(cohorts["png"], codes, SIDE), StreamedPatchDataset(cohorts["none"], codes, SIDE)
    for balance in ("class", "subpopulation", "none"):
        groups = [dataset.groups(["tumor", "center"], balance) for dataset in (memory, streamed)]
        assert np.array_equal(*groups)


def test_the_way_of_reading_is_chosen_by_name_or_by_size(cohorts, codes, monkeypatch):
    assert isinstance(patch_dataset(cohorts["none"], codes, SIDE), PatchDataset)
    assert isinstance(patch_dataset(cohorts["png"], codes, SIDE, "disk"), StreamedPatchDataset)
    monkeypatch.setattr("medi_monai.cohort.dataset.MAX_MEMORY", len(cohorts["png"]) * SIDE * SIDE * 3)
    assert isinstance(patch_dataset(cohorts["png"], codes, SIDE), PatchDataset)
    monkeypatch.setattr("medi_monai.cohort.dataset.MAX_MEMORY", len(cohorts["png"]) * SIDE * SIDE * 3 - 1)
    assert isinstance(patch_dataset(cohorts["png"], codes, SIDE), StreamedPatchDataset)
    assert isinstance(patch_dataset(cohorts["png"], codes, SIDE, "memory"), PatchDataset)
    with pytest.raises(InputError, match="'dsk': did you mean 'disk'"):
        patch_dataset(cohorts["png"], codes, SIDE, "dsk")


def test_regions_of_another_size_than_planned_are_refused(cohorts, codes):
    for kind in (PatchDataset, StreamedPatchDataset):
        with pytest.raises(InputError, match="planned with image_size 32, not 48"):
            kind(cohorts["none"], codes, 48)


def test_a_slide_that_is_gone_is_named(cohorts, codes, tmp_path):
    table = cohorts["none"].table.iloc[[0, 1, 200]].reset_index(drop=True)
    table["image"] = table["image"].mask(table.index == 2, str(tmp_path / "gone.tiff"))
    cohort = Cohort(table, cohorts["none"].root)
    with pytest.raises(InputError, match="gone.tiff.*--on_error skip"):
        PatchDataset(cohort, codes, SIDE)
    memory = PatchDataset(cohort, codes, SIDE, on_error="skip")
    assert len(memory) == 2 and list(memory.skipped) == [str(tmp_path / "gone.tiff")]
    with pytest.raises(InputError, match="gone.tiff"):
        StreamedPatchDataset(cohort, codes, SIDE)[2]
    with pytest.raises(InputError, match="no patch"):
        StreamedPatchDataset(cohort.split("val"), codes, SIDE)

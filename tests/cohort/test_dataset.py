import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats
from torch.utils.data import DataLoader

from medi_monai.cohort import BalancedBatchSampler, Cohort, PatchDataset
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError

SIZE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture
def cohort(tmp_path):
    """Six patches of two tumors and three centers."""
    table = pd.DataFrame(
        {
            "image": [f"patches/{place}.png" for place in range(len(PIXELS))],
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
    for place in range(6):
        item = dataset[place]
        assert np.array_equal(item["image"].permute(1, 2, 0), PIXELS[place])
        assert torch.equal(item["conditions"], schema.encode(cohort.table.iloc[[place]])[0])
        assert item["index"] == place
    assert dataset.skipped == {} and dataset.table.equals(cohort.table)


@pytest.mark.parametrize("spoil", [truncate, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_an_unreadable_image_is_named_with_the_choice_to_skip_it(cohort, schema, spoil):
    spoil(cohort.root / "patches/2.png")
    with pytest.raises(InputError, match="patches/2.png.*--on_error skip"):
        PatchDataset(cohort, schema, SIZE)


def test_skipped_images_are_listed_and_dropped_everywhere_alike(cohort, schema):
    for place in (0, 3):
        truncate(cohort.root / f"patches/{place}.png")
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
    for one, two in itertools.combinations(range(6), 2):
        alike = cohort.table.loc[one, used].tolist() == cohort.table.loc[two, used].tolist()
        assert (groups[one] == groups[two]) == alike


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
        found = np.isin(drawn, members).sum()
        assert stats.binomtest(int(found), len(drawn), 1 / 3).pvalue > 1e-3
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

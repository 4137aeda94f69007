import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from medi_monai.cohort.groups import group_weights, spread_rows
from medi_monai.evaluation.probing import FeatureStore, ImageSet, arm_named, codes_of, stable_order
from medi_monai.evaluation.probing.arms import gathered, oversampled_counts
from medi_monai.utils.errors import InputError


def test_codes_are_those_of_a_dictionary_and_known_names_come_first():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.choice(["x", "y", "zz"], 200), "b": rng.choice([1, 2, 10], 200)})
    codes, names = codes_of(table, ["a", "b"], [("q", "9"), ("y", "10")])
    assert names[:2] == [("q", "9"), ("y", "10")] and names[2:] == sorted(names[2:]) and len(set(names)) == len(names)
    assert [names[code] for code in codes] == [(row.a, str(row.b)) for row in table.itertuples()]
    assert codes_of(table, [])[1] == [()] and not codes_of(table, [])[0].any()


def test_a_missing_cell_is_a_value_of_its_own_for_any_type_of_column():
    for column in (pd.Series(["a", None, "b", np.nan]), pd.Series([1.0, np.nan, 2.0, np.nan])):
        codes, names = codes_of(pd.DataFrame({"v": column}), ["v"])
        assert names[0] == ("",) and codes.tolist() == [1, 0, 2, 0]
    assert codes_of(pd.DataFrame({"v": pd.Series([], dtype="str")}), ["v"])[1] == []


def test_groups_weigh_alike_as_in_scikit_learn():
    groups = np.random.default_rng(1).choice([0, 3, 4, 9], 300, p=[0.7, 0.2, 0.09, 0.01])
    np.testing.assert_allclose(group_weights(groups), compute_sample_weight("balanced", groups))


def test_every_group_counts_as_often_as_the_largest_and_each_row_once_at_least():
    groups = np.random.default_rng(1).choice([0, 3, 4], 300, p=[0.8, 0.15, 0.05])
    counts = oversampled_counts(groups, np.random.default_rng(0))
    largest = np.bincount(groups).max()
    assert counts.min() == 1 and (counts[groups == 0] == 1).all()
    assert np.bincount(groups, weights=counts)[[0, 3, 4]].tolist() == [largest] * 3


@pytest.mark.parametrize(("count", "expected"), [(8, [3, 2, 3]), (30, [14, 2, 14]), (500, [80, 2, 18]), (0, [0, 0, 0])])
def test_rows_are_spread_as_evenly_as_groups_allow(count, expected):
    groups = np.repeat([0, 1, 2], [80, 2, 18])
    rows = spread_rows(groups, count, np.random.default_rng(0))
    assert len(np.unique(rows)) == len(rows) == sum(expected)
    assert np.bincount(groups[rows], minlength=3).tolist() == expected


def test_what_is_left_over_goes_to_random_groups():
    groups = np.repeat(np.arange(4), 10)
    found = {tuple(np.bincount(groups[spread_rows(groups, 6, np.random.default_rng(s))])) for s in range(40)}
    assert len(found) == 6 and all(sorted(one) == [1, 1, 2, 2] for one in found)


def test_rows_of_several_arrays_in_memory_and_on_disk(tmp_path):
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((20_000, 3)).astype(np.float32), rng.standard_normal((50, 3))
    rows = rng.integers(0, 20_000, 9000), np.array([7, 7, 0])
    expected = np.vstack([one[rows[0]], two[rows[1]]]).astype(np.float32)
    assert np.array_equal(gathered([(one, rows[0]), (two, rows[1])]), expected)
    assert np.array_equal(gathered([(one, rows[0]), (two, rows[1])], str(tmp_path)), expected)
    with pytest.raises(InputError, match="of 2 and of 3 dimensions"):
        gathered([(one, rows[0]), (two[:, :2], rows[1])])


def test_an_image_set_on_disk_is_sent_by_its_folder(tmp_path):
    table = pd.DataFrame({"image": [f"{n}" for n in range(5)]})
    store = FeatureStore.create_or_open(tmp_path / "s", table, {}, 100_000 // 8)
    store.write(0, np.ones((5, 12_500), np.float32))
    images = ImageSet(store.folder, table)
    sent = pickle.dumps(images)
    assert len(sent) < 10_000 and np.array_equal(pickle.loads(sent).features, images.features)
    held = ImageSet(np.eye(5), table)
    assert np.array_equal(pickle.loads(pickle.dumps(held)).features, np.eye(5)) and len(held) == 5
    with pytest.raises(InputError, match="5 features do not belong to the 4 rows"):
        ImageSet(np.eye(5), table.head(4))


def test_names_and_order():
    assert arm_named("oversampled").oversampled and arm_named("medi").added == "medi"
    assert stable_order(pd.DataFrame({"image": ["b", "c", "a"]})).tolist() == [2, 0, 1]
    # patches of one slide
    slides = pd.DataFrame({"image": list("babab"), "x": list("99821"), "y": ["10", "9", "9", "9", "9"]})
    assert stable_order(slides).tolist() == [3, 1, 4, 2, 0]
    assert stable_order(pd.DataFrame({"x": [2, 1]})).tolist() == [0, 1]

import numpy as np
import pytest
from phantom import EXTENT, FRONT, RIGHT, TOP, head

from medi_monai.cohort.volumes import PLANES, VolumeRules
from medi_monai.cohort.volumes.rules import slice_of, tissue_extent
from medi_monai.utils.errors import InputError


@pytest.mark.parametrize(
    ("plane", "marks"),
    [
        ("axial", {RIGHT: "left", FRONT: "up"}),
        ("coronal", {RIGHT: "left", TOP: "up"}),
        ("sagittal", {FRONT: "left", TOP: "up"}),
    ],
)
def test_slices_are_shown_as_radiologists_see_them(plane, marks):
    for value, direction in marks.items():
        middle = [int(np.median(indices)) for indices in np.nonzero(head() == value)]
        image = slice_of(head(), plane, middle[PLANES[plane]])
        row, column = (np.argwhere(image == value).mean(axis=0) + 0.5) / image.shape
        assert (row if direction == "up" else column) < 0.35


def test_rows_and_columns_of_a_slice():
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    assert slice_of(values, "axial", 1)[0, 0] == values[1, 2, 1]
    assert slice_of(values, "coronal", 1)[0, 0] == values[1, 1, 3]
    assert slice_of(values, "sagittal", 1)[0, 0] == values[1, 2, 3]
    assert [slice_of(values, plane, 0).shape for plane in ("axial", "coronal", "sagittal")] == [(3, 2), (4, 2), (4, 3)]


@pytest.mark.parametrize("axis", range(3))
def test_the_extent_of_the_tissue(axis):
    assert tissue_extent(head(), axis) == EXTENT[axis]
    noisy = head() + np.random.default_rng(0).normal(0, 8, head().shape)
    assert tissue_extent(noisy, axis) == EXTENT[axis]
    assert tissue_extent(np.zeros((3, 4, 5)), axis) == (0, (3, 4, 5)[axis] - 1)


def test_places_within_the_extent():
    # tissue from 6 to 19: the middles of four parts of the range 0.2 to 0.8 are 0.275, 0.425, 0.575 and 0.725 of 13
    rules = VolumeRules(slices=4, slice_range=[0.2, 0.8])
    assert rules.names == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert [rules.index_of(name, head()) for name in rules.names] == [10, 12, 13, 15]
    assert VolumeRules(slice_range=[0, 0]).index_of("1 of 1", head()) == 6
    assert VolumeRules(slice_range=[1, 1]).index_of("1 of 1", head()) == 19
    assert VolumeRules(plane="sagittal").index_of("1 of 1", head()) in (15, 16)


def test_indices():
    rules = VolumeRules(slices=[0, 23])
    assert [rules.index_of(name, head()) for name in rules.names] == [0, 23]
    with pytest.raises(InputError, match="has 24 axial slices, numbered from 0; slice 24 does not exist"):
        rules.index_of("24", head())
    with pytest.raises(InputError, match="has 24 axial slices, fewer than slices = 25"):
        VolumeRules(slices=25).index_of("1 of 25", head())


def test_a_single_slice_of_another_plane_is_named():
    thin = head()[:, :, 10:11]
    assert VolumeRules().index_of("1 of 1", thin) == 0
    with pytest.raises(InputError, match="is a single axial slice, but plane is 'sagittal'"):
        VolumeRules("sagittal").index_of("1 of 1", thin)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"plane": "axail"}, "did you mean 'axial'"),
        ({"slices": 0}, "1 or more"),
        ({"slices": []}, "1 or more"),
        ({"slices": [3, 3]}, "different"),
        ({"slices": 1.5}, "number of slices"),
        ({"slices": True}, "number of slices"),
        ({"slice_range": [0.7, 0.3]}, "increasing"),
        ({"slice_range": [0, 1.1]}, "increasing"),
        ({"slice_range": [0.5]}, "two"),
    ],
)
def test_rules_out_of_range_are_errors(settings, message):
    with pytest.raises(InputError, match=message):
        VolumeRules(**settings)

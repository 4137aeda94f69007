import numpy as np
import pytest

from medi_monai.wsi import tissue_mask

GLASS, TISSUE = (243, 241, 244), (190, 130, 175)


def thumbnail(mask, noise=3, seed=0):
    rng = np.random.default_rng(seed)
    pixels = np.where(mask[..., None], TISSUE, GLASS) + rng.normal(0, noise, (*mask.shape, 3))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def disk(size, x, y, radius):
    ticks = np.arange(size)
    return np.hypot(ticks - x, ticks[:, None] - y) <= radius


def overlap(one, other):
    return (one & other).sum() / (one | other).sum()


def test_a_disk_of_tissue_is_found():
    truth = disk(200, 80, 120, 50)
    mask = tissue_mask(thumbnail(truth))
    assert mask.shape == truth.shape and mask.dtype == bool
    assert overlap(mask, truth) > 0.95


def test_height_and_width_are_not_swapped():
    truth = np.zeros((60, 140), bool)
    truth[10:30, 50:130] = True
    assert overlap(tissue_mask(thumbnail(truth)), truth) > 0.9


@pytest.mark.parametrize(("inside", "expected"), [(True, True), (False, False)])
def test_a_field_without_contrast_is_all_tissue_or_all_glass(inside, expected):
    assert (tissue_mask(thumbnail(np.full((80, 80), inside))) == expected).all()


def test_a_field_without_glass_is_tissue_though_its_stains_differ():
    pixels = np.full((100, 100, 3), (210, 120, 180), np.uint8)
    pixels[disk(100, 50, 50, 30)] = (90, 60, 140)
    assert tissue_mask(pixels).mean() > 0.99


def test_pale_tissue_beside_glass_is_found():
    truth = disk(160, 80, 80, 45)
    pixels = np.where(truth[..., None], (220, 165, 200), GLASS).astype(np.uint8)
    assert overlap(tissue_mask(pixels), truth) > 0.95


def test_specks_and_holes_are_removed_and_larger_ones_stay():
    truth = disk(200, 100, 100, 60)
    truth &= ~disk(200, 80, 100, 3) & ~disk(200, 115, 100, 12)
    truth |= disk(200, 15, 15, 3) | disk(200, 185, 15, 12)
    mask = tissue_mask(thumbnail(truth), min_area=100)
    assert mask[100, 80] and not mask[15, 15]
    assert not mask[100, 115] and mask[15, 185]


def test_the_mask_turns_with_the_slide():
    truth = disk(120, 40, 70, 30)
    pixels = thumbnail(truth)
    assert overlap(tissue_mask(np.rot90(pixels).copy()), np.rot90(tissue_mask(pixels))) > 0.99

import numpy as np
import pytest
import torch
from scipy import ndimage

from medi_monai.metrics.copies import MAX_SIDE, CopySearch, aligned_correlation, structure, turned
from medi_monai.utils.errors import InputError

SIDE = 32


def textures(count, seed=0, side=SIDE):
    """Smooth random images, of no orientation, position or contrast in common."""
    noise = np.random.default_rng(seed).standard_normal((count, side, side)).astype(np.float32)
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 1.5, 1.5)))


def moved(images, down, right):
    """Shift by whole pixels, with new content at the edges."""
    both = torch.stack([images, textures(len(images), 99, images.shape[1])])
    shifted = both.clone()
    height = images.shape[1]
    source = images[:, max(0, -down) : height - max(0, down), max(0, -right) : height - max(0, right)]
    shifted[1][:, max(0, down) : height + min(0, down), max(0, right) : height + min(0, right)] = source
    return shifted[1]


def searched(queries, images, block=64, order=None):
    order = torch.arange(len(images)) if order is None else order
    search = CopySearch(queries)
    for start in range(0, len(images), block):
        search.add(images[order[start : start + block]], start)
    for numbers in search.candidates.split(block):
        search.verify(images[order[numbers]], numbers)
    correlation, numbers, symmetries = search.result()
    return correlation, order[numbers], symmetries


@pytest.mark.parametrize("symmetry", range(8))
def test_the_eight_symmetries_are_those_of_numpy(symmetry):
    images = textures(2, side=5)
    expected = np.rot90(images.numpy()[:, :, ::-1] if symmetry >= 4 else images.numpy(), symmetry % 4, axes=(1, 2))
    np.testing.assert_array_equal(turned(images, symmetry).numpy(), expected)


@pytest.mark.parametrize("side", [12, 32])
def test_the_correlation_is_the_largest_over_all_windows(side):
    images, others = textures(4, 1, side), textures(4, 2, side)
    reach = round(3 * side / 32)
    size, expected = side - 2 * reach, []
    for image, other in zip(images.numpy(), others.numpy()):
        middle = image[reach : reach + size, reach : reach + size].ravel()
        windows = [
            other[y : y + size, x : x + size].ravel() for y in range(side - size + 1) for x in range(side - size + 1)
        ]
        expected.append(max(np.corrcoef(middle, window)[0, 1] for window in windows))
    np.testing.assert_allclose(aligned_correlation(images, others), expected, atol=1e-5)
    np.testing.assert_allclose(aligned_correlation(7 * images - 3, 0.1 * others + 50), expected, atol=1e-3)


def test_a_uniform_image_has_no_correlation():
    images = textures(3)
    flat = images.clone()
    flat[1] = 0.25
    # content at the edge only, which is not compared
    flat[2] = 0.25
    flat[2, 0] = images[2, 0]
    for first, second in ((flat, images), (images, flat)):
        known = torch.isfinite(aligned_correlation(first, second))
        assert known.tolist()[:2] == [True, False]
    assert not torch.isfinite(aligned_correlation(flat, images)[2])
    assert not torch.isfinite(aligned_correlation(flat, flat)[1])
    for other in (images[:, :8], images[:2]):
        with pytest.raises(InputError, match="pairs of square images"):
            aligned_correlation(images, other)


@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (-2, 2), (1, -3), (3, 3)])
def test_copies_are_found_among_others_turned_shifted_and_of_another_contrast(shift):
    images = textures(400)
    originals = torch.arange(8) * 50
    copies = moved(images[originals], *shift)
    copies = torch.cat([turned(copies[n : n + 1], n) for n in range(8)]) * 0.3 + 2
    correlation, numbers, symmetries = searched(copies, images)
    assert numbers.tolist() == originals.tolist() and (correlation > 0.999).all()
    for copy, number, symmetry in zip(copies, numbers, symmetries.tolist()):
        match = turned(images[number][None], symmetry)
        assert aligned_correlation(copy[None], match) > 0.999
    # a shift beyond those that are compared, and other images
    for others in (moved(images[originals], 9, 9), textures(50, 7)):
        assert (searched(others, images)[0] < 0.9).all()


@pytest.mark.parametrize("shift", [(0, 2), (-2, 0), (2, -2)])
def test_copies_are_found_among_images_of_the_same_form(shift):
    """Heads, of which those that happen to be as far up are more similar at low resolution."""
    ticks = torch.arange(SIDE) - SIDE / 2
    center = torch.randn(300, 2, 1, generator=torch.manual_seed(0))
    radius = torch.hypot((ticks - center[:, 0])[:, None], (1.3 * (ticks - center[:, 1]))[:, :, None])
    images = torch.sigmoid(12 - radius) + 0.3 * textures(300)
    originals = torch.arange(0, 300, 10)
    correlation, numbers, _ = searched(moved(images[originals], *shift), images)
    assert (numbers == originals).all() and (correlation > 0.999).all()


def test_neither_blocks_nor_the_order_of_images_matter():
    images = textures(150)
    queries = torch.cat([turned(moved(images[:10], 1, 2), 5), textures(30, 5)])
    expected = searched(queries, images, 150)
    for block, order in ((1, None), (37, None), (64, torch.randperm(150, generator=torch.manual_seed(0)))):
        found = searched(queries, images, block, order)
        torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=0)
        assert found[1].tolist() == expected[1].tolist() and found[2].tolist() == expected[2].tolist()


def test_memory_does_not_grow_with_the_number_of_images():
    def held(count):
        search = CopySearch(textures(20))
        for start in range(0, count, 100):
            search.add(textures(100, start), start)
        return sum(value.numel() for value in vars(search).values())

    assert held(200) == held(1200)


def test_structure_is_the_logarithm_of_light_and_hardly_changes_with_the_stain():
    levels = np.full((1, 2, 2, 3), 255, np.uint8)
    levels[0, 0, 0] = (0, 119, 255)
    expected = -np.log([16 / 271, 135 / 271, 1]).mean()
    np.testing.assert_allclose(structure(levels)[0], [[expected, 0], [0, 0]], atol=1e-6)
    amounts = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((6, 32, 32, 2)), (0, 1.5, 1.5, 0))
    amounts = np.clip(0.6 + amounts / amounts.std() * (0.35, 0.15), 0, None)
    # optical densities of hematoxylin and eosin at two centers
    stains = [[(0.62, 0.66, 0.30), (0.08, 0.52, 0.16)], [(0.80, 0.62, 0.22), (0.16, 0.44, 0.10)]]
    first, second = (structure(np.rint(250 * 10 ** -(amounts @ np.array(of))).astype(np.uint8)) for of in stains)
    assert (aligned_correlation(first, second) > 0.95).all()
    large = np.random.default_rng(0).integers(0, 255, (1, 2 * MAX_SIDE, 2 * MAX_SIDE, 3), dtype=np.uint8)
    density = -np.log((large.astype(float) + 16) / 271).mean(3).reshape(1, MAX_SIDE, 2, MAX_SIDE, 2).mean((2, 4))
    np.testing.assert_allclose(structure(large), density, atol=1e-5)
    for wrong in (levels.astype(float), levels[..., 0], levels[:, :1]):
        with pytest.raises(InputError, match="square uint8"):
            structure(wrong)

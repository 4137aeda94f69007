import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter

from medi_monai.cohort.duplicates import PLAIN, hash_images, mean_distance, near_duplicates
from medi_monai.utils.errors import InputError

SIZE = 96


def textures(count, size=SIZE + 16, seed=0):
    """Images with structure at all scales, as tissue has, with room for a shift."""
    rng = np.random.default_rng(seed)
    noise = [gaussian_filter(rng.normal(size=(count, size, size, 3)), (0, s, s, 0)) * s for s in (1, 3, 9)]
    return np.clip(170 + 60 * sum(noise), 0, 255).astype(np.uint8)


def bits_between(first, second):
    return np.bitwise_count(hash_images(first) ^ hash_images(second))


def jpeg(images, quality):
    return resaved(images, lambda image, file: image.save(file, "JPEG", quality=quality))


def resaved(images, save):
    kept = []
    for pixels in images:
        file = io.BytesIO()
        save(Image.fromarray(pixels), file)
        kept.append(np.asarray(Image.open(file)))
    return np.stack(kept)


def each(images, change):
    return np.stack([np.asarray(change(Image.fromarray(pixels))) for pixels in images])


COPIES = {
    "JPEG at quality 95": (lambda images: jpeg(images, 95), 3),
    "JPEG at quality 50": (lambda images: jpeg(images, 50), 3),
    "enlarged by 2 %": (lambda images: each(images, lambda image: image.resize((SIZE + 2, SIZE + 2))), 3),
    "half the size": (lambda images: each(images, lambda image: image.resize((SIZE // 2, SIZE // 2))), 3),
    "10 % brighter": (lambda images: each(images, lambda image: ImageEnhance.Brightness(image).enhance(1.1)), 6),
}


@pytest.fixture(scope="module")
def tissue(real_data):
    """Patches of 96 px of real tiles at 0.5 mpp, with 16 px beside them, and the tile of each."""
    patches, tiles = [], []
    for number, file in enumerate(sorted((real_data / "hne_tcga" / "tiles").glob("*.png"))):
        tile = np.asarray(Image.open(file).convert("RGB").reduce(2))
        for x, y in itertools.product(range(0, 350, 112), repeat=2):
            patches.append(tile[y : y + SIZE + 16, x : x + SIZE + 16])
            tiles.append(number)
    return np.stack(patches), np.array(tiles)


def test_the_bits_are_the_signs_of_the_lowest_frequencies():
    """The oracle averages with Pillow and transforms with scipy's two-dimensional transform."""
    images = textures(40)[:, :96, :64]
    lowest = sorted(
        ((u, v) for u in range(12) for v in range(12) if u or v), key=lambda uv: (uv[0] ** 2 + uv[1] ** 2, max(uv), uv)
    )[:64]
    for pixels, hashed in zip(images, hash_images(images)):
        gray = Image.fromarray((pixels @ np.array([0.299, 0.587, 0.114])).astype(np.float32))
        small = np.asarray(gray.resize((32, 32), Image.Resampling.BOX))
        frequencies = dctn(small, norm="ortho")
        bits = [frequencies[uv] > 0 for uv in lowest]
        assert sum(int(bit) << position for position, bit in enumerate(bits)) == hashed


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_texture_has_nearly_the_same_hash(name):
    copy, most = COPIES[name]
    images = textures(40)[:, :SIZE, :SIZE]
    assert bits_between(images, copy(images)).max() <= most


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_real_tissue_has_nearly_the_same_hash(tissue, name):
    copy, most = COPIES[name]
    images = np.ascontiguousarray(tissue[0][:, :SIZE, :SIZE])
    distances = bits_between(images, copy(images))
    assert (distances <= 3).mean() >= 0.98 and distances.max() <= most + 2


def test_other_tissue_is_far_and_so_is_a_shift_by_a_stride(tissue):
    patches, tiles = tissue
    hashes = hash_images(patches[:, :SIZE, :SIZE])
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None])
    assert distances[tiles[:, None] != tiles[None]].min() >= 9
    assert bits_between(patches[:, :SIZE, :SIZE], patches[:, 16:, 16:]).min() > 6


def test_a_slightly_other_field_of_view_is_near_for_most(tissue):
    patches = tissue[0]
    wider = each(patches[:, 7 : 7 + SIZE + 2, 7 : 7 + SIZE + 2], lambda image: image.resize((SIZE, SIZE)))
    assert (bits_between(patches[:, 8 : 8 + SIZE, 8 : 8 + SIZE], wider) <= 3).mean() > 0.7
    shifted = bits_between(patches[:, :SIZE, :SIZE], patches[:, :SIZE, 1 : SIZE + 1])
    assert (shifted <= 3).mean() > 0.7


def test_glass_has_no_hash_and_tissue_has(tissue):
    rng = np.random.default_rng(0)
    glass = np.clip(rng.normal(243, 2, (20, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    assert (hash_images(jpeg(glass, 80)) == PLAIN).all()
    assert (hash_images(np.full((2, 32, 40, 3), 255, np.uint8)) == PLAIN).all()
    assert (hash_images(tissue[0]) != PLAIN).all()


def test_a_hash_does_not_depend_on_the_batch():
    images = textures(300, size=40)
    alone = [hash_images(images[row : row + 1])[0] for row in range(300)]
    assert np.array_equal(hash_images(images), alone)
    assert hash_images(images[:0]).shape == (0,)


@pytest.mark.parametrize(("shape", "kind"), [((2, 31, 40, 3), "uint8"), ((2, 64, 64, 3), "f4"), ((64, 64, 3), "uint8")])
def test_what_is_no_batch_of_patches_is_refused(shape, kind):
    with pytest.raises(InputError, match="uint8 patches with sides of at least 32"):
        hash_images(np.zeros(shape, kind))


def crowded_hashes(seed, count=300):
    """Random hashes with planted relatives, copies, crowds that share most bits, and plain ones."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(1, 2**64, count, dtype=np.uint64)
    for row in range(100, 200):
        for bit in rng.choice(64, rng.integers(0, 8), replace=False):
            hashes[row] = hashes[row - 100] ^ (np.uint64(1) << np.uint64(bit))
    hashes[200:240] = hashes[0] & ~np.uint64(0xFFF) | rng.integers(0, 16, 40).astype(np.uint64)
    hashes[240:260] = hashes[1]
    hashes[260:270] = PLAIN
    return hashes, rng.integers(-1, 3, count)


def pairs_by_loop(hashes, groups, most):
    """Every pair of different (hash, group) with rows in two groups."""
    entries = sorted({(int(h), int(g)) for h, g in zip(hashes, groups) if g >= 0 and h != PLAIN})
    return {
        frozenset((first, second))
        for first, second in itertools.combinations(entries, 2)
        if first[1] != second[1] and (first[0] ^ second[0]).bit_count() <= most
    }


@pytest.mark.parametrize("most", [0, 1, 3, 4, 6, 10])
@pytest.mark.parametrize("seed", range(3))
def test_pairs_equal_those_of_a_double_loop(seed, most):
    hashes, groups = crowded_hashes(seed)
    duplicates = near_duplicates(hashes, groups, most)
    expected = pairs_by_loop(hashes, groups, most)
    entry = [(int(h), int(g)) for h, g in zip(hashes, groups)]
    assert {frozenset((entry[p.first], entry[p.second])) for p in duplicates.pairs.itertuples()} == expected
    assert duplicates.num_pairs == len(duplicates.pairs) == len(expected) > 0
    involved = set().union(*expected)
    assert duplicates.num_rows == sum(key in involved for key in entry)
    assert duplicates.num_plain == sum(h == PLAIN and g >= 0 for h, g in entry)
    for pair in duplicates.pairs.itertuples():
        assert pair.distance == (entry[pair.first][0] ^ entry[pair.second][0]).bit_count()
        assert (pair.num_first, pair.num_second) == (entry.count(entry[pair.first]), entry.count(entry[pair.second]))
    assert duplicates.pairs["distance"].is_monotonic_increasing


def test_the_order_of_the_rows_does_not_matter():
    hashes, groups = crowded_hashes(5)
    order = np.random.default_rng(0).permutation(len(hashes))
    straight, shuffled = near_duplicates(hashes, groups), near_duplicates(hashes[order], groups[order])
    assert hashes[straight.pairs["first"]].tolist() == hashes[order][shuffled.pairs["first"]].tolist()
    assert hashes[straight.pairs["second"]].tolist() == hashes[order][shuffled.pairs["second"]].tolist()
    assert (straight.num_pairs, straight.num_rows) == (shuffled.num_pairs, shuffled.num_rows)


def test_only_so_many_pairs_are_returned_and_all_are_counted():
    hashes, groups = crowded_hashes(1)
    everything, few = near_duplicates(hashes, groups), near_duplicates(hashes, groups, max_pairs=5)
    assert len(few.pairs) == 5 < few.num_pairs == everything.num_pairs
    assert few.num_rows == everything.num_rows


def test_equal_hashes_by_the_hundred_thousand_are_one_pair():
    hashes = np.full(400_000, 12345, np.uint64)
    duplicates = near_duplicates(hashes, np.arange(400_000) % 2)
    assert (duplicates.num_pairs, duplicates.num_rows) == (1, 400_000)
    assert duplicates.pairs[["num_first", "num_second"]].to_numpy().tolist() == [[200_000, 200_000]]


def test_nothing_is_found_among_nothing():
    for count in (0, 1):
        duplicates = near_duplicates(np.full(count, 7, np.uint64), np.zeros(count, int))
        assert (duplicates.num_pairs, duplicates.num_rows, len(duplicates.pairs)) == (0, 0, 0)


@pytest.mark.parametrize("most", [-1, 11])
def test_a_distance_out_of_range_is_refused(most):
    with pytest.raises(InputError, match="between 0 and 10"):
        near_duplicates(np.zeros(1, np.uint64), np.zeros(1, int), most)


def test_hashes_and_groups_of_unequal_length_are_refused():
    with pytest.raises(InputError, match="same length"):
        near_duplicates(np.zeros(2, np.uint64), np.zeros(1, int))


def test_the_distance_between_patients_is_half_of_the_bits_unless_images_are_alike():
    rng = np.random.default_rng(0)
    tissue = rng.integers(0, 2**64, 600, np.uint64)
    patients = np.arange(600) // 3
    # half of the bits are those of all
    brains = (tissue & np.uint64(0xFFFFFFFF)) | (np.uint64(0xABCDEF12) << np.uint64(32))
    assert mean_distance(tissue, patients) == pytest.approx(32, abs=0.2)
    assert mean_distance(brains, patients) == pytest.approx(16, abs=0.2)
    # copies under other names are no reason not to look for them
    assert mean_distance(np.concatenate([tissue, tissue]), np.arange(1200)) == pytest.approx(32, abs=0.2)
    assert np.isnan(mean_distance(np.full(9, 5, np.uint64), np.arange(9)))
    assert np.isnan(mean_distance(tissue, np.zeros(600, int))) and np.isnan(mean_distance(tissue, np.full(600, -1)))

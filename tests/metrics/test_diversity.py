import itertools
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as by_torchmetrics

from medi_monai.metrics import diversity
from medi_monai.metrics.diversity import ms_ssim_diversity, relative_spread
from medi_monai.utils.errors import InputError

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def images(count, side=32, seed=0, smooth=True):
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, 3, side, side))
    if smooth:
        noise = correlate1d(
            correlate1d(noise, np.ones(5) / 2, axis=2, mode="wrap"), np.ones(5) / 2, axis=3, mode="wrap"
        )
    return torch.as_tensor(np.clip(128 + 40 * noise, 0, 255).astype(np.uint8))


def ms_ssim_by_scipy(first, second, exponents):
    """Wang et al. 2003: contrast and structure at every scale, luminance at the coarsest alone."""
    window = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def blurred(picture):
        return correlate1d(correlate1d(picture, window, axis=1, mode="mirror"), window, axis=2, mode="mirror")

    x, y = first.numpy().astype(float), second.numpy().astype(float)
    product = 1.0
    for scale, exponent in enumerate(exponents):
        mean_x, mean_y = blurred(x), blurred(y)
        variances = blurred(x * x) - mean_x**2 + blurred(y * y) - mean_y**2
        similarity = (2 * (blurred(x * y) - mean_x * mean_y) + c2) / (variances + c2)
        if scale == len(exponents) - 1:
            similarity = similarity * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        else:
            similarity = similarity[:, 5:-5, 5:-5]
        product *= max(0.0, similarity.mean()) ** exponent
        x, y = (p.reshape(3, p.shape[1] // 2, 2, p.shape[2] // 2, 2).mean((2, 4)) for p in (x, y))
    return product


@pytest.mark.parametrize(("side", "num_scales"), [(16, 1), (32, 2), (48, 3)])
def test_equals_the_mean_over_all_pairs(side, num_scales):
    pictures = images(6, side)
    exponents = np.array(EXPONENTS[:num_scales]) / sum(EXPONENTS[:num_scales])
    expected = [1 - ms_ssim_by_scipy(a, b, exponents) for a, b in itertools.combinations(pictures, 2)]
    result = ms_ssim_diversity(pictures, num_pairs=1000)
    assert result["value"] == pytest.approx(np.mean(expected), abs=2e-5)
    assert (result["n"], result["num_pairs"], result["num_scales"]) == (6, 15, num_scales)


def test_five_scales_equal_torchmetrics_as_it_comes():
    pictures = images(2, 176)
    expected = 1 - by_torchmetrics(pictures[:1].double(), pictures[1:].double(), data_range=255.0)
    assert ms_ssim_diversity(pictures)["value"] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("side", "num_scales"), [(11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (98, 3), (99, 4), (175, 4), (176, 5)]
)
def test_every_side_from_11_px_on_has_its_number_of_scales(side, num_scales):
    result = ms_ssim_diversity(images(2, side))
    assert result["num_scales"] == num_scales and 0 < result["value"] <= 1
    wide = torch.cat([images(2, side)] * 2, dim=3)
    assert ms_ssim_diversity(wide)["num_scales"] == num_scales


@pytest.mark.parametrize("num_pairs", [1, 7, 44, 45, 46])
def test_pairs_are_distinct_and_of_distinct_images(num_pairs):
    pairs = diversity._draw_pairs(10, num_pairs, seed=0)
    assert len(pairs) == len({tuple(pair) for pair in pairs.tolist()}) == min(num_pairs, 45)
    assert (pairs[:, 0] < pairs[:, 1]).all() and pairs.min() >= 0 and pairs.max() <= 9


def test_pairs_of_a_million_images_are_drawn_evenly():
    pairs = diversity._draw_pairs(1_000_000, 20_000, seed=0)
    assert (pairs[:, 0] < pairs[:, 1]).all() and pairs.max() < 1_000_000
    assert pairs.mean() == pytest.approx(5e5, rel=0.01)


def test_the_seed_alone_decides_the_pairs():
    pictures = images(12)
    result = ms_ssim_diversity(pictures, 10)
    assert result == ms_ssim_diversity(pictures.numpy(), 10)
    assert result["value"] != ms_ssim_diversity(pictures, 10, seed=1)["value"]


def test_batches_do_not_matter(monkeypatch):
    pictures = images(8)
    whole = ms_ssim_diversity(pictures)
    monkeypatch.setattr(diversity, "BATCH", 5)
    assert ms_ssim_diversity(pictures)["value"] == pytest.approx(whole["value"], abs=1e-6)


def test_collapse_lowers_it_and_copies_are_at_0():
    pictures = images(6)
    alike = torch.clamp(pictures[:1].int() + torch.arange(6).reshape(6, 1, 1, 1), 0, 255).to(torch.uint8)
    assert ms_ssim_diversity(alike)["value"] < 0.05 < 0.5 < ms_ssim_diversity(pictures)["value"]
    copies = ms_ssim_diversity(pictures[:1].repeat(5, 1, 1, 1))
    assert copies["value"] == pytest.approx(0, abs=1e-6) and copies["standard_error"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("count", "num_pairs"), [(40, 1000), (200, 50)], ids=["all pairs", "few pairs"])
def test_the_standard_error_is_the_spread_over_sets(count, num_pairs):
    """Values made of what both images bring; neither pairs nor images alone would have the right spread."""
    values, errors = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        of_image = rng.normal(size=count)
        pairs = diversity._draw_pairs(count, num_pairs, seed)
        similarity = of_image[pairs].sum(1) + rng.normal(size=len(pairs))
        values.append(similarity.mean())
        errors.append(diversity._standard_error(similarity, pairs, count))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.12)


def test_fewer_than_two_images_are_none():
    for count in (0, 1):
        result = ms_ssim_diversity(images(2)[:count])
        assert result == {"value": None, "standard_error": None, "n": count, "num_pairs": 0, "num_scales": 2}
    pair = ms_ssim_diversity(images(2))
    assert pair["value"] is not None and pair["standard_error"] is None and pair["num_pairs"] == 1


def test_read_only_arrays_raise_no_warning(recwarn):
    pictures = images(4).numpy()
    pictures.setflags(write=False)
    assert math.isfinite(ms_ssim_diversity(pictures)["value"])
    assert not [warning for warning in recwarn if "writ" in str(warning.message)]


@pytest.mark.parametrize(
    "wrong",
    [images(3).float(), images(3)[:, :2], images(3)[0], images(3).permute(0, 2, 3, 1), np.zeros((2, 3, 32, 32))],
    ids=["floats", "two channels", "one image", "channels last", "array of floats"],
)
def test_other_images_are_refused(wrong):
    with pytest.raises(InputError, match=r"uint8 \(N, 3, H, W\)"):
        ms_ssim_diversity(wrong)


def test_images_too_small_and_no_pairs_are_refused():
    with pytest.raises(InputError, match="10 px are too small"):
        ms_ssim_diversity(images(3, 12)[:, :, :10])
    with pytest.raises(InputError, match="num_pairs = 0"):
        ms_ssim_diversity(images(3), num_pairs=0)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_relative_spread_is_half_the_mean_squared_distance_of_pairs_over_the_mean_squared_length(shift):
    rows = np.random.default_rng(0).normal(shift, 1, (30, 5)).astype(np.float32)
    distances = [((a - b) ** 2).sum() for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
    expected = np.mean(distances) / 2 / (rows.astype(float) ** 2).sum(1).mean()
    assert relative_spread(rows) == pytest.approx(expected, rel=1e-5)


def test_for_unit_rows_it_is_one_minus_the_mean_cosine():
    rows = np.random.default_rng(1).normal(1, 1, (20, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = (rows @ rows.T)[~np.eye(20, dtype=bool)]
    assert relative_spread(rows) == pytest.approx(1 - cosines.mean())


def test_the_spread_of_equal_rows_is_zero_and_of_a_single_row_undefined():
    assert relative_spread(np.zeros((3, 2))) == 0 == relative_spread(np.full((4, 3), 7.5))
    assert relative_spread(np.ones((1, 3))) is None

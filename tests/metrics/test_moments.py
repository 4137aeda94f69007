import warnings

import numpy as np
import pytest
import torch

from medi_monai.metrics import moments
from medi_monai.metrics.moments import Moments, as_features, feature_blocks, feature_shape
from medi_monai.utils.errors import InputError

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(3, 1, (101, 6)) @ RNG.normal(0, 1, (6, 6)) + 50


def same(streamed, features):
    assert streamed.count == len(features)
    assert streamed.mean.numpy() == pytest.approx(features.mean(0), rel=1e-13)
    covariance = np.cov(features, rowvar=False)
    assert streamed.covariance.numpy() == pytest.approx(covariance, rel=1e-11, abs=1e-11 * np.abs(covariance).max())


def test_moments_equal_numpys():
    same(Moments.of(FEATURES), FEATURES)


@pytest.mark.parametrize("seed", range(3))
def test_batches_in_any_order_equal_one_pass(seed):
    rng = np.random.default_rng(seed)
    batches = np.split(rng.permutation(FEATURES), np.sort(rng.integers(0, 101, 7)))
    streamed = Moments(6)
    for batch in batches:
        streamed.update(batch)
    same(streamed, FEATURES)


@pytest.mark.parametrize("seed", range(3))
def test_parts_merged_in_any_order_equal_one_pass(seed):
    batches = np.split(FEATURES, np.sort(np.random.default_rng(seed).integers(0, 101, 4)))
    merged = Moments(6)
    for number in np.random.default_rng(seed).permutation(len(batches)):
        merged.merge(Moments.of(batches[number]))
    same(merged, FEATURES)


def test_an_array_is_read_in_blocks(monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", 10)
    assert [len(block) for block in feature_blocks(FEATURES, 40)] == [40, 40, 21]
    same(Moments.of(FEATURES), FEATURES)


def test_a_large_offset_costs_no_digits():
    streamed = Moments(6)
    for batch in np.split(FEATURES + 1e8, [30, 31]):
        streamed.update(batch)
    assert streamed.covariance.numpy() == pytest.approx(np.cov(FEATURES + 1e8, rowvar=False), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.uint8, ">f4"])
def test_any_real_numbers_are_added_up_in_double_precision(dtype):
    features = RNG.integers(0, 200, (30, 3)).astype(dtype)
    same(Moments.of(features), features.astype(float))
    assert as_features(features).dtype == torch.float64


def test_tensors_and_arrays_are_alike():
    for features in (torch.tensor(FEATURES, requires_grad=True), torch.tensor(FEATURES), np.asfortranarray(FEATURES)):
        same(Moments.of(features), FEATURES)


def test_a_memory_mapped_array_is_read_without_a_warning(tmp_path):
    np.save(tmp_path / "features.npy", FEATURES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(Moments.of(np.load(tmp_path / "features.npy", mmap_mode="r")), FEATURES)


def test_no_rows_are_no_error_until_a_covariance_is_asked_for():
    streamed = Moments.of(np.zeros((0, 4)))
    assert streamed.count == 0 and streamed.dim == 4
    streamed.merge(Moments(4)).update(np.ones((1, 4)))
    with pytest.raises(InputError, match="at least two images, not 1"):
        _ = streamed.covariance


def test_features_that_are_not_finite_are_refused_and_counted_and_nothing_is_added(monkeypatch):
    monkeypatch.setattr(moments, "BLOCK", 10)
    spoiled = FEATURES.copy()
    spoiled[[50, 70], [1, 2]] = np.nan, np.inf
    spoiled[99] = -np.inf
    streamed = Moments.of(FEATURES)
    with pytest.raises(InputError, match="3 of 101 images .* not finite"):
        streamed.update(spoiled)
    same(streamed, FEATURES)
    with pytest.raises(InputError, match="3 of 101"):
        as_features(torch.tensor(spoiled))


def test_all_that_single_precision_holds_is_taken_and_what_would_overflow_is_not():
    assert as_features(np.full((4, 2), np.finfo(np.float32).max)).shape == (4, 2)
    with pytest.raises(InputError, match="1 of 4 .* beyond"):
        as_features(np.array([[1e300], [0], [0], [0]]))


@pytest.mark.parametrize(
    "features",
    [np.zeros(3), np.zeros((3, 0)), np.zeros((2, 3, 4)), np.array([["a"]]), np.ones((2, 2), complex), torch.ones(2)],
    ids=["one axis", "no dimension", "three axes", "text", "complex", "tensor of one axis"],
)
def test_what_is_no_table_of_features_is_refused(features):
    for function in (feature_shape, as_features, Moments.of, Moments(3).update):
        with pytest.raises(InputError, match="features have to be real numbers"):
            function(features)


def test_other_dimensions_are_refused():
    with pytest.raises(InputError, match="have 5 dimensions but moments 6"):
        Moments(6).update(np.zeros((3, 5)))
    with pytest.raises(InputError, match="5 dimensions cannot be added to moments of 6"):
        Moments(6).merge(Moments(5))

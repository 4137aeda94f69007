import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from medi_monai.engines.classifiers.augment import Hardening, harden
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import generator_from

CHANGES = ("gain", "offset", "gamma", "tint", "mixing", "blur", "noise", "grid", "cutout", "rotation", "scale", "shift")
STRONG = {"gamma": 2.0, "rotation": 45.0, "scale": 0.5, "blur": 0.1, "shift": 0.3}


def images(count=64, size=16, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def only(**strengths):
    return Hardening(**{**vars(Hardening.none()), "probability": 1.0, **strengths})


def changed(pixels, settings, seed=0):
    return harden(pixels, settings, generator_from("test", seed))


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_alone_changes_images_within_their_range(name):
    pixels = images()
    result = changed(pixels, only(**{name: STRONG.get(name, 0.6)}))
    assert result.shape == pixels.shape and result.dtype == pixels.dtype
    assert result.min() >= -1 and result.max() <= 1 and torch.isfinite(result).all()
    assert ((result - pixels).abs().amax((1, 2, 3)) > 1e-4).float().mean() > 0.8


def test_all_changes_together_stay_within_the_range():
    result = changed(images(), Hardening(**{name: STRONG.get(name, 0.6) for name in CHANGES}, flip=True))
    assert result.min() >= -1 and result.max() <= 1 and torch.isfinite(result).all()


def test_without_changes_images_are_as_they_were():
    assert torch.equal(changed(images(), Hardening.none()), images())
    assert torch.equal(changed(images(), Hardening(probability=0.0)), images())


def test_the_same_seed_gives_the_same_images_and_another_others():
    settings = Hardening(flip=True)
    assert torch.equal(changed(images(), settings, 1), changed(images(), settings, 1))
    assert not torch.equal(changed(images(), settings, 1), changed(images(), settings, 2))


def test_about_the_asked_share_of_images_is_changed():
    pixels = images(2000, 4)
    share = (changed(pixels, only(noise=0.1, probability=0.3)) != pixels).any(1).any(1).any(1).float().mean()
    assert share.item() == pytest.approx(0.3, abs=0.04)


def test_gain_and_offset_are_drawn_evenly_within_their_bounds():
    gray = torch.zeros(4000, 3, 2, 2)  # the middle, 0.5 of the range
    gain = changed(gray, only(gain=0.2))[:, 0, 0, 0] + 1
    assert gain.min() >= 0.8 - 1e-5 and gain.max() <= 1.2 + 1e-5
    assert np.histogram(gain, 4, (0.8, 1.2))[0] == pytest.approx([1000] * 4, abs=120)
    offset = changed(gray, only(offset=0.1))[:, 0, 0, 0] / 2
    assert offset.abs().max() <= 0.1 + 1e-6 and np.histogram(offset, 4, (-0.1, 0.1))[0].min() > 880


def test_gamma_keeps_black_and_white_and_the_order_of_grays():
    ramp = torch.linspace(-1, 1, 16).expand(50, 3, 16, 16)
    result = changed(ramp, only(gamma=1.0))
    ends = result[..., [0, -1]].amin((0, 1, 2)), result[..., [0, -1]].amax((0, 1, 2))
    assert all(end.tolist() == pytest.approx([-1, 1], abs=1e-5) for end in ends)
    assert (result.diff(dim=3) >= 0).all()


def test_gradients_agree_with_finite_differences():
    pixels = (0.6 * images(6, 8).double()).requires_grad_()
    weights = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def score(x):
        return (weights * changed(x, Hardening(probability=0.8, flip=True), 5)).sum()

    (gradient,) = torch.autograd.grad(score(pixels), pixels)
    direction = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    difference = (score(pixels + 1e-6 * direction) - score(pixels - 1e-6 * direction)) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(difference.item(), rel=1e-4)
    black = torch.full((8, 3, 8, 8), -1.0, requires_grad=True)
    (slope,) = torch.autograd.grad(changed(black, only(gamma=1.0)).sum(), black)
    assert slope.isfinite().all() and slope.min() > 0 and slope.max() < 10


def test_mixing_keeps_gray_images_and_the_sum_of_weights():
    gray = images(20)[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(changed(gray, only(mixing=1.0)), gray, atol=1e-5)
    primary = torch.tensor([1.0, -1, -1])[None, :, None, None].expand(200, 3, 2, 2)
    red = (changed(primary, only(mixing=0.5))[:, 0, 0, 0] + 1) / 2
    assert red.min() >= 0.5 - 1e-5 and red.max() <= 1 + 1e-5


def test_blur_agrees_with_scipy(monkeypatch):
    pixels = images(3, 32).double()
    # every draw at its upper bound
    monkeypatch.setattr(torch, "rand", lambda *shape, generator=None: torch.full(shape, 1.0 if len(shape) else 0.0))
    settings = only(blur=0.05)
    object.__setattr__(settings, "probability", 2.0)
    result = changed(pixels, settings)
    expected = pixels.numpy()
    for axis in (2, 3):
        expected = gaussian_filter1d(expected, 1.6, axis=axis, mode="mirror", radius=5)
    assert np.allclose(result, expected, atol=1e-6)


def test_noise_has_the_strength_asked_for():
    gray = torch.zeros(400, 3, 32, 32)
    deviation = changed(gray, only(noise=0.1)).std((2, 3))[:, 0] / 2
    # strengths are even between 0 and the bound
    assert deviation.mean().item() == pytest.approx(0.05, abs=0.004) and deviation.max() < 0.11


def test_half_of_the_noise_is_gray():
    result = changed(torch.zeros(400, 3, 8, 8), only(noise=0.1))
    alike = (result[:, 0] == result[:, 1]).all(1).all(1).float().mean()
    assert alike.item() == pytest.approx(0.5, abs=0.1)


def test_a_cut_out_is_one_rectangle_of_one_gray_level():
    pixels = images(50, 20)
    result = changed(pixels, only(cutout=0.5))
    for before, after in zip(pixels, result):
        hole = (before != after).any(0)
        if hole.any():
            rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
            assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
            assert max(len(rows), len(columns)) <= 11 and len(after[:, hole].unique()) == 1


def test_shift_moves_the_center_of_mass_by_at_most_its_bound():
    pixels = torch.full((200, 3, 33, 33), -1.0)
    pixels[:, :, 15:18, 15:18] = 1
    mass = changed(pixels, only(shift=0.1))[:, 0] + 1
    ticks = torch.arange(33.0)
    for axis in (1, 2):
        center = (mass.sum(3 - axis) * ticks).sum(1) / mass.sum((1, 2))
        assert (center - 16).abs().max() <= 3.3 + 0.1 and (center - 16).abs().max() > 2.5


def test_flip_mirrors_half_of_the_images():
    pixels = images(400, 4)
    result = changed(pixels, only(flip=True))
    same = (result == pixels).flatten(1).all(1)
    assert (result[~same] == pixels[~same].flip(3)).all() and same.float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_gray_images_and_no_images_are_taken():
    assert changed(images()[:, :1], Hardening()).shape == (64, 1, 16, 16)
    assert changed(images()[:0], Hardening()).shape == (0, 3, 16, 16)


@pytest.mark.parametrize(("name", "value"), [("gain", -0.1), ("blur", 1.5), ("probability", 2.0), ("rotation", 200.0)])
def test_strengths_out_of_range(name, value):
    with pytest.raises(InputError, match=f"{name} = {value}"):
        Hardening(**{name: value})

import numpy as np
import pytest

from medi_monai.wsi.color import from_optical_density, optical_density
from medi_monai.wsi.normalization import MacenkoTarget
from medi_monai.wsi.stain import Stains, macenko_stains
from medi_monai.wsi.transfer import TRANSFERS, DensityMoments, density_moments, match_moments, match_stains


def tissue_densities(patch):
    """Optical densities of red, green and blue over tissue, by its definition and in double precision."""
    density = -np.log10((patch.reshape(3, -1).astype(float) + 1) / 256)
    return density[:, density.mean(axis=0) >= 0.08]


def tissue(rng, mean=(0.3, 0.5, 0.25), std=0.05, side=64):
    density = np.array(mean)[:, None] + std * rng.standard_normal((3, side * side))
    return from_optical_density(density.astype(np.float32)).reshape(3, side, side)


def test_moments_are_those_over_tissue(demo_patches):
    for patch in demo_patches[3]:
        moments, expected = density_moments(patch), tissue_densities(patch)
        np.testing.assert_allclose(moments.mean, expected.mean(axis=1), rtol=1e-5)
        np.testing.assert_allclose(moments.std, expected.std(axis=1), rtol=1e-5)
    assert density_moments(np.full((3, 8, 8), 250, np.uint8)) is None
    assert density_moments(np.full((3, 8, 8), 120, np.uint8)) is None


def test_matched_patches_have_the_moments_of_the_target_and_glass_keeps_its_color():
    rng = np.random.default_rng(0)
    patch = tissue(rng)
    patch[:, :10] = rng.integers(244, 256, (3, 10, 64))
    target = DensityMoments(np.array([0.2, 0.6, 0.4]), np.array([0.02, 0.08, 0.06]))
    matched = match_moments(patch, density_moments(patch), target)
    np.testing.assert_array_equal(matched[:, :10], patch[:, :10])
    reached = tissue_densities(matched[:, 10:])
    # a gray level is 0.01 of optical density here
    np.testing.assert_allclose(reached.mean(axis=1), target.mean, atol=0.003)
    np.testing.assert_allclose(reached.std(axis=1), target.std, atol=0.003)


def test_stains_are_replaced_as_the_mixture_of_known_stains_says():
    rng = np.random.default_rng(1)
    source = Stains(np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]), np.array([1.0, 0.5]))
    target = Stains(np.array([[0.55, 0.62, 0.56], [0.27, 0.57, 0.78]]), np.array([0.8, 0.6]))
    amounts = rng.uniform(0.1, 0.6, (2, 400))
    # densities are measured from glass, which has gray level 240
    glass = optical_density(np.array(240))
    patch = from_optical_density((source.vectors.T @ amounts + glass).astype(np.float32)).reshape(3, 20, 20)
    expected = target.vectors.T @ (amounts * (target.amounts / source.amounts)[:, None]) + glass
    changed = match_stains(patch, source, target).reshape(3, -1).astype(int)
    assert np.abs(changed - from_optical_density(expected.astype(np.float32))).max() <= 2


def test_stains_of_the_patch_itself_give_what_the_normalization_does(demo_patches):
    target = MacenkoTarget()
    stains = Stains(np.array(target.vectors), np.array(target.amounts))
    patch = demo_patches[2][0]
    np.testing.assert_array_equal(match_stains(patch, macenko_stains(patch), stains), target.normalize(patch))


@pytest.mark.parametrize("name", TRANSFERS)
@pytest.mark.parametrize("center", [1, 3, 5])
def test_every_way_brings_a_center_to_the_density_of_another(demo_patches, name, center):
    method = TRANSFERS[name]
    target = method.estimate(np.concatenate(demo_patches[0], axis=1))
    changed = [method.change(patch, method.estimate(patch), target) for patch in demo_patches[center]]
    means = [
        np.mean([tissue_densities(patch).mean(axis=1) for patch in patches], axis=0)
        for patches in (demo_patches[0], demo_patches[center], changed)
    ]
    # measured: at most 0.3 of the distance before
    assert np.linalg.norm(means[2] - means[0]) < np.linalg.norm(means[1] - means[0]) / 2

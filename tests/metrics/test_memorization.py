import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from medi_monai.metrics.memorization import nearer_share, symmetric_correlation, turned
from medi_monai.utils.errors import InputError


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(20, 200, (6, 9, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("turn", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_copy_that_is_turned_mirrored_and_brighter_is_found(images, turn, mirrored):
    copies = np.rot90(images[:, :, ::-1] if mirrored else images, turn, axes=(1, 2))
    for brighter in (copies, copies + np.uint8(40), (copies // 2).astype(np.uint8)):
        correlations, symmetries = symmetric_correlation(images, brighter)
        assert (correlations > 0.999).all() and (correlations <= 1).all()
        back = np.concatenate([turned(brighter[n : n + 1], symmetry) for n, symmetry in enumerate(symmetries)])
        assert np.corrcoef(back.ravel(), images.ravel())[0, 1] > 0.999


def test_it_is_the_largest_of_eight_correlations_and_others_are_no_copies(images):
    others = np.roll(images, 1, axis=0)
    expected = []
    for image, other in zip(images, others):
        turned = [np.rot90(t, turn) for t in (other, other.transpose(1, 0, 2)) for turn in range(4)]
        expected.append(max(np.corrcoef(image.ravel(), t.ravel())[0, 1] for t in turned))
    np.testing.assert_allclose(symmetric_correlation(images, others)[0], expected, atol=1e-12)
    assert max(expected) < 0.5


def test_an_image_of_one_color_has_no_correlation(images):
    flat = images.copy()
    flat[2] = 77
    assert np.isnan(symmetric_correlation(flat, images)[0]).tolist() == [False, False, True, False, False, False]
    assert np.isnan(symmetric_correlation(images, flat)[0]).sum() == 1


def test_pairs_have_to_be_square_and_alike(images):
    for other in (images[:, :8], images[:3]):
        with pytest.raises(InputError, match="pairs of square images"):
            symmetric_correlation(images, other)


def test_images_of_the_same_distribution_are_nearer_to_training_half_of_the_time():
    draw = torch.Generator().manual_seed(0)

    def rows(count, scale=1.0):
        return scale * torch.randn(count, 8, generator=draw, dtype=torch.float64)

    fresh, training = rows(200), [rows(200) for _ in range(6)]
    # smooth ones lie in the middle, near to all: that is no memory
    for generated in (rows(400), rows(400, 0.3)):
        share = nearer_share(generated, training, fresh)
        assert share["ci95"][0] < 0.5 < share["ci95"][1] and share["n"] == 400
    copier = torch.cat([rows(300), training[0][:100] + 1e-3])
    share = nearer_share(copier, training[:1], fresh)
    distances = [cdist(copier.numpy(), other.numpy()).min(1) for other in (training[0], fresh)]
    assert share["value"] == pytest.approx((distances[0] < distances[1]).mean()) and share["ci95"][0] > 0.5
    # a tie tells nothing
    assert nearer_share(fresh[:9], [fresh], fresh)["value"] == 0.5
    with pytest.raises(InputError, match="must have 200 images"):
        nearer_share(copier, [training[0][:9]], fresh)

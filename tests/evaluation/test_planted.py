import numpy as np
import pytest
from scipy import ndimage

from medi_monai.evaluation.planted import NOISE, choose_originals, plant_copies
from medi_monai.wsi.color import optical_density

KINDS = ["unchanged", "turned", "restained", "shifted", "compressed", "noisy", "combined"]


@pytest.fixture
def images():
    noise = np.random.default_rng(0).standard_normal((12, 32, 32, 3))
    return np.clip(130 + 400 * ndimage.gaussian_filter(noise, (0, 2, 2, 0)), 40, 220).astype(np.uint8)


def test_originals_come_from_many_patients():
    patients = np.array([f"P{number // 50}" for number in range(1000)])
    rows = np.arange(5000, 6000)
    chosen = choose_originals(rows, patients, 3)
    of_patient = np.unique(patients[chosen - 5000], return_counts=True)[1]
    assert len(set(chosen)) == 200 and of_patient.max() == 16 and len(of_patient) == 13
    assert (
        chosen.tolist() == choose_originals(rows, patients, 3).tolist() != choose_originals(rows, patients, 4).tolist()
    )
    assert sorted(choose_originals(rows[:9], patients[:9])) == rows[:9].tolist()


def test_every_kind_changes_what_it_says(images):
    patients = ["A"] * 4 + ["B"] * 4 + ["C"] * 4
    copies = plant_copies(images, patients)
    assert list(copies) == KINDS and all(planted.shape == images.shape for planted in copies.values())
    assert (copies["unchanged"] == images).all() and all(planted.dtype == np.uint8 for planted in copies.values())
    for image, copy in zip(images, copies["turned"]):
        symmetries = [np.rot90(side, turn) for side in (image, image[:, ::-1]) for turn in range(4)]
        assert [np.array_equal(copy, symmetry) for symmetry in symmetries].index(True) > 0
    for image, copy in zip(images, copies["shifted"]):
        shifts = [(y, x) for y in (-2, 0, 2) for x in (-2, 0, 2)]
        alike = [np.array_equal(np.roll(image, shift, (0, 1))[2:-2, 2:-2], copy[2:-2, 2:-2]) for shift in shifts]
        assert alike.count(True) == 1 and not alike[4]
    # JPEG stores brightness in more detail than color
    loss = (copies["compressed"].astype(float) - images) @ (0.299, 0.587, 0.114)
    assert 0.1 < np.abs(loss).mean() < 5
    assert (copies["noisy"].astype(float) - images).std() == pytest.approx(NOISE, rel=0.02)
    again = plant_copies(images, patients)
    assert all((copies[kind] == again[kind]).all() for kind in KINDS)


def test_the_stain_is_that_of_a_patient_of_another_center(images):
    patients, centers = np.array(["A", "B", "C"] * 4), np.array(["north", "north", "south"] * 4)
    images[2::3, ..., 0] //= 3
    density = {kind: optical_density(copies) for kind, copies in plant_copies(images, patients, centers).items()}
    target = density["unchanged"][patients == "C"].reshape(-1, 3)
    for patient in ("A", "B"):
        restained, own = (density[kind][patients == patient].reshape(-1, 3) for kind in ("restained", "unchanged"))
        np.testing.assert_allclose(restained.mean(0), target.mean(0), atol=0.02)
        np.testing.assert_allclose(restained.std(0), target.std(0), rtol=0.05)
        assert abs(own.mean(0)[0] - target.mean(0)[0]) > 0.3
        assert np.corrcoef(restained[:, 0], own[:, 0])[0, 1] > 0.99


def test_of_a_single_patient_none_are_restained_and_flat_images_stay_flat(images):
    assert list(plant_copies(images, ["A"] * 12)) == [kind for kind in KINDS if kind not in ("restained", "combined")]
    images[:6] = 77
    restained = plant_copies(images, ["A"] * 6 + ["B"] * 6)["restained"]
    assert (np.ptp(restained[:6], axis=(1, 2)) == 0).all()

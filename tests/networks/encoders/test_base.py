import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medi_monai.networks.encoders import Encoder, build_encoder, same_encoder
from medi_monai.utils.errors import InputError

MEAN, STD = (0.7, 0.5, 0.6), (0.2, 0.25, 0.3)


class Pixels(Encoder):
    """Gives the pixels that reach it, so that preprocessing shows."""

    def __init__(self, image_size=24, interpolation="bicubic", mean=MEAN, std=STD, name="pixels"):
        super().__init__(name, image_size, interpolation, mean, std)
        self.layer = nn.Linear(2, 3)
        self.dim = 3 * (image_size or 0) ** 2

    def encode(self, images):
        return images.flatten(1)


def images(count, side, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)) for pixels in coarse]
    )


def batch(pixels):
    return torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)


@pytest.mark.parametrize("side", [16, 48, 95])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resize_is_that_of_pillow_and_normalization_that_of_the_formula(side, interpolation):
    pixels = images(3, side)
    encoded = Pixels(interpolation=interpolation)(batch(pixels)).reshape(3, 3, 24, 24)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for index in range(3):
        resized = np.asarray(Image.fromarray(pixels[index]).resize((24, 24), filters[interpolation]))
        gray_levels = (encoded[index].permute(1, 2, 0).numpy() * STD + MEAN) * 255
        # Pillow rounds to whole gray levels behind each axis, and a bicubic filter magnifies the first rounding
        assert np.abs(gray_levels - resized).max() < 1.2 and np.abs(gray_levels - resized).mean() < 0.4


def test_what_a_bicubic_filter_overshoots_is_cut_off():
    edges = torch.zeros(1, 3, 48, 48, dtype=torch.uint8)
    edges[..., 10:30] = 255
    encoded = Pixels(interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))(edges)
    assert encoded.min() == 0 and encoded.max() == 1


def test_images_of_the_right_size_stay_as_they_are():
    pixels = images(2, 24)
    expected = (torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / (
        torch.tensor(STD).view(3, 1, 1)
    )
    assert torch.equal(Pixels()(batch(pixels)).reshape(expected.shape), expected)
    assert Pixels(None, mean=(0, 0, 0), std=(1, 1, 1))(batch(pixels[:, :, :11])).shape == (2, 24 * 11 * 3)


def test_features_do_not_depend_on_the_other_images_or_on_memory_format():
    pixels = batch(images(5, 40))
    whole = Pixels()(pixels)
    assert torch.equal(torch.cat([Pixels()(pixels[index : index + 1]) for index in range(5)]), whole)
    assert torch.equal(Pixels()(pixels.contiguous()), whole)


def test_it_is_frozen_and_stays_in_float32():
    encoder = Pixels().train()
    assert not encoder.training and not encoder.layer.training
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(batch(images(1, 24)))
    assert features.dtype == torch.float32 and not features.requires_grad
    assert encoder(batch(images(1, 24))[:0]).shape == (0, encoder.dim)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(1, 3, 8, 8), "uint8 images.*not torch.float32"),
        (np.zeros((1, 3, 8, 8), np.uint8), "uint8"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), r"RGB images.*\(1, 1, 8, 8\)"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), "RGB images"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "RGB images"),
        (torch.zeros(1, 3, 0, 0, dtype=torch.uint8), "RGB images"),
        (torch.zeros(1, 3, 8, 9, dtype=torch.uint8), "square images, not images of 9 x 8"),
    ],
)
def test_other_images_are_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        Pixels()(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "encoder name 'a/b'"),
        ({"name": ""}, "encoder name"),
        ({"image_size": 0}, "image_size 0"),
        ({"image_size": 2.5}, "image_size 2.5"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
        ({"std": (1, 0, 1)}, "std has to be above 0"),
        ({"mean": (0.5,)}, "each needs three numbers"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Pixels(**{"image_size": 24, **change})


def test_the_description_is_json_and_says_what_decides_the_features():
    torch.manual_seed(0)
    encoder = Pixels()
    said = json.loads(json.dumps(encoder.describe()))
    expected = {"name": "pixels", "dim": 1728, "image_size": 24, "interpolation": "bicubic", "antialias": True}
    assert {key: said[key] for key in expected} == expected and said["mean"] == list(MEAN) and said["std"] == list(STD)
    digest = hashlib.sha256()
    for name, value in (("layer.bias", encoder.layer.bias), ("layer.weight", encoder.layer.weight)):
        digest.update(f"{name} torch.float32 {tuple(value.shape)}\n".encode() + value.detach().numpy().tobytes())
    assert said["weights_sha256"] == digest.hexdigest()


def test_the_digest_follows_the_weights_and_nothing_else():
    torch.manual_seed(0)
    encoder, other = Pixels(), Pixels()
    before = encoder.weights_digest()
    assert other.weights_digest() != before
    other.load_state_dict(encoder.state_dict())
    assert other.weights_digest() == before
    with torch.no_grad():
        other.layer.bias.add_(1)
    assert other.weights_digest() != before
    assert encoder.to(torch.bfloat16).weights_digest() != before


def test_encoders_are_compared_by_their_weights():
    embedded = build_encoder("embedded").describe()
    assert same_encoder(embedded, {**embedded, "name": "renamed"})
    assert not same_encoder(embedded, {**embedded, "weights_sha256": "0"}) and not same_encoder(embedded, None)

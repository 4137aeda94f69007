import io

import numpy as np
import torch
from PIL import Image

from medi_monai.utils.pixels import from_uint8, stacked, through_jpeg, to_gray_levels, to_uint8, uint8_arrays

LEVELS = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def test_every_gray_level_comes_back_and_lies_where_exact_arithmetic_puts_it():
    images = from_uint8(LEVELS)
    assert images.dtype == torch.float32 and torch.equal(to_uint8(images), LEVELS)
    exact = np.arange(256, dtype=np.float64) / 127.5 - 1
    assert np.abs(images.flatten().numpy() - exact).max() < 1e-7
    assert images.min() == -1 and images.max() == 1


def test_what_is_beyond_the_range_is_clipped_and_the_rest_rounded_to_the_nearest():
    images = torch.tensor([-3.0, -1.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.999, 7.0])
    assert to_uint8(images).tolist() == [0, 0, 0, 1, 255, 255]


def test_gray_levels_have_a_gradient_inside_the_range_alone():
    images = torch.tensor([-2.0, 0.25, 2.0], requires_grad=True)
    to_gray_levels(images).sum().backward()
    assert images.grad.tolist() == [0, 127.5, 0]


def test_arrays_have_their_channels_last():
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    arrays = uint8_arrays(images)
    assert arrays.shape == (2, 4, 5, 3) and arrays.dtype == np.uint8
    for number, row, column, channel in np.ndindex(arrays.shape):
        level = (float(images[number, channel, row, column]) + 1) * 127.5
        assert abs(int(arrays[number, row, column, channel]) - level) <= 0.5001
    assert torch.equal(stacked(list(arrays)), to_uint8(images)) and stacked(list(arrays)).is_contiguous()


def test_through_jpeg_is_pillows_round_trip():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 40, 3), dtype=np.uint8)
    for quality in (30, 75, 95):
        expected = []
        for image in pixels:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=quality)
            expected.append(np.asarray(Image.open(file)))
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        assert torch.equal(through_jpeg(images, quality), stacked(expected))
    assert through_jpeg(images[:0], 75).shape == (0, 3, 24, 40)

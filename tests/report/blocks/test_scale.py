import math

import pytest

from medi_monai.report.blocks.scale import scale_bar


@pytest.mark.parametrize(
    ("mpp", "pixels", "text"),
    [
        (1.0, 32, "10\u00a0µm"),
        (0.5, 256, "50\u00a0µm"),
        (0.25, 80, "10\u00a0µm"),
        (0.2, 32, "2\u00a0µm"),
        (60.0, 260, "5\u00a0mm"),
        (1000.0, 220, "100\u00a0mm"),
        (0.01, 32, "0.1\u00a0µm"),
    ],
)
def test_the_bar_is_the_longest_round_length_of_at_most_half_the_image(mpp, pixels, text):
    bar = scale_bar(mpp, pixels)
    assert bar.text == text
    number, unit = text.split("\u00a0")
    length = float(number) * {"µm": 1, "mm": 1000}[unit]
    assert bar.fraction == pytest.approx(length / (mpp * pixels)) and bar.fraction <= 0.5
    # the next round length would be too long
    digit = round(length / 10 ** math.floor(math.log10(length) + 1e-9))
    assert length * {1: 2, 2: 2.5, 5: 2}[digit] > 0.5 * mpp * pixels


@pytest.mark.parametrize("mpp", [None, 0.0, -1.0, math.nan, math.inf])
def test_without_a_resolution_there_is_no_bar(mpp):
    assert scale_bar(mpp, 32) is None

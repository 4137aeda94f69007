"""Compression from headers: qualities with which Pillow and tifffile wrote files are recovered."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.wsi.readers.compression import (
    Compression,
    image_compression,
    jpeg_quality,
    luminance_table,
    scheme_of_properties,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def jpeg(quality, **options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", quality=quality, **options)
    return file.getvalue()


def test_every_quality_of_libjpeg_is_recovered():
    for quality in range(1, 101):
        stream = jpeg(quality)
        table = luminance_table(stream)
        assert sorted(table) == sorted(Image.open(io.BytesIO(stream)).quantization[0])
        assert jpeg_quality(table) == quality


def test_a_table_between_two_qualities_has_one_of_them():
    table = (np.sort(luminance_table(jpeg(80))) + np.sort(luminance_table(jpeg(78)))) / 2
    assert 78 <= jpeg_quality(np.rint(table)) <= 80


@pytest.mark.parametrize("options", [{"progressive": True}, {"icc_profile": bytes(200_000)}, {"comment": b"x" * 999}])
def test_headers_before_the_table_do_not_matter(tmp_path, options):
    (tmp_path / "patch.jpg").write_bytes(jpeg(67, **options))
    assert image_compression(tmp_path / "patch.jpg") == Compression("JPEG", 67)


@pytest.mark.parametrize("quality", [30, 50, 72, 95])
def test_quality_of_slides(tmp_path, quality):
    write_pyramid(tmp_path / "slide.tiff", np.resize(PIXELS, (512, 512, 3)), 0.5, quality)
    assert image_compression(tmp_path / "slide.tiff") == Compression("JPEG", quality)


def test_level_0_counts_wherever_its_page_is(tmp_path):
    with tifffile.TiffWriter(tmp_path / "slide.tiff") as file:
        for side, quality in ((64, 40), (256, 85), (128, 60)):
            pixels = np.resize(PIXELS, (side, side, 3))
            file.write(pixels, photometric="rgb", tile=(64, 64), compression="jpeg", compressionargs={"level": quality})
    assert image_compression(tmp_path / "slide.tiff") == Compression("JPEG", 85)


def test_tables_that_tiles_share(tmp_path):
    # libtiff, with which Pillow writes, stores the tables once
    Image.fromarray(PIXELS).save(tmp_path / "tile.tif", compression="jpeg", quality=64)
    with tifffile.TiffFile(tmp_path / "tile.tif") as file:
        assert 347 in file.pages[0].tags
    assert image_compression(tmp_path / "tile.tif") == Compression("JPEG", 64)


@pytest.mark.parametrize(
    ("name", "options", "scheme", "lossy"),
    [
        ("a.png", {}, "PNG", False),
        ("a.bmp", {}, "none", False),
        ("a.webp", {"quality": 80}, "WebP", True),
        ("b.webp", {"lossless": True}, "lossless WebP", False),
        ("a.jp2", {}, "JPEG 2000", True),
        ("a.tif", {}, "none", False),
        ("b.tif", {"compression": "tiff_lzw"}, "LZW", False),
        ("c.tif", {"compression": "tiff_adobe_deflate"}, "deflate", False),
    ],
)
def test_other_schemes(tmp_path, name, options, scheme, lossy):
    Image.fromarray(PIXELS).save(tmp_path / name, **options)
    compression = image_compression(tmp_path / name)
    assert compression == Compression(scheme) and compression.is_lossy == lossy


@pytest.mark.parametrize("content", [None, b"", b"text", b"II*\0broken", b"\xff\xd8\xff"])
def test_what_cannot_be_read_is_unknown(tmp_path, content):
    if content is not None:
        (tmp_path / "file.jpg").write_bytes(content)
    assert image_compression(tmp_path / "file.jpg") in (None, Compression("JPEG"))


def test_slides_that_are_no_tiffs():
    properties = {"mirax.LAYER_0_LEVEL_0_SECTION.IMAGE_FORMAT": "JPEG", "openslide.vendor": "mirax"}
    assert scheme_of_properties(properties) == Compression("JPEG")
    assert scheme_of_properties({"dicom.LossyImageCompressionMethod": "ISO_15444_1"}) == Compression("JPEG 2000")
    assert scheme_of_properties({}) is None

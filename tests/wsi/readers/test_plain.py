import io
import os
import struct
import threading
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from medi_monai.utils.errors import InputError
from medi_monai.wsi import open_slide
from medi_monai.wsi.readers import PixelRules, read_image, read_plain


def random_pixels(height, width):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "LA"])
def test_images_of_other_modes_become_three_channels(tmp_path, mode):
    image = Image.fromarray(random_pixels(9, 7)).convert(mode)
    path = tmp_path / ("tile.tif" if mode == "CMYK" else "tile.png")
    image.save(path)
    np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))
    plain = read_plain(path)
    assert plain.shape == ((9, 7) if mode in ("1", "L", "LA") else (9, 7, 3))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_that_lies_on_its_side_is_turned(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    scene = np.asarray(Image.fromarray(random_pixels(3, 4)).resize((32, 24), Image.Resampling.BICUBIC))
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(scene).save(path, exif=exif, lossless=True)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), expected)
    assert read_image(path).shape == ((32, 24, 3) if orientation > 4 else (24, 32, 3))


@pytest.mark.parametrize(("extension", "kind"), [("png", "PNG"), ("jpg", "JPEG"), ("bmp", "BMP"), ("webp", "WEBP")])
def test_a_truncated_image_is_named_wherever_it_ends(tmp_path, extension, kind):
    file = io.BytesIO()
    Image.fromarray(random_pixels(24, 24)).save(file, kind)
    path = tmp_path / f"cut.{extension}"
    content = file.getvalue()
    for length in [*range(64), *range(64, int(0.95 * len(content)), 37)]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=path.name):
            read_image(path)
        with pytest.raises(InputError, match=path.name):
            open_slide(path, 0.5)


def test_a_truncated_png_of_sixteen_bits_is_named(tmp_path):
    path = tmp_path / "cut.png"
    content = imagecodecs.png_encode(random_pixels(24, 24).astype(np.uint16) * 257)
    for length in range(40, int(0.9 * len(content)), 97):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cut.png"):
            read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_images_are_one_line_or_read(tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000"):
        file = io.BytesIO()
        Image.fromarray(random_pixels(24, 24)).save(file, kind)
        for number in range(60):
            damaged = bytearray(file.getvalue())
            for place in rng.integers(0, len(damaged) if number % 2 else 64, 3):
                damaged[place] = rng.integers(256)
            (tmp_path / "a.png").write_bytes(damaged)
            try:
                pixels = read_plain(tmp_path / "a.png")
                assert pixels.dtype == np.uint8 and pixels.ndim in (2, 3)
            except InputError as error:
                assert "a.png" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("kind", ["AVIF", "DDS", "PDF", "ICO", "PPM"])
def test_a_format_that_is_not_read_is_named_with_those_that_are(tmp_path, kind):
    path = tmp_path / "a.png"
    file = io.BytesIO()
    Image.fromarray(random_pixels(24, 24)).save(file, kind)
    for content in (file.getvalue(), file.getvalue()[:60]):
        path.write_bytes(content)
        what = f"it contains {kind}" if kind in ("AVIF", "DDS", "PDF") else "its content is unknown"
        with pytest.raises(InputError, match=f"a.png: {what}. PNG, JPEG, TIFF, BMP, GIF, WebP and JPEG 2000 are read"):
            read_plain(path)


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    messages = {"absent": "not found", "folder": "is a folder", "empty": "0 bytes", "pipe": "not a regular file"}
    results = {}

    def read():
        for name in messages:
            with pytest.raises(InputError) as error:
                read_image(tmp_path / f"{name}.png")
            results[name] = str(error.value)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert list(results) == list(messages)
    for name, message in messages.items():
        assert message in results[name] and f"{name}.png" in results[name]
    if os.path.exists("/dev/zero"):
        with pytest.raises(InputError, match="/dev/zero is not a regular file"):
            read_image("/dev/zero")


def test_a_name_does_not_decide_what_an_image_is(tmp_path):
    pixels = random_pixels(5, 6)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_sixteen_bits_keeps_all_of_them(tmp_path, channels):
    values = np.random.default_rng(3).integers(0, 65536, (9, 8, channels), dtype=np.uint16)
    if channels in (2, 4):
        values[..., -1] = 65535
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(values[..., 0] if channels == 1 else values))
    colors = values[..., : 1 if channels < 3 else 3]
    expected = np.rint(colors / 257.0).astype(np.uint8)
    np.testing.assert_array_equal(read_plain(path), expected[..., 0] if channels < 3 else expected)
    narrow = np.rint(np.clip((colors / 4095.0), 0, 1) * 255).astype(np.uint8)
    pixels = read_plain(path, PixelRules(intensity_range=[0, 4095]))
    np.testing.assert_array_equal(pixels, narrow[..., 0] if channels < 3 else narrow)
    path.write_bytes(imagecodecs.png_encode((values // 32)[..., 0] if channels == 1 else values // 32))
    with pytest.raises(InputError, match="16-bit values.*intensity_range"):
        read_plain(path)


def test_transparency_of_all_kinds_is_laid_on_the_background(tmp_path):
    opaque, clear = random_pixels(4, 4), np.zeros((4, 4), bool)
    clear[1:3, 1:3] = True
    alpha = np.where(clear, 0, 255).astype(np.uint8)
    expected = np.where(clear[..., None], 255, opaque)
    rgba = np.dstack([opaque, alpha])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    Image.fromarray(rgba).save(tmp_path / "a.tif")
    Image.fromarray(rgba).save(tmp_path / "a.webp", lossless=True, exact=True)
    (tmp_path / "b.png").write_bytes(imagecodecs.png_encode(rgba.astype(np.uint16) * 257))
    deep = rgba.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "b.tif", deep, photometric="rgb", extrasamples=["unassalpha"], metadata=None)
    for name in ("a.png", "a.tif", "a.webp", "b.png", "b.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), expected, err_msg=name)
        black = read_image(tmp_path / name, PixelRules(background="black"))
        np.testing.assert_array_equal(black, np.where(clear[..., None], 0, opaque), err_msg=name)
    # one color of a palette, or of all, that stands for transparency
    palette = Image.fromarray(np.where(clear, 1, 0).astype(np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=1)
    expected = np.where(clear[..., None], 255, np.array([10, 20, 30]))
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), expected)
    Image.fromarray(np.where(clear, 7, 90).astype(np.uint8)).save(tmp_path / "g.png", transparency=7)
    np.testing.assert_array_equal(read_plain(tmp_path / "g.png"), np.where(clear, 255, 90))


def test_inks_with_a_profile_are_converted_by_it(tmp_path):
    # no profile of inks can be made here: one of RGB does not fit them, and is passed over
    cmyk = Image.fromarray(random_pixels(8, 8)).convert("CMYK")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cmyk.save(tmp_path / "a.tif", icc_profile=profile)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.asarray(cmyk.convert("RGB")))
    # those of Adobe are stored upside down
    cmyk.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    difference = read_image(tmp_path / "a.jpg").astype(int) - np.asarray(cmyk.convert("RGB"))
    assert np.abs(difference).mean() < 3


def test_a_file_of_several_frames_needs_a_choice(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (10, 60, 200)]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        what = "pages" if name.endswith("tif") else "frames"
        with pytest.raises(InputError, match=f"{name} has 3 {what}, of which one is read: set `page` .* 0 to 2"):
            read_plain(tmp_path / name)
        for page, level in enumerate((10, 60, 200)):
            assert (read_image(tmp_path / name, PixelRules(page=page)) == level).all(), name
        with pytest.raises(InputError, match="page = 3: .*from 0 to 2"):
            read_plain(tmp_path / name, PixelRules(page=3))
    Image.fromarray(random_pixels(4, 4)).save(tmp_path / "single.png")
    np.testing.assert_array_equal(read_plain(tmp_path / "single.png", PixelRules(page=2)), random_pixels(4, 4))


def big_png(path, width, height):
    # one bit per pixel, all black
    row = bytes(1 + -(-width // 8))

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = zlib.compress(row * height, 1)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


@pytest.mark.filterwarnings("error")
def test_an_image_beyond_the_limit_says_how_to_raise_it(tmp_path):
    big_png(tmp_path / "a.png", 14000, 13000)
    with pytest.raises(
        InputError, match=r"a.png has 14000 x 13000 pixels, more than max_pixels = 178,956,970.*182000000"
    ):
        read_plain(tmp_path / "a.png")
    pixels = read_plain(tmp_path / "a.png", PixelRules(max_pixels=182_000_000))
    assert pixels.shape == (13000, 14000) and not pixels.any()
    with pytest.raises(InputError, match="more than max_pixels = 100"):
        big_png(tmp_path / "b.png", 11, 10)
        read_plain(tmp_path / "b.png", PixelRules(max_pixels=100))

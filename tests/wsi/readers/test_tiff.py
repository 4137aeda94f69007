import numpy as np
import pytest
import tifffile
from PIL import Image

from medi_monai.utils.errors import InputError
from medi_monai.wsi import open_slide
from medi_monai.wsi.readers import PixelRules, read_image, read_plain
from medi_monai.wsi.readers.tiff import several_pages, tiff_resolution


@pytest.fixture(scope="module")
def pixels():
    small = np.random.default_rng(0).integers(0, 256, (17, 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((320, 272), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "deflate", "lzw"])
def test_deep_color_is_scaled_by_its_full_range_or_by_the_rule(tmp_path, pixels, planar, compression):
    values = pixels.astype(np.uint16) * 257
    path = tmp_path / "a.tif"
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
    settings = {"photometric": "rgb", "planarconfig": planar, "compression": compression, "metadata": None}
    tifffile.imwrite(path, stored, **settings)
    np.testing.assert_array_equal(read_plain(path), pixels)
    stored = (stored / 65535).astype(np.float32)
    tifffile.imwrite(path, stored, **settings)
    with pytest.raises(InputError, match=r"a.tif has 32-bit floats.*intensity_range, for example \[0, 1\]"):
        read_plain(path)
    np.testing.assert_array_equal(read_plain(path, PixelRules(intensity_range=[0, 1])), pixels)


def test_white_may_be_zero(tmp_path):
    values = np.array([[0, 65535], [32768, 257]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite", metadata=None)
    assert read_plain(tmp_path / "a.tif").tolist() == [[255, 0], [127, 254]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_as_those_of_eight_bits(tmp_path, pixels, orientation):
    for name, values in (("a.tif", pixels), ("b.tif", pixels.astype(np.uint16) * 257)):
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / name, values, photometric="rgb", extratags=tags, metadata=None)
    np.testing.assert_array_equal(read_plain(tmp_path / "b.tif"), read_plain(tmp_path / "a.tif"))


def test_channels_that_are_neither_gray_nor_color_are_named(tmp_path):
    stain = np.full((8, 8, 5), 40_000, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stain, photometric="minisblack", planarconfig="contig", metadata=None)
    with pytest.raises(InputError, match="a.tif: it has 5 channels of 16 bits .*convert it to grayscale or RGB"):
        read_plain(tmp_path / "a.tif")


def test_stacks_are_named_by_what_they_are_of(tmp_path):
    stack = np.arange(1, 7, dtype=np.uint8).reshape(3, 2, 1, 1) * np.full((8, 9), 10, np.uint8)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata={"axes": "ZCYX"})
    with pytest.raises(InputError, match=r"a.ome.tif has 6 pages \(3 z x 2 channels\), of which one is read"):
        read_plain(tmp_path / "a.ome.tif")
    for page in range(6):
        assert (read_plain(tmp_path / "a.ome.tif", PixelRules(page=page)) == 10 * (page + 1)).all()
    tifffile.imwrite(tmp_path / "b.tif", stack[:, 0], photometric="minisblack", tile=(16, 16), metadata=None)
    with pytest.raises(InputError, match="b.tif has 3 pages"):
        open_slide(tmp_path / "b.tif", 0.5)
    with open_slide(tmp_path / "b.tif", 0.5, pixels=PixelRules(page=1)) as slide:
        assert (slide.read(0, 0, (9, 8), (9, 8)) == 30).all()


def test_levels_and_thumbnails_are_no_pages(tmp_path, pixels):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, step in enumerate((4, 1, 2)):
            file.write(np.ascontiguousarray(pixels[::step, ::step]), photometric="rgb", subfiletype=number == 2)
    assert several_pages(tmp_path / "a.tif") == 1
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), pixels)


MICRONS = {"inch": ("INCH", 25400), "centimeter": ("CENTIMETER", 10000)}


@pytest.mark.parametrize("tile", [None, (64, 64)], ids=["strips", "tiles"])
@pytest.mark.parametrize("unit", MICRONS)
def test_resolution_in_tags(tmp_path, pixels, tile, unit):
    name, length = MICRONS[unit]
    path = tmp_path / "a.tif"
    settings = {"photometric": "rgb", "tile": tile, "resolution": (length / 0.5, length / 0.5)}
    tifffile.imwrite(path, pixels, resolutionunit=name, metadata=None, **settings)
    assert tiff_resolution(path) == pytest.approx((0.5, 0.5))
    with open_slide(path) as slide:
        assert slide.spacing == pytest.approx((0.5, 0.5))
    with pytest.raises(InputError, match="a.tif has 0.5 microns per pixel, but the table has 1"):
        open_slide(path, 1.0)
    with open_slide(path, 1.0, on_conflict="given") as slide:
        assert slide.spacing == (1, 1)


@pytest.mark.parametrize("tile", [None, (64, 64)], ids=["strips", "tiles"])
@pytest.mark.parametrize(("size", "unit"), [(0.5, "µm"), (500, "nm"), (0.0005, "mm"), (5000, "Å")])
def test_resolution_in_ome_xml(tmp_path, pixels, tile, size, unit):
    path = tmp_path / "a.ome.tif"
    about = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit, "PhysicalSizeY": size}
    about["PhysicalSizeYUnit"] = unit
    tifffile.imwrite(path, pixels, photometric="rgb", tile=tile, metadata=about)
    assert tiff_resolution(path) == pytest.approx((0.5, 0.5))
    with open_slide(path) as slide:
        assert slide.spacing == pytest.approx((0.5, 0.5))
    with pytest.raises(InputError, match="a.ome.tif has 0.5 microns per pixel, but the table has 1"):
        open_slide(path, 1.0)


def test_resolution_of_imagej(tmp_path):
    values = np.zeros((8, 8), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    assert tiff_resolution(tmp_path / "a.tif") == pytest.approx((0.25, 0.25))


def test_where_nothing_says_there_is_no_resolution(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", metadata=None)
    tifffile.imwrite(tmp_path / "b.ome.tif", pixels, photometric="rgb", metadata={"axes": "YXS"})
    settings = {"photometric": "rgb", "metadata": None, "resolution": (72, 72), "resolutionunit": "INCH"}
    tifffile.imwrite(tmp_path / "c.tif", pixels, **settings)
    Image.fromarray(pixels).save(tmp_path / "d.png", dpi=(50800, 50800))
    for name in ("a.tif", "b.ome.tif", "c.tif", "d.png"):
        with pytest.raises(InputError, match=f"{name} does not contain its resolution"):
            open_slide(tmp_path / name)
    assert tiff_resolution(tmp_path / "absent.tif") == (None, None)


def test_pixels_that_are_not_square_are_resampled_where_the_file_is_believed(tmp_path):
    # a disk of 20 microns, in pixels of 0.5 x 1 microns
    y, x = np.mgrid[:64, :128]
    inside = (x + 0.5 - 64) ** 2 * 0.25 + (y + 0.5 - 32) ** 2 < 20**2
    values = np.repeat(np.where(inside, 50, 200).astype(np.uint8)[..., None], 3, axis=2)
    settings = {"photometric": "rgb", "resolution": (50800, 25400), "resolutionunit": "INCH", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", values, **settings)
    with pytest.raises(InputError, match="a.tif are not square: 0.5 x 1 microns"):
        open_slide(tmp_path / "a.tif", 1.0)
    with open_slide(tmp_path / "a.tif", 1.0, on_conflict="file") as slide:
        field = slide.field((64, 64), 1.0)
        assert field == pytest.approx((128, 64))
        disk = slide.read(0, 0, field, (64, 64))[..., 0] < 125
    y, x = np.mgrid[:64, :64] + 0.5 - 32
    assert np.mean(disk == (x**2 + y**2 < 20**2)) > 0.99

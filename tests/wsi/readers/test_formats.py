import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import is_installed
from medi_monai.wsi import CuCIMReader, open_slide
from medi_monai.wsi.readers.formats import Tiles, content_type, cucim_obstacle, tiff_damage

BEST = "CuCIMReader" if is_installed("cucim") else "OpenSlideReader"
#: layout -> (settings of tifffile, reader that `auto` takes, largest difference, why cuCIM is refused)
LAYOUTS = {
    "raw": ({}, BEST, 0, ""),
    "deflate": ({"compression": "deflate"}, BEST, 0, ""),
    "lzw": ({"compression": "lzw"}, BEST, 0, ""),
    "lzw with predictor": ({"compression": "lzw", "predictor": True}, BEST, 0, ""),
    "jpeg": ({"compression": "jpeg", "compressionargs": {"level": 95}}, BEST, 80, ""),
    "jpeg in rgb": ({"compression": "jpeg", "compressionargs": {"level": 95, "outcolorspace": "rgb"}}, BEST, 40, ""),
    "bigtiff": ({"compression": "lzw", "bigtiff": True}, BEST, 0, ""),
    "small tiles": ({"tile": (64, 48)}, BEST, 0, ""),
    "deflate with predictor": ({"compression": "deflate", "predictor": True}, "OpenSlideReader", 0, "predictor"),
    "zstd": ({"compression": "zstd"}, "OpenSlideReader", 0, "ZSTD"),
    "packbits": ({"compression": "packbits"}, "OpenSlideReader", 0, "PACKBITS"),
    "planar": ({"planarconfig": "separate"}, "OpenSlideReader", 0, "interleaved"),
    "16 bits": ({"dtype": np.uint16}, "OpenSlideReader", 1, "interleaved"),
    "gray": ({"photometric": "minisblack"}, "OpenSlideReader", 0, "interleaved"),
    "sub-directories": ({"subifds": 1}, "OpenSlideReader", 0, "sub-directories"),
    "ome": ({"subifds": 1, "ome": True, "compression": "lzw"}, "OpenSlideReader", 0, "sub-directories"),
}


@pytest.fixture(scope="module")
def pixels():
    small = np.random.default_rng(0).integers(0, 256, (33, 41, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((820, 660), Image.Resampling.BICUBIC))


def write_layout(path, levels, ome=False, bigtiff=False, dtype=None, subifds=0, **settings):
    with tifffile.TiffWriter(path, ome=ome, bigtiff=bigtiff) as file:
        for level, pixels in enumerate(levels):
            page = {"photometric": "rgb", "tile": (256, 256), "metadata": None, **settings}
            page["subfiletype"] = min(level, 1)
            if page["photometric"] == "minisblack":
                pixels = pixels[..., 0]
            if settings.get("planarconfig"):
                pixels = np.moveaxis(pixels, -1, 0)
            if dtype is not None:
                pixels = pixels.astype(dtype) * 257
            if subifds and level == 0:
                page["subifds"] = subifds
            if ome:
                page["metadata"] = {"axes": "YXS"}
            resolution = (4e4 / 2**level, 4e4 / 2**level)
            file.write(np.ascontiguousarray(pixels), resolution=resolution, resolutionunit="CENTIMETER", **page)
    return path


@pytest.fixture(scope="module")
def layouts(tmp_path_factory, pixels):
    """Layout -> a pyramid of two levels."""
    folder = tmp_path_factory.mktemp("layouts")
    levels = [pixels, np.ascontiguousarray(pixels[::2, ::2])]
    written = {}
    for name, (settings, *_) in LAYOUTS.items():
        written[name] = write_layout(folder / f"{name.replace(' ', '_')}.tiff", levels, **settings)
    return written


def test_auto_takes_the_back_end_that_is_safe_and_nothing_crashes(layouts, read_apart):
    results = read_apart(layouts.values(), mpp=None)
    assert {name: results[path.name] for name, path in layouts.items()} == {name: LAYOUTS[name][1] for name in LAYOUTS}


@pytest.mark.parametrize("name", LAYOUTS)
def test_pixels_are_those_that_were_written(layouts, pixels, name):
    largest = LAYOUTS[name][2]
    expected = pixels.astype(int) if name != "gray" else np.repeat(pixels[..., :1], 3, axis=2).astype(int)
    with open_slide(layouts[name]) as slide:
        assert type(slide).__name__ == LAYOUTS[name][1]
        assert slide.dimensions == (820, 660) and slide.mpp == pytest.approx(0.25)
        region = slide.read(300, 200, (128, 96), (128, 96))
        assert np.abs(region - expected[200:296, 300:428]).max() <= largest
        corner = slide.read(820 - 57, 660 - 33, (57, 33), (57, 33))
        assert np.abs(corner - expected[-33:, -57:]).max() <= largest
        if len(slide.level_dimensions) == 2:
            halved = slide.read(200, 100, (128, 96), (64, 48))
            assert np.abs(halved - expected[100:196:2, 200:328:2]).max() <= largest


def test_a_forced_cucim_names_why_it_cannot(layouts, read_apart, cucim_reader):
    results = read_apart(layouts.values(), mpp=None, backend="cucim")
    for name, path in layouts.items():
        reason = LAYOUTS[name][3]
        result = results[path.name]
        if reason:
            assert result.startswith("error") and reason in result and path.name in result and "\n" not in result
        else:
            assert result == "CuCIMReader"


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_obstacle_is_found_without_cucim(layouts, name):
    with openslide.OpenSlide(layouts[name]) as slide:
        obstacle = cucim_obstacle(layouts[name], "generic-tiff", slide.level_dimensions)
    assert LAYOUTS[name][3] in obstacle and bool(obstacle) == bool(LAYOUTS[name][3])


def test_other_formats_are_not_tried_with_cucim(layouts):
    for vendor in ("hamamatsu", "mirax", "dicom", "leica", "ventana", "philips-tiff", ""):
        assert (vendor or "unknown") in cucim_obstacle(layouts["raw"], vendor, [(820, 660)])
    assert "820 x 659" in cucim_obstacle(layouts["raw"], "aperio", [(820, 659)])


def test_jpeg_2000_of_aperio_is_read_by_openslide(tmp_path, pixels):
    about = "Aperio Image Library v11.2.1 \r\n820x660 [0,0 820x660] (256x256) J2K|AppMag = 40|MPP = 0.2527"
    coded = {33005: pixels, 33003: np.asarray(Image.fromarray(pixels).convert("YCbCr"))}
    for compression, values in coded.items():
        path = tmp_path / f"{compression}.svs"
        settings = {"compression": compression, "tile": (256, 256), "photometric": "rgb", "description": about}
        tifffile.imwrite(path, values, metadata=None, **settings)
        with open_slide(path) as slide:
            assert type(slide).__name__ == "OpenSlideReader" and slide.vendor == "aperio"
            assert slide.mpp == pytest.approx(0.2527)
            region = slide.read(100, 200, (300, 250), (300, 250)).astype(int)
        assert np.abs(region - pixels[200:450, 100:400]).max() <= (0 if compression == 33005 else 3)


def test_images_that_are_no_slides_are_read_whole(tmp_path, pixels):
    image = Image.fromarray(pixels)
    image.save(tmp_path / "pil.tiff")
    image.save(tmp_path / "lzw.tif", compression="tiff_lzw")
    tifffile.imwrite(tmp_path / "strips.tiff", pixels, photometric="rgb", rowsperstrip=64, compression="deflate")
    # OpenSlide takes none of the files that tifffile writes with the other byte order
    tifffile.imwrite(tmp_path / "big_endian.tiff", pixels, photometric="rgb", tile=(256, 256), byteorder=">")
    for name in ("pil.tiff", "lzw.tif", "strips.tiff", "big_endian.tiff"):
        with open_slide(tmp_path / name, 0.25) as slide:
            assert type(slide).__name__ == "ArrayReader"
            assert np.array_equal(slide.read(0, 0, (820, 660), (820, 660)), pixels)
        with pytest.raises(InputError, match=f"{name}.*resolution"):
            open_slide(tmp_path / name)


def without_first_tile(path, target):
    """A copy whose directory gives the first tile no byte, as writers leave out what was not scanned."""
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags["TileByteCounts"]
        size = {3: 2, 4: 4, 16: 8}[int(tag.dtype)]
    content = bytearray(path.read_bytes())
    content[tag.valueoffset : tag.valueoffset + size] = bytes(size)
    target.write_bytes(content)
    return target


def test_a_tile_that_is_left_out_is_white(layouts, pixels, tmp_path):
    path = without_first_tile(layouts["lzw"], tmp_path / "sparse.tiff")
    with open_slide(path) as slide:
        assert type(slide).__name__ == "OpenSlideReader"
        region = slide.read(200, 200, (100, 100), (100, 100))
    assert (region[:56, :56] == 255).all()
    assert np.array_equal(region[56:], pixels[256:300, 200:300])
    if is_installed("cucim"):
        with pytest.raises(InputError, match="sparse.tiff.*empty"):
            CuCIMReader(path)


def test_levels_that_cucim_numbers_otherwise_go_to_openslide(tmp_path, pixels, write_tiff, read_apart):
    # cuCIM counts a thumbnail made of strips as a level, or takes the largest page for the first
    half, quarter = (np.ascontiguousarray(pixels[::step, ::step]) for step in (2, 4))
    paths = [tmp_path / name for name in ("thumbnail.tiff", "small_first.tiff", "no_flag.tiff")]
    with tifffile.TiffWriter(paths[0]) as file:
        for level, shrunk in enumerate((pixels, pixels[:500, :700], half)):
            settings = {"tile": None if level == 1 else (256, 256), "subfiletype": min(level, 1)}
            file.write(np.ascontiguousarray(shrunk), photometric="rgb", metadata=None, **settings)
    with tifffile.TiffWriter(paths[1]) as file:
        for level, shrunk in ((1, quarter), (0, pixels), (1, half)):
            file.write(shrunk, photometric="rgb", tile=(128, 128), metadata=None, subfiletype=level)
    write_tiff(paths[2], [pixels, half], subfiletype=0)
    assert read_apart(paths) == dict.fromkeys((path.name for path in paths), "OpenSlideReader")
    with open_slide(paths[0], 0.25) as slide, openslide.OpenSlide(paths[0]) as reference:
        assert slide.level_dimensions == reference.level_dimensions
        assert np.array_equal(slide.read(100, 60, (200, 100), (100, 50)), half[30:80, 50:150])


def test_pages_in_any_order_are_matched_by_their_size(tmp_path, pixels, write_tiff, reader):
    half, quarter = (np.ascontiguousarray(pixels[::step, ::step]) for step in (2, 4))
    path = write_tiff(tmp_path / "mixed.tiff", [pixels, quarter, half], 0.25)
    with reader(path) as slide:
        assert slide.level_dimensions == ((820, 660), (410, 330), (205, 165))
        assert np.array_equal(slide.read(80, 40, (200, 160), (100, 80)), half[20:100, 40:140])
        assert np.array_equal(slide.read(80, 40, (200, 160), (50, 40)), quarter[10:50, 20:70])


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.png", "PNG"),
        ("a.jpg", "JPEG"),
        ("a.gif", "GIF"),
        ("a.bmp", "BMP"),
        ("a.webp", "WEBP"),
        ("a.tif", "TIFF"),
    ],
)
def test_a_file_is_what_its_first_bytes_say(tmp_path, pixels, name, kind):
    Image.fromarray(pixels[:40, :40]).save(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "file.svs")
    assert content_type(tmp_path / "file.svs") == kind
    for text in ("", "a", "not an image"):
        (tmp_path / "text.svs").write_text(text)
        assert content_type(tmp_path / "text.svs") == ""
    assert content_type(tmp_path) == content_type(tmp_path / "absent") == ""


def test_whole_files_are_not_called_damaged(layouts, tmp_path, pixels, real_data):
    Image.fromarray(pixels).save(tmp_path / "pil.tiff")
    for path in [*layouts.values(), tmp_path / "pil.tiff", real_data / "wsi" / "cmu-1-small-region.svs"]:
        assert tiff_damage(path) == "", path.name


def test_tiles_that_do_not_begin_go_on_and_end_as_they_must_are_found(layouts, tmp_path):
    noise = np.random.default_rng(0).bytes(2000)
    for name, damages in {"jpeg": ("head", "middle", "hole", "tail"), "lzw": ("head",)}.items():
        with tifffile.TiffFile(layouts[name]) as file:
            page = file.pages[0]
            offset, count = page.dataoffsets[5], page.databytecounts[5]
        for damage in damages:
            content = bytearray(layouts[name].read_bytes())
            start = {"head": offset, "tail": offset + count - 40}.get(damage, offset + count // 2)
            garbage = {"middle": noise, "hole": bytes(80)}.get(damage, bytes(40))
            assert start + len(garbage) <= offset + count
            content[start : start + len(garbage)] = garbage
            path = tmp_path / f"{name}_{damage}.tiff"
            path.write_bytes(content)
            tiles = Tiles(path, [(820, 660), (410, 330)])
            # the sixth of four by three tiles of 256 pixels
            assert not tiles.whole(0, 256, 256, 512, 512) and not tiles.whole(0, 0, 0, 820, 660)
            assert not tiles.whole(0, 511, 511, 513, 513)
            assert tiles.whole(0, 0, 0, 256, 256) and tiles.whole(0, 512, 256, 820, 512)
            assert tiles.whole(1, 0, 0, 410, 330)
            tiles.close()
            assert not tiles.whole(0, 256, 512, 300, 600), "closed, and not looked at before"

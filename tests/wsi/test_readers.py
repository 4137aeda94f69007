import io

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.utils.errors import InputError
from medi_monai.wsi import ArrayReader, OpenSlideReader, open_slide
from medi_monai.wsi.readers import read_image

WIDTH, HEIGHT = 1024, 768


def ramps():
    """Red tells x and blue tells y, so that a region says itself which part of the slide it shows."""
    x, y = np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5
    red = np.broadcast_to(20 + 210 * x / WIDTH, (HEIGHT, WIDTH))
    blue = np.broadcast_to(20 + 210 * y[:, None] / HEIGHT, (HEIGHT, WIDTH))
    dither = np.random.default_rng(0).uniform(0, 1, (HEIGHT, WIDTH))
    return np.floor(np.stack([red + dither, np.full_like(red, 128), blue + dither], axis=-1)).astype(np.uint8)


def field_of_view(region):
    """(x, y, width, height) in level 0 pixels of a region of :func:`ramps`, from lines fitted to its colors."""
    height, width = region.shape[:2]
    found = []
    for profile, length in ((region[..., 0].mean(axis=0), WIDTH), (region[..., 2].mean(axis=1), HEIGHT)):
        inner = slice(2, -2) if len(profile) > 16 else slice(None)
        places = (np.arange(len(profile)) + 0.5)[inner]
        slope, start = np.polyfit(places, (profile[inner] - 20) * length / 210, 1)
        found.append((start, slope * len(profile)))
    return found[0][0], found[1][0], found[0][1], found[1][1]


def random_pixels(height, width):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory):
    path = tmp_path_factory.mktemp("slides") / "ramps.tiff"
    write_pyramid(path, ramps(), 0.46)
    return path


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A pyramid whose levels are not whole reductions, as scanners write them: 3.91 and 15.9."""
    path = tmp_path_factory.mktemp("slides") / "uneven.tiff"
    image = Image.fromarray(ramps())
    with tifffile.TiffWriter(path) as file:
        for level, size in enumerate([(WIDTH, HEIGHT), (262, 196), (64, 48)]):
            pixels = np.asarray(image.resize(size, Image.Resampling.BOX))
            file.write(pixels, tile=(128, 128), photometric="rgb", subfiletype=min(level, 1), metadata=None)
    return path


def test_size_and_resolution_are_read_from_the_file(pyramid):
    with open_slide(pyramid, mpp=0.9) as slide:
        assert isinstance(slide, OpenSlideReader)
        assert slide.dimensions == (WIDTH, HEIGHT)
        assert slide.mpp == pytest.approx(0.46, rel=1e-4), "the file's own resolution has precedence"


@pytest.mark.parametrize(("x", "y", "size"), [(0, 0, (64, 48)), (311, 200, (100, 37)), (960, 700, (64, 68))])
def test_a_region_at_full_resolution_equals_openslides_pixel_by_pixel(pyramid, x, y, size):
    with open_slide(pyramid) as slide, openslide.OpenSlide(pyramid) as reference:
        expected = np.asarray(reference.read_region((x, y), 0, size).convert("RGB"))
        assert np.array_equal(slide.read(x, y, size, size), expected)


@pytest.mark.parametrize("level", [1, 2])
def test_a_region_at_the_scale_of_a_level_equals_that_level(pyramid, level):
    factor = 2**level
    with open_slide(pyramid) as slide, openslide.OpenSlide(pyramid) as reference:
        expected = np.asarray(reference.read_region((64, 128), level, (50, 40)).convert("RGB"))
        assert np.array_equal(slide.read(64, 128, (50 * factor, 40 * factor), (50, 40)), expected)


def test_a_lossless_slide_equals_pil(uneven):
    whole = Image.fromarray(ramps())
    with open_slide(uneven, mpp=0.5) as slide:
        region = slide.read(40, 60, (300, 200), (150, 100))
    expected = whole.crop((40, 60, 340, 260)).reduce(2)
    assert np.abs(region.astype(int) - np.asarray(expected)).max() <= 1


FIELDS = [
    (0, 0, (600.0, 500.0), (64, 64)),
    (100, 40, (278.26, 278.26), (128, 128)),
    (37, 91, (511.944, 511.944), (128, 128)),
    (300, 200, (128.0, 128.0), (128, 128)),
    (200, 100, (556.52, 556.52), (256, 256)),
    (10, 20, (1000.7, 700.3), (40, 28)),
    (500, 300, (150.4, 150.4), (128, 128)),
]


@pytest.mark.parametrize(("x", "y", "field", "size"), FIELDS)
@pytest.mark.parametrize("kind", ["pyramid", "uneven", "array"])
def test_the_field_of_view_is_the_one_asked_for(kind, x, y, field, size, request):
    # an integer downsample would show up to a third more tissue: 3.99957 is not 3
    slide = ArrayReader(ramps(), 0.5) if kind == "array" else open_slide(request.getfixturevalue(kind), mpp=0.5)
    with slide:
        region = slide.read(x, y, field, size)
    assert region.shape == (size[1], size[0], 3) and region.dtype == np.uint8
    found_x, found_y, width, height = field_of_view(region)
    assert (width, height) == pytest.approx(field, rel=0.005)
    assert (found_x, found_y) == pytest.approx((x, y), abs=1.5)


@pytest.mark.parametrize("downsample", [1.5, 2.0])
def test_the_level_read_is_never_coarser_than_the_result(tmp_path, downsample):
    # stripes of two pixels are gray in the level of a quarter, which must not be enlarged
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, np.arange(512) % 4 < 2] = 255
    write_pyramid(tmp_path / "stripes.tiff", stripes, 0.5)
    size = round(480 / downsample)
    with open_slide(tmp_path / "stripes.tiff") as slide:
        sharp = slide.read(16, 16, (480, 480), (size, size)).std()
        gray = slide.read(16, 16, (480, 480), (120, 120)).std()
    assert gray < 5 and sharp > 25


def test_an_integer_reduction_is_the_mean_of_its_pixels():
    pixels = random_pixels(40, 60)
    expected = pixels[4:34, 6:54].reshape(10, 3, 16, 3, 3).mean(axis=(1, 3))
    region = ArrayReader(pixels, 0.5).read(6, 4, (48, 30), (16, 10))
    # PIL rounds once per axis
    assert np.abs(region - expected).max() <= 1


def test_a_whole_tile_comes_back_unchanged():
    pixels = random_pixels(30, 50)
    tile = ArrayReader(pixels, 0.25)
    assert tile.dimensions == (50, 30) and tile.mpp == 0.25
    assert np.array_equal(tile.read(0, 0, (50, 30), (50, 30)), pixels)


def test_beyond_the_edge_of_a_slide_it_is_white(pyramid):
    with open_slide(pyramid) as slide:
        region = slide.read(WIDTH - 10, HEIGHT - 20, (40, 40), (40, 40))
    assert (region[:, 10:] == 255).all() and (region[20:] == 255).all()
    assert (region[:20, :10] < 255).all()


def test_plain_images_are_read_whole_and_need_a_resolution(tmp_path):
    pixels = random_pixels(20, 30)
    Image.fromarray(pixels).save(tmp_path / "tile.PNG")
    with open_slide(tmp_path / "tile.PNG", mpp=0.25) as slide:
        assert slide.mpp == 0.25
        assert np.array_equal(slide.read(0, 0, (30, 20), (30, 20)), pixels)
    with pytest.raises(InputError, match="tile.PNG.*resolution"):
        open_slide(tmp_path / "tile.PNG")


def test_a_slide_that_does_not_say_its_resolution_needs_it_given(uneven):
    with pytest.raises(InputError, match="uneven.tiff.*resolution"):
        open_slide(uneven)
    with open_slide(uneven, mpp=0.31) as slide:
        assert slide.mpp == 0.31


@pytest.mark.parametrize("mpp", [0, -0.5, 100, float("nan")])
def test_an_impossible_resolution_is_refused(tmp_path, mpp):
    Image.fromarray(random_pixels(8, 8)).save(tmp_path / "tile.png")
    with pytest.raises(InputError, match="tile.png"):
        open_slide(tmp_path / "tile.png", mpp=mpp)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_images_of_other_modes_become_three_channels(tmp_path, mode):
    image = Image.fromarray(random_pixels(9, 7)).convert(mode)
    path = tmp_path / ("tile.jpg" if mode == "CMYK" else "tile.png")
    image.save(path)
    pixels = read_image(path)
    assert pixels.shape == (9, 7, 3) and pixels.dtype == np.uint8 and pixels.std() > 10


@pytest.mark.parametrize("fraction", [0, 0.001, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_slide_is_named(pyramid, tmp_path, fraction):
    content = pyramid.read_bytes()
    (tmp_path / "cut.tiff").write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(InputError, match="cut.tiff"), open_slide(tmp_path / "cut.tiff") as slide:
        slide.read(0, 0, slide.dimensions, slide.dimensions)


def test_a_damaged_tile_is_an_input_error(pyramid, tmp_path):
    content = bytearray(pyramid.read_bytes())
    content[len(content) // 4 : len(content) // 3] = bytes(len(content) // 3 - len(content) // 4)
    (tmp_path / "damaged.tiff").write_bytes(content)
    with pytest.raises(InputError), open_slide(tmp_path / "damaged.tiff") as slide:
        slide.read(0, 0, slide.dimensions, slide.dimensions)


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


def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path):
    Image.fromarray(random_pixels(16, 16)).save(tmp_path / "tile.png")
    (tmp_path / "tile.png").rename(tmp_path / "tile.tiff")
    (tmp_path / "notes.svs").write_text("not a slide")
    (tmp_path / "notes.jpg").write_text("not an image")
    for name in ("tile.tiff", "notes.svs", "notes.jpg"):
        with pytest.raises(InputError, match=name):
            open_slide(tmp_path / name, mpp=0.5)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    (tmp_path / "folder.svs").mkdir()
    for name in ("absent.svs", "absent.png", "folder.svs"):
        with pytest.raises(InputError, match=name):
            open_slide(tmp_path / name)
    with pytest.raises(InputError, match="absent.png"):
        read_image(tmp_path / "absent.png")


def test_a_slide_of_a_real_scanner_equals_openslide(real_data):
    path = real_data / "wsi" / "cmu-1-small-region.svs"
    with open_slide(path) as slide, openslide.OpenSlide(path) as reference:
        assert slide.dimensions == (2220, 2967) and slide.mpp == pytest.approx(0.499)
        expected = np.asarray(reference.read_region((700, 900), 0, (256, 256)).convert("RGB"))
        assert np.array_equal(slide.read(700, 900, (256, 256), (256, 256)), expected)
        halved = slide.read(700, 900, (256, 256), (128, 128))
    means = expected.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - means).max() <= 1

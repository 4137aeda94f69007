import io
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import is_installed
from medi_monai.wsi import CuCIMReader, OpenSlideReader, open_slide

pytestmark = pytest.mark.skipif(
    not is_installed("cucim"), reason='cuCIM is not installed: pip install "medi_monai[cucim]" (Linux x86-64)'
)


@pytest.fixture(scope="module")
def halved(tmp_path_factory, write_tiff, drawn_tissue, area_means):
    """Kind -> a slide of 1,024 x 1,000 pixels with levels of 2 and 4, in JPEG tiles and lossless."""
    folder = tmp_path_factory.mktemp("halved")
    levels = [drawn_tissue[:1000]]
    levels += [area_means(levels[0], 512, 500), area_means(levels[0], 256, 250)]
    settings = {"jpeg": {"compression": "jpeg", "tile": (128, 64)}, "lzw": {"compression": "lzw"}}
    return {kind: write_tiff(folder / f"{kind}.tiff", levels, 0.25, **more) for kind, more in settings.items()}


def both(path, mpp=None):
    return OpenSlideReader(path, mpp), CuCIMReader(path, mpp)


@pytest.mark.parametrize("kind", ["jpeg", "lzw"])
def test_both_back_ends_agree_pixel_by_pixel(halved, kind):
    rng = np.random.default_rng(0)
    by_openslide, by_cucim = both(halved[kind])
    with by_openslide, by_cucim:
        assert (by_openslide.dimensions, by_openslide.spacing, by_openslide.level_downsamples) == (
            by_cucim.dimensions,
            by_cucim.spacing,
            by_cucim.level_downsamples,
        )
        for _ in range(120):
            size = int(rng.integers(1, 90)), int(rng.integers(1, 90))
            reduction = float(rng.choice([1, 2, 4, 8, rng.uniform(1, 9)]))
            field = size[0] * reduction, size[1] * reduction
            far = np.array(by_openslide.dimensions) - field
            x, y = rng.uniform(0, far) if rng.random() < 0.5 else np.floor(rng.uniform(0, far))
            if rng.random() < 0.3:
                x, y = far
            assert np.array_equal(by_openslide.read(x, y, field, size), by_cucim.read(x, y, field, size)), (
                x,
                y,
                field,
                size,
            )
        assert np.array_equal(by_openslide.thumbnail((77, 75)), by_cucim.thumbnail((77, 75)))


def test_both_back_ends_agree_on_a_real_slide(real_data):
    by_openslide, by_cucim = both(real_data / "wsi" / "cmu-1-small-region.svs")
    rng = np.random.default_rng(0)
    with by_openslide, by_cucim:
        for target in (0.499, 0.5, 0.7, 1.0, 2.0):
            field = by_openslide.field((96, 80), target)
            for x, y in rng.uniform(0, np.array(by_openslide.dimensions) - field, (6, 2)):
                assert np.array_equal(by_openslide.read(x, y, field, (96, 80)), by_cucim.read(x, y, field, (96, 80)))
        assert np.array_equal(by_openslide.thumbnail((139, 185)), by_cucim.thumbnail((139, 185)))


def test_at_levels_of_no_whole_ratio_they_agree_but_for_rounding(tissue_slides):
    by_openslide, by_cucim = both(tissue_slides["3.9996"][0], 0.25)
    rng = np.random.default_rng(0)
    apart = []
    with by_openslide, by_cucim:
        for target in (0.9999, 2.0, 3.0, 8.0):
            field = by_openslide.field((64, 48), target)
            for x, y in rng.uniform(0, np.array(by_openslide.dimensions) - field, (12, 2)):
                first, second = by_openslide.read(x, y, field, (64, 48)), by_cucim.read(x, y, field, (64, 48))
                apart.append(np.abs(first.astype(int) - second))
    # OpenSlide reads between the pixels of such a level; taken back, up to its rounding: measured 0.16, at most 4
    assert np.mean(apart) < 0.3 and np.max(apart) <= 5


def test_each_pixel_of_a_level_is_found(noisy_level):
    # cuCIM cuts off the quotient of a place and the downsample: a place on the edge of a pixel may fall into the next
    path, level = noisy_level
    with CuCIMReader(path, 0.25) as slide:
        assert slide.level_downsamples[1][0] == pytest.approx(3.9996)
        for left in [*range(0, 40), *range(1230, 1270), *range(2440, 2490)]:
            assert np.array_equal(slide._pixels(1, left, left % 480, 10, 12), level[left % 480 :][:12, left:][:, :10])


@pytest.fixture(scope="module")
def noisy_level(tmp_path_factory, write_tiff):
    level = np.random.default_rng(0).integers(0, 256, (500, 2500, 3), dtype=np.uint8)
    path = write_tiff(tmp_path_factory.mktemp("noise") / "a.tiff", [np.zeros((1999, 9999, 3), np.uint8), level])
    return path, level


@pytest.mark.parametrize("downsample", ["4", "3.9996"])
@pytest.mark.parametrize("target", [0.25, 0.4, 1.0, 2.0])
def test_many_regions_are_those_read_one_by_one(tissue_slides, downsample, target):
    # a mix of those on the pixels of a level and not, and at the far borders, where a batch is moved inwards
    path = tissue_slides[downsample][0]
    rng = np.random.default_rng(0)
    with CuCIMReader(path, 0.25) as slide:
        size = (48, 40)
        field = slide.field(size, target)
        far = np.array(slide.dimensions) - field
        corners = [tuple(far), (far[0], 0), (0, far[1]), (0, 0), tuple(np.floor(far))]
        corners += [tuple(corner) for corner in rng.uniform(0, far, (9, 2))]
        corners += [tuple(corner) for corner in (np.floor(rng.uniform(0, far, (9, 2)) / 4) * 4).tolist()]
        corners = [corners[index] for index in rng.permutation(len(corners))]
        expected = [slide.read(x, y, field, size) for x, y in corners]
        levels = {slide.window(x, y, field, size).level for x, y in corners}
        for threads in (1, 2, 4):
            patches = list(slide.read_many(corners, field, size, threads))
            assert len(patches) == len(corners)
            for index, (patch, single) in enumerate(zip(patches, expected)):
                assert np.array_equal(patch, single), (threads, corners[index])
    assert len(levels) == (2 if target == 1.0 else 1)


def test_more_regions_than_one_call_takes(halved):
    corners = [(17 * k % 1000, 31 * k % 980) for k in range(1100)]
    by_openslide, by_cucim = both(halved["lzw"])
    with by_openslide, by_cucim:
        patches = by_cucim.read_many(corners, (16, 16), (16, 16), 2)
        assert all(
            np.array_equal(patch, by_openslide.read(x, y, (16, 16), (16, 16)))
            for patch, (x, y) in zip(patches, corners)
        )
        assert next(patches, None) is None


def damaged(path, target, tile):
    """A copy in which a tile of level 0 is zeros."""
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[tile], file.pages[0].databytecounts[tile]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    target.write_bytes(content)
    return target


@pytest.mark.parametrize("kind", ["jpeg", "lzw"])
def test_a_damaged_tile_is_an_error_and_not_noise(halved, kind, tmp_path):
    # cuCIM alone gives black, or what was in memory, and no error
    path = damaged(halved[kind], tmp_path / "damaged.tiff", 0)
    by_openslide, by_cucim = both(halved[kind])
    with by_openslide, by_cucim, CuCIMReader(path) as slide:
        assert np.array_equal(slide.read(600, 600, (64, 64), (64, 64)), by_openslide.read(600, 600, (64, 64), (64, 64)))
        with pytest.raises(InputError, match="cannot read the slide .*damaged.tiff"):
            slide.read(10, 10, (64, 64), (64, 64))
        patches = slide.read_many([(600, 600), (700, 600), (30, 30)], (64, 64), (64, 64), 2)
        for x in (600, 700):
            assert np.array_equal(next(patches), by_cucim.read(x, 600, (64, 64), (64, 64)))
        with pytest.raises(InputError, match="damaged.tiff"):
            next(patches)
        # the levels above are whole
        assert np.array_equal(slide.read(0, 0, (256, 256), (64, 64)), by_openslide.read(0, 0, (256, 256), (64, 64)))


def test_a_tile_that_only_looks_damaged_is_read_by_openslide(halved, tmp_path):
    # a writer may pad tiles
    content = bytearray(halved["jpeg"].read_bytes())
    with tifffile.TiffFile(halved["jpeg"]) as file:
        page = file.pages[0]
        tile = content[page.dataoffsets[0] : page.dataoffsets[0] + page.databytecounts[0]] + bytes(64)
        for name, value in (("TileOffsets", len(content)), ("TileByteCounts", len(tile))):
            tag = page.tags[name]
            size = {3: 2, 4: 4}[int(tag.dtype)]
            content[tag.valueoffset : tag.valueoffset + size] = value.to_bytes(size, "little")
    (tmp_path / "padded.tiff").write_bytes(content + tile)
    by_openslide, by_cucim = both(halved["jpeg"])
    with by_openslide, by_cucim, CuCIMReader(tmp_path / "padded.tiff") as slide:
        assert not slide._tiles.whole(0, 0, 0, 9, 9) and slide._tiles.whole(0, 300, 300, 400, 400)
        corners = [(0, 0), (300, 300), (20, 10)]
        for patch, (x, y) in zip(slide.read_many(corners, (40, 40), (40, 40), 2), corners):
            assert np.array_equal(patch, by_openslide.read(x, y, (40, 40), (40, 40)))


@pytest.mark.parametrize("backend", ["auto", "cucim", "openslide"])
def test_bytes_in_disorder_within_a_tile_are_an_error_and_not_noise(real_data, tmp_path, backend):
    content = bytearray((real_data / "wsi" / "cmu-1-small-region.svs").read_bytes())
    content[300_000:302_000] = np.random.default_rng(0).bytes(2000)
    (tmp_path / "burst.svs").write_bytes(content)
    corners = [(x, y) for y in range(0, 2900, 240) for x in range(0, 2100, 240)]
    says = "cannot read the slide .*burst.svs.*[Cc]orrupt JPEG"
    with open_slide(tmp_path / "burst.svs", backend=backend) as slide, pytest.raises(InputError, match=says):
        list(slide.read_many(corners, (64, 64), (64, 64), 2))


@pytest.mark.parametrize(
    ("kind", "looks_whole"),
    [({"restart_marker_blocks": 5}, True), ({"optimize": True}, True), ({"progressive": True}, False)],
)
def test_unusual_tiles_are_read_whatever_they_look_like(tmp_path, drawn_tissue, kind, looks_whole):
    def coded(tile):
        stream = io.BytesIO()
        Image.fromarray(tile).save(stream, "jpeg", quality=90, **kind)
        return stream.getvalue()

    tiles = (coded(drawn_tissue[y : y + 256, x : x + 256]) for y in (0, 256) for x in (0, 256, 512))
    page = {"tile": (256, 256), "compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2), "metadata": None}
    tifffile.imwrite(tmp_path / "a.tiff", tiles, shape=(512, 768, 3), dtype=np.uint8, **page)
    by_openslide, by_cucim = both(tmp_path / "a.tiff", 0.25)
    with by_openslide, by_cucim:
        assert by_cucim._tiles.whole(0, 0, 0, 768, 512) == looks_whole
        corners = [(0, 0), (200, 100), (500, 300)]
        for patch, (x, y) in zip(by_cucim.read_many(corners, (100, 90), (100, 90), 2), corners):
            assert np.array_equal(patch, by_openslide.read(x, y, (100, 90), (100, 90)))
            assert np.abs(patch.astype(int) - drawn_tissue[y : y + 90, x : x + 100]).mean() < 6


def test_an_import_of_cucim_prints_nothing(tmp_path, halved):
    code = f"from medi_monai.wsi import CuCIMReader\nCuCIMReader({str(halved['lzw'])!r}).close()"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (child.returncode, child.stdout, child.stderr) == (0, "", "")

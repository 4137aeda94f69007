import gc
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medi_monai.utils.errors import InputError
from medi_monai.wsi import ArrayReader, OpenSlideReader
from medi_monai.wsi.readers import base
from medi_monai.wsi.readers.base import batched

WIDTH, HEIGHT = 2624, 1984
#: level 0 pixels of one turn of the waves, to the right and down
TURN_X, TURN_Y = 512.0, 640.0


def waves(width=WIDTH, height=HEIGHT):
    """Red and green are cosine and sine of a phase that grows to the right and down: any filter keeps the phase."""
    phase = 2 * np.pi * ((np.arange(width) + 0.5) / TURN_X + ((np.arange(height) + 0.5) / TURN_Y)[:, None])
    pixels = np.full((height, width, 3), 128, np.uint8)
    dither = np.random.default_rng(0).uniform(0, 1, (height, width))
    pixels[..., 0], pixels[..., 1] = 128 + 100 * np.cos(phase) + dither, 128 + 100 * np.sin(phase) + dither
    return pixels


def turned(wave, axis):
    """Turns of the phase per pixel along an axis: between neighbors, then exactly, between pixels far apart."""
    wave = np.moveaxis(wave, axis, 0)
    coarse = np.angle((wave[1:] * wave[:-1].conj()).sum()) / (2 * np.pi)
    lag = max(1, len(wave) // 2)
    fine = np.angle((wave[lag:] * wave[:-lag].conj()).sum()) / (2 * np.pi)
    return (fine + np.rint(coarse * lag - fine)) / lag


def shown(region):
    """(width, height) in level 0 pixels that a region of :func:`waves` shows, and the turn of its upper left corner."""
    wave = region[..., 0] - 128.0 + 1j * (region[..., 1] - 128.0)
    # the filter sees fewer pixels at the rim
    inner = wave[2:-2, 2:-2]
    right, down = turned(inner, 1), turned(inner, 0)
    rows, columns = np.indices(inner.shape) + 2.5
    corner = np.angle((inner * np.exp(-2j * np.pi * (right * columns + down * rows))).sum()) / (2 * np.pi)
    return right * TURN_X * wave.shape[1], down * TURN_Y * wave.shape[0], corner


def misplaced(corner, x, y):
    """Turns between a corner shown and the one asked for: one level 0 pixel is 0.002."""
    apart = corner - x / TURN_X - y / TURN_Y
    return abs(apart - round(apart))


@pytest.fixture(scope="module")
def wave_slides(tmp_path_factory, write_tiff, area_means):
    """Kind -> path of waves: levels of 4 and 16, of 3.9 and 15.9, one level, and levels that fit nothing."""
    folder, pixels = tmp_path_factory.mktemp("waves"), waves()
    sizes = {
        "4": [(656, 496), (164, 124)],
        "3.95": [(665, 503), (165, 125)],
        "one level": [],
        "1.9": [(1381, 1044), (576, 436), (213, 161)],
    }
    return {
        kind: write_tiff(folder / f"{kind}.tiff", [pixels, *(area_means(pixels, *size) for size in levels)])
        for kind, levels in sizes.items()
    }


@pytest.mark.parametrize("mpp", [0.25, 0.32, 0.46, (0.25, 0.262)])
@pytest.mark.parametrize("kind", ["4", "3.95", "one level", "1.9"])
def test_the_field_of_view_is_never_off_by_half_a_percent(wave_slides, reader, kind, mpp):
    # an integer downsample would show up to a third more tissue: 3.99957 is not 3
    with reader(wave_slides[kind], 0.5) as slide:
        slide.spacing = tuple(np.broadcast_to(mpp, 2).tolist())
        for target in (slide.mpp, 0.5, 0.77, 1.0, 2.0, 4.0):
            for size in ((256, 192), (61, 97), (16, 12)):
                asked = size[0] * target / slide.spacing[0], size[1] * target / slide.spacing[1]
                # the waves tell a width to half a percent where there are pixels enough
                if asked[0] > WIDTH or asked[1] > HEIGHT or min(asked) * min(size) < 4000:
                    continue
                assert slide.field(size, target) == pytest.approx(asked, rel=1e-12)
                for x, y in [(0, 0), (WIDTH - asked[0], HEIGHT - asked[1]), (31, 47), (4, 8)]:
                    if x + asked[0] > WIDTH or y + asked[1] > HEIGHT:
                        continue
                    width, height, corner = shown(slide.read(x, y, asked, size).astype(float))
                    assert (width, height) == pytest.approx(asked, rel=0.005), (target, size, x, y)
                    # a patch moves by up to an eighth of its pixels to those of a level
                    moved = 0.13 * max(asked[0] / size[0], asked[1] / size[1]) * (1 / TURN_X + 1 / TURN_Y)
                    assert misplaced(corner, x, y) < moved + 0.0015, (target, size, x, y)


def test_anisotropic_pixels_are_told_by_the_file(reader, write_tiff, tmp_path):
    path = write_tiff(tmp_path / "slide.tiff", [waves(1200, 1000)], (0.25, 0.27))
    with reader(path) as slide:
        assert slide.spacing == pytest.approx((0.25, 0.27), rel=1e-6) and slide.mpp == pytest.approx(0.26)
        assert slide.field((270, 100), 0.5) == pytest.approx((540, 185.185), rel=1e-5)
        region = shown(slide.read(10, 20, slide.field((270, 250), 0.5), (270, 250)))
    assert region[:2] == pytest.approx((540, 462.96), rel=0.001) and misplaced(region[2], 10, 20) < 0.0005


def test_a_level_is_used_by_its_real_valued_downsample(wave_slides):
    with OpenSlideReader(wave_slides["1.9"], 0.25) as slide:
        downsamples = [WIDTH / across for across, _ in slide.level_dimensions]
        assert [across for across, _ in slide.level_downsamples] == pytest.approx(downsamples)
        for reduction in np.linspace(1, 12, 40):
            size = (128, 96)
            field = (size[0] * reduction, size[1] * reduction)
            level = slide.window(1, 1, field, size).level
            finer = reduction / downsamples[level]
            assert level == 0 or finer >= 2 * 0.999 or finer == pytest.approx(1, rel=0.01)
            coarser = [number for number, downsample in enumerate(downsamples) if reduction / downsample >= 2]
            assert level >= max(coarser, default=0), "a coarser level would have done"
            # the direction that is reduced less decides
            stretched = slide.window(1, 1, (field[0], 1.6 * field[1]), size).level
            assert stretched == 0 or reduction / downsamples[stretched] >= 2 * 0.999


def test_with_less_oversampling_coarser_levels_are_read(wave_slides, monkeypatch):
    with OpenSlideReader(wave_slides["4"], 0.25) as slide:
        field, size = (640.5, 480.5), (128, 96)
        assert slide.window(3, 3, field, size).level == 0
        monkeypatch.setattr(slide, "oversampling", 1.0)
        assert slide.window(3, 3, field, size).level == 1
        region = shown(slide.read(3, 3, field, size))
    assert region[:2] == pytest.approx(field, rel=0.002) and misplaced(region[2], 3, 3) < 0.001


@pytest.mark.parametrize("reduction", [1.5, 2.0])
def test_the_level_read_is_never_coarser_than_the_result(tmp_path, write_tiff, area_means, reader, reduction):
    # stripes of two pixels are gray in the level of a quarter, which must not be enlarged
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, np.arange(512) % 4 < 2] = 255
    path = write_tiff(tmp_path / "stripes.tiff", [stripes, *(area_means(stripes, side, side) for side in (256, 128))])
    size = round(480 / reduction)
    with reader(path, 0.5) as slide:
        sharp = slide.read(16, 16, (480, 480), (size, size)).std()
        gray = slide.read(16, 16, (480, 480), (120, 120)).std()
    assert gray < 5 and sharp > 25


def test_a_page_of_another_shape_is_no_level(tmp_path, write_tiff, area_means, reader):
    # a label that its writer marked as a reduced image would become the thumbnail of the slide
    pixels = waves(1024, 768)
    label = np.zeros((200, 200, 3), np.uint8)
    path = write_tiff(tmp_path / "label.tiff", [pixels, area_means(pixels, 512, 384), label], 0.25)
    with reader(path) as slide:
        assert len(slide.level_dimensions) == 3
        thumbnail = slide.thumbnail((64, 48))
    assert np.abs(thumbnail.astype(int) - area_means(pixels, 64, 48)).mean() < 1


@pytest.mark.parametrize(
    ("x", "y", "field", "size"),
    [
        (-1, 0, (10, 10), (10, 10)),
        (0, -0.01, (10, 10), (10, 10)),
        (91, 0, (10, 10), (10, 10)),
        (0, 70.5, (10, 10), (5, 5)),
        (0, 0, (100.1, 10), (10, 10)),
        (float("nan"), 0, (10, 10), (10, 10)),
        (0, float("inf"), (10, 10), (10, 10)),
        (0, 0, (float("nan"), 10), (10, 10)),
        (0, 0, (0, 10), (10, 10)),
        (0, 0, (10, 10), (10, 0)),
        (1e9, 0, (10, 10), (10, 10)),
    ],
)
def test_a_region_that_leaves_the_slide_or_is_empty_is_named(x, y, field, size):
    slide = ArrayReader(np.zeros((80, 100, 3), np.uint8), 0.5, "folder/slide.svs")
    with pytest.raises(InputError, match="folder/slide.svs.*100 x 80"):
        slide.read(x, y, field, size)
    with pytest.raises(InputError, match="folder/slide.svs"):
        list(slide.read_many([(0, 0), (x, y)], field, size, threads=2))


def test_a_rounding_error_beyond_the_edge_is_no_error():
    pixels = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    slide = ArrayReader(pixels, 0.5)
    for x, y, field in [(-1e-9, 0, (50, 40)), (0.1 + 0.2 - 0.3, 0, (50, 40)), (0, 0, (50 + 1e-7, 40))]:
        expected = pixels[:40, :50].reshape(20, 2, 25, 2, 3).mean(axis=(1, 3))
        assert np.abs(slide.read(x, y, field, (25, 20)) - expected).max() <= 0.5
    assert np.array_equal(slide.read(0, 0, (100 + 1e-7, 80), (100, 80)), pixels)


def test_a_thumbnail_is_the_whole_slide_read_at_once(tissue_slides, reader):
    for path, pixels, _ in tissue_slides.values():
        height, width = pixels.shape[:2]
        size = (round(width / 13.7), round(height / 13.7))
        with reader(path, 0.25) as slide:
            thumbnail = slide.thumbnail(size).astype(int)
        assert thumbnail.shape == (size[1], size[0], 3)
        whole = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        assert np.abs(thumbnail - whole).mean() < 1


@pytest.mark.parametrize("shape", [(1500, 2100), (700, 65), (64, 64), (2049, 40)])
def test_the_blocks_of_a_thumbnail_leave_no_seams(shape, drawn_tissue):
    pixels = np.ascontiguousarray(np.tile(drawn_tissue, (3, 3, 1))[: shape[0], : shape[1]])
    size = (max(1, round(shape[1] / 7.3)), max(1, round(shape[0] / 7.3)))
    thumbnail = ArrayReader(pixels, 0.25).thumbnail(size).astype(int)
    whole = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    assert np.abs(thumbnail - whole).mean() < 1
    # at the rim of a block the filter sees no neighbor
    assert np.quantile(np.abs(thumbnail - whole), 0.99) <= 12


def test_the_thumbnail_of_a_slide_with_one_level_is_read_in_small_blocks(monkeypatch):
    # 24,576 x 20,480 pixels that take no memory
    slide = ArrayReader(np.broadcast_to(np.uint8([200, 130, 180]), (20480, 24576, 3)), 0.25)
    read = []
    monkeypatch.setattr(
        slide, "_pixels", lambda level, x, y, w, h: read.append(w * h) or np.broadcast_to(np.uint8(7), (h, w, 3))
    )
    monkeypatch.setattr(base, "rescaled", lambda pixels, window, size: np.full((size[1], size[0], 3), 7, np.uint8))
    assert (slide.thumbnail((768, 640)) == 7).all()
    assert max(read) <= 2048 * 2048 and sum(read) == 20480 * 24576, "every pixel once, four megapixels at a time"


def test_regions_come_in_order_whatever_the_threads(tissue_slides, reader):
    path, pixels, _ = tissue_slides["4"]
    rng = np.random.default_rng(0)
    corners = [(int(x), int(y)) for x, y in zip(rng.integers(0, 3900, 70), rng.integers(0, 2800, 70))]
    with reader(path, 0.25) as slide:
        for threads in (0, 1, 2, 4):
            patches = list(slide.read_many(corners, (96, 64), (96, 64), threads=threads))
            assert len(patches) == len(corners)
            assert all(np.array_equal(p, pixels[y : y + 64, x : x + 96]) for p, (x, y) in zip(patches, corners))
        assert list(slide.read_many([], (96, 64), (96, 64), threads=2)) == []


def test_several_threads_may_read_one_slide(tissue_slides, reader):
    path, pixels, _ = tissue_slides["4"]
    corners = [(37 * k % 3900, 91 * k % 2800) for k in range(160)]

    def read(own):
        return [slide.read(x, y, (80, 80), (80, 80)) for x, y in own] + list(
            slide.read_many(own, (80, 80), (80, 80), threads=2)
        )

    with reader(path, 0.25) as slide, ThreadPoolExecutor(4) as pool:
        shares = [corners[start::4] for start in range(4)]
        for own, patches in zip(shares, pool.map(read, shares)):
            for (x, y), patch in zip(own + own, patches):
                assert np.array_equal(patch, pixels[y : y + 80, x : x + 80])


def test_patches_stay_as_they_were_when_others_are_read(tissue_slides, reader):
    # cuCIM hands out views of memory that it uses again
    path, pixels, _ = tissue_slides["4"]
    corners = [(x, 500) for x in range(0, 4000, 40)]
    with reader(path, 0.25) as slide:
        patches = list(slide.read_many(corners, (40, 40), (40, 40), threads=2))
        list(slide.read_many(corners[::-1], (40, 40), (40, 40), threads=2))
        first = slide.read(0, 0, (40, 40), (40, 40))
        slide.read(2000, 2000, (40, 40), (40, 40))
    gc.collect()
    assert np.array_equal(first, pixels[:40, :40])
    assert all(np.array_equal(p, pixels[y : y + 40, x : x + 40]) for p, (x, y) in zip(patches, corners))


def test_reading_may_stop_early(tissue_slides, reader):
    path, pixels, _ = tissue_slides["4"]
    corners = [(x, y) for y in range(0, 2800, 64) for x in range(0, 4000, 64)]
    with reader(path, 0.25) as slide:
        for _ in range(3):
            patches = slide.read_many(corners, (64, 64), (64, 64), threads=2)
            assert np.array_equal(next(patches), pixels[:64, :64])
            patches.close()
        assert np.array_equal(slide.read(640, 64, (64, 64), (64, 64)), pixels[64:128, 640:704])


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident size is read from /proc")
def test_memory_stays_flat_over_thousands_of_patches(tissue_slides, reader):
    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    rng = np.random.default_rng(0)
    corners = [(int(x), int(y)) for x, y in zip(rng.integers(0, 3900, 600), rng.integers(0, 2800, 600))]
    with reader(tissue_slides["4"][0], 0.25) as slide:
        for threads in (1, 2):
            sum(patch[0, 0, 0] > 300 for patch in slide.read_many(corners, (96, 64), (96, 64), threads))
        before = resident()
        for threads in (1, 2):
            sum(patch[0, 0, 0] > 300 for patch in slide.read_many(corners * 2, (96, 64), (96, 64), threads))
            sum(slide.read(*corner, (120, 80), (96, 64))[0, 0, 0] > 300 for corner in corners)
        # 3,000 patches of 55 MB
        assert resident() - before < 16e6


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_a_closed_slide_holds_no_file_and_says_so(tissue_slides, reader, tmp_path):
    def held():
        return sum(os.path.realpath(f"/proc/self/fd/{number}") == str(path) for number in os.listdir("/proc/self/fd"))

    path = tmp_path / "slide.tiff"
    path.symlink_to(tissue_slides["4"][0])
    path = path.resolve()
    for _ in range(3):
        with reader(path, 0.25) as slide:
            slide.read(0, 0, (64, 64), (64, 64))
            list(slide.read_many([(0, 0), (64, 64)], (64, 64), (64, 64), 2))
        assert held() == 0
    slide.close()
    for read in (slide.read, lambda *args: list(slide.read_many([args[:2]], *args[2:], 2))):
        with pytest.raises(InputError, match=path.name):
            read(1000, 1000, (64, 64), (64, 64))
        with pytest.raises(InputError, match=path.name):
            read(0, 0, (4000, 2800), (400, 280))


def test_batches_are_consecutive_and_the_last_may_be_short():
    assert list(batched(range(7), 3)) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert list(batched([], 3)) == []

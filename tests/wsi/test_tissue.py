import numpy as np
import openslide
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from medi_monai.cohort.demo.histology import draw_stains, scan, tumor_of_patient
from medi_monai.cohort.demo.profiles import CENTERS, TUMORS
from medi_monai.wsi import artifact_mask, optical_density, tissue_mask

GLASS, TISSUE = (243, 241, 244), (190, 130, 175)
#: what felt-tip pens leave on glass
INKS = {
    "blue": (35, 65, 190),
    "navy": (25, 30, 110),
    "green": (25, 125, 60),
    "dark green": (15, 70, 45),
    "teal": (20, 110, 130),
    "black": (25, 25, 28),
    "red": (205, 25, 45),
    "orange": (240, 120, 30),
}


def thumbnail(mask, noise=3, seed=0):
    rng = np.random.default_rng(seed)
    pixels = np.where(mask[..., None], TISSUE, GLASS) + rng.normal(0, noise, (*mask.shape, 3))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def disk(size, x, y, radius):
    ticks = np.arange(size)
    return np.hypot(ticks - x, ticks[:, None] - y) <= radius


def overlap(first, second):
    return (first & second).sum() / (first | second).sum()


def stroke(shape, width, rng):
    image = Image.new("L", shape[::-1])
    points = [(int(rng.uniform(0, shape[1])), int(rng.uniform(0, shape[0]))) for _ in range(4)]
    ImageDraw.Draw(image).line(points, fill=255, width=width, joint="curve")
    return np.asarray(image) > 0


def inked(pixels, mask, color, rng):
    """Ink is one more absorber in the path of the light: optical densities add up; unevenly, with a soft edge."""
    amount = np.clip(1 + 0.15 * ndimage.gaussian_filter(rng.standard_normal(mask.shape), 4) * 14, 0.6, 2)
    amount = amount * ndimage.gaussian_filter(mask.astype(float), 0.7)
    ink = -np.log10((np.array(color) + 1) / 256) + np.log10((np.array(GLASS) + 1) / 256)
    density = optical_density(pixels) + amount[..., None] * ink
    return np.clip(np.rint(256 * 10**-density - 1), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def demo_thumbnails():
    """(center, tumor) -> 112 x 112 pixels of 8 microns: a section with a rim of glass, of all centers and tumors."""
    thumbnails = {}
    for number, center in enumerate(CENTERS):
        for tumor in range(len(TUMORS)):
            rng = np.random.default_rng((number, tumor))
            stains = draw_stains(tumor_of_patient(TUMORS[tumor], rng), 448, 2.0, rng)
            thumbnails[center.name, tumor] = np.asarray(Image.fromarray(scan(*stains, center, 2.0, rng)).reduce(4))
    return thumbnails


@pytest.fixture(scope="module")
def real_tiles(real_data):
    return [Image.open(path).convert("RGB") for path in sorted((real_data / "hne_tcga" / "tiles").glob("*.png"))]


def test_a_disk_of_tissue_is_found():
    truth = disk(200, 80, 120, 50)
    mask = tissue_mask(thumbnail(truth))
    assert mask.shape == truth.shape and mask.dtype == bool
    assert overlap(mask, truth) > 0.95


def test_height_and_width_are_not_swapped():
    truth = np.zeros((60, 140), bool)
    truth[10:30, 50:130] = True
    assert overlap(tissue_mask(thumbnail(truth)), truth) > 0.9


@pytest.mark.parametrize(("inside", "expected"), [(True, True), (False, False)])
def test_a_field_without_contrast_is_all_tissue_or_all_glass(inside, expected):
    assert (tissue_mask(thumbnail(np.full((80, 80), inside))) == expected).all()


@pytest.mark.parametrize("level", [0, 3, 128, 200, 255])
def test_a_field_of_one_gray_is_no_tissue(level):
    # glass, no scan, or the gray that some scanners leave around one
    assert not tissue_mask(np.full((60, 90, 3), level, np.uint8)).any()


@pytest.mark.parametrize("white", [255, 235, 215, 195])
def test_dark_glass_is_no_tissue(white):
    truth = disk(160, 80, 80, 45)
    pixels = (thumbnail(truth) * (white / 255)).astype(np.uint8)
    assert overlap(tissue_mask(pixels), truth) > 0.95


def test_a_field_without_glass_is_tissue_though_its_stains_differ():
    pixels = np.full((100, 100, 3), (210, 120, 180), np.uint8)
    pixels[disk(100, 50, 50, 30)] = (90, 60, 140)
    assert tissue_mask(pixels).mean() > 0.99


def test_pale_tissue_beside_glass_is_found():
    truth = disk(160, 80, 80, 45)
    pixels = np.where(truth[..., None], (220, 165, 200), GLASS).astype(np.uint8)
    assert overlap(tissue_mask(pixels), truth) > 0.95


def test_specks_and_holes_are_removed_and_larger_ones_stay():
    truth = disk(200, 100, 100, 60)
    truth &= ~disk(200, 80, 100, 3) & ~disk(200, 115, 100, 12)
    truth |= disk(200, 15, 15, 3) | disk(200, 185, 15, 12)
    mask = tissue_mask(thumbnail(truth), min_area=100)
    assert mask[100, 80] and not mask[15, 15]
    assert not mask[100, 115] and mask[15, 185]


def test_the_mask_turns_with_the_slide():
    truth = disk(120, 40, 70, 30)
    pixels = thumbnail(truth)
    assert overlap(tissue_mask(np.rot90(pixels).copy()), np.rot90(tissue_mask(pixels))) > 0.99


def test_the_smallest_thumbnails_are_no_error():
    for shape in ((1, 1), (1, 7), (3, 2)):
        for color in (GLASS, TISSUE, (0, 0, 0)):
            mask = tissue_mask(np.broadcast_to(np.uint8(color), (*shape, 3)).copy())
            assert mask.shape == shape and (mask == (color == TISSUE)).all()


def test_no_stain_of_a_demo_center_is_taken_for_ink(demo_thumbnails):
    for name, pixels in demo_thumbnails.items():
        assert not artifact_mask(pixels).any(), name
        assert 0.4 < tissue_mask(pixels).mean() < 0.8, name


@pytest.mark.parametrize("mpp", [8, 4, 2])
def test_no_real_tissue_is_taken_for_ink(real_tiles, mpp):
    # single nuclei show at 2 microns, and are as blue as ink
    for tile in real_tiles:
        pixels = np.asarray(tile.reduce(round(mpp / 0.25)))
        assert not artifact_mask(pixels, mpp).any()
        # gaps between cells show in a finer thumbnail
        assert tissue_mask(pixels, mpp).mean() > (0.98 if mpp == 8 else 0.7)


def test_single_nuclei_are_no_ink():
    # large nuclei in pure hematoxylin, the bluest of the demo centers, 32 microns apart in eosin
    rows, columns = np.indices((200, 200)) % 16 - 7.5
    nuclei = np.hypot(rows, columns)[..., None] <= 4
    birch = next(center for center in CENTERS if center.name == "Birch")
    density = np.where(nuclei, 1.6 * np.array(birch.hematoxylin), 0.6 * np.array(birch.eosin))
    pixels = np.rint(245 * 10**-density).astype(np.uint8)
    assert not artifact_mask(pixels, 2.0).any()
    assert artifact_mask(pixels, 8.0).any(), "what is as blue over 80 microns is ink"


def test_the_tissue_of_a_real_slide_is_found(real_data):
    with openslide.OpenSlide(real_data / "wsi" / "cmu-1-small-region.svs") as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB").reduce(16))
    mask = tissue_mask(pixels)
    assert 0.35 < mask.mean() < 0.45
    assert mask[140, 60] and mask[100, 80] and not mask[20, 20] and not mask[90, 30] and not mask[150, 130]


@pytest.mark.parametrize("ink", INKS)
def test_pen_is_rejected_on_tissue_and_on_glass(demo_thumbnails, ink):
    on_tissue, on_glass, lost = [], [], []
    for number, pixels in enumerate(demo_thumbnails.values()):
        rng = np.random.default_rng((number, 1))
        truth = tissue_mask(pixels)
        pen = stroke(truth.shape, 12, rng)
        mask = tissue_mask(inked(pixels, pen, INKS[ink], rng))
        on_tissue.append(~mask[pen & truth])
        on_glass.append(~mask[pen & ~truth])
        # ink seeps, and the filter reaches as far: 32 microns around it are given up
        lost.append(~mask[truth & ~ndimage.binary_dilation(pen, iterations=4)])
    on_tissue, on_glass, lost = (np.concatenate(rejected) for rejected in (on_tissue, on_glass, lost))
    assert on_tissue.mean() > 0.93 and on_glass.mean() > 0.93, (on_tissue.mean(), on_glass.mean())
    assert lost.mean() < 0.005


@pytest.mark.parametrize(
    "color", [(0, 0, 255), (0, 0, 139), (0, 128, 0), (0, 255, 0), (0, 0, 0), (255, 0, 0), (20, 40, 200)]
)
def test_an_opaque_line_of_a_pure_color_is_rejected(demo_thumbnails, color):
    for pixels in list(demo_thumbnails.values())[::5]:
        rng = np.random.default_rng(0)
        pen = stroke(pixels.shape[:2], 10, rng)
        mask = tissue_mask(np.where(pen[..., None], np.uint8(color), pixels))
        assert not mask[pen].any()
        truth = tissue_mask(pixels)
        assert mask[truth & ~ndimage.binary_dilation(pen, iterations=4)].mean() > 0.98


@pytest.mark.parametrize("ink", ["blue", "green", "black", "red"])
def test_pen_over_real_tissue_is_rejected_and_the_rest_stays(real_tiles, ink):
    rejected, lost = [], []
    for number, tile in enumerate(real_tiles):
        rng = np.random.default_rng(number)
        # four by four times the tile, to have room for a stroke
        pixels = np.tile(np.asarray(tile.reduce(32)), (4, 4, 1))
        pen = stroke(pixels.shape[:2], 12, rng)
        mask = tissue_mask(inked(pixels, pen, INKS[ink], rng))
        rejected.append(~mask[pen])
        lost.append(~mask[~ndimage.binary_dilation(pen, iterations=4)])
    assert np.concatenate(rejected).mean() > 0.9 and np.concatenate(lost).mean() < 0.02


def test_black_around_a_scan_is_no_tissue(demo_thumbnails):
    for pixels in demo_thumbnails.values():
        truth = tissue_mask(pixels)
        framed = np.zeros((150, 180, 3), np.uint8)
        framed[20:132, 30:142] = pixels
        mask = tissue_mask(framed)
        outside = np.ones(mask.shape, bool)
        outside[20:132, 30:142] = False
        assert not mask[outside].any()
        assert overlap(mask[20:132, 30:142], truth) > 0.95


def test_specks_of_dirt_are_no_ink():
    pixels = thumbnail(np.ones((80, 80), bool))
    pixels[40:43, 40:43] = 0
    assert not artifact_mask(pixels).any()
    pixels[40:50, 40:50] = 0
    assert artifact_mask(pixels)[39:51, 39:51].all() and artifact_mask(pixels).sum() < 20**2


def test_the_margin_around_ink_is_in_microns():
    for mpp in (8.0, 4.0, 2.0):
        side = round(800 / mpp)
        pixels = np.broadcast_to(np.uint8(GLASS), (side, side, 3)).copy()
        pixels[:, : side // 2] = (20, 20, 20)
        edge = artifact_mask(pixels, mpp)[side // 2].sum() * mpp
        assert 400 + 10 <= edge <= 400 + 40

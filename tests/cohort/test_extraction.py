import dataclasses
import errno
import os

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, JpegImagePlugin
from scipy import ndimage

from medi_monai.cohort import Cutting
from medi_monai.cohort.demo import CENTERS, TUMORS
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.cohort.duplicates import hash_images
from medi_monai.cohort.extraction import (
    FILES_PER_FOLDER,
    SlideJob,
    cut_slide,
    is_cut,
    read_record,
    record_folder,
    record_names,
)
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.optional import is_installed
from medi_monai.wsi import OpenSlideReader, PatchGrid

SIDE = 512
CUTTING = Cutting(PatchGrid(32, 1.0))


def pixels_of(seed, side=SIDE):
    rng = np.random.default_rng(seed)
    return scan(*draw_stains(TUMORS[seed % 4], side, 0.5, rng), CENTERS[seed % 8], 0.5, rng)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    root = tmp_path_factory.mktemp("slides")
    for seed in range(2):
        write_pyramid(root / f"s{seed}.tiff", pixels_of(seed), 0.5)
    write_pyramid(root / "glass.tiff", np.full((SIDE, SIDE, 3), 245, np.uint8), 0.5)
    return root


def cut(slides, root, image="s0.tiff", backend="openslide", **cutting):
    return cut_slide(SlideJob(str(root), str(slides), image, "", dataclasses.replace(CUTTING, **cutting), backend))


def patches_of(root, image="s0.tiff", patch_format="png"):
    """``(corners, files)`` of a slide as its record names them."""
    measures = read_record(root, image)[1]
    names = record_names(root, image, measures, patch_format)
    return np.stack([measures["x"], measures["y"]], 1), [root / name for name in names]


def pixels(files):
    return np.stack([np.asarray(Image.open(file)) for file in files])


def files_below(root):
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())


def test_every_patch_is_what_openslide_reads_at_its_corner(slides, tmp_path):
    assert cut(slides, tmp_path) is None
    corners, files = patches_of(tmp_path)
    assert len(files) > 20 and len(set(files)) == len(files)
    with openslide.OpenSlide(str(slides / "s0.tiff")) as slide:
        expected = [slide.read_region(tuple(corner), 1, (32, 32)).convert("RGB") for corner in corners.tolist()]
    assert np.array_equal(pixels(files), np.stack(expected))


def test_a_jpeg_is_near_its_png_at_quality_95_with_whole_color(slides, tmp_path):
    for patch_format in ("png", "jpeg"):
        cut(slides, tmp_path / patch_format, patch_format=patch_format)
    corners, exact = patches_of(tmp_path / "png")
    same, files = patches_of(tmp_path / "jpeg", patch_format="jpeg")
    difference = np.abs(pixels(exact).astype(int) - pixels(files))
    assert np.array_equal(corners, same) and 0 < difference.mean() < 2 and difference.max() < 30
    Image.new("RGB", (8, 8)).save(tmp_path / "reference.jpg", quality=95)
    with Image.open(tmp_path / "reference.jpg") as reference, Image.open(files[0]) as patch:
        assert patch.format == "JPEG" and patch.quantization == reference.quantization
        assert JpegImagePlugin.get_sampling(patch) == 0, "4:4:4"


def test_folders_stay_small_however_many_patches_and_slides_there_are(slides, tmp_path):
    cut(slides, tmp_path, grid=PatchGrid(8, 1.0, stride=4, min_tissue=0), measure="never")
    corners, files = patches_of(tmp_path)
    assert len(files) == 63**2 and all(file.is_file() for file in files)
    counts = [len(list(folder.iterdir())) for folder in tmp_path.rglob("[0-9][0-9][0-9]")]
    assert max(counts) == FILES_PER_FOLDER and sum(counts) == len(files) and len(counts) == 4
    folders = [record_folder("", f"slides/{number}.svs") for number in range(8726)]
    assert len(set(folders)) == 8726 and len({folder.parent for folder in folders}) <= 256


def test_what_is_measured_is_that_of_the_very_patch(slides, tmp_path):
    cut(slides, tmp_path, image="s1.tiff")
    measures = read_record(tmp_path, "s1.tiff")[1]
    images = pixels(patches_of(tmp_path, "s1.tiff")[1])
    assert {len(values) for values in measures.values()} == {len(images)}
    gray = images.astype(float).mean(3)
    kernel = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    edges = [ndimage.convolve(image, kernel, mode="reflect") for image in gray]
    assert np.allclose(measures["sharpness"], [edge.var() for edge in edges], rtol=1e-3)
    density = -np.log10(np.clip(images, 1, None) / 255.0).mean(3)
    assert np.allclose(measures["background"], (density < 0.05).mean((1, 2)), atol=0.02)
    assert np.array_equal(measures["hash"], [hash_images(image[None])[0] for image in images])
    assert np.all(measures["tissue"] >= 0.5) and np.ptp(measures["sharpness"]) > 0


def test_the_record_says_what_the_slide_was_and_its_picture_shows_the_patches(slides, tmp_path):
    cut(slides, tmp_path, max_patches_per_slide=5)
    record = read_record(tmp_path, "s0.tiff")[0]
    assert (record["width"], record["height"], record["levels"], record["patches"]) == (SIDE, SIDE, 3, 5)
    assert record["source_mpp"] == pytest.approx(0.5) and record["planned"] > 20 and record["problem"] is None
    with Image.open(record_folder(tmp_path, "s0.tiff") / "overview.jpg") as picture:
        shown = np.asarray(picture).astype(int)
    assert shown.shape == (512, 512, 3)
    for x, y in patches_of(tmp_path)[0].tolist():
        edge = shown[y + 4 : y + 60, x]
        assert (edge[:, 2] - edge[:, 0] > 60).mean() > 0.8, "the left edge of a patch is blue"


def test_a_choice_of_patches_depends_on_the_seed_and_the_slide_alone(slides, tmp_path):
    cut(slides, tmp_path / "all")
    everything, _ = patches_of(tmp_path / "all")
    chosen = {}
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        cut(slides, tmp_path / name, max_patches_per_slide=8, seed=seed)
        chosen[name] = patches_of(tmp_path / name)[0].tolist()
    assert chosen["first"] == chosen["again"] != chosen["other"]
    assert all(len(corners) == 8 for corners in chosen.values())
    order = [tuple(corner) for corner in everything.tolist()]
    positions = [order.index(tuple(corner)) for corner in chosen["first"]]
    assert positions == sorted(set(positions))
    cut(slides, tmp_path / "more", max_patches_per_slide=len(order))
    assert np.array_equal(patches_of(tmp_path / "more")[0], everything)


def test_a_choice_is_even_over_the_slide(slides, tmp_path):
    cut(slides, tmp_path / "all", patch_format="none")
    total = len(read_record(tmp_path / "all", "s0.tiff")[1]["x"])
    taken = np.zeros((SIDE, SIDE), int)
    for seed in range(60):
        cut(slides, tmp_path / str(seed), patch_format="none", max_patches_per_slide=10, seed=seed)
        measures = read_record(tmp_path / str(seed), "s0.tiff")[1]
        taken[measures["y"], measures["x"]] += 1
    counts = taken[taken > 0]
    # 60 draws of 10 of `total`: binomial, five standard deviations
    share = 10 / total
    assert len(counts) == total and np.abs(counts - 60 * share).max() < 5 * np.sqrt(60 * share * (1 - share))


@pytest.mark.skipif(not is_installed("cucim"), reason="cuCIM is not installed")
@pytest.mark.parametrize("patch_format", ["png", "jpeg"])
def test_both_back_ends_leave_the_same_bytes(slides, tmp_path, patch_format):
    for backend in ("cucim", "openslide"):
        cut(slides, tmp_path / backend, backend=backend, patch_format=patch_format)
    names = files_below(tmp_path / "cucim")
    assert names == files_below(tmp_path / "openslide") and len(names) > 20
    for name in names:
        if name.suffix != ".npz":
            assert (tmp_path / "cucim" / name).read_bytes() == (tmp_path / "openslide" / name).read_bytes()
    by_cucim, by_openslide = (read_record(tmp_path / backend, "s0.tiff")[1] for backend in ("cucim", "openslide"))
    assert all(np.array_equal(by_cucim[name], by_openslide[name]) for name in by_cucim)


def test_a_preview_reads_no_patch_and_plans_the_same(slides, tmp_path):
    cut(slides, tmp_path / "whole")
    content = bytearray((slides / "s0.tiff").read_bytes())
    with tifffile.TiffFile(slides / "s0.tiff") as file:
        # all pixels but those of the coarsest level, of which a thumbnail is made
        for page in file.pages[:2]:
            for start, count in zip(page.dataoffsets, page.databytecounts):
                content[start : start + count] = bytes(count)
    (tmp_path / "s0.tiff").write_bytes(content)
    assert cut(tmp_path, tmp_path / "preview", patch_format="none", measure="never") is None
    expected, preview = (read_record(tmp_path / name, "s0.tiff") for name in ("whole", "preview"))
    assert preview[0].pop("fingerprint") != expected[0].pop("fingerprint")
    assert preview[0] == expected[0] and set(preview[1]) == {"x", "y", "tissue"}
    assert all(np.array_equal(preview[1][name], expected[1][name]) for name in preview[1])
    # the same slide cannot be read for patches, nor to measure them
    for change in ({}, {"patch_format": "none", "measure": "always"}):
        assert "s0.tiff" in cut(tmp_path, tmp_path / "spoilt", **change)


def test_measuring_what_stays_in_the_slide_gives_what_the_files_give(slides, tmp_path):
    cut(slides, tmp_path / "png")
    cut(slides, tmp_path / "none", patch_format="none", measure="always")
    expected, streamed = (read_record(tmp_path / name, "s0.tiff")[1] for name in ("png", "none"))
    assert set(streamed) == set(expected)
    assert all(np.array_equal(streamed[name], expected[name]) for name in streamed)
    assert {path.name for path in files_below(tmp_path / "none")} == {"slide.json", "overview.jpg", "patches.npz"}
    cut(slides, tmp_path / "never", measure="never")
    assert set(read_record(tmp_path / "never", "s0.tiff")[1]) == {"x", "y", "tissue"}


def test_a_slide_without_tissue_is_done_and_says_so(slides, tmp_path):
    said = cut(slides, tmp_path, image="glass.tiff")
    assert said == "no tissue: no patch of glass.tiff has 50% of it"
    assert is_cut(SlideJob(str(tmp_path), str(slides), "glass.tiff", "", CUTTING))
    record, measures = read_record(tmp_path, "glass.tiff")
    assert record["problem"] == said and record["patches"] == 0 and len(measures["x"]) == 0
    assert not list(tmp_path.rglob("*.png"))


def test_a_slide_that_cannot_be_read_leaves_nothing_and_is_tried_again(slides, tmp_path):
    content = (slides / "s0.tiff").read_bytes()
    (tmp_path / "s0.tiff").write_bytes(content[: len(content) // 2])
    assert "truncated" in cut(tmp_path, tmp_path / "root")
    assert not files_below(tmp_path / "root")
    assert not is_cut(SlideJob(str(tmp_path / "root"), str(tmp_path), "s0.tiff", "", CUTTING))
    (tmp_path / "s0.tiff").write_bytes(content)
    assert cut(tmp_path, tmp_path / "root") is None and len(files_below(tmp_path / "root")) > 20


def test_a_slide_that_fails_in_the_middle_leaves_nothing(slides, tmp_path, monkeypatch):
    read, done = OpenSlideReader._patch, []

    def fail_late(self, window, size):
        done.append(window)
        if len(done) > 70:
            raise InputError("the disk of the slides went away")
        return read(self, window, size)

    monkeypatch.setattr(OpenSlideReader, "_patch", fail_late)
    said = cut(slides, tmp_path, grid=PatchGrid(16, 1.0, min_tissue=0))
    assert said == "s0.tiff: the disk of the slides went away" and len(done) == 71
    assert not files_below(tmp_path)


def test_what_was_half_done_is_replaced(slides, tmp_path):
    cut(slides, tmp_path / "whole")
    folder = record_folder(tmp_path / "root", "s0.tiff")
    partial = folder.with_name(f".{folder.name}.part")
    (partial / "000").mkdir(parents=True)
    (partial / "000" / "patch_7_7.png").write_bytes(b"half")
    folder.mkdir()
    (folder / "strange.png").write_bytes(b"of the user")
    cut(slides, tmp_path / "root")
    (kept,) = set(files_below(tmp_path / "root")) - set(files_below(tmp_path / "whole"))
    assert set(files_below(tmp_path / "whole")) < set(files_below(tmp_path / "root"))
    assert kept.parent.name == f"{folder.name}.earlier-1" and kept.name == "strange.png"
    assert (tmp_path / "root" / kept).read_bytes() == b"of the user"


@pytest.mark.parametrize("method", ["save", "savez"])
def test_a_full_disk_is_told_and_leaves_nothing(slides, tmp_path, monkeypatch, method):
    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((Image.Image, "save") if method == "save" else (np, "savez")), fail)
    with pytest.raises(RunStopped, match="No space left.*Free some space"):
        cut(slides, tmp_path)
    assert not files_below(tmp_path)

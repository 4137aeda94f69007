import numpy as np
import pytest
from PIL import Image

from medi_monai.cohort import Cutting
from medi_monai.cohort.demo import CENTERS, TUMORS
from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.cohort.duplicates import PLAIN, hash_images
from medi_monai.cohort.scanning import ScanJob, read_scan, scan_patches
from medi_monai.wsi import PatchGrid

NAMES = ("a/0.jpg", "a/1.jpg", "b/2.png", "wide.png")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Patches of 256 pixels of 0.5 microns, one of them wider, and files that are none."""
    root = tmp_path_factory.mktemp("tree")
    for folder in "ab":
        (root / folder).mkdir()
    for number, name in enumerate(NAMES):
        rng = np.random.default_rng(number)
        stains = draw_stains(TUMORS[number], 300 if name == "wide.png" else 256, 0.5, rng)
        image = Image.fromarray(scan(*stains, CENTERS[number], 0.5, rng))
        image.crop((0, 0, image.width, 256)).save(root / name, quality=95)
    Image.fromarray(np.full((256, 256, 3), 246, np.uint8)).save(root / "glass.png")
    Image.fromarray(np.full((100, 300, 3), 180, np.uint8)).save(root / "flat.png")
    Image.fromarray(np.full((256, 256), 120, np.uint8)).save(root / "gray.png")
    (root / "empty.jpg").write_bytes(b"")
    (root / "half.jpg").write_bytes((root / NAMES[0]).read_bytes()[:3000])
    (root / "text.jpg").write_text("no image")
    return root


def scanned(tree, root, images, mpp=None, grid=None):
    mpp = mpp or ("0.5",) * len(images)
    job = ScanJob(str(root), str(tree), tuple(images), tuple(mpp), Cutting(grid or PatchGrid(128, 1.0)))
    scan_patches(job)
    return read_scan(job)


def test_size_place_and_resolution_of_every_file_come_in_their_order(tree, tmp_path):
    measures = scanned(tree, tmp_path, NAMES)
    assert measures["problem"].tolist() == [""] * 4
    assert measures["width"].tolist() == [256, 256, 256, 300] and measures["height"].tolist() == [256] * 4
    # a patch is the middle of its file
    assert measures["x"].tolist() == [0, 0, 0, 22] and measures["y"].tolist() == [0] * 4
    assert measures["source_mpp"].tolist() == [0.5] * 4


def test_what_is_measured_is_the_middle_at_the_resolution_asked_for(tree, tmp_path):
    measures = scanned(tree, tmp_path, NAMES)
    for number, name in enumerate(NAMES):
        image = Image.open(tree / name)
        left = (image.width - 256) // 2
        patch = np.asarray(image.crop((left, 0, left + 256, 256)).reduce(2))
        assert measures["hash"][number] == hash_images(patch[None])[0] != PLAIN
        gray = np.pad(patch.astype(float).mean(2), 1, "edge")
        edges = gray[2:, 1:-1] + gray[:-2, 1:-1] + gray[1:-1, 2:] + gray[1:-1, :-2] - 4 * gray[1:-1, 1:-1]
        # at the border, pixels beyond it are those at it
        assert measures["sharpness"][number] == pytest.approx(edges.var(), rel=0.02)


def test_a_file_at_the_size_and_resolution_asked_for_is_taken_whole(tree, tmp_path):
    measures = scanned(tree, tmp_path, ["b/2.png"], grid=PatchGrid(256, 0.5))
    assert (measures["x"][0], measures["y"][0]) == (0, 0)
    assert measures["hash"][0] == hash_images(np.asarray(Image.open(tree / "b/2.png"))[None])[0]


def test_glass_is_no_problem_of_a_patch_that_somebody_chose(tree, tmp_path):
    measures = scanned(tree, tmp_path, ["glass.png", "gray.png"])
    assert (
        measures["problem"].tolist() == ["", ""] and measures["background"][0] == 1.0 and measures["hash"][0] == PLAIN
    )


@pytest.mark.parametrize(
    "image, mpp, says",
    [
        ("empty.jpg", "0.5", "is empty (0 bytes)"),
        ("half.jpg", "0.5", "truncated"),
        ("text.jpg", "0.5", "its content is unknown"),
        ("gone.jpg", "0.5", "image not found"),
        ("flat.png", "0.5", "flat.png has 300 x 100 pixels of 0.5 microns, fewer than the 256 x 256 of a patch of 128"),
        ("a/0.jpg", "0.25", "has 256 x 256 pixels of 0.25 microns, fewer than the 512 x 512 of a patch of 128 pixels"),
        ("a/0.jpg", "2", "a/0.jpg has 2 microns per pixel and cannot be used at a finer 1"),
        ("a/0.jpg", "", "does not contain its resolution"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_the_others_are_done(tree, tmp_path, image, mpp, says):
    measures = scanned(tree, tmp_path, ["b/2.png", image, "wide.png"], ("0.5", mpp, "0.5"))
    problem = measures["problem"][1]
    assert image in problem and says in problem and "\n" not in problem
    assert measures["problem"][0] == measures["problem"][2] == ""
    assert np.isnan(measures["sharpness"][1]) and measures["hash"][1] == PLAIN


def test_records_of_other_files_or_resolutions_do_not_mix(tree, tmp_path):
    jobs = [
        ScanJob(str(tmp_path), str(tree), images, mpp, Cutting(PatchGrid(128, 1.0)))
        for images in (("a/0.jpg", "b/2.png"), ("b/2.png", "a/0.jpg"))
        for mpp in (("0.5", "0.5"), ("0.5", ""))
    ]
    assert len({job.record for job in jobs}) == 4
    assert all(job.record.parent.parent == tmp_path / "patches" for job in jobs)

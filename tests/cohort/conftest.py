"""A small data set of tiles and a slide, with what cannot be used among them, and the cohort that it gives."""

import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medi_monai.cohort import Cutting, ImageTable, Preparation, SplitScheme, prepare
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.wsi import PatchGrid

SIDE = 128  # of a patch of 64 pixels at 1.0 microns per pixel, on slides of 0.5
GRID = PatchGrid(64, 1.0)
BROKEN = "tiles/z_broken.png"


def _stained(seed, height, width):
    """Noise in the colors of hematoxylin and eosin."""
    rng = np.random.default_rng(seed)
    amount = rng.random((height, width, 1))
    colors = amount * (95, 60, 130) + (1 - amount) * (225, 150, 190) + rng.integers(-10, 11, (height, width, 3))
    return colors.astype(np.uint8)


def _tile(seed, width=2 * SIDE + 20):
    return _stained(seed, SIDE + 5, width)


def _slide():
    """Blocks of tissue on the left, glass on the right."""
    pixels = np.kron(_stained(0, 4 * SIDE // 16, 4 * SIDE // 16), np.ones((16, 16, 1), np.uint8))
    pixels[:, 2 * SIDE :] = 245
    return pixels


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Eight patients with two tiles each, one of them with a slide too; a broken, a blank and an unlabeled tile."""
    root = tmp_path_factory.mktemp("data")
    (root / "tiles").mkdir()
    (root / "slides").mkdir()
    rows = []
    for number in range(16):
        patient = number // 2
        rows.append(
            (f"tiles/{number:02d}.png", f"P{patient}", ("UCS", "KIRC")[patient % 2], ("NA", "01")[patient // 4])
        )
        Image.fromarray(_tile(number)).save(root / rows[-1][0])
    write_pyramid(root / "slides/S.tiff", _slide(), 0.5)
    Image.fromarray(np.full((SIDE, SIDE, 3), 250, np.uint8)).save(root / "tiles/blank.png")
    Image.fromarray(_tile(98)).save(root / "tiles/unlabeled.png")
    Image.fromarray(_tile(99)).save(root / BROKEN)
    (root / BROKEN).write_bytes((root / BROKEN).read_bytes()[:2000])
    rows += [
        ("slides/S.tiff", "P0", "UCS", "NA"),
        ("tiles/blank.png", "P1", "KIRC", "NA"),
        ("tiles/unlabeled.png", "P2", "not reported", "NA"),
        (BROKEN, "P3", "KIRC", "NA"),
    ]
    table = pd.DataFrame(rows, columns=["image", "patient", "tumor", "site"])
    table = table.assign(slide=table["image"])
    table.to_csv(root / "tiles.csv", index=False)
    table[table["tumor"] != "not reported"].to_csv(root / "labeled.csv", index=False)
    return root


def _preparation(root, table="tiles.csv", grid=GRID, **cutting):
    source = ImageTable(root, table, "tumor", ["site"], source_mpp=0.5)
    splits = SplitScheme(["tumor"], val_fraction=0.25)
    return Preparation(source, Cutting(grid, **cutting), splits)


def _map_here(function, jobs, num_workers, task, unit):
    yield from map(function, jobs)


@pytest.fixture
def in_process(monkeypatch):
    """Work in this process: a new one takes seconds to start."""
    # the function `prepare` hides the module of its name
    monkeypatch.setattr(sys.modules["medi_monai.cohort.patches"], "map_processes", _map_here)


@pytest.fixture(scope="session")
def prepared(data, tmp_path_factory):
    """The cohort of the data set; who changes its folder leaves it as it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["medi_monai.cohort.patches"], "map_processes", _map_here)
        return prepare(_preparation(data), tmp_path_factory.mktemp("cohort"), on_error="skip")


def _files_in(root):
    """All files of the patches with their last change."""
    return {path.relative_to(root): path.stat().st_mtime_ns for path in root.rglob("patches/**/*.*") if path.is_file()}


def _contents(root, pattern="*.png"):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob(pattern)}


@pytest.fixture(scope="session")
def stained():
    """A function from seed, height and width to pixels of tissue."""
    return _stained


@pytest.fixture(scope="session")
def tile():
    """A function from a seed to the pixels of a tile."""
    return _tile


@pytest.fixture(scope="session")
def slide():
    """A function to the pixels of the slide."""
    return _slide


@pytest.fixture(scope="session")
def preparation():
    """A function from the folder of the data set, and what is to be otherwise, to its preparation."""
    return _preparation


@pytest.fixture(scope="session")
def files_in():
    """A function from the folder of a cohort to the files of its patches with their last change."""
    return _files_in


@pytest.fixture(scope="session")
def contents():
    """A function from a folder to the bytes of its pictures."""
    return _contents

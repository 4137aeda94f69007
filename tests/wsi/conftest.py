"""Slides and patches whose truth is known, and cuCIM's own program run on NumPy where there is no GPU."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import skimage.color
import tifffile
from scipy import sparse

from medi_monai.cohort.demo.histology import draw_stains, scan
from medi_monai.cohort.demo.profiles import CENTERS as ALL_TRAITS
from medi_monai.cohort.demo.profiles import TUMORS, stain_only
from medi_monai.utils.optional import is_installed
from medi_monai.wsi import CuCIMReader, OpenSlideReader
from medi_monai.wsi.pixels import GpuPixels

#: without sharpening, whose overshoots are of no stain
CENTERS = tuple(stain_only(center) for center in ALL_TRAITS)
OPERATIONS = "core/operations"
NO_CUCIM = 'cuCIM is not installed: pip install "medi_monai[cucim]" (Linux x86-64)'


def _fake_cupy():
    # what cuCIM's stain and geometry functions use of CuPy is NumPy's, but for these names
    cupy = ModuleType("cupy")
    cupy.__dict__.update({name: getattr(np, name) for name in dir(np) if not name.startswith("__")})
    cupy.asnumpy = np.asarray
    cupy.fuse = lambda *args, **kwargs: lambda function: function
    return cupy


def _load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def cucim_on_numpy():
    """cuCIM's ``color`` and ``spatial`` operations, read from their files, with NumPy in the place of CuPy."""
    spec = importlib.util.find_spec("cucim")
    root = Path(spec.submodule_search_locations[0]) / OPERATIONS if spec else None
    if root is None or not root.is_dir():
        pytest.skip(NO_CUCIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", _fake_cupy())
        color = _load(root / "color" / "stain_normalizer.py", "cucim_color_on_numpy")
        spatial = _load(root / "spatial" / "rotate_and_flip.py", "cucim_spatial_on_numpy")
    return color, spatial


@pytest.fixture
def gpu_on_numpy(cucim_on_numpy, monkeypatch):
    """The back end ``gpu`` with cuCIM's program, run by NumPy: it shows that the calls fit, not what a GPU rounds."""
    color, spatial = cucim_on_numpy
    modules = {
        "cupy": _fake_cupy(),
        "cucim.core.operations.color": color,
        "cucim.core.operations.spatial": spatial,
        "cucim.skimage.color": skimage.color,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return GpuPixels()


@pytest.fixture(scope="session")
def demo_patches():
    """Center number -> four (3, 128, 128) uint8 patches, one of each tumor; made once, not to be changed."""
    patches = {}
    for number, center in enumerate(CENTERS):
        patches[number] = []
        for index, tumor in enumerate(TUMORS):
            rng = np.random.default_rng((number, index))
            pixels = scan(*draw_stains(tumor, 256, 0.5, rng), center, 0.5, rng)[64:192, 64:192]
            patches[number].append(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return patches


@pytest.fixture(scope="session")
def odd_patches():
    """Name -> (3, 64, 64) uint8 patch from which two stains cannot be estimated."""
    rng = np.random.default_rng(0)
    amount = np.abs(rng.normal(0.6, 0.25, (64, 64)))

    def stained(vector):
        light = 245 * 10 ** (-np.multiply.outer(vector, amount)) + rng.normal(0, 1.5, (3, 64, 64))
        return np.clip(np.rint(light), 0, 255).astype(np.uint8)

    def flat(*color):
        return np.broadcast_to(np.array(color, np.uint8)[:, None, None], (3, 64, 64)).copy()

    speck = flat(244, 243, 245)
    speck[:, :6, :6] = rng.integers(40, 160, (3, 6, 6))
    return {
        "white": flat(255, 255, 255),
        "glass": np.clip(243 + rng.normal(0, 2, (3, 64, 64)), 0, 255).astype(np.uint8),
        "speck": speck,
        "black": flat(0, 0, 0),
        "flat color": flat(150, 80, 140),
        "pure red": flat(255, 0, 0),
        "gray ramp": np.broadcast_to(np.arange(64, dtype=np.uint8) * 4, (3, 64, 64)).copy(),
        "hematoxylin": stained(CENTERS[0].hematoxylin),
        "eosin": stained(CENTERS[0].eosin),
    }


def _write_tiff(path, levels, mpp=None, **page):
    """A tiled TIFF, lossless unless said; ``levels`` are ``(H, W, 3)``, ``mpp`` a number, a pair (x, y) or None."""
    width = levels[0].shape[1]
    with tifffile.TiffWriter(path, bigtiff=page.pop("bigtiff", False)) as file:
        for level, pixels in enumerate(levels):
            settings = {
                "photometric": "rgb",
                "tile": (256, 256),
                "metadata": None,
                "subfiletype": min(level, 1),
                **page,
            }
            if mpp is not None:
                finer = pixels.shape[1] / width
                settings["resolution"] = tuple(1e4 * finer / spacing for spacing in np.broadcast_to(mpp, 2).tolist())
                settings["resolutionunit"] = "CENTIMETER"
            file.write(np.ascontiguousarray(pixels), **settings)
    return path


@pytest.fixture(scope="session")
def write_tiff():
    return _write_tiff


def _shares(long, short):
    # which share of every pixel of the finer level lies in each of the coarser one, as a matrix
    edges = np.linspace(0, long, short + 1)
    rows, columns, values = [], [], []
    for row, (low, high) in enumerate(zip(edges, edges[1:])):
        covered = np.arange(int(low), min(int(np.ceil(high - 1e-9)), long))
        rows += [row] * len(covered)
        columns += covered.tolist()
        values += ((np.minimum(covered + 1, high) - np.maximum(covered, low)) / (high - low)).tolist()
    return sparse.csr_matrix((np.array(values, np.float32), (rows, columns)), (short, long))


def _area_means(pixels, width, height):
    across, down = _shares(pixels.shape[1], width), _shares(pixels.shape[0], height)
    lines = (down @ pixels.reshape(len(pixels), -1).astype(np.float32)).reshape(height, -1, 3)
    means = across @ np.ascontiguousarray(lines.transpose(1, 0, 2)).reshape(pixels.shape[1], -1)
    return np.clip(np.rint(means.reshape(width, height, 3).transpose(1, 0, 2)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def area_means():
    """A function that shrinks pixels to (width, height) by the exact means of areas, whatever the ratio."""
    return _area_means


@pytest.fixture(scope="session")
def drawn_tissue():
    """(1024, 1024, 3) demo tissue at 0.25 microns per pixel, from edge to edge; not to be changed."""
    rng = np.random.default_rng(0)
    stains = draw_stains(TUMORS[0], 1400, 0.25, rng)
    return np.ascontiguousarray(scan(*stains, CENTERS[0], 0.25, rng)[188:1212, 188:1212])


@pytest.fixture(scope="session")
def tissue_slides(tmp_path_factory, drawn_tissue):
    """Downsample -> (path, pixels of level 0, pixels of level 1); lossless, without a resolution of their own."""
    turns = [np.rot90(side, turn) for side in (drawn_tissue, drawn_tissue[:, ::-1]) for turn in range(4)]
    order = np.random.default_rng(1).integers(0, len(turns), (3, 10))
    field = np.concatenate([np.concatenate([turns[turn] for turn in line], 1) for line in order])
    folder, slides = tmp_path_factory.mktemp("tissue"), {}
    for name, (width, height), sizes in (
        ("4", (4096, 2944), [(1024, 736), (256, 184)]),
        ("3.9996", (9999, 1999), [(2500, 500), (625, 125)]),
    ):
        levels = [np.ascontiguousarray(field[:height, :width])]
        for size in sizes:
            levels.append(_area_means(levels[-1], *size))
        slides[name] = _write_tiff(folder / f"{name}.tiff", levels), levels[0], levels[1]
    return slides


@pytest.fixture(params=["openslide", "cucim"])
def reader(request):
    """Either reader of slides."""
    if request.param == "openslide":
        return OpenSlideReader
    if not is_installed("cucim"):
        pytest.skip(NO_CUCIM)
    return CuCIMReader


@pytest.fixture
def cucim_reader():
    if not is_installed("cucim"):
        pytest.skip(NO_CUCIM)
    return CuCIMReader


_OPEN_EACH = """
import json, sys
from medi_monai.utils.errors import InputError
from medi_monai.wsi import open_slide

backend, mpp, paths = json.load(sys.stdin)
for path in paths:
    try:
        with open_slide(path, mpp, backend) as slide:
            width, height = slide.dimensions
            field = width / 2, height / 2
            for threads in (1, 2):
                list(slide.read_many([(0, 0), field, (1, 2)], field, (24, 16), threads))
            slide.read(0, 0, (width, height), (width, height))
            slide.thumbnail((20, 10))
        result = type(slide).__name__
    except InputError as error:
        result = f"error: {error}"
    print(json.dumps(["result", path, result]), flush=True)
"""


@pytest.fixture(scope="session")
def read_apart():
    """Open and read files in a process of their own, which they may crash: name -> class of the reader, or error."""

    def read(paths, mpp=0.25, backend="auto"):
        paths = [str(path) for path in paths]
        child = subprocess.run(
            [sys.executable, "-c", _OPEN_EACH],
            input=json.dumps([backend, mpp, paths]),
            capture_output=True,
            text=True,
            timeout=120,
        )
        lines = [json.loads(line)[1:] for line in child.stdout.splitlines() if line.startswith('["result"')]
        results = dict(lines)
        lost = next((path for path in paths if path not in results), None)
        assert child.returncode == 0 and lost is None, (
            f"{lost} ended it with {child.returncode}: {child.stderr[-2000:]}"
        )
        return {Path(path).name: result for path, result in results.items()}

    return read

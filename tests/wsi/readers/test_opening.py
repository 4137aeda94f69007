import os
import struct
import sys
from io import BytesIO

import numpy as np
import pytest
import tifffile
from PIL import Image

from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import is_installed
from medi_monai.wsi import open_slide
from medi_monai.wsi.readers import BACKENDS, opening

BEST = "CuCIMReader" if is_installed("cucim") else "OpenSlideReader"
NEEDS_CUCIM = pytest.mark.skipif(
    not is_installed("cucim"), reason='cuCIM is not installed: pip install "medi_monai[cucim]" (Linux x86-64)'
)


@pytest.fixture(scope="module")
def pixels():
    small = np.random.default_rng(0).integers(0, 256, (33, 41, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((820, 660), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, write_tiff, pixels):
    """Compression -> the bytes of a pyramid of two levels."""
    folder = tmp_path_factory.mktemp("whole")
    levels = [pixels, np.ascontiguousarray(pixels[::2, ::2])]
    return {
        kind: write_tiff(folder / f"{kind}.tiff", levels, 0.25, compression=kind).read_bytes()
        for kind in ("jpeg", "lzw", "deflate")
    }


def aperio(path, pixels, said):
    about = f"Aperio Image Library v11.2.1 \r\n820x660 [0,0 820x660] (256x256) JPEG/RGB Q=70|AppMag = 40|{said}"
    settings = {"compression": "jpeg", "tile": (256, 256), "photometric": "rgb", "description": about}
    tifffile.imwrite(path, pixels, metadata=None, **settings)
    return path


def is_one_line_about(result, path):
    return result.startswith("error: ") and path.name in result and "\n" not in result and len(result) < 500


def test_the_back_end_may_be_forced(tmp_path, write_tiff, pixels, reader):
    path = write_tiff(tmp_path / "slide.tiff", [pixels], 0.25)
    name = "cucim" if reader.__name__ == "CuCIMReader" else "openslide"
    with open_slide(path, backend=name) as slide:
        assert type(slide) is reader
        assert np.array_equal(slide.read(10, 20, (300, 200), (300, 200)), pixels[20:220, 10:310])
    with open_slide(str(path)) as slide:
        assert type(slide).__name__ == BEST


@pytest.mark.parametrize("backend", ["cuCIM", "opensilde", "", "tifffile"])
def test_an_unknown_back_end_names_those_there_are(backend):
    with pytest.raises(InputError, match="unknown back end .*'auto', 'cucim', 'openslide'"):
        open_slide("slide.svs", 0.25, backend)
    assert BACKENDS == ("auto", "cucim", "openslide")


def test_without_cucim_auto_is_openslide_and_forcing_it_says_how_to_get_it(tmp_path, write_tiff, pixels, monkeypatch):
    path = write_tiff(tmp_path / "slide.tiff", [pixels], 0.25)
    monkeypatch.setattr(opening, "is_installed", lambda package: False)
    with open_slide(path) as slide:
        assert type(slide).__name__ == "OpenSlideReader"
    monkeypatch.setitem(sys.modules, "cucim", None)
    with pytest.raises(InputError, match=r"cucim is needed.*pip install \"medi_monai\[cucim\]\""):
        open_slide(path, backend="cucim")


@NEEDS_CUCIM
def test_a_cucim_that_is_broken_leaves_auto_with_openslide(tmp_path, write_tiff, pixels, monkeypatch):
    path = write_tiff(tmp_path / "slide.tiff", [pixels], 0.25)
    monkeypatch.setitem(sys.modules, "cucim", None)
    with open_slide(path) as slide:
        assert type(slide).__name__ == "OpenSlideReader"


def test_files_that_are_no_slides_are_one_line_each(tmp_path, pixels, read_apart):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "png.svs")
    Image.fromarray(pixels).save(tmp_path / "jpeg.jpg")
    (tmp_path / "jpeg.jpg").rename(tmp_path / "jpeg.tif")
    for name in ("empty.svs", "empty.png", "empty.ndpi"):
        (tmp_path / name).touch()
    for name in ("text.tiff", "text.svs", "text.png", "text.mrxs", "text.ndpi", "text.dcm", "text"):
        (tmp_path / name).write_text("a text and no slide\n" * 20)
    for name in ("folder", "folder.svs", "folder.tiff", "folder.png"):
        (tmp_path / name).mkdir()
    (tmp_path / "loop.svs").symlink_to(tmp_path / "loop2.svs")
    (tmp_path / "loop2.svs").symlink_to(tmp_path / "loop.svs")
    (tmp_path / "dangling.svs").symlink_to(tmp_path / "nothing.svs")
    os.mkfifo(tmp_path / "pipe.svs")
    absent = [tmp_path / name for name in ("absent.svs", "absent.png", "folder/../absent.tiff", "x" * 300)]
    paths = sorted(tmp_path.iterdir()) + absent
    for backend in ("auto", "openslide", "cucim") if is_installed("cucim") else ("auto", "openslide"):
        results = read_apart(paths, backend=backend)
        for path in paths:
            assert is_one_line_about(results[path.name], path), (backend, path.name, results[path.name])
    assert "it contains PNG" in results["png.svs"] and "it contains JPEG" in results["jpeg.tif"]
    assert all("is empty (0 bytes)" in results[name] for name in ("empty.svs", "empty.png", "empty.ndpi"))
    assert all("is a folder" in results[name] for name in ("folder", "folder.svs", "folder.tiff", "folder.png"))
    assert "levels of symbolic links" in results["loop.svs"] and "not a regular file" in results["pipe.svs"]
    with pytest.raises(InputError, match="image not found"):
        open_slide("zero\0byte.svs", 0.25)


def test_a_slide_that_was_cut_off_is_one_line_wherever_it_ends(tmp_path, whole, read_apart):
    paths = []
    for kind, content in whole.items():
        ends = [1, 3, 4, 7, 8, 9, 12, 60, 200, *(int(len(content) * share) for share in (0.1, 0.5, 0.9, 0.99))]
        for end in [*ends, len(content) - 1]:
            paths.append(tmp_path / f"{kind}_{end}.tiff")
            paths[-1].write_bytes(content[:end])
    for backend in ("auto", "openslide"):
        results = read_apart(paths, backend=backend)
        for path in paths:
            assert is_one_line_about(results[path.name], path), (backend, path.name, results[path.name])
        assert "truncated" in results[paths[-1].name] and "Copy it again" in results[paths[-1].name]


def test_a_slide_whose_rest_is_zeros_is_one_line(tmp_path, whole, read_apart):
    # what a copy leaves behind that broke off after the space was taken
    paths = []
    for kind, content in whole.items():
        for share in (0.3, 0.6, 0.95):
            kept = int(len(content) * share)
            paths.append(tmp_path / f"{kind}_{share}.tiff")
            paths[-1].write_bytes(content[:kept] + bytes(len(content) - kept))
    for backend in ("auto", "openslide", "cucim") if is_installed("cucim") else ("auto", "openslide"):
        results = read_apart(paths, backend=backend)
        for path in paths:
            assert is_one_line_about(results[path.name], path), (backend, path.name, results[path.name])


def test_damaged_tiles_are_one_line_or_read_but_never_end_the_process(tmp_path, whole, read_apart):
    rng = np.random.default_rng(0)
    paths = []
    for kind, content in whole.items():
        for number in range(8):
            damaged = bytearray(content)
            for offset in rng.integers(1000, len(content), 6):
                damaged[offset] = rng.integers(256)
            paths.append(tmp_path / f"{kind}_{number}.tiff")
            paths[-1].write_bytes(damaged)
    for backend in ("auto", "openslide"):
        for name, result in read_apart(paths, backend=backend).items():
            assert result in (BEST, "OpenSlideReader") or is_one_line_about(result, tmp_path / name), result


def test_a_damaged_directory_is_one_line_or_read_but_never_ends_the_process(tmp_path, whole, read_apart):
    rng = np.random.default_rng(1)
    with tifffile.TiffFile(BytesIO(whole["lzw"])) as file:
        entries = [tag.offset + byte for page in file.pages for tag in page.tags for byte in range(12)]
    paths = []
    for number in range(60):
        damaged = bytearray(whole["lzw"])
        for offset in rng.choice(entries, 2):
            damaged[offset] = rng.choice([0, 1, 2, 128, 255])
        paths.append(tmp_path / f"{number}.tiff")
        paths[-1].write_bytes(damaged)
    # a directory that comes after itself
    loop = bytearray(whole["lzw"])
    first = struct.unpack("<I", loop[4:8])[0]
    count = struct.unpack("<H", loop[first : first + 2])[0]
    loop[first + 2 + 12 * count : first + 6 + 12 * count] = loop[4:8]
    paths.append(tmp_path / "loop.tiff")
    paths[-1].write_bytes(loop)
    results = read_apart(paths)
    assert "loop" in results["loop.tiff"]
    for name, result in results.items():
        known = result in ("CuCIMReader", "OpenSlideReader", "ArrayReader")
        assert known or is_one_line_about(result, tmp_path / name), (name, result)
    assert sum(result.startswith("error") for result in results.values()) > 10


@pytest.mark.parametrize("said", ["", "MPP = 0", "MPP = -0.25", "MPP = nan", "MPP = abc", "MPP = 353"])
def test_a_slide_that_says_no_resolution_needs_one(tmp_path, pixels, said):
    path = aperio(tmp_path / "slide.svs", pixels, said)
    with pytest.raises(InputError, match="slide.svs does not contain its resolution.*`mpp`.*`source_mpp`"):
        open_slide(path)
    for mpp in (0.31, 0.0625):
        with open_slide(path, mpp) as slide:
            assert slide.spacing == (mpp, mpp)


@pytest.mark.parametrize("dpi", [72, 96, 300, 600])
def test_the_default_resolution_of_an_editor_is_none(tmp_path, pixels, dpi):
    path = tmp_path / "slide.tiff"
    settings = {"photometric": "rgb", "tile": (256, 256), "resolution": (dpi, dpi), "resolutionunit": "INCH"}
    tifffile.imwrite(path, pixels, metadata=None, **settings)
    with pytest.raises(InputError, match="slide.tiff does not contain its resolution"):
        open_slide(path)
    with open_slide(path, 0.5) as slide:
        assert slide.mpp == 0.5


def test_two_resolutions_that_disagree(tmp_path, pixels, reader, write_tiff):
    path = write_tiff(tmp_path / "slide.tiff", [pixels], (0.25, 0.26))
    backend = "cucim" if reader.__name__ == "CuCIMReader" else "openslide"
    with pytest.raises(InputError, match="slide.tiff has 0.255 microns per pixel, but the table has 0.5.*mpp_conflict"):
        open_slide(path, 0.5, backend)
    for on_conflict, expected in (("file", (0.25, 0.26)), ("given", (0.5, 0.5))):
        with open_slide(path, 0.5, backend, on_conflict) as slide:
            assert slide.spacing == pytest.approx(expected, rel=1e-6)
    with open_slide(path, 0.256, backend) as slide:
        assert slide.spacing == pytest.approx((0.25, 0.26), rel=1e-6)
    with pytest.raises(InputError, match="mpp_conflict"):
        open_slide(path, 0.5, backend, "both")


def test_pixels_that_are_not_square_are_refused_or_resampled(tmp_path, pixels, write_tiff):
    path = write_tiff(tmp_path / "slide.tiff", [pixels], (0.25, 0.5))
    for given in (None, 0.25):
        with pytest.raises(InputError, match="slide.tiff are not square: 0.25 x 0.5 microns"):
            open_slide(path, given)
    with open_slide(path, on_conflict="file") as slide:
        # 100 x 50 pixels of the file cover a square of 25 microns
        assert slide.field((50, 50), 0.5) == pytest.approx((100, 50))


@pytest.mark.parametrize(
    "name", ["with space.tiff", "tæst_è_日本.tiff", "100%.tiff", "a;b'c.svs", "UPPER.TIFF", "none"]
)
def test_a_slide_may_have_any_name(tmp_path, pixels, write_tiff, name):
    path = write_tiff(tmp_path / "slide.tiff", [pixels], 0.25).rename(tmp_path / name)
    with open_slide(path) as slide:
        # cuCIM goes by the ending of the name
        assert type(slide).__name__ == (BEST if path.suffix in (".tiff", ".svs") else "OpenSlideReader")
        assert np.array_equal(slide.read(5, 6, (64, 64), (64, 64)), pixels[6:70, 5:69])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted in /proc")
def test_a_slide_that_is_refused_is_closed(tmp_path, pixels, write_tiff):
    no_resolution = write_tiff(tmp_path / "a.tiff", [pixels])
    unsafe = write_tiff(tmp_path / "b.tiff", [pixels], 0.25, compression="deflate", predictor=True)
    for path, backend in ((no_resolution, "auto"), (unsafe, "cucim")):
        if backend in ("auto", "openslide") or is_installed("cucim"):
            with pytest.raises(InputError):
                open_slide(path, backend=backend)
            held = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
            assert str(path.resolve()) not in held

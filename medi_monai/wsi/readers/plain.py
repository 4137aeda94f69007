"""Read whole image files (tiles, patches and captioned images) in the same way for both bundles."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from medi_monai.utils.errors import InputError, one_line
from medi_monai.wsi.readers.formats import HEAD, content_of
from medi_monai.wsi.readers.rules import PixelRules, laid_on, oriented
from medi_monai.wsi.readers.tiff import read_tiff

__all__ = ["FORMATS", "check_file", "file_kind", "opened", "read_image", "read_plain"]

#: Pillow's reader of each supported format. ``Image.open`` would try all of its formats, and its pixel limit applies to
#: the whole process
PLUGINS: dict[str, Callable[..., Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "JPEG2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
FORMATS = "PNG, JPEG, TIFF, BMP, GIF, WebP and JPEG 2000"
GRAY = ("1", "L")
ORIENTATION = 274
#: metadata that may contain the orientation of an image
ORIENTED = ("exif", "xmp", "Raw profile type exif", "XML:com.adobe.xmp")
#: position of the bit depth in a PNG
PNG_BITS = 24


def read_plain(path: str | os.PathLike, rules: PixelRules | None = None) -> np.ndarray:
    """Read an image file as displayed: upright, opaque, with 8 bits.

    Args:
        path: file in one of :data:`FORMATS`, with any suffix.
        rules: rules for values, pages and transparent pixels.

    Returns:
        ``(H, W)`` uint8 if the image is grayscale, else ``(H, W, 3)``.

    Raises:
        InputError: for a file that is missing, unreadable or in another format, or if a required rule is not given.
    """
    rules = rules or PixelRules()
    with opened(path) as file:
        head = file.read(HEAD)
        file.seek(0)
        kind = content_of(head)
        if kind not in PLUGINS:
            content = f"it contains {kind}" if kind else "its content is unknown"
            raise InputError(f"cannot read the image {path}: {content}. {FORMATS} are read")
        try:
            return np.ascontiguousarray(_decoded(file, kind, head, path, rules))
        except InputError:
            raise
        except MemoryError:
            raise InputError(f"cannot read the image {path}: there is not enough memory for it") from None
        except Exception as error:
            # with corrupt bytes, decoders can raise any error
            raise InputError(f"cannot read the image {path}: {one_line(error)}") from error


def file_kind(path: str | os.PathLike) -> str:
    """Return the format of a file; see :func:`medi_monai.wsi.readers.formats.content_type`.

    Raises:
        InputError: see :func:`check_file`.
    """
    with opened(path) as file:
        return content_of(file.read(HEAD))


def read_image(path: str | os.PathLike, rules: PixelRules | None = None) -> np.ndarray:
    """Read an image file like :func:`read_plain`, but always in color: ``(H, W, 3)`` uint8."""
    pixels = read_plain(path, rules)
    if pixels.ndim == 3:
        return pixels
    color = np.empty((*pixels.shape, 3), np.uint8)
    color[:] = pixels[..., None]
    return color


def _decoded(file: BinaryIO, kind: str, head: bytes, path: str | os.PathLike, rules: PixelRules) -> np.ndarray:
    if kind == "TIFF":
        return read_tiff(file, path, rules, lambda page: _with_pillow(file, kind, path, rules, page))
    if kind == "PNG" and head[PNG_BITS : PNG_BITS + 1] == b"\x10":
        return _deep_png(file, path, rules)
    return _with_pillow(file, kind, path, rules)


def _with_pillow(
    file: BinaryIO, kind: str, path: str | os.PathLike, rules: PixelRules, page: int | None = None
) -> np.ndarray:
    file.seek(0)
    image = PLUGINS[kind](file, os.fspath(path))
    rules.check_size(path, *image.size)
    frames = getattr(image, "n_frames", 1)
    # additional images in a JPEG are previews and depth maps of the first one
    if page is None and frames > 1 and kind != "JPEG":
        page = rules.chosen_page(path, f"{frames} frames", frames)
    if page:
        image.seek(page)
    image.load()
    if image.mode in GRAY or image.mode == "RGB":
        if "transparency" not in image.info:
            return _upright(np.asarray(image if image.mode != "1" else image.convert("L")), image)
    elif image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        return _upright(rules.gray_levels(np.asarray(image), path), image)
    elif image.mode == "CMYK":
        return _upright(np.asarray(_from_cmyk(image)), image)
    if image.has_transparency_data:
        gray = image.mode in ("1", "L", "LA", "La")
        pixels = np.asarray(image.convert("LA" if gray else "RGBA"))
        return _upright(laid_on(pixels, rules.background), image)
    return _upright(np.asarray(image.convert("RGB")), image)


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    # for TIFFs, Pillow has already rotated the image and removed the tag
    if not any(name in image.info for name in ORIENTED):
        return pixels
    return oriented(pixels, image.getexif().get(ORIENTATION, 1))


def _from_cmyk(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile and features.check("littlecms2"):
        try:
            inks = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except ImageCms.PyCMSError:
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _deep_png(file: BinaryIO, path: str | os.PathLike, rules: PixelRules) -> np.ndarray:
    # not with Pillow, which keeps only the high byte of 16-bit colors
    image: Any = PngImagePlugin.PngImageFile(file, os.fspath(path))
    width, height = image.size
    rules.check_size(path, width, height, 2 * len(image.getbands()))
    image.load()
    orientation = image.getexif().get(ORIENTATION, 1)
    file.seek(0)
    values = imagecodecs.png_decode(file.read())
    if values.ndim == 3 and values.shape[2] in (2, 4):
        pixels = rules.gray_levels(values[..., :-1], path)
        opacity = np.rint(values[..., -1:] / 257).astype(np.uint8)
        return oriented(laid_on(np.concatenate([pixels, opacity], axis=-1), rules.background), orientation)
    return oriented(rules.gray_levels(values, path), orientation)


def check_file(path: str | os.PathLike) -> None:
    """Raise an :class:`InputError` unless ``path`` is a regular file with content."""
    try:
        _check_status(path, os.stat(path))
    except FileNotFoundError:
        raise InputError(f"image not found: {path}") from None
    except (OSError, ValueError) as error:
        raise _not_opened(path, error) from None


@contextmanager
def opened(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open an image file for reading, without blocking on a pipe.

    Raises:
        InputError: see :func:`check_file`; also for a file that cannot be opened.
    """
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (closed below, apart from these errors)
    except FileNotFoundError:
        raise InputError(f"image not found: {path}") from None
    except IsADirectoryError:
        raise InputError(f"the image {path} is a folder") from None
    except PermissionError as error:
        raise InputError(f"cannot read the image {path}: {error.strerror}") from None
    except (OSError, ValueError) as error:
        raise _not_opened(path, error) from None
    with file:
        _check_status(path, os.fstat(file.fileno()))
        yield file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _not_opened(path: str | os.PathLike, error: OSError | ValueError) -> InputError:
    if isinstance(error, InputError):
        return error
    # such as for a loop of links, or a name that is too long or contains a null byte
    reason = error.strerror if isinstance(error, OSError) else error
    return InputError(f"image not found: {str(path)!r} ({reason})")


def _check_status(path: str | os.PathLike, status: os.stat_result) -> None:
    if not S_ISREG(status.st_mode):
        raise InputError(f"the image {Path(path)} is {'a folder' if S_ISDIR(status.st_mode) else 'not a regular file'}")
    if status.st_size == 0:
        raise InputError(f"the image {Path(path)} is empty (0 bytes)")

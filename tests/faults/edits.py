"""What is done to the files of a case. Each function takes the folder of the case, a name in it, and plain values."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import tifffile
import torch
from PIL import Image


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def empty(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")


def write(folder: Path, name: str, content: bytes) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def truncate(folder: Path, name: str, share: float) -> None:
    data = (folder / name).read_bytes()
    write(folder, name, data[: int(share * (len(data) - 1))])


def flip(folder: Path, name: str, share: float, bit: int = 0) -> None:
    """One bit of a file."""
    data = bytearray((folder / name).read_bytes())
    data[int(share * (len(data) - 1))] ^= 1 << bit
    write(folder, name, bytes(data))


def fill(folder: Path, name: str, share: float, byte: int, length: int) -> None:
    """A stretch of a file with one byte."""
    data = bytearray((folder / name).read_bytes())
    start = int(share * max(len(data) - length, 0))
    stretch = len(data[start : start + length])
    data[start : start + stretch] = bytes([byte]) * stretch
    write(folder, name, bytes(data))


def swap(folder: Path, name: str, other: str) -> None:
    shutil.copyfile(folder / other, folder / name)


def to_folder(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()


def to_fifo(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)


def to_loop(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(Path(name).name)


def to_device(folder: Path, name: str, device: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(device)


def to_link(folder: Path, name: str) -> None:
    """The file elsewhere, with a link in its place."""
    elsewhere = folder / "elsewhere" / Path(name).name
    elsewhere.parent.mkdir(exist_ok=True)
    shutil.move(folder / name, elsewhere)
    (folder / name).symlink_to(elsewhere)


def link_folder(folder: Path, name: str, target: str) -> None:
    (folder / name).symlink_to(folder / target)


def make_folder(folder: Path, name: str) -> None:
    (folder / name).mkdir(parents=True)


def rename(folder: Path, name: str, other: str) -> None:
    (folder / name).rename(folder / other)


def write_protect(folder: Path, name: str) -> None:
    """A folder as on a share that may only be read."""
    for path in [*(folder / name).rglob("*"), folder / name]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def date(folder: Path, name: str, seconds: float) -> None:
    """All files of a folder as if written at that time."""
    for path in (folder / name).rglob("*"):
        os.utime(path, (seconds, seconds))


def permit(folder: Path, name: str, mode: int) -> None:
    (folder / name).chmod(mode)


# JSON


def set_key(folder: Path, name: str, keys: str, value: Any) -> None:
    """A value of a JSON file; ``keys`` are divided by slashes, a number counts from the start of a list or mapping."""
    content = json.loads((folder / name).read_text())
    *path, last = [_key(content, keys, depth) for depth in range(len(keys.split("/")))]
    inner = content
    for key in path:
        inner = inner[key]
    inner[last] = value
    (folder / name).write_text(json.dumps(content))


def drop_key(folder: Path, name: str, number: int) -> None:
    content = json.loads((folder / name).read_text())
    del content[sorted(content)[number % len(content)]]
    (folder / name).write_text(json.dumps(content))


def retype_key(folder: Path, name: str, number: int, value: Any) -> None:
    """Another value for one of the keys of a JSON file."""
    content = json.loads((folder / name).read_text())
    content[sorted(content)[number % len(content)]] = value
    (folder / name).write_text(json.dumps(content))


def _key(content: Any, keys: str, depth: int) -> Any:
    inner = content
    for number, key in enumerate(keys.split("/")):
        chosen = int(key) if isinstance(inner, list) else key
        if number == depth:
            return chosen
        inner = inner[chosen]


# tensors


def change_tensors(folder: Path, name: str, how: str) -> None:
    """A file of tensors that is whole and wrong."""
    path = folder / name
    content = torch.load(path, weights_only=True, map_location="cpu")
    tensors = content
    while not any(isinstance(value, torch.Tensor) for value in tensors.values()):
        tensors = next(value for value in tensors.values() if isinstance(value, dict) and value)
    first = next(key for key, value in tensors.items() if isinstance(value, torch.Tensor) and value.is_floating_point())
    if how == "nan":
        tensors[first] = torch.full_like(tensors[first], float("nan"))
    elif how == "infinite":
        tensors[first].view(-1)[0] = float("inf")
    elif how == "one key less":
        del tensors[first]
    elif how == "one key more":
        tensors["another.weight"] = torch.zeros(3)
    elif how == "another shape":
        tensors[first] = tensors[first].reshape(-1)[:-1]
    elif how == "another type":
        tensors[first] = tensors[first].to(torch.float16)
    elif how == "no tensor":
        tensors[first] = "weights"
    elif how == "a list":
        content = list(tensors.values())
    elif how == "nothing":
        content = {}
    elif how == "a number":
        content = 5
    else:
        raise ValueError(how)
    torch.save(content, path)


def whole_pickle(folder: Path, name: str) -> None:
    """A file that runs code where it is unpickled."""
    torch.save({"weights": Path("x")}, folder / name)


# tables


def change_table(folder: Path, name: str, how: str, column: int = 0, value: str = "") -> None:
    """A table in another form; what counts is the same or not, as the case says."""
    path = folder / name
    data = path.read_bytes()
    table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
    chosen = table.columns[column % len(table.columns)]
    if how == "without column":
        data = table.drop(columns=chosen).to_csv(index=False).encode()
    elif how == "renamed column":
        data = table.rename(columns={chosen: f"{chosen}s"}).to_csv(index=False).encode()
    elif how == "column twice":
        data = pd.concat([table, table[[chosen]]], axis=1).to_csv(index=False).encode()
    elif how == "no rows":
        data = table.head(0).to_csv(index=False).encode()
    elif how == "all cells":
        data = table.assign(**{chosen: value}).to_csv(index=False).encode()
    elif how == "one cell":
        table.loc[len(table) // 2, chosen] = value
        data = table.to_csv(index=False).encode()
    elif how == "rows twice":
        data = pd.concat([table, table]).to_csv(index=False).encode()
    elif how == "encoding":
        data = data.decode().encode(value)
    elif how == "separator":
        data = table.to_csv(index=False, sep=value).encode()
    elif how == "line ends":
        data = data.replace(b"\n", value.encode())
    elif how == "short row":
        lines = data.split(b"\n")
        lines[len(lines) // 2] = lines[len(lines) // 2].split(b",")[0]
        data = b"\n".join(lines)
    elif how == "long row":
        lines = data.split(b"\n")
        lines[len(lines) // 2] += b",more,and more"
        data = b"\n".join(lines)
    elif how == "open quote":
        data = data.replace(b",", b',"', 20)
    elif how == "parquet":
        table.to_parquet(path, index=False)
        return
    elif how == "quoted":
        data = table.to_csv(index=False, quoting=1).encode()
    elif how == "insert":
        data = data[: len(data) // 2] + value.encode("latin-1") + data[len(data) // 2 :]
    else:
        raise ValueError(how)
    path.write_bytes(data)


# features


def change_features(folder: Path, name: str, how: str) -> None:
    """The features of a slide, ``.npz``, in another form; what the run should make of them is up to the case."""
    path = folder / name
    values = np.load(path)["features"]
    forms: dict[str, Callable[[], Any]] = {
        "NaN": lambda: np.savez(path, features=np.where(np.eye(*values.shape) > 0, np.nan, values)),
        "infinite": lambda: np.savez(path, features=values * np.inf),
        "another width": lambda: np.savez(path, features=np.hstack([values, values])),
        "no patches": lambda: np.savez(path, features=values[:0]),
        "text": lambda: np.savez(path, features=values.astype(str)),
        "objects": lambda: np.savez(path, features=values.astype(object)),
        "complex": lambda: np.savez(path, features=values.astype(complex)),
        "stack": lambda: np.savez(path, features=np.stack([values] * 3)),
        "another name": lambda: np.savez(path, feature=values, other=values),
        "cut HDF5": lambda: _as_hdf5(path, values, "a", 0.6),
        "HDF5": lambda: _as_hdf5(path, values, "a"),
        "twice": lambda: _as_hdf5(path, values, "a", keep=True),
        "two encoders": lambda: [
            _as_hdf5(other, values, encoder)
            for other, encoder in ((path, "uni_v1"), (path.with_name("s1.npz"), "virchow"))
        ],
    }
    forms[how]()


FEATURE_FORMS = (
    "NaN", "infinite", "another width", "no patches", "text", "objects", "complex", "stack", "another name", "cut HDF5",
    "twice", "two encoders",
)  # fmt: skip


def _as_hdf5(path: Path, values: np.ndarray, encoder: str, share: float = 1.0, keep: bool = False) -> None:
    target = path.with_suffix(".h5")
    with h5py.File(target, "w") as file:
        file["features"] = values
        file["features"].attrs["encoder"] = encoder
    data = target.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    if not keep:
        path.unlink()


# images


def change_image(folder: Path, name: str, how: str) -> None:
    """An image in another form."""
    path = folder / name
    image = Image.open(path)
    image.load()
    pixels = np.asarray(image.convert("RGB"))
    forms: dict[str, Callable[[], Any]] = {
        "gray": lambda: image.convert("L").save(path),
        "palette": lambda: image.convert("P").save(path),
        "RGBA": lambda: image.convert("RGBA").save(path),
        "gray and alpha": lambda: image.convert("LA").save(path),
        "1 bit": lambda: image.convert("1").save(path),
        "16 bit": lambda: Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path),
        "JPEG": lambda: image.convert("RGB").save(path, "JPEG"),
        "CMYK": lambda: image.convert("CMYK").save(path, "JPEG"),
        "GIF": lambda: image.convert("P").save(path, "GIF", save_all=True, append_images=[image.convert("P")]),
        "BMP": lambda: image.convert("RGB").save(path, "BMP"),
        "WEBP": lambda: image.convert("RGB").save(path, "WEBP"),
        "float": lambda: tifffile.imwrite(path, pixels.astype(np.float32) / 255),
        "int16": lambda: tifffile.imwrite(path, pixels[..., 0].astype(np.int16) - 100),
        "stack": lambda: tifffile.imwrite(path, np.stack([pixels] * 3), photometric="rgb"),
        "one pixel": lambda: image.crop((0, 0, 1, 1)).save(path),
        "narrow": lambda: image.resize((image.width, 1)).save(path),
        "large": lambda: image.resize((8 * image.width, 8 * image.height)).save(path),
        "rotated": lambda: image.convert("RGB").save(path, "JPEG", exif=_orientation(6)),
        "SVG": lambda: path.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "HTML": lambda: path.write_text("<!doctype html><title>404</title>"),
        "many pixels": lambda: path.write_bytes(_claims_to_be(200_000, 200_000)),
    }
    forms[how]()


IMAGE_FORMS = (
    "gray", "palette", "RGBA", "gray and alpha", "1 bit", "16 bit", "JPEG", "CMYK", "GIF", "BMP", "WEBP", "float",
    "int16", "stack", "one pixel", "narrow", "large", "rotated", "SVG", "HTML", "many pixels",
)  # fmt: skip


def _orientation(code: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = code
    return exif


def _claims_to_be(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunks


def apply(folder: Path, edit: tuple) -> None:
    """An edit by the name of its function, with its arguments; ``cohort/*3`` is the image of number 3 in a folder.

    A name with ``**`` is the first file of that pattern.
    """
    function, name, *arguments = edit
    if "**" in name:
        name = str(min(folder.glob(name)).relative_to(folder))
    elif "*" in name:
        top, _, number = name.partition("/*")
        images = sorted(path for path in (folder / top).rglob("*.png") if path.stem != "grid")
        name = str(images[int(number) % len(images)].relative_to(folder))
    globals()[function](folder, name, *arguments)

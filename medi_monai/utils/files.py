"""Write files atomically (under a temporary name in their folder, then renamed), and read and check files."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import string
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pandas as pd
import torch

from medi_monai.utils.errors import InputError, RunStopped, refusal_of_system
from medi_monai.utils.written import enter_written

__all__ = [
    "atomic_path",
    "is_temporary",
    "temporary_dir",
    "temporary_file",
    "check_path_length",
    "check_regular",
    "write_json",
    "read_json",
    "write_table",
    "save_tensors",
    "write_tensors",
    "load_tensors",
    "all_finite",
    "check_state",
    "file_digest",
    "file_fingerprint",
    "json_digest",
    "tensors_digest",
    "cache_dir",
    "writable_dir",
]

#: size in bytes of the blocks of a file from which its fingerprint is computed
BLOCK = 64 * 1024
LETTERS = string.ascii_lowercase + string.digits
TEMPORARY = re.compile(r"(\..*-)([a-z0-9]{4})([a-z0-9]{4})(\.[^.]*)?", re.DOTALL)
LONGEST_NAME, LONGEST_PATH = 255, 4095


@contextmanager
def atomic_path(target: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; rename it onto ``target`` on success, delete it otherwise.

    Raises:
        RunStopped: if the disk is full or the folder is not writable; ``target`` is then unchanged.
    """
    target = Path(target)
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_file(target)
        yield temporary
        enter_written(target, partial(file_fingerprint, temporary))
        os.replace(temporary, target)
    except Exception as error:
        reason = None if isinstance(error, (InputError, RunStopped)) else refusal_of_system(error)
        if reason is None:
            raise
        raise RunStopped(
            f"could not write {target}: {reason}, then repeat the command. No partial file was left behind."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def temporary_file(target: Path) -> Path:
    """Create an empty hidden file in the folder of ``target``, with the same suffix and default permissions."""
    return _create(
        f".{target.stem}-", target.suffix, target.parent,
        lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o666)),
    )  # fmt: skip


@contextmanager
def temporary_dir(target: Path, purpose: str = "") -> Iterator[Path]:
    """Yield an empty hidden folder next to ``target``, which may be renamed to it; remove it at the end if it was not.

    Args:
        target: final path of the folder.
        purpose: word to add to the temporary name, if several temporary folders are used for ``target``.
    """
    folder = _create(f".{target.name}-{purpose}{'-' if purpose else ''}", "", target.parent, os.mkdir)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _create(start: str, suffix: str, folder: Path, create: Callable[[Path], object]) -> Path:
    for _ in range(100):
        drawn = "".join(secrets.choice(LETTERS) for _ in range(4))
        path = folder / f"{start}{drawn}{_check(start, drawn, suffix)}{suffix}"
        try:
            create(path)
        except FileExistsError:
            continue
        return path
    raise FileExistsError(f"no free name for a temporary file in {folder}")


def _check(start: str, drawn: str, suffix: str) -> str:
    digest = hashlib.sha256(os.fsencode(f"{start}{drawn}{suffix}")).digest()
    return "".join(LETTERS[byte % len(LETTERS)] for byte in digest[:4])


def is_temporary(name: str) -> bool:
    """Return whether a name was made by :func:`temporary_file` or :func:`temporary_dir`.

    The last letters of such a name are a checksum of the rest. A similar name from another program has the right
    checksum in one of 1.7 million cases.
    """
    match = TEMPORARY.fullmatch(name)
    return match is not None and _check(match[1], match[2], match[4] or "") == match[3]


def write_json(target: str | os.PathLike, content: object) -> None:
    """Write ``content`` as indented JSON, atomically; NaN is not allowed (use None for an undefined figure)."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
    with atomic_path(target) as path:
        # a path that is not UTF-8 contains surrogates, which are written as JSON escapes
        path.write_text(text, encoding="utf-8", errors="backslashreplace")


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not hasattr(value, "item"):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")
    number = value.item()
    if number != number:
        # json checks only Python floats for NaN
        raise ValueError("NaN cannot be written as JSON; an undefined figure is None")
    return number


def read_json(path: str | os.PathLike) -> Any:
    """Return the content of a JSON file; a missing or invalid file raises an :class:`InputError` that names it."""
    check_regular(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error


def write_table(target: str | os.PathLike, table: pd.DataFrame) -> None:
    """Write a table atomically, without its index, as Parquet, TSV or CSV, depending on the suffix."""
    with atomic_path(target) as path:
        if Path(target).suffix == ".parquet":
            table.to_parquet(path, index=False)
        else:
            # quote cells if one contains a carriage return, which would end the line when the CSV file is read
            returns = any(table[name].astype(str).str.contains("\r", regex=False).any() for name in table.columns)
            quoting = csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL
            table.to_csv(path, index=False, sep=_separator(target), quoting=quoting)


def _separator(path: str | os.PathLike) -> str:
    return "\t" if Path(path).suffix == ".tsv" else ","


def save_tensors(target: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings and containers of them atomically; equal content gives equal files."""
    with atomic_path(target) as path:
        write_tensors(path, content)


def write_tensors(path: Path, content: Mapping[str, Any]) -> str:
    """Write tensors, numbers, strings and containers of them to a path from :func:`atomic_path`.

    Returns:
        The SHA-256 of the file, computed during writing, which takes a quarter longer.
    """
    # given a path, torch would write the name of the file into it
    with open(path, "wb") as file:
        hashing = _HashingFile(file)
        torch.save(dict(content), hashing)  # type: ignore[arg-type]
    return hashing.digest.hexdigest()


class _HashingFile:
    """A file object with the methods that ``torch.save`` needs, which computes a digest during writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def write(self, block: bytes) -> int:
        self.digest.update(block)
        return self._file.write(block)

    def flush(self) -> None:
        self._file.flush()


def load_tensors(path: str | os.PathLike, sha256: Sequence[str] | None = None) -> dict[str, Any]:
    """Load a file written by :func:`save_tensors` to the CPU, without unpickling code (``weights_only=True``).

    Args:
        path: file to load.
        sha256: digests that the file may have; None to check the checksums within the file instead.

    Raises:
        InputError: for a file that is missing, damaged, or has a different digest.
    """
    path = Path(path)
    check_regular(path)
    if not path.is_file():
        raise InputError(f"checkpoint not found: {path}")
    try:
        if sha256 is not None and file_digest(path) not in sha256:
            raise InputError(
                f"{path} is damaged or was replaced: its SHA-256 is not the one that was recorded when it was written. "
                "Copy it again, together with the files beside it, or train again"
            )
        if sha256 is None and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"the checksum of {damaged} does not fit")
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:
        # only the first line, because the rest of torch's message is advice for developers
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise InputError(f"{path} is not a readable checkpoint ({type(error).__name__}: {reason[:200]})") from error
    return content


def check_state(path: str | os.PathLike, state: Any, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Check weights before they are loaded into a module: they must be finite tensors of the module's types.

    Names and shapes are not compared; ``load_state_dict`` does that.

    Args:
        path: path of the file, for error messages.
        state: weights by name.
        expected: ``state_dict`` of the module.

    Returns:
        The weights, unchanged.

    Raises:
        InputError: for the first value that is not a tensor, not finite, or of a different type.
    """
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise InputError(f"{path} does not hold the weights of a network, but {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(f"{path} does not hold the weights of a network: {name} is {type(value).__name__}")
        if name in expected and value.dtype != expected[name].dtype:
            raise InputError(f"{path}: {name} has the type {value.dtype}, and the network has {expected[name].dtype}")
        if not all_finite(value):
            raise InputError(f"{path} is damaged: the weights {name} are not finite (NaN or infinity)")
    return dict(state)


def all_finite(value: torch.Tensor) -> bool:
    """Return whether all numbers in a tensor are finite."""
    if not value.is_floating_point() or value.numel() == 0:
        return True
    # if a number is NaN, both extremes are NaN
    return all(math.isfinite(extreme) for extreme in value.detach().float().aminmax())


def file_digest(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    check_regular(path)
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def file_fingerprint(path: str | os.PathLike) -> str:
    """Return a quickly computed fingerprint of a file: its size, and the SHA-256 of its first, middle and last 64 KiB.

    Returns:
        ``<bytes>-<64 hexadecimal digits>``.
    """
    check_regular(path)
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.sha256()
        for offset in (0, (size - BLOCK) // 2, size - BLOCK):
            file.seek(max(offset, 0))
            digest.update(file.read(BLOCK))
    return f"{size}-{digest.hexdigest()}"


def json_digest(content: object) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tensors_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of tensors; it does not depend on their order or device."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        # view as bytes, because NumPy has no bfloat16
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cache_dir() -> Path:
    """Return the cache folder: ``$MEDI_CACHE``, else ``$XDG_CACHE_HOME/medi_monai`` or ``~/.cache/medi_monai``."""
    beside = os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "medi_monai")
    folder = os.path.expanduser(os.environ.get("MEDI_CACHE") or beside)
    # `~` was not expanded: the user, as in a container, may have no home folder
    return Path(tempfile.gettempdir(), f"medi_monai-{os.getuid()}") if folder[0] == "~" else Path(folder)


def check_regular(path: str | os.PathLike) -> None:
    """Refuse a pipe, a device or a socket in place of a file, because reading it could block or never end.

    A path that does not exist is accepted.

    Raises:
        InputError: for a pipe, device or socket.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}
    for is_kind, kind in kinds.items():
        if is_kind(mode):
            raise InputError(f"{path} is {kind} and not a regular file: write what it gives into a file, and name that")


def check_path_length(path: str) -> None:
    """Refuse a path that no file system allows, for which some system calls raise errors and others find no file.

    Raises:
        InputError: for a path with a name longer than 255 bytes, of more than 4,095 bytes in total, or with a null
            character.
    """
    names = [os.fsencode(name) for name in path.replace("\\", "/").split("/")]
    longest, length = max(map(len, names)), len(os.fsencode(path))
    if longest > LONGEST_NAME or length > LONGEST_PATH:
        where = f"it has {length:,} bytes" if length > LONGEST_PATH else f"a name in it has {longest:,} bytes"
        raise InputError(
            f"the path {path[:60]!r}… is too long: {where}; {LONGEST_NAME} are possible in a name, and "
            f"{LONGEST_PATH:,} in all"
        )
    if "\0" in path:
        raise InputError(f"the path {path[:60]!r} has a null character in it")


def writable_dir(path: str | os.PathLike) -> Path:
    """Create a folder with its parents, check that files can be written in it, and return it.

    Raises:
        InputError: if the folder cannot be created or written.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}. Choose another folder.") from error
    return folder

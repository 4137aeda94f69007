"""What is looked at after a case: its end, its words, what is left in its folder, and its result."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import stat
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import load_file

from medi_monai.utils.written import FILE_LIST
from tests.faults.cases import ANY, REFUSED, SAME

#: keys of results files that hold times, versions or names of folders
NOT_FIGURES = {"seconds", "versions", "settings", "digests", "made", "duration", "time", "path", "folder", "stages"}
#: of content that names folders
NOT_FIGURES |= {"digest"}
PACKAGE = "medi_monai"
LINE = "medi_monai: error: "
#: names of files that are being written
TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}\.\w+")


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with the SHA-256 of its content; folders, links and others with what they are."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        name, mode = str(path.relative_to(folder)), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            entries[name] = f"link to {path.readlink()}"
        elif stat.S_ISREG(mode):
            try:
                entries[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                entries[name] = f"unreadable: {error.strerror}"
        else:
            entries[name] = "folder" if stat.S_ISDIR(mode) else "special file"
    return entries


def digests_of(folder: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """A digest of what counts in each result of a run: tensors, pixels, cells and figures."""
    files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    hidden = re.compile(r"(^|/)(\.|earlier-)")
    names = sorted(str(path.relative_to(folder)) for path in files)
    return {name: _content(folder / name) for name in names if not hidden.search(name)}


def everything(folder: Path, outputs: tuple[str, ...]) -> dict[str, str]:
    """As :func:`digests_of`, of all that a run leaves; of what holds times (pages, logs, summaries), only the names."""
    digests = digests_of(folder, tuple(f"{name}/**/*" for name in outputs))
    timed = re.compile(r"\.html$|/(summary|store|checkpoints)\.json$|\.log$|\.medi_monai$|(^|/)stages/")
    contents: dict[str, list[str]] = {}
    for name, digest in sorted(digests.items(), key=lambda item: item[1]):
        if "tfevents" not in name:
            # stores of features are named by all that they depend on, with the paths of a case
            plain = re.sub(r"(features/\w+_)[0-9a-f]{8}/", r"\1/", name)
            contents.setdefault(plain, []).append("" if timed.search(name) else digest)
    return {name: " ".join(content) for name, content in contents.items()}


def _content(path: Path) -> str:
    if path.suffix == ".pt":
        digest = hashlib.sha256()
        for name, value in sorted(_leaves(torch.load(path, weights_only=True, map_location="cpu"))):
            if isinstance(value, torch.Tensor):
                digest.update(f"{name}{value.shape}{value.dtype}".encode() + value.contiguous().numpy().tobytes())
            elif name.split("/")[-1] not in NOT_FIGURES:
                digest.update(f"{name}{value}".replace(str(_case_of(path)), ".").encode())
        return digest.hexdigest()
    if path.suffix == ".json":
        # the folder of a case has its own name, and with it the seal of what names it
        text = path.read_text()
        content = json.loads(text.replace(str(_case_of(path)), "."))
        if isinstance(content, dict) and str(_case_of(path)) in text:
            content.pop("digest", None)
        return hashlib.sha256(json.dumps(_figures(content), sort_keys=True).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _leaves(content: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(content, dict):
        return [leaf for key, value in content.items() for leaf in _leaves(value, f"{name}/{key}")]
    if isinstance(content, (list, tuple)):
        return [leaf for number, value in enumerate(content) for leaf in _leaves(value, f"{name}/{number}")]
    return [(name, content)]


def _case_of(path: Path) -> Path:
    return next((folder for folder in path.parents if (folder / "bundle").is_dir()), path.parent)


def _figures(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _figures(value) for name, value in content.items() if name not in NOT_FIGURES}
    return [_figures(value) for value in content] if isinstance(content, list) else content


def faults_of_words(output: str, code: int | None, killed: bool = False) -> list[str]:
    """What is wrong with the end of a run and with what it printed."""
    faults = []
    if "Traceback (most recent call last)" in output:
        last = [line for line in output.splitlines() if line and not line.startswith(" ")][-1]
        # Python's own, of a run that was stopped before it had begun
        early = killed and last.startswith("KeyboardInterrupt") and f"{PACKAGE}/" not in output
        faults += [] if early else [f"traceback: {last[:200]}"]
    if code is None:
        return [*faults, "hang"]
    if code == 0 or killed:
        return faults
    if code != 1:
        faults.append(f"exit code {code}")
    if not faults:
        lines = [line for line in output.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith(LINE)]
        if len(said) != 1 or lines[-1] != said[0]:
            faults.append(f"not one line: {' / '.join(lines[-4:])[:300] or 'nothing was printed'}")
        elif len(said[0]) > 1500:
            faults.append(f"a line of {len(said[0])} characters: {said[0][:200]}")
    return faults


def faults_of_stop(output: str, code: int | None) -> list[str]:
    """Whether a run that was asked to stop between two updates has saved its state, or says what to do."""
    bars = re.findall(r"(?:training|aligning)[^\r\n\[]*\[(\d+)/(\d+)\]", output)
    stopped_within = bool(bars) and int(bars[-1][0]) < int(bars[-1][1]) and "done." not in output
    if code not in (0, None) and stopped_within and "saved in" not in output:
        return [f"stopped at {'/'.join(bars[-1])} without saving"]
    return []


def faults_of_files(
    folder: Path, before: dict[str, str], present: dict[str, str], may_leave: bool = False
) -> list[str]:
    """Files of before that are gone or changed, and new ones that are half-written.

    Args:
        folder: of the case.
        before: what has to be there as it was, from its snapshot before the run.
        present: all that was there, with digests; a damaged file of these may be moved aside.
        may_leave: whether hidden files may be left, as by a run that was killed.
    """
    after, faults = snapshot(folder), []
    # results of an earlier run may be moved aside
    aside = {(Path(name).name, digest) for name, digest in after.items() if "earlier-" in name}
    for name, digest in before.items():
        if Path(name).name == FILE_LIST and name in after:
            # each run adds the files that it writes
            continue
        if after.get(name) != digest and (Path(name).name, digest) not in aside:
            faults.append(f"{'changed' if name in after else 'lost'}: {name}")
    for name in sorted(set(after) - set(present)):
        path = folder / name
        if not path.is_file() or path.is_symlink() or after[name] in present.values():
            continue
        if TEMPORARY.fullmatch(path.name):
            if not may_leave:
                faults.append(f"left over: {name}")
        elif problem := broken(path):
            faults.append(f"half-written: {name} ({problem})")
    return faults


def broken(path: Path) -> str | None:
    """Why a file is not whole, judged by its ending."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True, map_location="cpu")
        elif path.suffix in (".png", ".jpg"):
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".csv":
            rows = list(csv.reader(io.StringIO(path.read_text(), newline="")))
            if not rows or {len(row) for row in rows} != {len(rows[0])}:
                return "rows of different lengths"
        elif path.suffix == ".tar":
            with tarfile.open(path) as archive:
                names = [member.name for member in archive if archive.extractfile(member).read()]
            if not names or len(names) % 2:
                return "an image without its row"
        elif path.suffix == ".parquet":
            pd.read_parquet(path)
        elif path.suffix in (".npy", ".npz"):
            arrays = np.load(path, allow_pickle=False)
            for name in getattr(arrays, "files", ()):
                arrays[name]
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
            return "no end"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:120]
    return None


def faults_of_result(expected: str, code: int | None, results: dict[str, str], right: dict[str, str]) -> list[str]:
    """Whether the end is what was expected, and the result that of the undisturbed run."""
    if expected == REFUSED and code == 0:
        return ["accepted without a word"]
    if expected == SAME and code not in (0, None):
        return ["refused, though it can be done"]
    if expected in (ANY, REFUSED) or code != 0 or results == right:
        return []
    names = sorted(name for name in {*results, *right} if results.get(name) != right.get(name))
    return [f"another result than the undisturbed run: {', '.join(names[:4])} (of {len(right)} files)"]

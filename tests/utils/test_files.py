import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from medi_monai.runs.configs.files import read_config_file
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import (
    atomic_path,
    cache_dir,
    check_path_length,
    file_digest,
    file_fingerprint,
    json_digest,
    load_tensors,
    read_json,
    save_tensors,
    tensors_digest,
    writable_dir,
    write_json,
)
from medi_monai.utils.tables import read_table


@pytest.fixture
def old(tmp_path):
    target = tmp_path / "figures.json"
    target.write_text("old")
    return target


def test_the_target_appears_only_when_the_block_ends(tmp_path):
    target = tmp_path / "new" / "folder" / "a.csv"
    with atomic_path(target) as path:
        path.write_text("whole")
        assert path.parent == target.parent and path.suffix == ".csv"
        assert not target.exists()
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["a.csv"]


def test_who_reads_the_old_file_meanwhile_reads_it_whole(old):
    with open(old) as reader:
        with atomic_path(old) as path:
            path.write_text("new")
        assert reader.read() == "old"
    assert old.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EIO, "i/o"), RuntimeError("x")])
def test_an_error_keeps_the_old_file_leaves_nothing_and_passes_through(old, error):
    with pytest.raises(type(error)) as caught, atomic_path(old) as path:
        path.write_text("half")
        raise error
    assert caught.value is error
    assert old.read_text() == "old" and os.listdir(old.parent) == [old.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_stops_the_run_and_keeps_the_old_file(old, code):
    with pytest.raises(RunStopped, match="figures.json") as caught, atomic_path(old) as path:
        path.write_text("half")
        raise OSError(code, os.strerror(code))
    assert os.strerror(code) in str(caught.value)
    assert old.read_text() == "old" and os.listdir(old.parent) == [old.name]


def test_files_have_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "a.json", 1)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o640


FULL_DISK = """
import resource, signal, sys
import numpy as np, pandas as pd, torch
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.utils.errors import RunStopped
from medi_monai.utils.files import atomic_path, save_tensors, write_json, write_table
from medi_monai.utils.pixels import write_jpeg
from PIL import Image

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
numbers = np.random.default_rng(0).random(2**16)

def slide(path):
    with atomic_path(path) as temporary:
        write_pyramid(temporary, np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8), 0.5)

def photograph(path):
    with atomic_path(path) as temporary:
        # the limit lies within the last block that Pillow writes
        pixels = np.random.default_rng(0).integers(0, 255, (250, 250, 3), np.uint8)
        write_jpeg(temporary, Image.fromarray(pixels), quality=95)

writers = {
    "a.json": lambda path: write_json(path, numbers.tolist()),
    "a.csv": lambda path: write_table(path, pd.DataFrame({"x": numbers})),
    "a.parquet": lambda path: write_table(path, pd.DataFrame({"x": numbers})),
    "a.pt": lambda path: save_tensors(path, {"x": torch.zeros(2**16)}),
    "a.tiff": slide,
    "a.jpg": photograph,
}
for name, write in writers.items():
    try:
        write(f"{sys.argv[1]}/{name}")
    except RunStopped as error:
        print(name, "stopped" if name in str(error) else error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_every_writer_stops_where_the_file_can_grow_no_further(tmp_path):
    names = ["a.json", "a.csv", "a.parquet", "a.pt", "a.tiff", "a.jpg"]
    for name in names:
        (tmp_path / name).write_text("old")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{name} stopped" for name in names], done.stderr
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert all((tmp_path / name).read_text() == "old" for name in names)


def test_json_round_trip_is_readable_by_people(tmp_path):
    content = {"center": "Universität", "value": 0.5, "n": 3, "ci95": [0, None]}
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == content == json.loads(text)
    assert "Universität" in text and text.endswith("}\n") and text.count("\n") > 4


def test_paths_that_are_not_utf_8_are_written_as_escapes_and_come_back(tmp_path):
    path = os.fsdecode(b"/data/M\xfcller")
    write_json(tmp_path / "a.json", {"root": path})
    assert read_json(tmp_path / "a.json") == {"root": path} and b"\\udcfc" in (tmp_path / "a.json").read_bytes()
    assert len(json_digest({"root": path})) == 64


@pytest.mark.parametrize("figure", [float("nan"), float("inf")])
def test_json_refuses_what_json_lacks_and_keeps_the_old_file(old, figure):
    with pytest.raises(ValueError):
        write_json(old, {"value": figure})
    assert old.read_text() == "old"


def test_missing_or_broken_json_is_named(tmp_path):
    with pytest.raises(InputError, match="absent.json"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text('{"a": ')
    with pytest.raises(InputError, match="broken.json"):
        read_json(tmp_path / "broken.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary.json"):
        read_json(tmp_path / "binary.json")


@pytest.mark.parametrize("size", [0, 1, 65_536, 100_000, 500_000])
def test_a_fingerprint_is_that_of_the_ends_and_the_middle(tmp_path, size):
    content = np.random.default_rng(0).bytes(size)
    (tmp_path / "a").write_bytes(content)
    middle = max((size - 65_536) // 2, 0)
    sampled = content[:65_536] + content[middle : middle + 65_536] + content[-65_536:]
    assert file_fingerprint(tmp_path / "a") == f"{size}-{hashlib.sha256(sampled).hexdigest()}"
    known = {file_fingerprint(tmp_path / "a")}
    for offset in {0, size // 2, size - 1} if size else ():
        changed = bytearray(content)
        changed[offset] ^= 1
        (tmp_path / "a").write_bytes(changed)
        known.add(file_fingerprint(tmp_path / "a"))
    assert len(known) == 1 + (len({0, size // 2, size - 1}) if size else 0)


def test_tensors_round_trip(tmp_path):
    codes = torch.arange(3, dtype=torch.uint8)
    content = {"weights": {"a": torch.randn(3, 2)}, "step": 7, "digest": "ab", "codes": codes}
    save_tensors(tmp_path / "model.pt", content)
    loaded = load_tensors(tmp_path / "model.pt")
    assert torch.equal(loaded["weights"]["a"], content["weights"]["a"])
    assert torch.equal(loaded["codes"], codes) and loaded["codes"].dtype == torch.uint8
    assert (loaded["step"], loaded["digest"]) == (7, "ab")


class MakesAFile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"x": MakesAFile(tmp_path / "trace")}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match="evil.pt"):
        load_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "trace").exists()


def test_missing_and_truncated_checkpoints_are_named(tmp_path):
    with pytest.raises(InputError, match="absent.pt"):
        load_tensors(tmp_path / "absent.pt")
    save_tensors(tmp_path / "cut.pt", {"x": torch.zeros(1000)})
    whole = (tmp_path / "cut.pt").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        with pytest.raises(InputError, match="cut.pt"):
            load_tensors(tmp_path / "cut.pt")


def test_file_digest_is_sha256_across_blocks(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = os.urandom(2**20 + 17)
    (tmp_path / "long").write_bytes(content)
    assert file_digest(tmp_path / "long") == hashlib.sha256(content).hexdigest()


def test_json_digest_ignores_the_order_of_keys_only():
    assert json_digest({"b": [2, 1], "a": "é"}) == hashlib.sha256('{"a":"é","b":[2,1]}'.encode()).hexdigest()
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    assert json_digest([1, 2]) != json_digest([2, 1])


def test_equal_tensors_are_equal_files(tmp_path):
    for name in ("a.pt", "b.pt"):
        save_tensors(tmp_path / name, {"x": torch.arange(5.0), "y": torch.ones(2, 3).T})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_tensors_digest_is_of_names_types_shapes_and_bytes_in_the_order_of_names():
    state = {"b": torch.arange(6.0).reshape(2, 3).T, "a": torch.tensor([True, False])}
    digest = hashlib.sha256(b"a torch.bool (2,)\n" + bytes([1, 0]))
    digest.update(b"b torch.float32 (3, 2)\n" + np.array([0, 3, 1, 4, 2, 5], "<f4").tobytes())
    assert tensors_digest(state) == tensors_digest(dict(sorted(state.items()))) == digest.hexdigest()
    others = [state | {"a": state["a"].float()}, state | {"b": state["b"].T}, {"c": state["a"], "b": state["b"]}]
    assert len({digest.hexdigest(), *map(tensors_digest, others)}) == 4
    half = torch.ones(3, dtype=torch.bfloat16)
    assert tensors_digest({"x": half}) != tensors_digest({"x": half.half()})


def test_cache_dir_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MEDI_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == tmp_path / "home" / ".cache" / "medi_monai"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "medi_monai"
    monkeypatch.setenv("MEDI_CACHE", "~/mine")
    assert cache_dir() == tmp_path / "home" / "mine"
    # a user of a container, whom the system does not know
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    assert cache_dir() == Path(tempfile.gettempdir()) / f"medi_monai-{os.getuid()}"
    monkeypatch.setenv("MEDI_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"


def test_writable_dir_makes_the_folder_and_leaves_it_empty(tmp_path):
    folder = writable_dir(tmp_path / "a" / "b")
    assert folder == tmp_path / "a" / "b" and folder.is_dir() and not os.listdir(folder)


def test_writable_dir_refuses_what_is_not_a_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="file"):
            writable_dir(path)
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("read", [read_json, load_tensors, file_digest, file_fingerprint, read_table, read_config_file])
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_a_pipe_or_a_device_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path, read, kind):
    path = tmp_path / "x.json" if kind == "a pipe" else Path("/dev/zero")
    if kind == "a pipe":
        os.mkfifo(path)
    with pytest.raises(InputError, match=f"{path} is {kind} and not a regular file"):
        read(path)


def test_a_path_that_no_file_system_has_is_refused():
    for path, reason in {
        "a" * 256: "a name in it has 256 bytes",
        "ab/" * 2000: "it has 6,000 bytes",
        "a\0": "null char",
    }.items():
        with pytest.raises(InputError, match=reason):
            check_path_length(path)
    check_path_length("a/" * 1000 + "ü" * 127)

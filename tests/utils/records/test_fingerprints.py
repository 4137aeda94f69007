import errno
import os
import time

import pandas as pd
import pytest

from medi_monai.utils.files import file_fingerprint
from medi_monai.utils.records import fingerprints as module
from medi_monai.utils.records.fingerprints import fingerprints


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "TICK", 0)
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{number:03d}.png" for number in range(100)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * (number + 1))
    time.sleep(0.02)
    return paths


def test_files_are_read_once_and_again_where_they_have_changed(files, monkeypatch):
    first = fingerprints(files)
    assert first == [file_fingerprint(path) for path in files]
    read = []
    monkeypatch.setattr(module, "file_fingerprint", lambda name: read.append(name) or file_fingerprint(name))
    assert fingerprints(files) == first and read == []
    # as long and as old as before
    stat = files[7].stat()
    files[7].write_bytes(b"x" * 8)
    os.utime(files[7], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = fingerprints(files)
    assert read == [str(files[7])] and again[7] == file_fingerprint(files[7]) != first[7]
    assert again[:7] + again[8:] == first[:7] + first[8:]


def test_a_file_that_has_just_been_written_is_not_remembered(files, monkeypatch):
    monkeypatch.setattr(module, "TICK", 10**12)
    fingerprints(files)
    (record,) = (files[0].parents[1] / "cache" / "fingerprints").iterdir()
    assert pd.read_parquet(record).empty


def test_what_is_no_file_has_none_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert fingerprints([tmp_path / "absent", tmp_path, tmp_path / "pipe", "a\0b"]) == [""] * 4
    assert fingerprints([]) == []


def test_a_cache_that_cannot_be_used_costs_time_alone(files, monkeypatch):
    cache = files[0].parents[1] / "cache"
    first = fingerprints(files)
    (record,) = (cache / "fingerprints").iterdir()
    record.write_bytes(b"no table")
    assert fingerprints(files) == first
    (files[0].parents[1] / "file").touch()
    monkeypatch.setenv("MEDI_CACHE", str(files[0].parents[1] / "file"))
    assert fingerprints(files) == first
    # a full disk, or a cache that only others may write
    monkeypatch.setenv("MEDI_CACHE", str(files[0].parents[1] / "another"))

    def refuse(*_):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    assert fingerprints(files) == first


def test_a_file_that_is_named_often_is_read_once(files, monkeypatch):
    read = []
    monkeypatch.setattr(module, "file_fingerprint", lambda name: read.append(name) or "x")
    assert fingerprints([files[0]] * 500) == ["x"] * 500 and len(read) == 1

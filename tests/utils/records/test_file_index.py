import hashlib

import pytest

from medi_monai.utils.records import FileIndex


@pytest.fixture
def index(tmp_path):
    return FileIndex(tmp_path, "index.json")


def enter(index, name, content, step=None):
    written = index.folder / f".{name}-new"
    written.write_bytes(content)
    index.add(name, written, hashlib.sha256(content).hexdigest(), step)
    written.rename(index.folder / name)


def test_what_was_entered_is_known_by_its_bytes(index):
    enter(index, "one.pt", b"a" * 300_000, step=3)
    enter(index, "two.pt", b"b")
    assert list(index.read()) == ["one.pt", "two.pt"] and index.read()["one.pt"]["step"] == 3
    assert index.is_whole("one.pt") and index.is_unchanged("one.pt")
    (index.folder / "one.pt").write_bytes(b"a" * 100_000 + b"x" + b"a" * 199_999)
    # the fingerprint is of the beginning, the middle and the end
    assert index.is_unchanged("one.pt") and not index.is_whole("one.pt")
    (index.folder / "one.pt").write_bytes(b"mine")
    assert not index.is_unchanged("one.pt") and not index.is_whole("one.pt")


def test_what_was_not_entered_is_not_known(index):
    assert not index.exists() and index.read() == {}
    (index.folder / "mine.pt").write_bytes(b"mine")
    enter(index, "one.pt", b"a")
    assert not index.is_whole("mine.pt") and not index.is_unchanged("mine.pt")


def test_a_file_that_is_not_there_is_neither_whole_nor_an_error(index):
    enter(index, "one.pt", b"a")
    (index.folder / "one.pt").unlink()
    assert not index.is_whole("one.pt") and not index.is_unchanged("one.pt")
    index.forget(["one.pt", "never.pt"])
    assert index.read() == {} and index.exists()

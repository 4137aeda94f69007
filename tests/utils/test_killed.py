import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from medi_monai.cohort.folder import claimed_folder
from medi_monai.utils.files import atomic_path, is_temporary, temporary_dir, temporary_file, write_json
from medi_monai.utils.records import claim_results
from medi_monai.utils.run_dir import begin_run
from medi_monai.utils.workers import release_locks, remove_temporaries

posix = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")
WRITERS = {
    "file": "files.write_json(sys.argv[1] + '/preparation.json', {})",
    "folder": "held = files.temporary_dir(pathlib.Path(sys.argv[1], 'clip')); held.__enter__(); os.replace('', '')",
}


def killed_while_writing(folder, writer="file"):
    """What a process leaves that is killed before its file gets its name."""
    code = "import os, pathlib, sys\nfrom medi_monai.utils import files\n"
    code += f"os.replace = lambda *_: os.kill(os.getpid(), {int(signal.SIGKILL)})\n{WRITERS[writer]}\n"
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    assert subprocess.run([sys.executable, "-c", code, str(folder)]).returncode == -signal.SIGKILL
    (left,) = set(folder.iterdir()) - before
    return left


@pytest.mark.parametrize("name", ["model.pt", "a", "a.tar.gz", ".hidden.json", "ä ö.png", "a-b-c.json", "x\ny.csv"])
def test_names_of_ours_are_known_again_and_changed_ones_are_not(tmp_path, name):
    path = temporary_file(tmp_path / name)
    assert path.parent == tmp_path and path.suffix == Path(name).suffix and path.name.startswith(".")
    assert is_temporary(path.name) and path.stat().st_size == 0
    # another program's name, the user's copy, and the name that the file was to get
    for other in (name, path.name[1:], f"{path.name}.bak", f".copy{path.name}", path.name.replace("-", "-x", 1)):
        assert not is_temporary(other), other


def test_names_as_other_programs_give_them_are_not_ours(tmp_path):
    names = [Path(tempfile.mktemp(prefix=".model-", suffix=".pt", dir=tmp_path)).name for _ in range(1000)]
    assert not any(map(is_temporary, names))


def test_a_folder_is_renamed_or_removed(tmp_path):
    with temporary_dir(tmp_path / "clip", "events") as folder:
        assert is_temporary(folder.name) and folder.name.startswith(".clip-events-")
        (folder / "a").touch()
        folder.rename(tmp_path / "clip")
    with pytest.raises(KeyError), temporary_dir(tmp_path / "other") as folder:
        (folder / "a").touch()
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["clip"] and (tmp_path / "clip" / "a").is_file()


def test_only_what_was_being_written_is_removed_and_no_link_is_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    kept = temporary_file(elsewhere / "a.png")
    root = tmp_path / "run"
    (root / "images" / "LUAD" / "deep").mkdir(parents=True)
    (root / "linked").symlink_to(elsewhere)
    files = [temporary_file(folder / "a.png") for folder in (root, root / "images", root / "images" / "LUAD")]
    deep = temporary_file(root / "images" / "LUAD" / "deep" / "a.png")
    link = temporary_file(root / "b.png")
    link.unlink()
    link.symlink_to(kept)
    (root / ".model-a1b2c3d4.pt").write_text("of the user's")
    assert sorted(remove_temporaries(root, depth=2)) == sorted(files)
    assert deep.exists() and link.is_symlink() and kept.exists()
    assert (root / ".model-a1b2c3d4.pt").read_text() == "of the user's"
    assert remove_temporaries(root / "missing") == []


@posix
@pytest.mark.parametrize("writer", WRITERS)
def test_the_next_run_removes_what_a_killed_one_was_writing(tmp_path, monkeypatch, writer):
    monkeypatch.setattr(sys, "argv", ["bundle/__main__.py"])
    out, models = tmp_path / "out", tmp_path / "models"
    out.mkdir()
    claim_results(out, "training")
    left = [killed_while_writing(folder, writer) for folder in (out, models, out / "samples")]
    other = killed_while_writing(out / "notes")
    try:
        begin_run(out, models, run="training")
    finally:
        release_locks()
    assert not any(path.exists() for path in left) and other.exists()


@posix
def test_what_lies_in_the_cache_for_a_day_is_removed_by_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bundle/__main__.py"])
    monkeypatch.setenv("MEDI_CACHE", str(tmp_path / "cache"))
    old, new = (killed_while_writing(tmp_path / "cache" / "fingerprints") for _ in range(2))
    os.utime(old, (0, 0))
    try:
        begin_run(tmp_path / "out", run="training")
    finally:
        release_locks()
    assert not old.exists() and new.exists()


@posix
def test_a_run_that_does_not_hold_its_folders_removes_nothing(tmp_path, monkeypatch):
    left = killed_while_writing(tmp_path / "out")
    # from Python: no locks
    begin_run(tmp_path / "out", run="training")
    # and one of torchrun's other processes
    monkeypatch.setattr(sys, "argv", ["bundle/__main__.py"])
    monkeypatch.setenv("RANK", "1")
    begin_run(tmp_path / "out", run="training")
    assert left.exists()


@posix
def test_preparing_goes_on_where_it_was_killed_writing_its_first_file(tmp_path):
    killed_while_writing(tmp_path / "cohort")
    with claimed_folder(tmp_path / "cohort", {"image_size": 16}) as root:
        assert {path.name for path in root.iterdir()} == {".lock", ".medi_files.jsonl", "preparation.json"}
        left = [killed_while_writing(root / "patches" / folder) for folder in (".", "scans", "a1")]
    with claimed_folder(tmp_path / "cohort", {"image_size": 16}):
        assert not any(path.exists() for path in left)


def test_a_file_in_progress_has_a_name_of_ours(tmp_path):
    with atomic_path(tmp_path / "model.pt") as path:
        assert is_temporary(path.name)
    write_json(tmp_path / "a.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "model.pt"}

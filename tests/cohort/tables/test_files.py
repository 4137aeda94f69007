import os
import random

import pandas as pd
import pytest

from medi_monai.cohort.tables import files as files_module
from medi_monai.cohort.tables.files import absent_files, inside_paths, local_paths, scan_folder, walk_files
from medi_monai.utils.written import start_list


@pytest.fixture
def data(tmp_path):
    """Images, other files, links that work, links that do not."""
    for name in ("a/1.svs", "a/2.SVS", "a/b/3.png", "a/notes.txt", "a/.hidden.svs", "4.tiff", ".cache/5.svs"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "6.svs").touch()
    root = tmp_path / "root"
    (root / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "a" / "b" / "7.svs").symlink_to(tmp_path / "elsewhere" / "6.svs")
    (root / "a" / "b" / "up").symlink_to(root / "a", target_is_directory=True)
    (root / "a" / "self.svs").symlink_to("self.svs")
    (root / "a" / "gone.svs").symlink_to("nowhere.svs")
    (root / "a" / "folder.svs").mkdir()
    return root


def test_a_walk_finds_images_follows_links_and_names_those_that_lead_nowhere(data):
    files, problems = walk_files(data)
    assert files == ["4.tiff", "a/1.svs", "a/2.SVS", "a/b/3.png", "a/b/7.svs", "linked/6.svs"]
    assert [path for path, _ in problems] == ["a/b/up", "a/gone.svs", "a/self.svs"]
    assert ["loop" in reason for _, reason in problems] == [True, False, True]
    assert walk_files(data, "a/b")[0] == ["a/b/3.png", "a/b/7.svs"]
    assert walk_files(data, "", (".txt",))[0] == ["a/notes.txt"]
    assert walk_files(data, depth=0) == (["4.tiff"], [])
    assert walk_files(data, depth=1)[0] == ["4.tiff", "a/1.svs", "a/2.SVS", "linked/6.svs"]
    assert walk_files(data, "absent") == ([], [])


def test_outputs_of_runs_below_the_data_are_no_data(data):
    start_list(data / "a" / "b")
    start_list(data / "4.out")
    (data / "4.out" / "patches").mkdir()
    (data / "4.out" / "patches" / "1.png").touch()
    assert walk_files(data)[0] == ["4.tiff", "a/1.svs", "a/2.SVS", "linked/6.svs"]
    # where the data are what a run made
    assert "b/3.png" in walk_files(data / "a", "b")[0]


def test_folders_that_link_to_each_other_crosswise_end(tmp_path):
    names = [f"f{number}" for number in range(7)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "own.svs").touch()
        for other in names:
            if other != name:
                (tmp_path / name / other).symlink_to(tmp_path / other, target_is_directory=True)
    files, problems = walk_files(tmp_path)
    assert {f"{name}/own.svs" for name in names} <= set(files) and len(files) < 100
    assert problems and {reason for _, reason in problems} == {"a loop of symbolic links"}


def test_a_walk_is_bounded(tmp_path, monkeypatch):
    (tmp_path / "/".join("abcdef")).mkdir(parents=True)
    monkeypatch.setattr(files_module, "MAX_DEPTH", 3)
    assert walk_files(tmp_path)[1] == [("a/b/c/d", "not searched: below 3 others")]
    monkeypatch.setattr(files_module, "MAX_FOLDERS", 2)
    assert walk_files(tmp_path)[1] == [("a/b", "not searched: more than 2 folders")]


def test_absence_is_that_of_each_file_alone_with_a_reason(data):
    present = ["a/1.svs", "a/2.SVS", "a/b/7.svs", "linked/6.svs", "4.tiff", "a/b/up/1.svs", "a/.hidden.svs"]
    absent = {
        "a/9.svs": "file not found",
        "no/9.svs": "file not found",
        "a/1.svs/x.svs": "file not found",
        "a/self.svs": "a loop of symbolic links",
        "a/self.svs/x.svs": "a loop of symbolic links",
        "a/gone.svs": "a broken symbolic link",
        "a/folder.svs": "a folder, not a file",
        "a/\0.svs": "not a valid file name",
        "a/" + 300 * "x": "cannot be opened: File name too long",
    }
    paths = pd.Series([*present, *absent, "a/9.svs"], dtype="str")
    paths.index = random.Random(0).sample(range(100), len(paths))
    reasons = absent_files(paths, data)
    assert reasons.index.tolist() == paths.index.tolist()
    assert reasons.tolist() == [""] * len(present) + [*absent.values(), "file not found"]
    whole = absent_files(pd.Series(present), data)
    assert whole.tolist() == [""] * len(present)


def test_paths_inside_the_root_take_their_shortest_form(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "link").symlink_to("root", target_is_directory=True)
    inside = {
        "a.png": "a.png",
        "./a.png": "a.png",
        "b//../a.png": "a.png",
        "b/./a..png": "b/a..png",
        f"{tmp_path}/root/b/a.png": "b/a.png",
        ".hidden/a": ".hidden/a",
        "..a/b": "..a/b",
    }
    outside = ["../a.png", "b/../../a.png", "/etc/passwd", f"{tmp_path}/rooted/a.png", "..", ".", "/"]
    paths, leaves = inside_paths(pd.Series([*inside, *outside], dtype="str"), tmp_path / "root")
    assert paths.tolist() == [*inside.values(), *outside]
    assert leaves.tolist() == [False] * len(inside) + [True] * len(outside)
    # a root given by way of a link takes the absolute paths of both names
    names = pd.Series([f"{tmp_path}/root/a", f"{tmp_path}/link/a"])
    assert inside_paths(names, tmp_path / "link")[0].tolist() == ["a", "a"]


def test_random_paths_leave_the_root_just_when_the_operating_system_says_so(tmp_path):
    draw = random.Random(0)
    texts = ["/".join(draw.choices(["..", ".", "", "a", "b"], k=draw.randrange(1, 7))) for _ in range(300)]
    texts = [text for text in texts if not text.startswith("/")]
    root = tmp_path / "r"
    paths, leaves = inside_paths(pd.Series(texts, dtype="str"), root)
    for text, path, left in zip(texts, paths, leaves):
        whole = os.path.normpath(os.path.join(root, text))
        assert left == (not whole.startswith(f"{root}/")), text
        assert left or os.path.join(root, path) == whole


def test_a_folder_is_listed_by_name_with_the_kind_of_each_entry(data):
    entries = {entry.name: (entry.kind, entry.linked) for entry in scan_folder(data, "a")}
    assert list(entries) == sorted(entries)
    assert entries["1.svs"] == ("file", False) and entries["folder.svs"] == ("folder", False)
    assert entries["self.svs"] == ("other", True)
    assert {entry.name: entry.kind for entry in scan_folder(data, "a/b")}["up"] == "other"


def test_paths_of_another_computer_are_found_by_their_ends(tmp_path):
    files = ["scans/1.svs", "2.svs", "a\\b.svs"]
    paths = [r"D:\Study\scans\1.svs", "/mnt/nas/study/scans/1.svs", r"\\nas\x\2.svs", r"scans\1.svs"]
    others = ["scans/1.svs", "../2.svs", r"D:\absent.svs", "/absent.svs", "a\\b.svs"]
    assert local_paths(pd.Series([*paths, *others]), files) == {
        paths[0]: "scans/1.svs", paths[1]: "scans/1.svs", paths[2]: "2.svs", paths[3]: "scans/1.svs"
    }  # fmt: skip
    # a file that exists is not replaced by another of its name
    (tmp_path / "2.svs").touch()
    assert local_paths(pd.Series([str(tmp_path / "2.svs")]), files) == {}

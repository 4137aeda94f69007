import json

from medi_monai.utils.files import atomic_path, file_fingerprint, write_json
from medi_monai.utils.written import FILE_LIST, enter_written, read_written, start_list


def test_what_is_written_below_a_folder_with_a_list_is_entered_before_it_has_its_name(tmp_path):
    write_json(tmp_path / "before.json", {})
    assert read_written(tmp_path) is None and not (tmp_path / FILE_LIST).exists()
    start_list(tmp_path / "run")
    assert read_written(tmp_path / "run") == {}
    target = tmp_path / "run" / "a b" / "x.json"
    write_json(target, {"ä": 1})
    first = file_fingerprint(target)
    assert read_written(tmp_path / "run") == {"a b/x.json": {first}}
    write_json(target, {"ä": 2})
    assert read_written(tmp_path / "run") == {"a b/x.json": {first, file_fingerprint(target)}}
    start_list(tmp_path / "run")
    assert len(read_written(tmp_path / "run")["a b/x.json"]) == 2


def test_the_nearest_list_is_taken_also_for_relative_paths(tmp_path, monkeypatch):
    start_list(tmp_path)
    start_list(tmp_path / "stage")
    monkeypatch.chdir(tmp_path / "stage")
    with atomic_path("x.txt") as path:
        path.write_text("x")
        assert read_written(tmp_path / "stage") == {}
    assert set(read_written(tmp_path / "stage")) == {"x.txt"} and read_written(tmp_path) == {}


def test_a_line_that_was_cut_off_spoils_only_itself(tmp_path):
    start_list(tmp_path)
    for name in ("1", "2"):
        enter_written(tmp_path / name, lambda: "f")
    path = tmp_path / FILE_LIST
    path.write_bytes(path.read_bytes()[:-3])
    enter_written(tmp_path / "3", lambda: "f")
    assert read_written(tmp_path) == {"1": {"f"}, "3": {"f"}}
    path.write_bytes(path.read_bytes() + b"5\n{}\n\xff\n" + json.dumps(["4", "g"]).encode())
    assert read_written(tmp_path) == {"1": {"f"}, "3": {"f"}, "4": {"g"}}

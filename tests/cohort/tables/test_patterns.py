import fnmatch
import random

import pandas as pd
import pytest

from medi_monai.cohort.tables.patterns import fill_pattern, match_files, pattern_fields, static_folder
from medi_monai.utils.errors import InputError


def test_fields_and_folder_of_a_pattern():
    assert pattern_fields("slides/*/{slides.id}.{n}.svs") == ["slides.id", "n"]
    assert static_folder("slides/*/{a}.svs") == "slides" and static_folder("a/b/x{a}.svs") == "a/b"
    assert static_folder("{a}/x.svs") == static_folder("*.{a}") == static_folder("x{a}") == ""
    for pattern in ("", "plain.svs", "{a", "a}{b}"):
        with pytest.raises(InputError, match="braces"):
            pattern_fields(pattern)


def test_filling_equals_that_of_each_row():
    table = pd.DataFrame({"a.b": ["x", "01", "NA"], "c": ["1", "", "*"]}, index=[7, 3, 5], dtype="str")
    filled = fill_pattern("p/{a.b}/{c}-{a.b}.svs", table)
    assert filled.index.tolist() == [7, 3, 5]
    assert filled.tolist() == ["p/x/1-x.svs", "p/01/-01.svs", "p/NA/*-NA.svs"]


FILES = ["d/u1/A-1.aa.svs", "d/u2/A-10.bb.svs", "d/u3/B-1.cc.svs", "d/u3/B-1.dd.svs", "d/A-1.svs", "d/u4/C*1.ee.svs"]


def match(pattern, cells, files=FILES):
    table = pd.DataFrame({"s": pd.Series(cells, dtype="str")})
    paths, problems = match_files(fill_pattern(pattern, table), files)
    return paths.tolist(), problems.tolist()


def test_one_match_is_the_file_and_none_or_several_are_problems():
    paths, problems = match("d/*/{s}.*.svs", ["A-1", "B-1", "X", "A-1"])
    assert paths == ["d/u1/A-1.aa.svs", "d/*/B-1.*.svs", "d/*/X.*.svs", "d/u1/A-1.aa.svs"]
    assert problems[0] == problems[3] == "" and problems[2] == "no file matches d/*/X.*.svs"
    assert problems[1] == "2 files match d/*/B-1.*.svs: d/u3/B-1.cc.svs, d/u3/B-1.dd.svs …"


def test_characters_beyond_the_alphabet_are_characters():
    assert match("d/{s}*", ["A", "é"], ["d/A~1.svs", "d/é\U0001f600.svs"])[0] == ["d/A~1.svs", "d/é\U0001f600.svs"]


def test_a_star_matches_no_slash_and_one_in_a_cell_itself():
    assert match("d/*{s}.svs", ["A-1"])[0] == ["d/A-1.svs"]
    assert match("d/*/{s}.*.svs", ["C*1", "B*1"])[0] == ["d/u4/C*1.ee.svs", "d/*/B*1.*.svs"]
    assert match("d/*/{s}", ["(A)+.x"], ["d/q/(A)+.x", "d/q/AAx"])[0] == ["d/q/(A)+.x"]


@pytest.mark.parametrize("pattern", ["*/{s}*", "*/*{s}", "{s}/*", "*/{s}.*.svs", "*/x*{s}*y", "{s}*/*"])
def test_matches_of_random_names_equal_those_of_every_pair(pattern):
    draw = random.Random(0)

    def name(length):
        return "".join(draw.choices("abxy.", k=length))

    files = sorted({f"{name(2)}/{name(draw.randrange(1, 6))}" for _ in range(150)} | {"ab/ab.x.svs", "ab/xaby"})
    cells = [name(draw.randrange(1, 3)) for _ in range(60)] + ["ab", "zz"]
    paths, problems = match(pattern, cells, files)
    for cell, path, problem in zip(cells, paths, problems):
        whole = pattern.replace("{s}", cell)
        folder, base = whole.split("/")
        components = [file.split("/") for file in files]
        expected = [
            "/".join(names)
            for names in components
            if fnmatch.fnmatchcase(names[0], folder) and fnmatch.fnmatchcase(names[1], base)
        ]
        assert (path == expected[0] and problem == "") if len(expected) == 1 else path == whole
        assert len(expected) < 2 or problem.startswith(f"{len(expected)} files match {whole}: {expected[0]}, ")
        assert expected or problem == f"no file matches {whole}"


def test_ten_thousand_slides_are_matched_within_seconds():
    files = [f"u{number:05d}/TCGA-{number:05d}.x.svs" for number in range(10_000)]
    paths, problems = match("*/{s}.*.svs", [f"TCGA-{number:05d}" for number in range(10_000)], files)
    assert paths == files and set(problems) == {""}

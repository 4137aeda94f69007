"""What is wrong with rows of a table, and files that no row names."""

import os
import random
from collections import Counter

import pandas as pd
import pytest

from medi_monai.cohort import ImageTable
from medi_monai.cohort.captions import CaptionTable
from medi_monai.schema import MISSING_WORDS
from medi_monai.utils.errors import InputError


def write(folder, content, name="slides.csv"):
    pd.DataFrame(content).to_csv(folder / name, index=False)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def hard_table(folder):
    """One row for each thing that can be wrong, between rows that are right; and files that no row names."""
    touch(
        folder, *(f"slides/{name}.png" for name in ("good", "twice", "same1", "same2", "mpp", "label", "age", "extra"))
    )
    touch(folder, "slides/.hidden.png", "slides/notes.txt", "patches/cut.png")
    (folder / "slides" / "loop.png").symlink_to("loop.png")
    (folder / "slides" / "round").symlink_to("..", target_is_directory=True)
    (folder / "slides" / "gone.png").symlink_to("nowhere.png")
    rows = [
        ("slides/good.png", "good", "P1", "A", "0.5", "61"),
        ("../out.png", "out", "P1", "A", "0.5", "61"),
        ("/etc/passwd", "absolute", "P1", "A", "0.5", "61"),
        ("slides/twice.png", "t1", "P1", "A", "0.5", "61"),
        ("slides/../slides/./twice.png", "t2", "P1", "A", "0.5", "61"),
        ("slides/absent.png", "absent", "P1", "A", "0.5", "61"),
        ("slides/loop.png", "loop", "P1", "A", "0.5", "61"),
        ("slides/gone.png", "gone", "P1", "A", "0.5", "61"),
        ("slides", "folder", "P1", "A", "0.5", "61"),
        ("slides/same1.png", "same", "P1", "A", "0.5", "61"),
        ("slides/same2.png", "same", "P1", "A", "0.5", "61"),
        ("slides/mpp.png", "mpp", "P1", "A", "40x", "61"),
        ("slides/label.png", "label", "P1", "'--", "0.5", "61"),
        ("slides/age.png", "age", "P1", "A", "0.5", "-2"),
        ("", "nameless", "P1", "A", "0.5", "61"),
        ("slides/good.png/", "patientless", "'--", "A", "0", "-2"),
    ]
    table = pd.DataFrame(rows[:-1], columns=["image", "slide", "patient", "tumor", "mpp", "age"])
    table.to_csv(folder / "t.csv", index=False)
    return ImageTable(folder, "t.csv", "tumor", ["age"], {"mpp": "mpp"}, mapping={"age": {"bins": "decades"}})


def test_each_thing_that_is_wrong_with_a_row_is_one_line_and_the_others_are_fine(tmp_path):
    (tmp_path / "root").mkdir()
    rows = hard_table(tmp_path / "root").rows()
    assert dict(zip(rows["slide"], rows["problem"])) == {
        "good": "",
        "out": "the path is outside the folder of the data set",
        "absolute": "the path is outside the folder of the data set",
        "t1": "several rows of the table name this image, with different slide",
        "t2": "several rows of the table name this image, with different slide",
        "absent": "file not found",
        "loop": "a loop of symbolic links",
        "gone": "a broken symbolic link",
        "folder": "a folder, not a file",
        "same": "slide 'same' is the name of several images",
        "mpp": "'40x' microns per pixel is not a positive number, such as 0.25",
        "label": 'no tumor: "\'--" means missing data; to keep it, rename it in `mapping`, or set the words in '
        "`missing`",
        "age": "",
        "nameless": "no image, which the path of the image requires",
    }
    assert (rows["slide"] == "same").sum() == 2 and len(rows) == 15


def test_what_no_row_names_is_listed_with_links_that_lead_nowhere(tmp_path):
    (tmp_path / "root").mkdir()
    table = hard_table(tmp_path / "root")
    unnamed = dict(table.files_without_row(table.rows()))
    # of the links, gone.png and loop.png have rows of their own; patches/ is no folder of the rows' images
    assert sorted(unnamed) == ["slides/extra.png", "slides/round"]
    assert unnamed["slides/extra.png"] == "no row of the table names this file" and "loop" in unnamed["slides/round"]


def test_files_without_a_row_are_sought_beside_images_that_lie_in_the_root(tmp_path):
    touch(tmp_path, "a.png", "b.png", "more/c.png", "output/patches/d.png", "more/e.png")
    write(tmp_path, {"image": ["a.png", "more/c.png"], "slide": ["a", "c"], "patient": ["p", "q"], "tumor": ["x", "y"]})
    table = ImageTable(tmp_path, "slides.csv", "tumor")
    assert [path for path, _ in table.files_without_row(table.rows())] == ["b.png", "more/e.png"]


def test_files_of_a_dicom_slide_that_has_a_row_are_no_strays(tmp_path):
    touch(tmp_path, "slides/A/1.dcm", "slides/A/2.dcm", "slides/B/1.dcm")
    write(tmp_path, {"image": ["slides/A/1.dcm"], "slide": ["A"], "patient": ["p"], "tumor": ["x"]})
    table = ImageTable(tmp_path, "slides.csv", "tumor")
    assert [path for path, _ in table.files_without_row(table.rows())] == ["slides/B/1.dcm"]


def test_tiles_and_patches_share_slides_and_slides_do_not(tmp_path):
    cells = {"image": ["a.png", "b.png"], "slide": ["s", "s"], "patient": ["p", "p"], "tumor": ["x", "x"]}
    write(tmp_path, cells)
    for unit, wrong in (("slides", 2), ("tiles", 0), ("patches", 0)):
        rows = ImageTable(tmp_path, "slides.csv", "tumor", unit=unit).rows(check_files=False)
        assert (rows["problem"] != "").sum() == wrong


def brute_rows(table, root, unit):
    """Every row by itself, in words as plain as possible."""
    empty = {"", *MISSING_WORDS}
    cells = [
        {name: "" if cell.strip().lower() in empty else cell.strip() for name, cell in row.items()} for row in table
    ]
    paths = []
    for row in table:
        path = f"im/{row['name']}.png"
        whole = os.path.normpath(os.path.join(root, path))
        paths.append(os.path.relpath(whole, root) if whole.startswith(f"{root}/") else None)
    counts = Counter(paths)
    images = {}
    for row, path in zip(cells, paths):
        images.setdefault(row["slide"], set()).add(path)
    rows = []
    for row, path in zip(cells, paths):
        if row["name"] == "":
            problem = "no name"
        elif path is None:
            problem = "the path is outside"
        elif counts[path] > 1:
            problem = "several rows"
        elif not os.path.isfile(os.path.join(root, path)):
            problem = "file not found"
        elif unit == "slides" and row["slide"] and len(images[row["slide"]]) > 1:
            problem = "slide"
        elif row["mpp"] and not row["mpp"].replace(".", "").isdigit():
            problem = repr(row["mpp"])
        else:
            problem = next((f"no {name}" for name in ("tumor", "patient", "slide") if not row[name]), "")
        rows.append((path, row["slide"], row["patient"], row["mpp"], row["tumor"], row["race"], problem))
    return rows


@pytest.mark.parametrize("unit", ["slides", "patches"])
@pytest.mark.parametrize("seed", range(4))
def test_random_tables_equal_a_loop_over_their_rows(tmp_path, seed, unit):
    draw = random.Random(seed)
    files = [str(number) for number in range(60)]
    touch(tmp_path, *(f"im/{name}.png" for name in files[:50]))
    table = [
        {
            "name": draw.choice(
                [*files, *files, f"../im/{draw.choice(files)}", "../../out", "", "'--", f"./{number}x"]
            ),
            "slide": draw.choice([f"s{number}", f"s{number}", f"s{number}", f"s{draw.randrange(80)}", "--"]),
            "patient": draw.choice(["p1", "p2", " p3", "p4", "Unknown"]),
            "tumor": draw.choice(["A", "B", "NA", "01", "not reported"]),
            "race": draw.choice(["white", " asian ", "'--", ""]),
            "mpp": draw.choice(["0.5", "0.25", "", "'--", "40x"]),
        }
        for number in range(80)
    ]
    write(tmp_path, table, "t.csv")
    columns = {"image": "im/{name}.png", "mpp": "mpp"}
    rows = ImageTable(tmp_path, "t.csv", "tumor", ["race"], columns, unit=unit).rows()
    expected = brute_rows(table, str(tmp_path), unit)
    assert rows["image"].is_monotonic_increasing and sorted(rows["row"]) == list(range(80))
    kinds = set()
    for row in rows.itertuples(index=False):
        path, slide, patient, mpp, tumor, race, problem = expected[row.row]
        assert (row.slide, row.patient, row.mpp, row.tumor, row.race) == (slide, patient, mpp, tumor, race)
        assert path is None or row.image == path
        assert row.problem.startswith(problem) and bool(row.problem) == bool(problem), (row, problem)
        kinds.add(problem[:6])
    assert len(kinds) >= 7  # the draw holds most kinds of problems


@pytest.mark.parametrize("value", [False, True, ["a"], {"a": 1}])
def test_a_role_that_yaml_made_no_name_of_is_refused(tmp_path, value):
    for make in (ImageTable, CaptionTable):
        given = {"label": "tumor"} if make is ImageTable else {"templates": [{"text": "x"}]}
        with pytest.raises(InputError, match=r"columns: \{patient: .* is not the name of a column.*null"):
            make(tmp_path, "t.csv", columns={"patient": value}, **given)


def test_rows_may_name_files_by_paths_of_another_computer(tmp_path, capsys):
    touch(tmp_path, "scans/1.svs", "scans/2.svs")
    paths = [r"D:\Study\scans\1.svs", "/mnt/study/scans/2.svs", r"D:\Study\scans\3.svs", "/mnt/study/4.svs"]
    write(tmp_path, {"image": paths, "slide": list("abcd"), "patient": list("abcd"), "tumor": "x"})
    rows = ImageTable(tmp_path, "slides.csv", "tumor").rows().set_index("slide")
    assert rows["image"][["a", "b"]].tolist() == ["scans/1.svs", "scans/2.svs"]
    problems = ["", "", "file not found", "the path is outside the folder of the data set"]
    assert rows["problem"].sort_index().tolist() == problems
    assert "2 rows name files by paths of another computer" in capsys.readouterr().out

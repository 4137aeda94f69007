import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medi_monai.cohort import ImageTable
from medi_monai.cohort.settings import CohortSettings, patch_preparation
from medi_monai.cohort.tables import list_folders
from medi_monai.utils.errors import InputError

PATTERN = "{diagnosis}/{center}/{patient}_*.png"


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


@pytest.fixture
def root(tmp_path):
    touch(tmp_path, "LUAD/Aspen/p1_0.png", "LUAD/Aspen/p1_1.PNG", "LUSC/Birch Hill/p2_a_b.png", "LUSC/Aspen/readme.txt")
    touch(tmp_path, "LUSC/Aspen/p3.png", "top.png", ".hidden/x/p_1.png")
    return tmp_path


def test_a_pattern_makes_the_table(root):
    table, strays = list_folders(root, PATTERN)
    assert table.to_dict("list") == {
        "image": ["LUAD/Aspen/p1_0.png", "LUAD/Aspen/p1_1.PNG", "LUSC/Birch Hill/p2_a_b.png"],
        "diagnosis": ["LUAD", "LUAD", "LUSC"],
        "center": ["Aspen", "Aspen", "Birch Hill"],
        "patient": ["p1", "p1", "p2"],
    }
    assert strays == [("LUSC/Aspen/p3.png", f"does not fit {PATTERN}"), ("top.png", f"does not fit {PATTERN}")]


def test_folders_before_the_columns_and_a_column_named_twice(tmp_path):
    touch(tmp_path, "data/A/A-1.jpg", "data/A/B-1.jpg", "other/A/A-2.jpg")
    table, strays = list_folders(tmp_path, "data/{class}/{class}-{patient}.jpg")
    assert table.to_dict("list") == {"image": ["data/A/A-1.jpg"], "class": ["A"], "patient": ["1"]}
    assert [path for path, _ in strays] == ["data/A/B-1.jpg"]


def test_values_are_in_composed_form_and_paths_as_the_disk_has_them(tmp_path):
    name = unicodedata.normalize("NFD", "Köln")
    touch(tmp_path, f"A/{name}/p_1.png", "A/Köln/q_1.png")
    table, _ = list_folders(tmp_path, PATTERN)
    assert set(table["center"]) == {"Köln"} and f"A/{name}/p_1.png" in set(table["image"])


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("{a}/{b}/{c}/{d}.png", "no image in .* fits.*5 images at depth 1 and 3, such as 'LUAD/Aspen/p1_0.png'"),
        ("{a}/{b}/{c}.jpg", "no image in .* fits.*5 images at depth 1 and 3, such as 'LUAD/Aspen/p1_0.png'"),
        ("absent/{c}.jpg", "there is no image at all"),
        ("{a}/{image}.png", "`image` is the path itself"),
        ("{a/b.png", "write columns in braces"),
    ],
)
def test_a_pattern_that_cannot_be_used_says_what_there_is(root, pattern, says):
    with pytest.raises(InputError, match=says):
        list_folders(root, pattern)


NAME = st.text("abAB01-", min_size=1, max_size=4)


@given(st.lists(st.tuples(NAME, NAME, NAME), min_size=1, max_size=6, unique=True))
def test_what_a_pattern_is_filled_with_is_read_again(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("f")
    touch(root, *(f"{label}/{center}/{patient}_1.png" for label, center, patient in rows))
    table, strays = list_folders(root, PATTERN)
    assert sorted(table[["diagnosis", "center", "patient"]].itertuples(index=False, name=None)) == sorted(rows)
    assert strays == []


def test_rows_of_folders_need_no_other_setting(root, capsys):
    source = ImageTable(root, PATTERN, "diagnosis", ["center"], unit="patches")
    rows = source.rows()
    assert rows["slide"].tolist() == rows["image"].tolist() and rows["patient"].tolist() == ["p1", "p1", "p2"]
    assert (rows["problem"] == "").all() and list(rows)[:4] == ["image", "slide", "patient", "mpp"]
    assert [path for path, _ in source.files_without_row(rows)] == ["LUSC/Aspen/p3.png", "top.png"]
    digest = source.settings()["table_sha256"]
    touch(root, "LUSC/Aspen/p9_1.png")
    assert source.settings()["table_sha256"] != digest and "patients are unknown" not in capsys.readouterr().out
    settings = CohortSettings(
        dataset_dir=str(root), table=PATTERN, label="diagnosis", subpopulation_columns=["diagnosis", "center"]
    )
    assert patch_preparation(settings).source.columns == {}


def test_unknown_patients_have_to_be_said_and_are_told(root, capsys):
    pattern = "{diagnosis}/{center}/*.png"
    with pytest.raises(InputError, match=re.escape("names no {patient}, and patients decide the split")):
        ImageTable(root, pattern, "diagnosis", unit="patches").rows()
    rows = ImageTable(root, pattern, "diagnosis", columns={"patient": None}, unit="patches").rows()
    assert rows["patient"].tolist() == rows["image"].tolist() and len(rows) == 4
    assert "patients are unknown: each image counts as a patient of its own" in capsys.readouterr().out
    slides = ImageTable(root, "{diagnosis}/{slide}/*.png", "diagnosis", columns={"patient": None}, unit="tiles").rows()
    assert set(slides["patient"]) == {"Aspen", "Birch Hill"}
    assert "each slide counts as a patient" in capsys.readouterr().out

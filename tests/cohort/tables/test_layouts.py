import os

import pandas as pd
import pytest

from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.tables import TableSpec
from medi_monai.utils.errors import InputError

SLIDE = "TCGA-NA-A4QV-01Z-00-DX1"


@pytest.fixture
def data(tmp_path):
    """A tree of TCGA-UT, a plain table, slide and clinical exports of the GDC."""
    folder = tmp_path / "tree" / "UCS" / SLIDE
    folder.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "x.txt"):
        (folder / name).touch()
    pd.DataFrame({"image": ["b", "a"], "n": ["NA", "01"]}).to_csv(tmp_path / "t.csv", index=False)
    slides = {
        "cases.submitter_id": ["TCGA-NA-A4QV"],
        "slides.submitter_id": [SLIDE],
        "project.project_id": ["TCGA-UCS"],
    }
    pd.DataFrame(slides).to_csv(tmp_path / "slide.tsv", sep="\t", index=False)
    clinical = {"cases.submitter_id": ["TCGA-NA-A4QV"] * 2, "demographic.race": ["white", "'--"], "more": ["a", "b"]}
    pd.DataFrame(clinical).to_csv(tmp_path / "clinical.tsv", sep="\t", index=False)
    return tmp_path


def test_a_plain_table_keeps_its_order_and_its_cells(data):
    content = TableSpec.from_setting("t.csv").read(data, {"image": "columns"})
    assert content.table.to_dict("list") == {"image": ["b", "a"], "n": ["NA", "01"]}
    assert TableSpec.from_setting(data / "t.csv").read("/", {}).table.shape == (2, 2)


def test_tables_of_the_gdc_are_joined_as_far_as_needed(data):
    spec = TableSpec.from_setting({"layout": "gdc", "path": "slide.tsv", "clinical": "clinical.tsv"})
    content = spec.read(data, {"race": "metadata_columns", "project_id": "label"})
    row = content.table.iloc[0]
    assert (row["race"], row["project_id"], row["tissue_source_site"]) == ("white", "TCGA-UCS", "NA")
    assert "more" not in content.table and content.notes == []
    assert len(spec.read(data, {"more": "label"}).notes) == 1


def test_a_tree_is_a_table_joined_to_its_patients(data):
    setting = {"layout": "tcga_ut", "path": "tree", "clinical": "clinical.tsv"}
    content = TableSpec.from_setting(setting).read(data, {"race": "metadata_columns"})
    assert content.table["image"].tolist() == [f"tree/UCS/{SLIDE}/a.jpg", f"tree/UCS/{SLIDE}/b.jpg"]
    assert content.table["race"].tolist() == ["white", "white"]
    assert [path for path, _ in content.strays] == [f"tree/UCS/{SLIDE}/x.txt"]
    below = TableSpec.from_setting({"layout": "tcga_ut"}).read(data / "tree", {})
    assert below.table["image"].tolist() == [f"UCS/{SLIDE}/a.jpg", f"UCS/{SLIDE}/b.jpg"]


def test_a_column_of_neither_table_is_named_with_the_nearest_of_both(data):
    spec = TableSpec.from_setting({"layout": "gdc", "path": "slide.tsv", "clinical": "clinical.tsv"})
    with pytest.raises(InputError, match="'rase'.*did you mean 'race'.*metadata_columns` expects it in .*clinical.tsv"):
        spec.read(data, {"rase": "metadata_columns"})


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"layout": "gcd", "path": "x"}, "did you mean 'gdc'"),
        ({"layuot": "gdc", "path": "x"}, "did you mean 'layout'"),
        ({"layout": "gdc"}, "`path` is missing"),
        ({"path": "x", "clinical": "y"}, "set layout: gdc"),
        ({"path": "x", "level": "0"}, "tcga_ut"),
        ({"layout": "folders", "path": "{patient}.png", "clinical": "y"}, "`key` is the column of patients.*give both"),
        ({"layout": "dicom", "key": "y"}, "`key` is the column of patients.*give both"),
        (3, "must be a path"),
    ],
)
def test_a_setting_that_is_wrong_is_refused(setting, says):
    with pytest.raises(InputError, match=says):
        TableSpec.from_setting(setting)


def test_what_is_not_there_is_named(data):
    os.mkfifo(data / "pipe.csv")
    for setting, says in (
        ("pipe.csv", "pipe.csv is a pipe and not a regular file"),
        ({"layout": "gdc", "path": "slide.tsv", "clinical": "pipe.csv"}, "pipe.csv is a pipe and not a regular file"),
        ("absent.csv", "table not found: .*absent.csv"),
        ({"layout": "tcga_ut", "path": "absent"}, ".*not found: .*absent"),
        ({"layout": "gdc", "path": "slide.tsv", "clinical": "absent.tsv"}, "clinical table not found: .*absent.tsv"),
    ):
        for use in (lambda spec: spec.read(data, {}), lambda spec: spec.digest(data)):
            with pytest.raises(InputError, match=says):
                use(TableSpec.from_setting(setting))


def test_a_table_in_the_current_folder_is_pointed_out(data, monkeypatch, tmp_path):
    monkeypatch.chdir(data)
    for name, says in (
        ("slide.tsv", "It is in the current folder: --dataset_dir . finds it"),
        ("gone.csv", "Check both"),
    ):
        with pytest.raises(InputError, match=f"table not found: .*{name}.*{says}"):
            TableSpec.from_setting(name).read(tmp_path / "other", {})


def test_the_digest_is_one_of_all_that_is_read(data):
    gdc = TableSpec.from_setting({"layout": "gdc", "path": "slide.tsv", "clinical": "clinical.tsv"})
    tree = TableSpec.from_setting({"layout": "tcga_ut", "path": "tree", "level": None})
    before = gdc.digest(data), tree.digest(data)
    os.utime(data / "slide.tsv")
    (data / "tree" / "UCS" / SLIDE / "y.txt").touch()
    assert (gdc.digest(data), tree.digest(data)) == before
    with open(data / "clinical.tsv", "a") as file:
        file.write("TCGA-NA-A4QV\tasian\tc\n")
    (data / "tree" / "UCS" / SLIDE / "c.jpg").touch()
    assert gdc.digest(data) != before[0] and tree.digest(data) != before[1]


def test_images_of_folders_get_the_columns_of_a_table_of_patients(tmp_path):
    for name in ("P1_1.png", "P1_2.png", "p2_1.png", "P9_1.png"):
        (tmp_path / "A").mkdir(exist_ok=True)
        (tmp_path / "A" / name).touch()
    rows = [("P1", "F", "61", "none", "x"), ("P1", "F", "62", "none", "y"), ("P2 ", "k.A.", "70", "T2", "z")]
    table = pd.DataFrame(rows, columns=["Pat.-Nr.", "Geschlecht", "Alter", "stage", "center"])
    table.to_csv(tmp_path / "t.csv", sep=";", index=False, encoding="cp1252")
    setting = {"layout": "folders", "path": "{center}/{patient}_*.png", "clinical": "t.csv", "key": "Pat.-Nr."}
    spec = TableSpec.from_setting({**setting, "encoding": "cp1252"})
    needed = dict.fromkeys(["patient", "center", "Geschlecht", "Alter", "stage"], "columns")
    content = spec.read(tmp_path, needed, ["k.A.", "none"], {"stage": {"none"}})
    read = content.table.set_index("image")
    assert read.index.tolist() == ["A/P1_1.png", "A/P1_2.png", "A/P9_1.png", "A/p2_1.png"]
    assert read["patient"].tolist() == ["P1", "P1", "P9", "p2"] and set(read["center"]) == {"A"}
    assert read["Geschlecht"].tolist() == ["F", "F", "", ""] and read["stage"].tolist() == ["none", "none", "", "T2"]
    # two ages of one patient: none of them
    assert read["Alter"].tolist() == ["", "", "", "70"]
    assert any("lacks 1 cases, first 'P9'" in note for note in content.notes)
    assert any("several values for one case, treated as missing: Alter" in note for note in content.notes)
    with pytest.raises(InputError, match="unknown column 'Nr'.*`key` expects it in"):
        TableSpec.from_setting({**setting, "key": "Nr"}).read(tmp_path, {})
    with pytest.raises(InputError, match=r"has no \{patient\}"):
        TableSpec.from_setting({**setting, "path": "{center}/*.png"}).read(tmp_path, {})
    digest = spec.digest(tmp_path)
    table.head(2).to_csv(tmp_path / "t.csv", index=False)
    assert spec.digest(tmp_path) != digest
    rows = ImageTable(tmp_path, setting, "stage", ["center"], unit="patches", missing=[]).rows()
    assert rows.loc[rows["problem"] == "", "stage"].tolist() == ["none", "none"]

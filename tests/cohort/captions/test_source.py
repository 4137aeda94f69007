from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from medi_monai.cohort.captions import CaptionTable
from medi_monai.cohort.captions.roco import article_of, find_roco
from medi_monai.cohort.volumes import FILE, SERIES, SLICE
from medi_monai.utils.errors import InputError

TABLE = {
    "image": ["slices/b_1.png", "slices/a_1.png", "slices/a_2.png", "slices/c_1.png"],
    "patient": ["B", "A", "A", "C"],
    "sex": ["female", "male", "male", "'--"],
    "age": ["80", "31", "31", ""],
    "text": [" a  slice of B\n", "A1", "A2", ""],
}
TEMPLATES = {
    "templates": ["slice of a {age:.0f}-year-old {sex}"],
    "words": {"sex": {"male": "man", "female": "woman"}},
}


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    pd.DataFrame(TABLE).to_csv(tmp_path / "slices.csv", index=False)
    for image in TABLE["image"]:
        picture(tmp_path / image)
    return tmp_path


def test_rows_with_a_caption_column(folder):
    rows = CaptionTable(folder, "slices.csv", ("sex",), {"caption": "text"}).rows()
    assert rows.to_dict("list") == {
        "image": ["slices/a_1.png", "slices/a_2.png", "slices/b_1.png", "slices/c_1.png"],
        "slide": ["slices/a_1.png", "slices/a_2.png", "slices/b_1.png", "slices/c_1.png"],
        "patient": ["A", "A", "B", "C"],
        "mpp": [""] * 4,
        "sex": ["male", "male", "female", ""],
        "caption": ["A1", "A2", "a slice of B", ""],
        "split": [""] * 4,
        FILE: ["slices/a_1.png", "slices/a_2.png", "slices/b_1.png", "slices/c_1.png"],
        SLICE: [""] * 4,
        SERIES: [""] * 4,
        "row": [1, 2, 0, 3],
        "problem": ["", "", "", "no caption"],
    }


def test_rows_with_templates(folder):
    rows = CaptionTable(folder, templates=TEMPLATES).rows()
    man, woman = "slice of a 31-year-old man", "slice of an 80-year-old woman"
    assert rows["caption"].tolist() == [man, man, woman, ""]
    assert rows["problem"].tolist() == ["", "", "", "no template fits a row without age, sex"]
    assert {"age", "sex"} <= set(rows)


def test_mapped_columns_fill_templates(folder):
    mapping = {"years": {"column": "age", "bins": [0, 50, 100]}, "sex": {"column": "sex", "rename": {"male": "M"}}}
    templates = ["{sex} of {years}", "a brain"]
    rows = CaptionTable(folder, attributes=("years",), templates=templates, mapping=mapping).rows()
    assert set(rows["caption"]) <= {"M of 0-49", "female of 50-99", "a brain"}
    assert rows["years"].tolist() == ["0-49", "0-49", "50-99", ""]


def test_captions_that_are_read_may_come_with_words(folder, capsys):
    pd.DataFrame(TABLE).assign(text="a man").to_csv(folder / "slices.csv", index=False)
    words = {"words": {"sex": {"male": ["man", "gentleman"], "femal": "woman"}}}
    source = CaptionTable(folder, attributes=("sex",), columns={"caption": "text"}, templates=words)
    rows = source.rows()
    assert set(rows["caption"]) == {"a man"} and "sex" in rows and source.metadata == ("sex",)
    assert "'femal' (did you mean 'female'?)" in capsys.readouterr().out
    with pytest.raises(InputError, match="column in `words` 'sexx'.*did you mean 'sex'"):
        wrong = {"words": {"sexx": {"male": "man"}}}
        CaptionTable(folder, columns={"caption": "text"}, templates=wrong).rows()


def test_roles(folder):
    columns = {"caption": "text", "patient": None, "slide": "patient", "image": "slices/{name}.png"}
    table = pd.DataFrame(TABLE).assign(name=["b_1", "a_1", "a_2", "c_1"])
    table.to_csv(folder / "slices.csv", index=False)
    rows = CaptionTable(folder, columns=columns).rows()
    assert rows["patient"].tolist() == rows["image"].tolist()
    assert rows["slide"].tolist() == ["A", "A", "B", "C"]


def test_problems_of_rows(folder):
    table = pd.DataFrame(TABLE)
    table.loc[4] = ["slices/d_1.png", "D", "", "", ""]
    picture(folder / "slices/d_1.png")
    table.loc[3, "image"] = "slices/gone.png"
    table.loc[0, "patient"] = ""
    table.loc[1, "image"] = table.loc[2, "image"]
    table.assign(text="x").to_csv(folder / "slices.csv", index=False)
    source = CaptionTable(folder, columns={"caption": "text"})
    problems = source.rows().set_index("row")["problem"].to_dict()
    assert problems == {
        0: "no patient",
        1: "",
        2: "the same as an earlier row of the table, which is used",
        3: "file not found",
        4: "",
    }
    strays = source.files_without_row(source.rows())
    assert [name for name, _ in strays] == ["slices/a_1.png", "slices/c_1.png"]


def test_a_split_of_the_table_keeps_patients_on_one_side(folder, capsys):
    table = pd.DataFrame(TABLE).assign(split=["valid", "train", "test", ""], text="x")
    table.to_csv(folder / "slices.csv", index=False)
    source = CaptionTable(folder, columns={"caption": "text", "split": "split"})
    assert source.comes_split
    rows = source.rows()
    assert dict(zip(rows["image"], rows["split"])) == {
        "slices/a_1.png": "excluded",
        "slices/a_2.png": "holdout",
        "slices/b_1.png": "val",
        "slices/c_1.png": "excluded",
    }
    assert "1 rows are excluded" in capsys.readouterr().out
    table.assign(split="trian").to_csv(folder / "slices.csv", index=False)
    with pytest.raises(InputError, match="'trian'.*did you mean 'train'"):
        source.rows()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "neither is"),
        ({"templates": ["a"], "columns": {"caption": "text"}}, "both are given"),
        ({"templates": {"words": {"sex": {"male": "man"}}}}, "neither is"),
        ({"templates": ["a"], "columns": {"imgae": "x"}}, "did you mean 'image'"),
        ({"templates": ["a"], "attributes": "sex"}, "lists of strings"),
        ({"templates": ["a"], "attributes": ["caption"]}, "rename it"),
        ({"templates": ["a {sex"]}, "not a valid format string"),
        ({"table": {"layout": "rocco"}}, "did you mean 'roco'"),
        ({"table": {"layout": "roco"}, "attributes": ["sex"]}, "has fixed columns"),
    ],
)
def test_settings_that_contradict_each_other_are_errors(settings, message):
    with pytest.raises(InputError, match=message):
        CaptionTable("x", **settings)


def test_columns_that_lack_are_errors(folder):
    with pytest.raises(InputError, match="'sexx' *: did you mean 'sex'|template.*'sexx'.*did you mean 'sex'"):
        CaptionTable(folder, templates=["a {sexx}"]).rows()
    with pytest.raises(InputError, match="'txt'.*did you mean 'text'"):
        CaptionTable(folder, columns={"caption": "txt"}).rows()
    with pytest.raises(InputError, match="not a folder"):
        CaptionTable(folder / "gone", columns={"caption": "text"}).rows()


def test_settings_change_with_the_table_and_the_templates(folder):
    first = CaptionTable(folder, templates=TEMPLATES).settings()
    assert CaptionTable(folder, templates=TEMPLATES).settings() == first
    assert CaptionTable(folder, templates={**TEMPLATES, "seed": 1}).settings() != first
    pd.DataFrame(TABLE).assign(more="1").to_csv(folder / "slices.csv", index=False)
    assert CaptionTable(folder, templates=TEMPLATES).settings() != first


def roco(root):
    tables = {"train/radiologytrain": ["PMC1_a.jpg", "PMC1_b.jpg", "PMC2_a.jpg"], "test/radiologytest": ["PMC1_c.jpg"]}
    for stem, names in tables.items():
        base = root / stem.split("/")[0]
        for name in names:
            picture(base / "radiology" / "images" / name)
        captions = [f" CT of {name}\n" for name in names]
        table = pd.DataFrame({"id": names, "name": names, "caption": captions})
        table.to_csv(root / f"{stem}data.csv", index=False)


def test_roco(tmp_path, capsys):
    roco(tmp_path / "all_data")
    rows = CaptionTable(tmp_path, {"layout": "roco", "path": "all_data"}).rows()
    read = rows[["image", "patient", "caption", "split", "problem"]].to_numpy().tolist()
    images = "radiology/images"
    assert read == [
        [f"all_data/test/{images}/PMC1_c.jpg", "PMC1", "CT of PMC1_c.jpg", "holdout", ""],
        [f"all_data/train/{images}/PMC1_a.jpg", "PMC1", "CT of PMC1_a.jpg", "excluded", ""],
        [f"all_data/train/{images}/PMC1_b.jpg", "PMC1", "CT of PMC1_b.jpg", "excluded", ""],
        [f"all_data/train/{images}/PMC2_a.jpg", "PMC2", "CT of PMC2_a.jpg", "train", ""],
    ]
    assert "2 rows are excluded" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["train/radiologytraindata.csv", "train"])
def test_one_part_of_roco_is_to_be_split(tmp_path, path):
    roco(tmp_path)
    source = CaptionTable(tmp_path, {"layout": "roco", "path": path})
    rows = source.rows()
    assert not source.comes_split and set(rows["split"]) == {""}
    assert rows["patient"].tolist() == ["PMC1", "PMC1", "PMC2"] and (rows["problem"] == "").all()


@pytest.mark.parametrize("below", ["train", "train_images/train", "train_images"])
def test_rocov2(tmp_path, below):
    for number in (1, 2):
        picture(tmp_path / below / f"ROCOv2_2023_train_00000{number}.jpg")
    names = [f"ROCOv2_2023_train_00000{number}" for number in (2, 1, 3)]
    pd.DataFrame({"ID": names, "Caption": ["two", "one", "three"]}).to_csv(tmp_path / "train_captions.csv", index=False)
    rows = CaptionTable(tmp_path, {"layout": "roco"}).rows()
    assert rows["image"].tolist() == [f"{below}/{name}.jpg" for name in sorted(names)]
    assert rows["caption"].tolist() == ["one", "two", "three"]
    assert rows["patient"].tolist() == sorted(names)
    assert rows["problem"].tolist() == ["", "", "file not found"]


def test_no_roco(tmp_path):
    with pytest.raises(InputError, match="no table of ROCO"):
        find_roco(tmp_path)
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(InputError, match="its columns are 'a'"):
        find_roco(tmp_path, "x.csv")
    roco(tmp_path)
    pd.DataFrame({"ID": ["x"], "Caption": ["y"]}).to_csv(tmp_path / "valid_captions.csv", index=False)
    with pytest.raises(InputError, match="of both ROCO and ROCOv2"):
        find_roco(tmp_path)


def test_the_article_of_an_image():
    names = pd.Series(["PMC4083729_AMHSR-4-14-g002.jpg", "ROCOv2_2023_train_000001"])
    assert article_of(names).tolist() == ["PMC4083729", "ROCOv2_2023_train_000001"]


def test_the_demo_is_made_on_first_use(tmp_path, monkeypatch):
    brain_cohort = pytest.importorskip("medi_monai.cohort.demo.brain_cohort")
    asked = []

    def small(seed, balanced):
        assert seed == 0
        asked.append(balanced)
        fraction = 0.5 if balanced else 0.75
        return brain_cohort.make_brain_cohort(tmp_path / str(balanced), 4, 2, fraction, image_size=16)

    monkeypatch.setattr(brain_cohort, "brain_dataset", small)
    for root, balanced, women in ((None, False, 1), ("demo_balanced", True, 2)):
        rows = CaptionTable(root, attributes=("sex",), templates=TEMPLATES).rows()
        assert len(rows) == 8 and (rows["problem"] == "").all()
        assert rows["caption"].str.contains("woman").sum() == 2 * women
        assert set(asked) == {balanced}
        asked.clear()


def test_the_overlay_of_real_slices_reads_them(real_data):
    path = Path(__file__).parents[3] / "configs" / "cohorts" / "brain_mr_lgg.yaml"
    content = yaml.safe_load(path.read_text())
    names = ("table", "attributes", "columns", "templates", "mapping")
    rows = CaptionTable(real_data / "brain_mr_lgg", **{name: content[name] for name in names}).rows()
    assert len(rows) == 240 and rows["patient"].nunique() == 80 and (rows["problem"] == "").all()
    assert set(rows["site"]) == {"CS", "DU", "HT", "other"}
    named = rows["caption"].str.contains("at site ")
    assert 0.3 < named.mean() < 0.7
    assert all(caption.endswith(site) for caption, site in zip(rows.loc[named, "caption"], rows.loc[named, "site"]))
    assert rows["caption"].str.startswith("FLAIR MR slice of a glioma of grade I").all()


@pytest.mark.parametrize("name", ["demo_stain", "demo_stain@1", "demo_balance"])
def test_a_demo_that_is_of_patches_is_refused_with_those_of_slices(name):
    source = CaptionTable(root=name, columns={"caption": "caption"})
    with pytest.raises(InputError, match=rf"{name} is not a folder, nor a demo cohort \(demo_balanced, demo@0\)$"):
        source.settings()


def test_a_template_may_name_columns_of_any_name(folder):
    table = pd.read_csv(folder / "slices.csv", dtype=str, keep_default_na=False)
    table.assign(slice=["4", "5", "6", "7"], series="T2", file="x").to_csv(folder / "slices.csv", index=False)
    templates = {"templates": ["{series} slice #{slice} of {file}"]}
    rows = CaptionTable(folder, "slices.csv", ("slice", "series"), templates=templates).rows()
    assert rows["caption"].tolist() == [f"T2 slice #{number} of x" for number in rows["slice"]]
    assert set(rows["slice"]) == {"4", "5", "6", "7"} and set(rows["series"]) == {"T2"}

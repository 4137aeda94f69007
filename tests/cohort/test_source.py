import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from medi_monai.cohort import ImageTable
from medi_monai.schema import MISSING_WORDS
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest

GDC = {
    "slide_submitter_id": ["B-02", "A-01", "C-03"],
    "case_submitter_id": ["B", "A", "C"],
    "project_id": ["TCGA-UCS", "TCGA-LUAD", "TCGA-LUSC"],
    "tissue_source_site": ["NA", "01", "1"],
    "race": ["white", "asian", "Not Reported"],
    "mpp": ["0.25", "", "0.5"],
}
COLUMNS = {
    "image": "slides/{slide_submitter_id}.tiff",
    "slide": "slide_submitter_id",
    "patient": "case_submitter_id",
}
ATTRIBUTES = ("tissue_source_site", "race")


def write(folder, content, name="slides.csv"):
    table = pd.DataFrame(content)
    if name.endswith(".parquet"):
        table.to_parquet(folder / name)
    else:
        table.to_csv(folder / name, index=False, sep="\t" if name.endswith(".tsv") else ",")


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def source(folder, **changes):
    settings = {"table": "slides.csv", "label": "project_id", "attributes": ATTRIBUTES, "columns": COLUMNS}
    return ImageTable(folder, **{**settings, **changes})


def problems(rows, column="image"):
    return dict(zip(rows[column], rows["problem"]))


@pytest.mark.parametrize("name", ["slides.csv", "slides.tsv", "slides.parquet"])
def test_rows_have_roles_label_and_attributes_ordered_by_image(tmp_path, name):
    write(tmp_path, GDC, name)
    touch(tmp_path, *(f"slides/{slide}.tiff" for slide in GDC["slide_submitter_id"]))
    assert source(tmp_path, table=name).rows().to_dict("list") == {
        "image": ["slides/A-01.tiff", "slides/B-02.tiff", "slides/C-03.tiff"],
        "slide": ["A-01", "B-02", "C-03"],
        "patient": ["A", "B", "C"],
        "mpp": ["", "", ""],
        "project_id": ["TCGA-LUAD", "TCGA-UCS", "TCGA-LUSC"],
        "tissue_source_site": ["01", "NA", "1"],
        "race": ["asian", "white", ""],
        "row": [1, 0, 2],
        "problem": ["", "", ""],
    }


def test_rows_do_not_depend_on_the_order_of_the_table_but_for_their_number(tmp_path):
    tables = []
    for order in itertools.permutations(range(3)):
        write(tmp_path, {name: [cells[number] for number in order] for name, cells in GDC.items()})
        rows = source(tmp_path).rows(check_files=False)
        assert rows["row"].tolist() == [order.index(number) for number in (1, 0, 2)]
        tables.append(rows.drop(columns="row"))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


@pytest.mark.parametrize(
    "missing", ["", "'--", "--", "not reported", "Not Reported", "Unknown", " unknown ", "NaN", "N/A"]
)
def test_missing_data_of_any_spelling_becomes_empty(tmp_path, missing):
    write(tmp_path, {**GDC, "race": ["white", missing, "asian"], "project_id": [missing, "x", "y"]})
    rows = source(tmp_path, missing=[*MISSING_WORDS, "n/a"]).rows(check_files=False)
    assert rows["race"].tolist() == ["", "white", "asian"]
    assert rows["project_id"].tolist() == ["x", "", "y"]
    assert [problem.split(":")[0] for problem in rows["problem"]] == ["", "no project_id", ""]
    assert missing == "" or f"{missing.strip()!r} means missing data; to keep it, rename" in rows["problem"][1]


def test_a_pattern_takes_any_number_of_columns(tmp_path):
    write(tmp_path, GDC)
    pattern = "{project_id}/{tissue_source_site}/{slide_submitter_id}.jpg"
    rows = source(tmp_path, columns={**COLUMNS, "image": pattern}).rows()
    assert rows["image"].tolist() == ["TCGA-LUAD/01/A-01.jpg", "TCGA-LUSC/1/C-03.jpg", "TCGA-UCS/NA/B-02.jpg"]


def test_without_columns_the_roles_are_columns_of_their_own_names(tmp_path):
    write(tmp_path, {"image": ["b.png", "a.png"], "slide": ["s", "t"], "patient": ["p", "q"], "kind": ["x", "y"]})
    rows = ImageTable(tmp_path, "slides.csv", "kind").rows()
    assert rows[["image", "slide", "patient", "kind"]].to_numpy().tolist() == [
        ["a.png", "t", "q", "y"],
        ["b.png", "s", "p", "x"],
    ]


def test_the_tables_resolution_goes_before_the_common_one(tmp_path):
    write(tmp_path, GDC)
    columns = {**COLUMNS, "mpp": "mpp"}
    assert source(tmp_path, columns=columns).rows()["mpp"].tolist() == ["", "0.25", "0.5"]
    assert source(tmp_path, columns=columns, source_mpp=0.46).rows()["mpp"].tolist() == ["0.46", "0.25", "0.5"]
    assert source(tmp_path, source_mpp=0.46).rows()["mpp"].tolist() == ["0.46"] * 3


@pytest.mark.parametrize(
    ("changes", "unknown", "meant"),
    [
        ({"label": "project"}, "project", "project_id"),
        ({"attributes": ["rase"]}, "rase", "race"),
        ({"attributes": ["ethnic"], "mapping": {"ethnic": {"column": "rase"}}}, "rase", "race"),
        ({"columns": {**COLUMNS, "patient": "case_submiter_id"}}, "case_submiter_id", "case_submitter_id"),
        ({"columns": {**COLUMNS, "slide": "slide_id"}}, "slide_id", "slide_submitter_id"),
        ({"columns": {**COLUMNS, "mpp": "mp"}}, "mp", "mpp"),
        ({"columns": {**COLUMNS, "image": "{slide_submitter}.png"}}, "slide_submitter", "slide_submitter_id"),
    ],
)
def test_a_column_that_the_table_lacks_is_named_with_the_nearest(tmp_path, changes, unknown, meant):
    write(tmp_path, GDC)
    with pytest.raises(InputError, match=f"column '{unknown}': did you mean.*'{meant}'") as caught:
        source(tmp_path, **changes).rows()
    assert str(tmp_path / "slides.csv") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"columns": {"patients": "case_submitter_id"}}, "'patients'.*did you mean 'patient'"),
        ({"unit": "tile"}, "'tile'.*did you mean 'tiles'"),
        ({"missing": "unknown"}, "list of strings"),
        ({"mapping": {"race": {"bin": "decades"}}}, "'race'.*did you mean 'bins'"),
        ({"table": {"layout": "gcd", "path": "t.csv"}}, "did you mean 'gdc'"),
        ({"table": {"layout": "tcga_ut"}}, "unit: patches"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_read(tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        source(tmp_path / "absent", **changes)


@pytest.mark.parametrize(("content", "says"), [(None, "table not found"), ("", "empty"), ("a,b\n", "no row")])
def test_a_missing_or_empty_table_is_named(tmp_path, content, says):
    if content is not None:
        (tmp_path / "slides.csv").write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        source(tmp_path).rows()
    assert str(tmp_path / "slides.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_dataset_folder_is_named(tmp_path):
    for use in (lambda table: table.rows(), lambda table: table.settings()):
        with pytest.raises(InputError, match="dataset_dir.*absent"):
            use(source(tmp_path / "absent"))


def test_dotted_names_of_the_gdc_work_in_a_pattern(tmp_path):
    table = pd.DataFrame([("s1", "p1", "A", "0.5")], columns=["slides.id", "cases.id", "project", "mpp"])
    table.to_csv(tmp_path / "t.csv", index=False)
    columns = {"image": "x/{slides.id}.svs", "slide": "slides.id", "patient": "cases.id", "mpp": "mpp"}
    row = ImageTable(tmp_path, "t.csv", "project", columns=columns).rows(check_files=False).iloc[0]
    assert row.tolist() == ["x/s1.svs", "s1", "p1", "0.5", "A", 0, ""]
    for pattern in ("{}", "{slides.id", "plain.png"):
        with pytest.raises(InputError, match="column|braces"):
            ImageTable(tmp_path, "t.csv", "project", columns={**columns, "image": pattern}).rows()


@pytest.mark.parametrize("name", ["x", "slide", "split", "row", "problem"])
def test_metadata_may_not_take_the_name_of_a_cohort_column(tmp_path, name):
    with pytest.raises(InputError, match=f"'{name}' has the name"):
        ImageTable(tmp_path, "t.csv", "label", [name])


def test_files_without_a_row_are_sought_in_the_folder_of_the_pattern(tmp_path):
    write(tmp_path, GDC)
    touch(tmp_path, "slides/A-01.tiff", "slides/D-04.tiff", "slides/E.svs", "elsewhere/F.tiff", "slides/deep/G.TIFF")
    table = source(tmp_path)
    assert [path for path, _ in table.files_without_row(table.rows())] == ["slides/D-04.tiff", "slides/deep/G.TIFF"]


@pytest.mark.parametrize("wrong", ["40x", "0", "-0.25", "inf", "0,25", "1_0"])
def test_a_resolution_is_a_positive_number_or_missing(tmp_path, wrong):
    write(tmp_path, {**GDC, "mpp": [wrong, "'--", "0.5"]})
    rows = source(tmp_path, columns={**COLUMNS, "mpp": "mpp"}).rows(check_files=False)
    assert rows["problem"].tolist() == ["", f"{wrong!r} microns per pixel is not a positive number, such as 0.25", ""]


def test_downloads_of_the_gdc_are_found_by_a_pattern_with_stars(tmp_path):
    write(tmp_path, {**GDC, "slide_submitter_id": ["B-1", "B-10", "C-1"]})
    touch(tmp_path, "slides/u1/B-1.xx.svs", "slides/u2/B-10.yy.svs", "slides/u3/C-1.1.svs", "slides/u4/C-1.2.svs")
    touch(tmp_path, "slides/u1/logs/B-1.parcel", "slides/u5/D-1.zz.svs")
    table = source(tmp_path, columns={**COLUMNS, "image": "slides/*/{slide_submitter_id}.*.svs"})
    rows = table.rows()
    assert problems(rows) == {
        "slides/u1/B-1.xx.svs": "",
        "slides/u2/B-10.yy.svs": "",
        "slides/*/C-1.*.svs": "2 files match slides/*/C-1.*.svs: slides/u3/C-1.1.svs, slides/u4/C-1.2.svs …",
    }
    assert [path for path, _ in table.files_without_row(rows)] == [
        *("slides/u3/C-1.1.svs", "slides/u4/C-1.2.svs", "slides/u5/D-1.zz.svs")
    ]


def test_a_mapping_gives_label_and_attributes(tmp_path, capsys):
    write(tmp_path, {**GDC, "age_at_index": ["61", "7", "'--"]})
    write(tmp_path, {"code": ["NA", "01", "1"], "center": ["UNC", "Duke", "University of North Carolina"]}, "sites.csv")
    lookup = {"column": "tissue_source_site", "lookup": "sites.csv", "key": "code", "value": "center"}
    mapping = {
        "tumor": {"column": "project_id", "rename": {"TCGA-UCS": "UCS"}, "merge": {"lung": ["TCGA-LUAD", "TCGA-LUSC"]}},
        "age": {"column": "age_at_index", "bins": "decades"},
        "race": {"merge": {"other": ["asian", "pacific"]}, "rename": {1: "one", "two": 2}},
        "center": {**lookup, "aliases": {"UNC": ["University of North Carolina"]}},
        "unused": {"column": "no such column"},
    }
    table = source(tmp_path, label="tumor", attributes=["age", "race", "center"], mapping=mapping)
    rows = table.rows(check_files=False)
    assert rows[["tumor", "age", "race", "center"]].to_numpy().tolist() == [
        ["lung", "0-9", "other", "Duke"],
        ["UCS", "60-69", "white", "UNC"],
        ["lung", "", "", "UNC"],
    ]
    assert capsys.readouterr().out.startswith(
        "slides.csv: mapping of 'race': 'race' has no value '1', 'two', 'pacific'"
    )
    before = table.settings()
    assert json_digest(before) == json_digest(table.settings())
    write(tmp_path, {"code": ["NA", "01", "1"], "center": ["A", "B", "C"]}, "sites.csv")
    assert before != table.settings() and before["table_sha256"] == table.settings()["table_sha256"]


def test_tables_of_the_gdc_and_trees_are_sources(tmp_path):
    slide = "TCGA-NA-A4QV-01Z-00-DX1"
    write(tmp_path, {"cases.submitter_id": [slide[:12]], "slides.submitter_id": [slide]}, "slide.tsv")
    clinical = {
        "cases.submitter_id": [slide[:12]] * 2,
        "demographic.race": ["'--", "white"],
        "project.project_id": "UCS",
    }
    write(tmp_path, clinical, "clinical.tsv")
    touch(tmp_path, f"d/u/{slide}.x.svs", f"tree/UCS/{slide}/1.jpg", f"tree/UCS/{slide}/2.jpg", "tree/stray.txt")
    columns = {**COLUMNS, "image": "d/*/{slide_submitter_id}.*.svs"}
    setting = {"layout": "gdc", "path": "slide.tsv", "clinical": "clinical.tsv"}
    rows = source(tmp_path, table=setting, columns=columns).rows()
    assert rows.iloc[0].tolist() == [f"d/u/{slide}.x.svs", slide, slide[:12], "", "UCS", "NA", "white", 0, ""]

    setting = {"layout": "tcga_ut", "path": "tree", "clinical": "clinical.tsv"}
    table = ImageTable(tmp_path, setting, "tumor", ["site", "race"], mapping={"tumor": "label"}, unit="patches")
    rows = table.rows()
    assert rows["image"].tolist() == [f"tree/UCS/{slide}/{number}.jpg" for number in (1, 2)]
    assert rows[["tumor", "site", "race", "problem"]].to_numpy().tolist() == [["UCS", "NA", "white", ""]] * 2
    assert [path for path, _ in table.files_without_row(rows)] == ["tree/stray.txt"]


def test_the_real_slide_table_has_its_figures(real_data, tmp_path, capsys):
    path = real_data / "tcga"
    center = {"column": "tissue_source_site", "lookup": "tissue_source_sites.csv", "key": "tissue_source_site"}
    mapping = {
        "age": {"column": "age_at_index", "bins": "decades"},
        "center": {**center, "value": "center", "aliases": "tcga"},
        "site": "tissue_source_site",
    }
    attributes = ["site", "center", "race", "gender", "age"]
    table = source(path, table={"layout": "gdc", "path": "slides.csv"}, attributes=attributes, mapping=mapping)
    rows = table.rows(check_files=False)
    assert len(rows) == 8726 and (rows["problem"] == "").all()
    assert (rows["site"].nunique(), rows["project_id"].nunique()) == (626, 32) and (rows["site"] != "").all()
    assert rows["project_id"].groupby(rows["center"]).nunique().max() == 26
    assert set(rows["age"]) == {"", *(f"{low}-{low + 9}" for low in range(10, 100, 10))}
    assert "disagree in 11 rows" in capsys.readouterr().out
    plain = source(path, attributes=["tissue_source_site"]).rows(check_files=False)
    assert (plain["tissue_source_site"] == "").sum() == 11


OVERLAYS = sorted((Path(__file__).parents[2] / "configs" / "cohorts").glob("*.yaml"))


# those with captions are for another bundle
@pytest.mark.parametrize(
    "path", [path for path in OVERLAYS if "templates" not in path.read_text()], ids=lambda p: p.stem
)
def test_the_overlays_describe_tables(tmp_path, path):
    content = yaml.safe_load(path.read_text())
    names = ("table", "label", "columns", "source_mpp", "mapping", "missing", "unit")
    fields = {name: content[name] for name in names if name in content}
    table = ImageTable(tmp_path, attributes=content.get("metadata_columns", ()), **fields)
    assert set(content["attributes"]) <= set(content.get("metadata_columns", content["attributes"]))
    assert content["subpopulation_columns"][0] == table.label


def test_the_overlay_of_tcga_reads_a_download(tmp_path):
    path = Path(__file__).parents[2] / "configs" / "cohorts" / "tcga.yaml"
    content = yaml.safe_load(path.read_text())
    slides = ["TCGA-NA-A4QV-01Z-00-DX1", "TCGA-38-4625-01Z-00-DX10", "TCGA-38-4625-01Z-00-DX1"]
    cases = [slide[:12] for slide in slides]
    write(
        tmp_path, {"cases.submitter_id": cases, "slides.submitter_id": slides, "project.project_id": "P"}, "slide.tsv"
    )
    clinical = {"demographic.race": ["asian", "white", "white"], "demographic.sex_at_birth": "female"}
    clinical |= {"cases.submitter_id": cases, "demographic.age_at_index": ["61", "'--", "'--"]}
    write(tmp_path, clinical, "clinical.tsv")
    sites = {"tissue_source_site": ["NA", "38"], "center": ["Duke University", "UNC"]}
    write(tmp_path, sites, "tissue_source_sites.csv")
    uuid = "0A1B2C3D-0000-4AAA-8BBB-0123456789AB"
    touch(tmp_path, *(f"slides/{number}/{slide}.{uuid}.svs" for number, slide in enumerate(slides)))
    fields = {name: content[name] for name in ("table", "label", "columns", "mapping", "unit")}
    rows = ImageTable(tmp_path, attributes=content["metadata_columns"], **fields).rows()
    assert rows[["slide", "center", "race", "sex", "age", "problem"]].to_numpy().tolist() == [
        [slides[0], "Duke University", "asian", "female", "60-69", ""],
        [slides[1], "University of North Carolina", "white", "female", "", ""],
        [slides[2], "University of North Carolina", "white", "female", "", ""],
    ]


def test_half_a_million_patches_take_seconds(tmp_path):
    count = 500_000
    slides = np.random.default_rng(0).integers(0, 5000, count)
    slide = pd.Series(slides).astype("str").radd("S")
    table = pd.DataFrame({"slide": slide, "patient": "P" + slide, "tumor": slide.str[-1], "age": slide.str[-2:]})
    table["image"] = slide + "/" + pd.Series(range(count)).astype("str") + ".jpg"
    table["age"] = table["age"].str.removeprefix("S")
    table.to_parquet(tmp_path / "t.parquet")
    patches = ImageTable(tmp_path, "t.parquet", "tumor", ["age"], mapping={"age": {"bins": "decades"}}, unit="patches")
    start = time.process_time()
    rows = patches.rows(check_files=False)
    # some two seconds; a loop over rows takes ten times as long
    assert time.process_time() - start < 8 and len(rows) == count and (rows["problem"] == "").all()

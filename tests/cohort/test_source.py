import itertools

import pandas as pd
import pytest

from medi_monai.cohort import ImageTable
from medi_monai.utils.errors import InputError

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


def source(folder, **changes):
    settings = {"table": "slides.csv", "label": "project_id", "attributes": ATTRIBUTES, "columns": COLUMNS}
    return ImageTable(folder, **{**settings, **changes})


@pytest.mark.parametrize("name", ["slides.csv", "slides.tsv", "slides.parquet"])
def test_rows_have_roles_label_and_attributes_ordered_by_image(tmp_path, name):
    write(tmp_path, GDC, name)
    assert source(tmp_path, table=name).rows().to_dict("list") == {
        "image": ["slides/A-01.tiff", "slides/B-02.tiff", "slides/C-03.tiff"],
        "slide": ["A-01", "B-02", "C-03"],
        "patient": ["A", "B", "C"],
        "mpp": ["", "", ""],
        "project_id": ["TCGA-LUAD", "TCGA-UCS", "TCGA-LUSC"],
        "tissue_source_site": ["01", "NA", "1"],
        "race": ["asian", "white", ""],
    }


def test_rows_do_not_depend_on_the_order_of_the_table(tmp_path):
    tables = []
    for order in itertools.permutations(range(3)):
        write(tmp_path, {name: [cells[place] for place in order] for name, cells in GDC.items()})
        tables.append(source(tmp_path).rows())
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


@pytest.mark.parametrize("missing", ["", "'--", "--", "not reported", "Not Reported", "Unknown", " unknown ", "NaN"])
def test_missing_data_of_any_spelling_becomes_empty(tmp_path, missing):
    write(tmp_path, {**GDC, "race": ["white", missing, "asian"], "project_id": [missing, "x", "y"]})
    rows = source(tmp_path).rows()
    assert rows["race"].tolist() == ["", "white", "asian"]
    assert rows["project_id"].tolist() == ["x", "", "y"]


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


def test_an_unknown_role_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(InputError, match="'patients'.*did you mean 'patient'"):
        source(tmp_path / "absent", columns={"patients": "case_submitter_id"})


@pytest.mark.parametrize(("content", "says"), [(None, "no table"), ("", "empty"), ("a,b\n", "no row")])
def test_a_missing_or_empty_table_is_named(tmp_path, content, says):
    if content is not None:
        (tmp_path / "slides.csv").write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        source(tmp_path).rows()
    assert str(tmp_path / "slides.csv") in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_dataset_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="dataset_dir.*absent"):
        source(tmp_path / "absent").rows()


def test_an_image_in_two_rows_is_refused_by_name(tmp_path):
    write(tmp_path, {**GDC, "slide_submitter_id": ["B-02", "A-01", "B-02"]})
    with pytest.raises(InputError, match="slides/B-02.tiff"):
        source(tmp_path).rows()


def test_dotted_names_of_the_gdc_work_in_a_pattern(tmp_path):
    table = pd.DataFrame([("s1", "p1", "A", "0.5")], columns=["slides.id", "cases.id", "project", "mpp"])
    table.to_csv(tmp_path / "t.csv", index=False)
    columns = {"image": "x/{slides.id}.svs", "slide": "slides.id", "patient": "cases.id", "mpp": "mpp"}
    row = ImageTable(tmp_path, "t.csv", "project", columns=columns).rows().iloc[0]
    assert row.tolist() == ["x/s1.svs", "s1", "p1", "0.5", "A"]
    for pattern in ("{}", "{slides.id", "plain.png"):
        with pytest.raises(InputError, match="column|braces"):
            ImageTable(tmp_path, "t.csv", "project", columns={**columns, "image": pattern}).rows()


def test_a_resolution_that_is_no_number_is_named_and_a_missing_one_is_empty(tmp_path):
    table = pd.DataFrame([("a.png", "s", "p", "A", "'--")], columns=["image", "slide", "patient", "label", "mpp"])
    table.to_csv(tmp_path / "t.csv", index=False)
    source = ImageTable(tmp_path, "t.csv", "label", columns={"mpp": "mpp"})
    assert source.rows()["mpp"].tolist() == [""]
    table.assign(mpp="40x").to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="'40x'.*'a.png'"):
        source.rows()


@pytest.mark.parametrize("name", ["x", "slide", "split"])
def test_metadata_may_not_take_the_name_of_a_cohort_column(tmp_path, name):
    with pytest.raises(InputError, match=f"'{name}' has the name"):
        ImageTable(tmp_path, "t.csv", "label", [name])

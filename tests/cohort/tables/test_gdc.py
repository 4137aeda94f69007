import itertools
import random

import pandas as pd
import pytest

from medi_monai.cohort.source import ImageTable
from medi_monai.cohort.tables import join_cases, read_cases, read_gdc, read_slides
from medi_monai.cohort.tables.gdc import flat_names
from medi_monai.utils.errors import InputError

DX1, DX2, NA1 = "TCGA-3B-A9HI-01Z-00-DX1", "TCGA-3B-A9HI-01Z-00-DX2", "TCGA-NA-A4QV-01Z-00-DX1"


def write(path, content):
    pd.DataFrame(content).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def test_the_three_ways_of_naming_columns_become_one():
    assert flat_names(["case_submitter_id", "race"]) == {"case_submitter_id": "case_submitter_id", "race": "race"}
    dotted = {
        "project.project_id": "project_id",
        "cases.submitter_id": "case_submitter_id",
        "cases.case_id": "case_id",
        "demographic.race": "race",
        "diagnoses.submitter_id": "diagnosis_submitter_id",
        "slides.submitter_id": "slide_submitter_id",
        "follow_ups.submitter_id": "follow_up_submitter_id",
    }
    assert flat_names(dotted) == dotted
    assert flat_names(["cases.0.samples.1.portions.0.slides.0.submitter_id", "cases.0.project.project_id"]) == {
        "cases.0.samples.1.portions.0.slides.0.submitter_id": "slide_submitter_id",
        "cases.0.project.project_id": "project_id",
    }
    assert flat_names(["File Name", "Case ID"]) == {"File Name": "file_name", "Case ID": "case_submitter_id"}


def test_names_that_would_be_alike_stay_as_they_are():
    names = ["demographic.state", "diagnoses.state", "cases.submitter_id", "race", "demographic.race"]
    flat = flat_names(names)
    assert flat == {**dict(zip(names, names)), "cases.submitter_id": "case_submitter_id"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_old_and_new_exports_read_alike(tmp_path, suffix):
    rows = {"case": ["TCGA-3B-A9HI", "TCGA-NA-A4QV"], "project": ["TCGA-SARC", "TCGA-UCS"], "slide": [DX1, NA1]}
    old = dict(zip(("case_submitter_id", "project_id", "slide_submitter_id"), rows.values()))
    new = dict(zip(("cases.submitter_id", "project.project_id", "slides.submitter_id"), rows.values()))
    tables = [read_slides(write(tmp_path / f"{name}{suffix}", t)) for name, t in (("old", old), ("new", new))]
    pd.testing.assert_frame_equal(tables[0][0], tables[1][0])
    assert tables[0][1] == tables[1][1] == []
    assert tables[0][0]["tissue_source_site"].tolist() == ["3B", "NA"]
    assert tables[0][0]["section"].tolist() == ["diagnostic"] * 2


def test_a_sample_sheet_names_slides_by_their_files(tmp_path):
    uuid = "0A1B2C3D-0000-4AAA-8BBB-0123456789AB"
    sheet = {
        "File ID": ["f1", "f2"],
        "File Name": [f"{DX1}.{uuid}.svs", "C3L-1-21.svs"],
        "Case ID": ["TCGA-3B-A9HI", "C3"],
    }
    table, notes = read_slides(write(tmp_path / "sheet.tsv", sheet))
    assert table["slide_submitter_id"].tolist() == [DX1, "C3L-1-21"] and table["file_id"].tolist() == ["f1", "f2"]
    assert table["tissue_source_site"].tolist() == ["3B", ""] and notes == []


def test_the_barcode_counts_where_a_column_of_sites_disagrees(tmp_path):
    rows = {
        "case_submitter_id": ["TCGA-3B-A9HI", "TCGA-3B-A9HX", "TCGA-NA-A4QV", "HCM-1"],
        "slide_submitter_id": [DX1, DX2, NA1, "HCM-1-S"],
        "tissue_source_site": ["3B", "3B", "", "own"],
    }
    table, notes = read_slides(write(tmp_path / "s.csv", rows))
    assert table["tissue_source_site"].tolist() == ["3B", "3B", "NA", "own"]
    assert len(notes) == 2
    assert "tissue_source_site and barcode disagree in 1 row" in notes[0] and f"{NA1} with ''" in notes[0]
    assert "case_submitter_id and barcode disagree in 1 row" in notes[1] and DX2 in notes[1]


def test_a_malformed_barcode_and_a_missing_column_are_named(tmp_path):
    with pytest.raises(InputError, match="'TCGA-3B-A9HI-01Z' is not a TCGA slide barcode"):
        read_slides(write(tmp_path / "a.csv", {"case_submitter_id": ["c"], "slide_submitter_id": ["TCGA-3B-A9HI-01Z"]}))
    with pytest.raises(InputError, match="'slide_submitter_id'.*slides.submitter_id"):
        read_slides(write(tmp_path / "b.csv", {"case_submitter_id": ["c"]}))
    with pytest.raises(InputError, match="'case_submitter_id'.*cases.submitter_id"):
        read_gdc(write(tmp_path / "c.csv", {"race": ["white"]}))


def test_the_newer_name_of_sex_fills_the_older_one(tmp_path):
    rows = {"cases.submitter_id": ["a", "b"], "demographic.sex_at_birth": ["male", "'--"]}
    assert read_gdc(write(tmp_path / "a.tsv", rows))["gender"].tolist() == ["male", ""]
    both = {**rows, "demographic.gender": ["'--", "female"]}
    assert read_gdc(write(tmp_path / "b.tsv", both))["gender"].tolist() == ["", "female"]
    assert read_gdc(write(tmp_path / "c.tsv", {**both, "demographic.gender": "'--"}))["gender"].tolist() == ["male", ""]


def collapsed(rows):
    """Brute force: one value per case and column, by the rule in words."""
    cases, conflicts = {}, {}
    for case in {row["case_submitter_id"] for row in rows}:
        own = [row for row in rows if row["case_submitter_id"] == case]
        for column in ("race", "stage"):
            known = [row for row in own if row[column] not in ("", "'--", "Not Reported")]
            first = [row for row in known if row["diagnosis_is_primary_disease"] == "true"]
            values = {row[column] for row in (first or known)}
            cases[case, column] = values.pop() if len(values) == 1 else ""
            conflicts[column] = conflicts.get(column, 0) + (len(values) > 1)
    return cases, {column: count for column, count in conflicts.items() if count}


@pytest.mark.parametrize("seed", range(5))
def test_clinical_rows_collapse_as_the_rule_says(tmp_path, seed):
    draw = random.Random(seed)
    rows = [
        {
            "case_submitter_id": f"C{draw.randrange(15)}",
            "race": draw.choice(["white", "'--", "Not Reported", *(["asian"] if draw.random() < 0.1 else [])]),
            "stage": draw.choice(["I", "II", "", "'--"]),
            "diagnosis_is_primary_disease": draw.choice(["true", "false", "false"]),
        }
        for _ in range(60)
    ]
    expected, conflicts = collapsed(rows)
    assert conflicts  # the draw has to hold what the test is about
    cases = read_cases(write(tmp_path / "c.tsv", rows))
    for (case, column), value in expected.items():
        assert cases.table.loc[case, column] == value, (case, column)
    own = {column: count for column, count in cases.conflicts.items() if column in ("race", "stage")}
    assert own == conflicts and cases.table.index.is_unique
    draw.shuffle(rows)
    other = read_cases(write(tmp_path / "d.tsv", rows))
    pd.testing.assert_frame_equal(other.table.sort_index(), cases.table.sort_index())


def test_the_join_keeps_rows_and_order_fills_gaps_and_says_what_lacks(tmp_path):
    clinical = {
        "cases.submitter_id": ["A", "A", "B"],
        "project.project_id": ["P", "P", "Q"],
        "demographic.race": ["white", "white", "asian"],
        "treatments.treatment_type": ["x", "y", "z"],
    }
    cases = read_cases(write(tmp_path / "clinical.tsv", clinical))
    slides = pd.DataFrame({"case": ["B", "C", "A", "B"], "project_id": ["", "own", "own", "Q"]}, index=[5, 3, 1, 0])
    table, notes = join_cases(slides, "case", cases, "clinical.tsv")
    assert table.index.tolist() == [5, 3, 1, 0]
    assert table["race"].tolist() == ["asian", "", "white", "asian"]
    assert table["project_id"].tolist() == ["Q", "own", "own", "Q"]
    assert table["treatment_type"].tolist() == ["z", "", "", "z"]
    assert notes == [
        "clinical.tsv lacks 1 cases, first 'C': their clinical columns are left empty",
        "clinical.tsv has several values for one case, treated as missing: treatment_type (1 cases)",
    ]
    assert join_cases(slides, "case", read_cases(tmp_path / "clinical.tsv", ["race"]), "c")[1] == [
        "c lacks 1 cases, first 'C': their clinical columns are left empty"
    ]
    with pytest.raises(InputError, match="none of the 1 cases.*'Z'"):
        join_cases(pd.DataFrame({"case": ["Z"]}), "case", cases, "clinical.tsv")


def test_the_real_joined_table_is_a_slide_table_and_a_clinical_one(real_data):
    path = real_data / "tcga" / "slides.csv"
    table, notes = read_slides(path)
    assert table.shape[0] == 8726 and table["tissue_source_site"].nunique() == 626
    assert len(notes) == 1 and "disagree in 11 rows" in notes[0] and "TCGA-NA-A4QV-01Z-00-DX1 with ''" in notes[0]
    assert table["section"].value_counts().to_dict() == {"diagnostic": 8726}
    assert (table["race"] == "").sum() == 474 + 36 and not table.isin(["'--"]).to_numpy().any()
    cases = read_cases(path, ["race", "gender", "age_at_index", "project_id"])
    assert len(cases.table) == 7168 and cases.conflicts == {}
    joined, more = join_cases(table[["case_submitter_id"]], "case_submitter_id", cases, path)
    assert more == []
    for column, other in itertools.product(["race", "gender", "age_at_index", "project_id"], [table]):
        assert (joined[column] == other[column]).all()


def test_words_that_a_mapping_renames_are_values(tmp_path):
    cases = {"case_submitter_id": list("abc"), "grade": ["none", "G2", "'--"], "race": ["none", "white", "unknown"]}
    path = write(tmp_path / "clinical.tsv", cases)
    assert read_cases(path).table["grade"].tolist() == ["", "G2", ""]
    table = read_cases(path, kept={"grade": ["none"]}).table
    assert table["grade"].tolist() == ["none", "G2", ""] and table["race"].tolist() == ["", "white", ""]
    slides = {"case_submitter_id": list("abc"), "slide_submitter_id": ["s1", "s2", "s3"], "image": list("xyz")}
    write(tmp_path / "slide.tsv", slides)
    layout = {"layout": "gdc", "path": "slide.tsv", "clinical": "clinical.tsv"}
    mapping = {"grade": {"rename": {"none": "no tumor"}}}
    columns = {"image": "{image}", "slide": "slide_submitter_id", "patient": "case_submitter_id"}
    rows = ImageTable(tmp_path, layout, "grade", ["race"], columns, mapping=mapping).rows(check_files=False)
    assert rows["grade"].tolist() == ["no tumor", "G2", ""] and rows["race"].tolist() == ["", "white", ""]

import pandas as pd
import pytest

from medi_monai.runs.init.columns import _kind, recognize

HOSPITAL = {
    "Slide No.": [f"S{n}" for n in range(8)],
    "Patient-ID": [f"P{n // 2}" for n in range(8)],
    "Diagnosis": ["LUAD", "luad", "LUSC ", "LUSC", "LUAD", "LUAD", "n/a", "LUSC"],
    "Treating hospital": ["Köln", "Aspen"] * 4,
    "Gender": ["F", "M"] * 4,
    "Age (years)": [str(40 + n) for n in range(8)],
    "Set": ["train", "test"] * 4,
    "QC": ["ok"] * 8,
    "Batch": ["1", "2"] * 4,
    "Comment": [""] * 8,
}


def test_a_table_as_a_hospital_has_it():
    found = recognize(pd.DataFrame(HOSPITAL), ["Slide No."])
    assert found.label == "diagnosis" and found.attributes == ["center", "sex", "age"]
    assert found.mapping == {
        "diagnosis": {"column": "Diagnosis", "merge": {"LUAD": ["luad"]}},
        "center": {"column": "Treating hospital"},
        "sex": {"column": "Gender"},
        "age": {"column": "Age (years)", "bins": "decades"},
    }
    assert found.missing[-1] == "n/a" and "none" in found.missing
    assert found.left_out == {
        "Set": "a split of its own; cohorts are split by patient",
        "QC": "one value for all",
        "Batch": "not recognized; 2 values: to use it, add it to metadata_columns",
        "Comment": "empty",
    }
    assert found.roles["patient"] == "Patient-ID"


def test_names_of_the_gdc():
    cells = {"case_submitter_id": ["a", "b"], "project_id": ["x", "y"], "tissue_source_site": ["01", "02"]}
    found = recognize(pd.DataFrame(cells | {"gender": ["male", "female"], "age_at_index": ["61", "70"]}))
    assert (found.label, found.attributes) == ("project_id", ["center", "sex", "age"])
    assert found.roles == {"patient": "case_submitter_id"} and found.missing is None


def test_site_codes_are_pointed_out_only_where_each_has_one_class():
    cells = {"project_id": ["x", "x", "y", "y"], "tissue_source_site": ["01", "03", "02", "02"]}
    assert "each value occurs with one project_id only" in " ".join(recognize(pd.DataFrame(cells)).checks)
    crossed = recognize(pd.DataFrame(cells | {"tissue_source_site": ["01", "02", "01", "02"]}))
    assert crossed.attributes == ["center"] and not crossed.checks


def test_resolution_of_a_table_and_columns_with_names_of_ours():
    cells = {"label": list("xyxy"), "mpp": ["0.25", "1.0", "", "0.5"], "seed": ["a", "b", "a", "b"]}
    found = recognize(pd.DataFrame(cells))
    assert found.mpp == 1.0 and found.roles["mpp"] == "mpp"
    assert found.left_out == {"seed": "2 values; to use it, name it anew with mapping: {my_seed: {column: seed}}"}


def test_a_class_that_no_name_tells_is_a_guess_and_said():
    found = recognize(pd.DataFrame({"id": list("abcd"), "kind": ["x", "y", "x", "y"]}))
    assert found.label == "kind" and "'kind' is a guess" in found.checks[0]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "patient") for name in ("Pat.-Nr.", "PatientenID", "Fall-Nr", "ID Patient", "Case ID", "subject_key")],
        *[(name, "sex") for name in ("Sex (M/F)", "Geschlecht", "Sexe", "PatientSex")],
        *[(name, "age") for name in ("Alter", "Alter bei Diagnose", "Age [years]", "Age at diagnosis")],
        *[(name, "center") for name in ("Klinik", "Institution ", "Hôpital", "Krankenhaus", "Site")],
        *[(name, "label") for name in ("Diagnose", "Histologie", "Tumorentität", "group", "Primary Diagnosis")],
        *[(name, None) for name in ("Comment", "Patient name of the dog", "Staging date")],
    ],
)
def test_names_of_columns_in_several_languages(name, kind):
    assert _kind(name) == kind

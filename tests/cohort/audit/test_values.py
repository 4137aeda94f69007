import pandas as pd
import pytest

from medi_monai.cohort.audit import audit_cohort
from medi_monai.cohort.audit.values import look_alike_section, not_numbers, patients_named_by


def findings(table, name, attributes=("center",)):
    return [
        finding for finding in audit_cohort(table, "tumor", list(attributes))["findings"] if finding["name"] == name
    ]


def test_a_cohort_with_patients_of_several_patches_has_known_patients(clean):
    assert patients_named_by(clean, "patient", "slide") is None
    assert findings(clean, "patients_unknown") == []


def test_patches_that_are_patients_of_their_own_are_told(clean):
    patches = clean.assign(patient=[f"p{number}" for number in range(len(clean))], x="0", y="0")
    assert patients_named_by(patches, "patient", "slide") == "image"
    (finding,) = findings(patches, "patients_unknown")
    assert finding["level"] == "warning" and finding["text"].startswith("Each image counts as a patient of its own.")
    # rows of a table of slides usually have a patient each
    assert patients_named_by(patches.drop(columns=["x", "y"]), "patient", "slide") is None
    # an empty patient is no patient
    assert patients_named_by(patches.assign(patient=""), "patient", "slide") is None


def test_slides_that_are_patients_of_their_own_are_told(clean):
    slides = clean.assign(patient=clean["slide"])
    assert patients_named_by(slides, "patient", "slide") == "slide"
    (finding,) = findings(slides, "patients_unknown")
    assert finding["text"].startswith("Each slide counts as a patient of its own.")


def test_values_that_look_alike_are_told_with_the_line_that_merges_them(clean):
    table = clean.assign(center=clean["center"].where(clean.index % 7 > 0, clean["center"].str.upper()), race="07")
    table.loc[:3, "race"] = "7"
    groups = look_alike_section(table, ["tumor", "center", "race"])
    assert groups.keys() == {"center", "race"} and groups["race"] == [["07", "7"]]
    assert {tuple(group) for group in groups["center"]} == {(f"c{number}", f"C{number}") for number in range(6)}
    told = findings(table, "values_look_alike", ["center", "race"])
    assert [finding["figures"] for finding in told] == [
        {"column": "center", "groups": 6},
        {"column": "race", "groups": 1},
    ]
    assert 'merge: {"07": ["7"]}' in told[1]["text"] and told[1]["level"] == "warning"
    assert findings(clean, "values_look_alike", ["center", "race"]) == []


@pytest.mark.parametrize(("cells", "wrong"), [(["61", "", "6o", "4.5", "1_0"], ["1_0", "6o"]), (["1", None], [])])
def test_what_is_no_number_is_listed(cells, wrong):
    assert not_numbers(pd.Series(cells)) == wrong

"""Names of files and of slides or patients: equal ones first, then a beginning that ends where a word ends."""

import pytest

from medi_monai.cohort.features.matching import match_names
from medi_monai.utils.errors import InputError


def test_equal_names_match_whatever_their_suffix_case_and_spaces():
    found = match_names(["S1", "s2", "S3", "Köln 4"], ["S1.svs", "S2", "S3.ome.tiff", "Ko\u0308ln  4"])
    assert found.files_of == {"S1.svs": ["S1"], "S2": ["s2"], "S3.ome.tiff": [], "Ko\u0308ln  4": ["Köln 4"]}
    assert found.strays == ["S3"] and found.inexact == {} and found.absent == ["S3.ome.tiff"]


def test_names_that_differ_in_case_alone_match_themselves():
    assert match_names(["a", "A"], ["A", "a"]).files_of == {"A": ["A"], "a": ["a"]}
    assert match_names(["S1"], ["S1.svs", "S1.ndpi"]).strays == ["S1"]


def test_a_file_of_tcga_matches_its_barcode():
    slide = "TCGA-AA-0001-01Z-00-DX1"
    found = match_names([f"{slide}.4CE7-uuid", "other"], [slide])
    assert found.files_of == {slide: [f"{slide}.4CE7-uuid"]} and found.inexact == {f"{slide}.4CE7-uuid": slide}


def test_a_slide_is_not_taken_for_another_whose_name_it_continues():
    found = match_names(["S1-2", "S11", "S1_a"], ["S1"])
    assert sorted(found.strays) == ["S1-2", "S11", "S1_a"] and found.absent == ["S1"]


def test_slides_of_patients_belong_to_the_longest_name():
    found = match_names(["P1-a", "P1_b", "P1-2-a", "P12", "P1"], ["P1", "P1-2"], several=True)
    assert found.files_of == {"P1": ["P1", "P1-a", "P1_b"], "P1-2": ["P1-2-a"]} and found.strays == ["P12"]


def test_an_equal_name_comes_first_and_two_others_are_an_error():
    assert match_names(["S1.b", "S1"], ["S1"]).strays == ["S1.b"]
    with pytest.raises(InputError, match="'S1.a' and 'S1.b' are both features of 'S1'"):
        match_names(["S1.b", "S1.a"], ["S1"])


def test_what_is_absent_is_counted_with_the_nearest_name():
    text = match_names(["slide_O1", "slide_02"], ["slide_01", "slide_02"]).about_absent("slide", "/f")
    assert text == (
        "1 of 2 slides of the table have no features in /f: 'slide_01'; the nearest name of a file without a slide is "
        "'slide_O1'"
    )

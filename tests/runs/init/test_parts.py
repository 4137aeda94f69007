import pytest

from medi_monai.runs.init.parts import common_suffix, is_group, role_of, suffix_of, tokens


@pytest.mark.parametrize(
    ("values", "role"),
    [
        (["M", "F", "F"], "sex"),
        (["weiblich", "männlich"], "sex"),
        (["M"], None),
        (["siteA", "siteB"], "center"),
        (["Klinik Süd", "Hospital A", "x"], "center"),
        (["GE", "Siemens"], "scanner"),
        (["control", "patient"], "diagnosis"),
        (["patch01", "patch02"], None),
        (["label1", "label2"], None),
    ],
)
def test_words_say_what_a_part_is(values, role):
    assert role_of(values) == role


def test_words_and_suffixes_of_names():
    assert tokens(["M_034_siteA", "F_035_siteB"]) == ("_", [["M", "034", "siteA"], ["F", "035", "siteB"]])
    assert tokens(["a-1", "b-2"]) == ("-", [["a", "1"], ["b", "2"]])
    assert tokens(["a_1_x", "b_2"]) == ("", [["a_1_x"], ["b_2"]])
    assert suffix_of("a.b.nii.gz") == ".nii.gz" and suffix_of("a.b.PNG") == ".PNG"
    assert common_suffix(["a.png", "b.PNG", "c.png"]) == ".png" and common_suffix(["a.png", "b.jpg"]) == ".*"


def test_groups_are_words_that_repeat():
    assert is_group(["Guys", "HH", "HH", "Guys"])
    assert not is_group(["x0", "x128", "x0", "x128"]) and not is_group(["a", "b", "b"])

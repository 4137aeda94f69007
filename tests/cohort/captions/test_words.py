import pandas as pd
import pytest

from medi_monai.cohort.captions import CaptionTemplates, named_subgroups, names_attribute
from medi_monai.cohort.captions.words import WordRule, indefinite_article, parse_words
from medi_monai.utils.errors import InputError


@pytest.mark.parametrize(
    "text",
    ["80-year-old", "8", "800", "11-year-old", "18", "old man", "MR slice", "X-ray", "MRI", "hour", "LGG", "European"],
)
def test_an_goes_before_what_sounds_like_a_vowel(text):
    assert indefinite_article(text) == ("a" if text == "European" else "an")


@pytest.mark.parametrize(
    "text",
    ["7", "17", "1", "110", "young", "unilateral", "US", "CT scan", "FLAIR slice", "one-year-old", "woman", "", "T2"],
)
def test_a_goes_before_what_sounds_like_a_consonant(text):
    assert indefinite_article(text) == "a"


def test_uninformative_begins_with_a_vowel():
    assert indefinite_article("uninformative slice") == "an"


def test_words_of_ranges_are_closed_below_and_open_above():
    rule = WordRule.from_setting("age", {"bins": [40, 60], "words": ["young", "middle-aged", "old"]})
    words, wrong = rule.apply(pd.Series(["39.9", "40", "59", "60", "-3", "", "x"]))
    assert words.tolist() == ["young", "middle-aged", "middle-aged", "old", "young", "", ""]
    assert [bool(text) for text in wrong] == [False] * 6 + [True]


def test_words_of_values_leave_others_as_they_are():
    rule = WordRule.from_setting("grade", {2: "low-grade", 3: "high-grade"})
    assert rule.apply(pd.Series(["2", "3", "4", ""]))[0].tolist() == ["low-grade", "high-grade", "4", ""]


def test_of_several_words_the_first_composes_and_all_name():
    content = {"male": ["man", "gentleman"], "female": "woman"}
    rule = WordRule.from_setting("sex", content)
    assert rule.apply(pd.Series(["male", "female"]))[0].tolist() == ["man", "woman"]
    assert rule.names("male") == ("man", "gentleman", "male") and rule.names("other") == ("other",)
    assert rule.settings() == content and WordRule.from_setting("sex", rule.settings()) == rule


@pytest.mark.parametrize("codes", [("1", "2"), ("M", "F")])
def test_codes_name_a_value_only_where_no_words_do(codes):
    male, female = codes
    templates = CaptionTemplates.from_setting({"words": {"sex": {male: ["man", "male"], female: "woman"}}})
    words = templates.names_of("sex", codes)
    assert words == {male: ("man", "male"), female: ("woman",)}
    for caption in ("a glioma of grade 2", "slice 1 of 2", "18 F FDG", "M stage", "T M junction"):
        assert names_attribute(caption, words) is None
    assert names_attribute("T2 FLAIR slice of a man, grade 2", words) == male
    assert names_attribute("MR in two women", words) == female
    assert WordRule("grade").names("2") == ("2",)


def test_captions_that_name_both_are_told(capsys):
    captions = pd.Series(["a man", "a man or a woman", "a brain", "two women and a man"])
    assert named_subgroups(captions, SEX).tolist() == ["male", "", "", ""]
    out = capsys.readouterr().out
    assert "2 name several of 'male', 'female' and count as naming none" in out
    assert "'a man or a woman' ('female' and 'male')" in out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"bins": [40, 60], "words": ["young", "old"]}, "3 ranges"),
        ({"bins": [60, 40], "words": ["a", "b", "c"]}, "must increase"),
        ({"bins": ["x"], "words": ["a", "b"]}, "not a number"),
        ({"bins": [], "words": ["a"]}, "list of edges"),
        ({"bins": [40], "word": ["a", "b"]}, "did you mean 'words'"),
        ({"male": ""}, "is empty"),
        ({"male": []}, "list of words is empty"),
        ({"male": ["man", ""]}, "is empty"),
        ({"male": False}, "put it in quotes"),
        ({}, "one word per value"),
        ("man", "one word per value"),
    ],
)
def test_a_rule_that_contradicts_itself_is_an_error(content, message):
    with pytest.raises(InputError, match=message):
        parse_words({"age": content})


SEX = {"male": ("man", "male"), "female": ("woman", "female")}
RACE = {"white": ("White", "white"), "black or african american": ("Black", "black or african american")}


@pytest.mark.parametrize(
    ("caption", "words", "value"),
    [
        ("MR slice of a 40-year-old man", SEX, "male"),
        ("MR slice of a Woman's brain", SEX, "female"),
        ("a FEMALE patient", SEX, "female"),
        ("a human brain", SEX, None),
        ("brain of a man or a woman", SEX, None),
        ("MR slice of a brain", SEX, None),
        ("a non-male patient", SEX, None),
        ("lesion in the white matter", RACE, None),
        ("lesion in the white matter of a white man", RACE, "white"),
        ("a black or african american woman", RACE, "black or african american"),
        ("40-year-old patient", {"old": ("old",), "young": ("young",)}, None),
        ("an old patient", {"old": ("old",), "young": ("young",)}, "old"),
        ("a man", {"male": "man"}, "male"),
        ("grade (II)", {"2": "(II)"}, "2"),
        ("MR in two females", SEX, "female"),
        ("MR of women", SEX, "female"),
        ("three men's brains", SEX, "male"),
        ("her brain, FLAIR", SEX, "female"),
        ("FLAIR of a patient and his lesion", SEX, "male"),
        ("the man and her wife", SEX, None),
        ("HER2-positive, HER 2 and her-2", SEX, None),
        ("hyperpolarized He MRI of a woman", SEX, "female"),
        ("two ladies", {"f": ("lady",), "m": ("gentleman",)}, "f"),
        ("she and her gentlemen", {"f": ("lady",), "m": ("gentleman",)}, None),
        ("humans", SEX, None),
        ("F18-FDG PET, f waves", {"F": ("F",), "M": ("M",)}, None),
        ("sex F", {"F": ("F",), "M": ("M",)}, "F"),
    ],
)
def test_the_subgroup_that_a_caption_names(caption, words, value):
    assert names_attribute(caption, words) == value

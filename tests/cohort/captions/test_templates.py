import numpy as np
import pandas as pd
import pytest

from medi_monai.cohort.captions import CaptionTemplates
from medi_monai.utils.errors import InputError

WORDS = {
    "sex": {"male": "man", "female": "woman"},
    "age": {"bins": [40, 60], "words": ["young", "middle-aged", "old"]},
}


def table(count=2000, seed=0, missing=0.3):
    rng = np.random.default_rng(seed)
    sex = rng.choice(["male", "female"], count)
    age = rng.integers(1, 100, count).astype(str)
    return pd.DataFrame(
        {
            "image": [f"slices/{number}.png" for number in range(count)],
            "sex": np.where(rng.random(count) < missing, rng.choice(["", " ", "  "], count), sex),
            "age": np.where(rng.random(count) < missing, "", age),
        }
    )


def article(number):
    # by ear: eight, eleven, eighteen, eighty … eighty-nine
    return "an" if number in (8, 11, 18) or 80 <= number <= 89 else "a"


def test_every_caption_is_one_of_those_that_its_row_can_have():
    rows = table()
    templates = CaptionTemplates(
        [
            "MR slice of a {age:.0f}-year-old {sex}",
            {"text": "A {age} {sex}, {{MR}}", "weight": 2},
            {"text": "a {sex}", "weight": 0.5},
            "a brain",
        ],
        WORDS,
    )
    captions = templates.compose(rows)
    for sex, age, caption in zip(rows["sex"], rows["age"], captions):
        word = WORDS["sex"].get(sex)
        allowed = {"a brain"} | ({f"a {word}"} if word else set())
        if word and age:
            years = int(age)
            range_word = "young" if years < 40 else "middle-aged" if years < 60 else "old"
            begin = "An" if range_word == "old" else "A"
            allowed |= {f"MR slice of {article(years)} {years}-year-old {word}", f"{begin} {range_word} {word}, {{MR}}"}
        assert caption in allowed


def test_templates_are_drawn_by_their_weights_among_those_that_fit():
    rows = table(20_000)
    weights = {"x {sex} {age}": 3, "y {sex}": 1, "z": 2}
    captions = CaptionTemplates([{"text": text, "weight": weight} for text, weight in weights.items()]).compose(rows)
    has_sex = rows["sex"].isin(["male", "female"])
    for fits, letters in ((has_sex & (rows["age"] != ""), "xyz"), (has_sex & (rows["age"] == ""), "yz")):
        total = sum(weight for text, weight in weights.items() if text[0] in letters)
        for text, weight in weights.items():
            share = (captions[fits].str[0] == text[0]).mean()
            expected = weight / total if text[0] in letters else 0
            assert abs(share - expected) <= 4 * np.sqrt(expected * (1 - expected) / fits.sum())
    assert (captions[~has_sex] == "z").all()


def test_a_draw_depends_on_the_row_and_the_seed_alone():
    rows = table(300)
    templates = CaptionTemplates(["one {sex}", "two {age}", "three", "four"], seed=7)
    captions = dict(zip(rows["image"], templates.compose(rows)))
    shuffled = rows.sample(frac=0.5, random_state=1)
    composed = templates.compose(shuffled)
    assert composed.index.equals(shuffled.index)
    assert composed.tolist() == [captions[image] for image in shuffled["image"]]
    other = CaptionTemplates(["one {sex}", "two {age}", "three", "four"], seed=8).compose(rows)
    assert 0.1 < (other.to_numpy() == np.array(list(captions.values()))).mean() < 0.7


def test_rows_without_a_template_are_listed_with_their_counts():
    rows = pd.DataFrame({"image": list("abcd"), "sex": ["male", "", "", ""], "age": ["1", "2", "", "x"]})
    with pytest.raises(InputError) as error:
        CaptionTemplates(["a {age:.0f}-year-old {sex}"]).compose(rows)
    assert "3 of 4 rows" in str(error.value)
    assert "without age, sex (1 row)" in str(error.value) and "without sex (1 row)" in str(error.value)
    assert "age 'x' is not a number, as '.0f' requires (1 row)" in str(error.value)


def test_an_unknown_column_names_the_nearest():
    with pytest.raises(InputError, match="'sexx'.*did you mean 'sex'"):
        CaptionTemplates(["a {sexx}"]).compose(table(3))
    with pytest.raises(InputError, match="'agee'.*did you mean 'age'"):
        CaptionTemplates(["a {sex}"], {"agee": {"1": "one"}}).compose(table(3))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a {sex", "not a valid format string"),
        ("a sex}", "not a valid format string"),
        ("a {}", "name of a column"),
        ("a {0}", "name of a column"),
        ("a {sex!r}", "name of a column"),
        ("a {age:{width}}", "name of a column"),
        ("a {age:.x0f}", "not a valid format for 'age'"),
        ("  ", "must be a string"),
        ({"text": "a", "wieght": 1}, "did you mean 'weight'"),
        ({"text": "a", "weight": 0}, "above 0"),
        ({"weight": 1}, "use a string"),
        (3, "use a string"),
    ],
)
def test_a_broken_template_is_an_error(template, message):
    with pytest.raises(InputError, match=message):
        CaptionTemplates([template])


def test_no_template_is_an_error():
    for nothing in ([], "a {sex}", {}):
        with pytest.raises(InputError, match="list of one or more"):
            CaptionTemplates(nothing)


def test_a_column_with_a_dot_is_a_column():
    rows = pd.DataFrame({"image": ["a"], "demographic.sex": ["male"]})
    assert CaptionTemplates(["a {demographic.sex}"]).compose(rows).tolist() == ["a male"]


def test_formats_of_numbers_and_texts():
    rows = pd.DataFrame({"image": ["a"], "age": ["66.6"], "sex": ["male"]})
    templates = CaptionTemplates(["{age:.1f}|{age:d}|{age:04.0f}|{sex:>6}|{age}"], WORDS)
    assert templates.compose(rows).tolist() == ["66.6|66|0067|   man|old"]


def test_neutral_templates_are_those_without_the_attribute():
    templates = CaptionTemplates(["a {sex}", "a {age} brain", "a brain"], WORDS, seed=3)
    assert [item.text for item in templates.without(["sex"]).templates] == ["a {age} brain", "a brain"]
    assert templates.without(["sex"]).seed == 3
    with pytest.raises(InputError, match="all 1 templates name sex"):
        CaptionTemplates(["a {sex}"]).without(["sex"])


def test_words_that_name_the_values_of_an_attribute():
    templates = CaptionTemplates(["a {sex}"], WORDS)
    assert templates.names_of("sex", ["male", "other", ""]) == {
        "male": ("man", "male"),
        "female": ("woman", "female"),
        "other": ("other",),
    }
    assert templates.names_of("age") == {"young": ("young",), "middle-aged": ("middle-aged",), "old": ("old",)}
    assert templates.names_of("slice", ["1", "2"]) == {}


def test_words_stand_alone_where_captions_are_read():
    words = CaptionTemplates.from_setting({"words": {"sex": {"male": ["man", "gentleman"]}}})
    assert not words.composes and words.columns == () and CaptionTemplates(["a {sex}"]).composes
    assert words.names_of("sex", ["female"]) == {"male": ("man", "gentleman", "male"), "female": ("female",)}
    assert CaptionTemplates.from_setting(words.settings()) == words
    with pytest.raises(InputError, match="give a list of one or more"):
        CaptionTemplates([])


def test_words_that_no_value_needs_are_noted():
    notes = CaptionTemplates(["a {sex}"], {"sex": {"mael": "man", "female": "woman"}}).notes(table(20))
    assert len(notes) == 1 and "'mael' (did you mean 'male'?)" in notes[0]


def test_settings_make_the_same_templates():
    templates = CaptionTemplates(["a {sex}", {"text": "x", "weight": 2}], WORDS, seed=4)
    assert CaptionTemplates.from_setting(templates.settings()) == templates

import random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medi_monai.cohort.tables import Bins, parse_mapping
from medi_monai.schema import MISSING_WORDS
from medi_monai.utils.errors import InputError


def column(values, name="race", index=None):
    return pd.DataFrame({name: pd.Series(values, dtype="str", index=index)})


def apply(rule, values, name="race", **options):
    return parse_mapping({"new": {"column": name, **rule}})["new"].apply(column(values, name), **options)


def test_rename_and_merge_act_on_the_old_values_at_once():
    mapped = apply({"rename": {"a": "b", "b": "c"}, "merge": {"other": ["d", "e"], "": ["f"]}}, list("abcdefg"))
    assert mapped.values.tolist() == ["b", "c", "c", "other", "other", "", "g"]
    assert mapped.values.name == "new" and mapped.notes == () and (mapped.problems == "").all()


def test_missing_data_stay_missing_whatever_their_spelling():
    cells = ["white", " white ", "'--", "Not Reported", "n/a", ""]
    mapped = apply({"rename": {"white": "W"}}, cells, missing=[*MISSING_WORDS, "N/A"])
    assert mapped.values.tolist() == ["W", "W", "", "", "", ""]


def test_numbers_of_yaml_are_taken_as_text_and_its_booleans_refused():
    assert apply({"merge": {"low": [1, 2]}, "rename": {3: "high"}}, ["1", "2", "3", "01"]).values.tolist() == [
        *("low", "low", "high", "01")
    ]
    for rule in ({"rename": {True: "yes"}}, {"rename": {"x": None}}, {"merge": {"x": [False]}}):
        with pytest.raises(InputError, match="quotes"):
            apply(rule, ["x"])


def brute_decade(text):
    low = int(float(text)) // 10 * 10
    return f"{low}-{low + 9}"


def brute_edges(text, edges):
    inside = [edge for edge in edges if edge <= float(text)]
    return f"{inside[-1]}+" if len(inside) == len(edges) else f"{inside[-1]}-{edges[len(inside)] - 1}"


def test_bins_of_random_numbers_equal_those_of_each_alone():
    draw = random.Random(0)
    texts = [str(draw.choice([draw.randrange(0, 130), round(draw.uniform(0, 129), 2)])) for _ in range(500)]
    texts += ["0", "9", "9.99", "10", "59", "60", "69", "70", "129"]
    assert apply({"bins": "decades"}, texts).values.tolist() == [brute_decade(text) for text in texts]
    edges = [0, 40, 60, 80]
    assert apply({"bins": edges}, texts).values.tolist() == [brute_edges(text, edges) for text in texts]


def test_bins_are_closed_below_and_open_above():
    assert Bins((0, 40, 60)).name_of(39.99) == "0-39" and Bins((0, 40, 60)).name_of(40) == "40-59"
    assert Bins((0, 40, 60)).name_of(60) == "60+" and Bins((0, 40)).name_of(-0.1) is None
    assert Bins((0, 0.5, 1.5)).name_of(0.5) == "0.5-1.5" and Bins((0, 1, 2)).name_of(1) == "1"
    assert Bins.decades().name_of(129) == "120-129" and Bins.decades().name_of(130) is None


@pytest.mark.parametrize("wrong", ["-3", "130", "24980", "1950-03-01", ">89", "inf", "sixty"])
def test_a_value_in_no_bin_is_left_empty_with_a_note_and_its_row_is_kept(wrong):
    mapped = apply({"bins": "decades"}, ["61", wrong, "", "7"], "age_at_index")
    assert mapped.values.tolist() == ["60-69", "", "", "0-9"]
    assert mapped.problems.tolist() == [""] * 4
    (note,) = mapped.notes
    assert f"age_at_index {wrong!r} (1 row) " in note and note.endswith("and is left empty")
    many = apply({"bins": "decades"}, ["61", *(f"about {number}" for number in range(20))], "age_at_index").notes
    assert len(many) == 9 and many[-1] == "and 12 further notes of this kind"


def test_a_column_without_one_number_that_fits_is_an_error():
    with pytest.raises(InputError, match="'new': no value of 'age_at_diagnosis' fits.*'24980'.*0 to 130"):
        apply({"bins": "decades"}, ["24980", "", "24981"], "age_at_diagnosis")
    assert apply({"bins": "decades"}, ["", "'--"]).values.tolist() == ["", ""]


def test_a_value_that_never_occurs_is_noted_with_the_nearest():
    mapped = apply({"merge": {"other": ["asian", "amercan indian"]}}, ["asian", "american indian"])
    assert (
        len(mapped.notes) == 1
        and "'race' has no value 'amercan indian' (did you mean 'american indian'?)" in mapped.notes[0]
    )


@pytest.fixture
def sites(tmp_path):
    table = pd.DataFrame([("01", "UNC"), ("NA", "Duke"), ("1", "Mayo"), ("B7", "unknown")], columns=["code", "center"])
    table.to_csv(tmp_path / "sites.csv", index=False)
    return tmp_path


LOOKUP = {"lookup": "sites.csv", "key": "code", "value": "center"}


def test_codes_become_centers_with_their_aliases_merged(sites):
    codes = ["NA", "01", "1", "", "B7", "01"]
    assert apply(LOOKUP, codes, folder=sites).values.tolist() == ["Duke", "UNC", "Mayo", "", "", "UNC"]
    aliases = {**LOOKUP, "aliases": "tcga"}
    assert apply(aliases, codes, folder=sites).values.tolist()[:3] == [
        *("Duke University", "University of North Carolina", "Mayo Clinic")
    ]
    own = {**LOOKUP, "aliases": {"U": ["UNC"]}, "merge": {"rest": ["Mayo", "Duke"]}}
    assert apply(own, codes, folder=sites).values.tolist() == ["rest", "U", "rest", "", "", "U"]


def test_aliases_need_no_lookup():
    assert apply({"aliases": "tcga"}, ["UNC", "Duke", "X"]).values.tolist() == [
        *("University of North Carolina", "Duke University", "X")
    ]


def test_codes_that_the_table_lacks_are_named_or_missing_or_kept(sites):
    codes = ["01", "ZZ", "YY", "ZZ"]
    with pytest.raises(InputError, match="lacks 2 values of 'race': 'YY', 'ZZ'.*unlisted: missing"):
        apply(LOOKUP, codes, folder=sites)
    assert apply({**LOOKUP, "unlisted": "missing"}, codes, folder=sites).values.tolist() == ["UNC", "", "", ""]
    assert apply({**LOOKUP, "unlisted": "keep"}, codes, folder=sites).values.tolist() == ["UNC", "ZZ", "YY", "ZZ"]


def test_a_part_of_a_barcode_can_be_looked_up(sites):
    slides = ["TCGA-NA-A4QV-01Z-00-DX1", "TCGA-01-A4QV-01A-01-TS1", "own-slide", ""]
    assert apply({"barcode": "site"}, slides).values.tolist() == ["NA", "01", "", ""]
    assert apply({"barcode": "section"}, slides).values.tolist() == ["diagnostic", "frozen", "", ""]
    mapped = apply({"barcode": "site", **LOOKUP}, slides, "slide", folder=sites)
    assert mapped.values.tolist() == ["Duke", "UNC", "", ""]
    assert mapped.problems.tolist() == ["", "", "slide 'own-slide' is not a TCGA barcode with this part", ""]


def test_a_random_column_equals_a_loop_over_its_rows(sites):
    draw = random.Random(1)
    codes = draw.choices(["01", "NA", "1", "B7", "", "'--", " 01"], k=300)
    index = draw.sample(range(1000), 300)
    rule = parse_mapping({"new": {"column": "site", **LOOKUP, "rename": {"UNC": "Chapel Hill"}}})["new"]
    known = {"01": "Chapel Hill", "NA": "Duke", "1": "Mayo", "B7": ""}
    mapped = rule.apply(column(codes, "site", index), sites)
    assert mapped.values.tolist() == [known.get(code.strip(), "") for code in codes]
    assert mapped.values.index.tolist() == mapped.problems.index.tolist() == index


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ({"age": {"column": "a", "bin": "decades"}}, "mapping of 'age': unknown key 'bin': did you mean 'bins'"),
        ({"age": {"bins": "decade"}}, "did you mean 'decades'"),
        ({"age": {"bins": [0, 40, 40]}}, "increase, but 40 follows 40"),
        ({"age": {"bins": [0]}}, "two or more edges"),
        ({"age": {"bins": ["a", "b"]}}, "two or more edges"),
        ({"age": {"bins": 10}}, "use edges"),
        ({"race": {"merge": {"other": "asian"}}}, "must be a list"),
        ({"race": {"merge": ["asian"]}}, "merge.*must be a mapping"),
        ({"race": {"rename": {"a": "b"}, "merge": {"c": ["a"]}}}, "'a' is mapped to both 'b' and 'c'"),
        ({"center": {"lookup": "t.csv", "key": "code"}}, "needs `value`"),
        ({"center": {"column": "c", "key": "code"}}, "`key` belongs to a `lookup`"),
        ({"center": {**LOOKUP, "unlisted": "drop"}}, "unknown choice of `unlisted` 'drop'"),
        ({"center": {**LOOKUP, "aliases": {"A": ["x"], "B": ["x"]}}}, "'x' is a spelling"),
        ({"site": {"barcode": "code"}}, "unknown part of a barcode 'code'"),
        ({"site": ["column"]}, "is not a rule"),
        (["race"], "mapping of rules"),
    ],
)
def test_a_wrong_rule_is_refused_before_anything_is_read(mapping, says):
    with pytest.raises(InputError, match=says) as caught:
        parse_mapping(mapping)
    assert "\n" not in str(caught.value)


def test_a_name_alone_is_the_column_and_no_mapping_has_no_rules():
    assert parse_mapping({"sex": "gender"})["sex"].column == "gender"
    assert parse_mapping({"race": {}})["race"].column == "race"
    assert parse_mapping(None) == parse_mapping({}) == {}


def test_a_word_for_missing_data_that_a_rule_names_is_a_value():
    values = ["none", "tumor", "unknown", "", " None "]
    assert apply({}, values).values.tolist() == ["", "tumor", "", "", ""]
    assert apply({"rename": {"none": "no tumor"}}, values).values.tolist() == ["no tumor", "tumor", "", "", ""]
    assert apply({}, values, missing=["unknown"]).values.tolist() == ["none", "tumor", "", "", "None"]
    assert apply({"merge": {"healthy": ["none", "None"]}}, values).values.tolist() == [
        *("healthy", "tumor", "", "", "healthy")
    ]
    # and a value that gets such a name is missing
    assert apply({"rename": {"tumor": "unknown"}}, values).values.tolist() == [""] * 5


def test_words_for_missing_data_are_no_codes_and_no_numbers_unless_they_are_named(sites):
    codes = ["01", "unknown", "'--"]
    assert apply(LOOKUP, codes, folder=sites).values.tolist() == ["UNC", "", ""]
    pd.DataFrame({"code": ["01", "none"], "center": ["UNC", "own"]}).to_csv(sites / "sites.csv", index=False)
    assert apply(LOOKUP, ["01", "none", "unknown"], folder=sites).values.tolist() == ["UNC", "own", ""]
    ages = apply({"bins": "decades", "rename": {"unknown": "no age"}}, ["61", "unknown", "not reported"])
    assert ages.values.tolist() == ["60-69", "no age", ""] and (ages.problems == "").all()


WORD = st.sampled_from(["none", "None", "unknown", "a", "b", " a ", "", "'--"])


@given(st.lists(WORD, min_size=1, max_size=8), st.dictionaries(WORD.map(str.strip), st.sampled_from("xyz"), max_size=3))
def test_renaming_equals_a_loop_over_the_cells(values, names):
    expected = []
    for value in values:
        value = names.get(value.strip(), value.strip())
        expected.append("" if value.lower() in MISSING_WORDS else value)
    assert apply({"rename": names}, values).values.tolist() == expected

import itertools

import pytest

from medi_monai.schema import CategoricalColumn, ContinuousColumn, MetadataSchema, Mixture, parse_mixture, parse_path
from medi_monai.utils.errors import InputError

CENTER = CategoricalColumn("center", ("Ash", "Birch", "Elm", "Her2+", "a:1", "b..c"))
SCHEMA = MetadataSchema(CategoricalColumn("label", ("A", "B")), (CENTER, ContinuousColumn("age", 20, 80)))


@pytest.mark.parametrize(
    "text, canonical, weights",
    [
        ("Ash:30+Birch:70", "Ash:30+Birch:70", {"Ash": 0.3, "Birch": 0.7}),
        ("Birch:0.7 + Ash: 0.3", "Ash:30+Birch:70", {"Ash": 0.3, "Birch": 0.7}),
        ("Ash:1+Birch:1+Elm:2", "Ash:25+Birch:25+Elm:50", {"Ash": 0.25, "Birch": 0.25, "Elm": 0.5}),
        ("Her2+:1+a:1:3", "Her2+:25+a:1:75", {"Her2+": 0.25, "a:1": 0.75}),
        ("Ash:0+Birch:5", "Birch", {"Birch": 1.0}),
    ],
)
def test_a_mixture_is_its_weights_and_its_canonical_text_reads_the_same(text, canonical, weights):
    mixture = parse_mixture(CENTER, text)
    assert mixture.text == canonical
    assert dict(mixture.weights) == pytest.approx(weights)
    if len(mixture.shares) > 1:
        assert parse_mixture(CENTER, canonical) == mixture


def test_thirds_are_rounded_before_they_are_used_so_that_the_text_tells_all():
    mixture = parse_mixture(CENTER, "Ash:1+Birch:1+Elm:1")
    assert mixture.text == "Ash:33.3333+Birch:33.3333+Elm:33.3333"
    assert parse_mixture(CENTER, mixture.text).weights == mixture.weights
    assert sum(weight for _, weight in mixture.weights) == pytest.approx(1, abs=1e-12)


def test_order_and_unit_of_the_weights_do_not_matter():
    values = [("Ash", 2.0), ("Elm", 3.0), ("Birch", 5.0)]
    texts = {Mixture.of(CENTER, [(v, 7 * w) for v, w in order]).text for order in itertools.permutations(values)}
    assert texts == {"Ash:20+Birch:50+Elm:30"}


@pytest.mark.parametrize("text", ["Ash", "a:1", "Her2+", "Oak", "x+y", "10:30", "", "Ash+Birch"])
def test_other_texts_are_no_mixtures(text):
    assert parse_mixture(CENTER, text) is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("Ash:30+Brich:70", "'Brich': did you mean 'Birch'"),
        ("Ash:30", "two or more values"),
        ("Ash:30+Ash:70", "names a value twice"),
        ("Ash:0+Birch:0", "weight above 0"),
    ],
)
def test_misspelled_mixtures_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_mixture(CENTER, text)


def test_a_value_that_is_spelled_like_a_mixture_is_that_value_and_two_readings_are_refused():
    column = CategoricalColumn("center", ("Ash", "Birch", "Ash:1+Birch", "Ash:1+Birch:2"))
    assert parse_mixture(column, "Ash:1+Birch:2") is None
    with pytest.raises(InputError, match="ambiguous"):
        parse_mixture(column, "Ash:1+Birch:2+Ash:3")


def test_a_path_of_values_has_equal_steps_between_its_ends():
    path = parse_path("center=Elm..Ash", 5, SCHEMA)
    assert path.values == ("Elm", "Ash:25+Elm:75", "Ash:50+Elm:50", "Ash:75+Elm:25", "Ash")
    assert path.titles == ("Elm", "25% Ash", "50% Ash", "75% Ash", "Ash")
    assert parse_path("center=b..c..Ash", 2, SCHEMA).values == ("b..c", "Ash")


def test_a_path_of_a_number_is_a_series_of_numbers():
    assert parse_path("age=70..40", 4, SCHEMA).values == ("70", "60", "50", "40")


@pytest.mark.parametrize(
    "text, steps, message",
    [
        ("center=Ash..Brich", 3, "did you mean 'Birch'"),
        ("centre=Ash..Birch", 3, "did you mean 'center'"),
        ("center=Ash", 3, "write column=start..end"),
        ("Ash..Birch", 3, "write column=start..end"),
        ("center=Ash..Ash", 3, "the same"),
        ("center=Ash..Birch", 1, "2 steps or more"),
        ("age=40..90", 3, "outside the range"),
        ("age=40..", 3, "age=20..80"),
        ("age=forty..50", 3, "not a finite number"),
    ],
)
def test_bad_paths_are_refused(text, steps, message):
    with pytest.raises(InputError, match=message):
        parse_path(text, steps, SCHEMA)

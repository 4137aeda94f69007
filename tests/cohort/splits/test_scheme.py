import json
from dataclasses import asdict, replace

import pytest

from medi_monai.cohort.splits import SCHEMES, SplitScheme
from medi_monai.utils.errors import InputError


def test_the_default_suits_the_cohort():
    scheme = SplitScheme(["tumor", "center"])
    assert (scheme.name, scheme.fraction, scheme.validation_share) == ("auto", 0.3, 0.15)


@pytest.mark.parametrize("name", SCHEMES)
def test_validation_is_off_by_default_in_the_published_rule_alone(name):
    scheme = SplitScheme(["tumor", "center"], name)
    assert scheme.validation_share == (0 if name == "medi_2025" else 0.15)
    assert replace(scheme, val_fraction=0.4).validation_share == 0.4
    assert replace(scheme, val_fraction=0).validation_share == 0


def test_settings_can_be_written_as_json_and_read_back():
    scheme = SplitScheme(["tumor", "center"], "site_holdout", values=["a", "b"])
    assert SplitScheme(**json.loads(json.dumps(asdict(scheme)))) == scheme


def test_an_unknown_name_is_refused_with_the_nearest_and_all_names():
    with pytest.raises(InputError, match="unknown split scheme 'site_holdouts': did you mean 'site_holdout'") as error:
        SplitScheme(["tumor", "center"], "site_holdouts")
    assert all(repr(name) in str(error.value) for name in SCHEMES)
    with pytest.raises(InputError, match=r"'0.3'.*by name: fraction=0.3"):
        SplitScheme(["tumor", "center"], 0.3)


@pytest.mark.parametrize("name", ["fraction", "val_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1, 30, float("nan"), "0.3", True])
def test_fractions_outside_zero_to_one_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"^{name} = "):
        SplitScheme(["tumor", "center"], **{name: value})


@pytest.mark.parametrize(
    "changes",
    [{"num_folds": 1}, {"num_folds": 2.5}, {"fold": -1}, {"fold": 5}, {"fold": 2, "num_folds": 2}, {"seed": "a"}],
)
def test_numbers_out_of_range_are_refused_by_name(changes):
    with pytest.raises(InputError, match=f"^{next(iter(changes))} = "):
        SplitScheme(["tumor"], "patient_kfold", **changes)


@pytest.mark.parametrize("columns", ["tumor", [], ["tumor", "tumor"], ["tumor", "patient"], ["tumor", 3], [""], None])
@pytest.mark.parametrize("name", SCHEMES)
def test_columns_have_to_be_distinct_names(columns, name):
    with pytest.raises(InputError, match="^columns = "):
        SplitScheme(columns, name)


@pytest.mark.parametrize("name", ["subpopulation_holdout", "site_holdout", "medi_2025"])
def test_schemes_about_attributes_need_one(name):
    with pytest.raises(InputError, match=f"{name} needs the label and at least one attribute"):
        SplitScheme(["tumor"], name)


def test_values_are_centers_of_a_site_holdout():
    with pytest.raises(InputError, match=r"values = \['Aspen'\]: only site_holdout uses them"):
        SplitScheme(["tumor", "center"], "subpopulation_holdout", values=["Aspen"])
    for values in ("Aspen", [""], [3], None):
        with pytest.raises(InputError, match="^values = .*use a list"):
            SplitScheme(["tumor", "center"], "site_holdout", values=values)

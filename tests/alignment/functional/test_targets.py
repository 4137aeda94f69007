import itertools
import math

import pandas as pd
import pytest
import torch

from medi_monai.alignment.functional import check_shares, make_target
from medi_monai.alignment.functional.targets import parts_of
from medi_monai.utils.errors import InputError

ATTRIBUTES = {"sex": ("female", "male"), "age": ("young", "middle", "old")}


def test_uniform_over_one_attribute_and_over_the_joint():
    assert make_target("uniform", ATTRIBUTES, names=["sex"]).probabilities == (0.5, 0.5)
    joint = make_target("uniform", ATTRIBUTES)
    assert joint.attributes == ("sex", "age") and joint.probabilities == (1 / 6,) * 6
    assert joint.names == [f"{sex}|{age}" for sex in ("female", "male") for age in ("young", "middle", "old")]


@pytest.mark.parametrize("names", [["sex"], None])
def test_numbers_of_one_attribute_are_put_in_the_order_of_the_classifier(names):
    spec = {"male": 0.7, "female": 0.3}
    target = make_target(spec if names else {"sex": spec}, ATTRIBUTES, names=names)
    assert target.attributes == ("sex",)
    assert dict(zip(target.names, target.probabilities)) == pytest.approx({"female": 0.3, "male": 0.7})
    assert target.groups == (("female",), ("male",))


def test_a_joint_is_given_by_joined_names_by_tuples_or_nested():
    shares = [0.1, 0.0, 0.2, 0.3, 0.15, 0.25]
    keys = list(itertools.product(*ATTRIBUTES.values()))
    nested = {sex: {age: shares[keys.index((sex, age))] for age in ATTRIBUTES["age"]} for sex in ("male", "female")}
    for spec in ({"|".join(key): x for key, x in zip(keys, shares)}, dict(zip(keys, shares)), nested):
        target = make_target(spec, ATTRIBUTES)
        assert target.groups == tuple(keys)
        assert target.probabilities == pytest.approx(shares)
    assert make_target(target.to_dict()["target"], ATTRIBUTES) == target


def test_several_attributes_by_themselves_are_independent():
    target = make_target({"age": {"old": 0.5, "young": 0.25, "middle": 0.25}, "sex": {"female": 0.4, "male": 0.6}},
                         ATTRIBUTES)  # fmt: skip
    assert target.attributes == ("age", "sex")
    shares = dict(zip(target.groups, target.probabilities))
    assert shares["old", "male"] == pytest.approx(0.3) and shares["young", "female"] == pytest.approx(0.1)


def test_shares_of_a_table_leave_out_rows_with_a_missing_cell_and_do_not_depend_on_their_order():
    table = pd.DataFrame(
        {
            "sex": ["female", "male", "male", None, "male", "unknown", "female"],
            "age": ["old", "old", "young", "old", "old", "young", ""],
            "site": list("abcdefg"),
        }
    )
    joint = make_target("table", ATTRIBUTES, table)
    shares = dict(zip(joint.groups, joint.probabilities))
    assert shares == {
        ("female", "young"): 0, ("female", "middle"): 0, ("female", "old"): 0.25,
        ("male", "young"): 0.25, ("male", "middle"): 0, ("male", "old"): 0.5,
    }  # fmt: skip
    assert make_target("table", ATTRIBUTES, table.iloc[::-1]) == joint
    assert make_target("table", ATTRIBUTES, table, names=["sex"]).probabilities == pytest.approx((0.4, 0.6))


def test_whole_numbers_that_a_missing_cell_made_floats_are_values_still():
    table = pd.DataFrame({"grade": [2, 3, 3, None]})
    assert make_target("table", {"grade": (2, 3)}, table).probabilities == pytest.approx((1 / 3, 2 / 3))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"female": 50, "male": 50}, "sums to 100, .*not percent"),
        ({"female": 0.5, "male": 0.4}, r"sums to 0\.9, .*sum to 1"),
        ({"female": -0.5, "male": 1.5}, "'female' the share -0.5"),
        ({"female": float("nan"), "male": 1.5}, "share nan"),
        ({"female": True, "male": 0}, "share True"),
        ({"female": "half", "male": 0.5}, "share 'half'"),
        ({"female": 1.0}, "leaves out 'male'"),
        ({"femal": 0.5, "male": 0.5}, "unknown subgroup.*did you mean 'female'"),
        ({"sexx": {"female": 0.5, "male": 0.5}}, "unknown attribute 'sexx': did you mean 'sex'"),
        ({"age": {"young": 1, "middle": 0, "old": 0}}, "attributes to align are"),
        ("unifrom", "did you mean 'uniform'"),
        ("table", "no reference table"),
        (0.5, "a mapping of values"),
        ({}, "a mapping of values"),
    ],
)
def test_a_wrong_target_is_an_error_of_one_line(spec, message):
    with pytest.raises(InputError, match=message):
        make_target(spec, ATTRIBUTES, names=["sex"])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"female": 0.7, "male": 0.7}, "sums to 1.4"),
        ({"sex": {"female": 50, "male": 50}}, "sums to 100, .*not percent"),
        ({"sex": {"female": 0.5, "male": 0.5}, "age": {"young": 0.5, "old": 0.4}}, r"'age' sums to 0\.9"),
        ({"female": {"young": 0.5, "old": 0.5}, "male": {"young": 0.5, "old": 0.5}}, "target sums to 2"),
        ({"female": {"young": math.inf, "old": -math.inf}}, "share inf"),
        ({"female": 10**400, "male": 0.5}, "share 1000"),
        ({"female": {"young": 0.5, "old": 0.4}, "male": {"young": 0.0, "old": 0.0}}, r"sums to 0\.9"),
        ({"female": {"young": "half", "old": 0.5}}, "share 'half'"),
        ({"female": -0.5, "male": 1.5}, "'female' the share -0.5"),
        ("unifrom", "did you mean 'uniform'"),
        ("table", "no reference table"),
        ([0.5, 0.5], "a mapping of values"),
    ],
)
def test_shares_that_cannot_be_are_refused_before_values_are_known(spec, message):
    with pytest.raises(InputError, match=message):
        check_shares(spec, ["sex", "age"])


def test_shares_that_can_be_are_let_through():
    nested = {"female": {"young": 0.5, "old": 0.25}, "male": {"young": 0.0, "old": 0.25}}
    by_attribute = {"sex": {"female": 0.5, "male": 0.5}, "age": {"young": 0.5, "old": 0.5}}
    for spec in ("uniform", {"female": 0.5, "male": 0.5}, nested, by_attribute, {"female|young": 0.5, "male|old": 0.5}):
        check_shares(spec, ["sex", "age"])
    check_shares("table", ["sex"], table="shares.csv")
    with pytest.raises(InputError, match="a reference table is given, but the target is 'uniform'"):
        check_shares("uniform", ["sex"], table="shares.csv")


def test_an_attribute_that_the_classifier_does_not_have_is_named_with_the_nearest():
    with pytest.raises(InputError, match="unknown attribute 'Sexe': did you mean 'sex'"):
        make_target("uniform", ATTRIBUTES, names=["Sexe"])
    with pytest.raises(InputError, match="unknown attribute 'age'"):
        make_target("uniform", ATTRIBUTES).log_probabilities({"sex": torch.ones(1, 2)})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.DataFrame({"gender": ["female"]}), "unknown column 'sex'"),
        (pd.DataFrame({"sex": ["femal"]}), "did you mean 'female'"),
        (pd.DataFrame({"sex": [None, ""]}), "none of the 2 rows"),
        (pd.DataFrame({"sex": ["female", "male"], "share": ["0.4", "-0.1"]}), "share = '-0.1' in the reference"),
        (pd.DataFrame({"sex": ["female", "male"], "count": ["3", "three"]}), "count = 'three' in the reference"),
        (pd.DataFrame({"sex": ["female", "male"], "count": ["0", "0"]}), "have a total weight of 0"),
    ],
)
def test_a_wrong_reference_table_is_an_error(table, message):
    with pytest.raises(InputError, match=message):
        make_target("table", ATTRIBUTES, table, names=["sex"])


@pytest.mark.parametrize("name", ["share", "count"])
def test_a_row_of_a_reference_table_may_stand_for_many(name):
    table = pd.DataFrame({"sex": ["male", "female", "male", ""], name: ["3", "4", "3", "90"]}, dtype="str")
    target = make_target("table", ATTRIBUTES, table, ["sex"])
    assert dict(zip(target.groups, target.probabilities)) == pytest.approx({("female",): 0.4, ("male",): 0.6})
    with pytest.raises(InputError, match="set it to 'table'"):
        make_target({"female": 0.5, "male": 0.5}, ATTRIBUTES, table, ["sex"])


def test_one_subgroup_or_one_twice_is_no_target():
    for attributes in ({"sex": ("female",)}, {"sex": ("female", "female")}):
        with pytest.raises(InputError, match="two or more different subgroups"):
            make_target("uniform", attributes)


def test_a_tensor_takes_the_type_of_another():
    target = make_target("uniform", ATTRIBUTES, names=["sex"])
    assert target.tensor().dtype == torch.float32
    assert target.tensor(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64


def test_joint_probabilities_are_products_in_the_order_of_the_groups():
    torch.manual_seed(0)
    logits = {name: 3 * torch.randn(5, len(values)) for name, values in ATTRIBUTES.items()}
    probabilities = {name: x.softmax(1) for name, x in logits.items()}
    target = make_target("uniform", ATTRIBUTES)
    joint = target.log_probabilities(logits).exp()
    for n, (g, (sex, age)) in itertools.product(range(5), enumerate(target.groups)):
        expected = (
            probabilities["sex"][n, ATTRIBUTES["sex"].index(sex)]
            * probabilities["age"][n, ATTRIBUTES["age"].index(age)]
        )
        assert joint[n, g].item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(joint.sum(1), torch.ones(5))


def test_rows_of_a_table_have_the_subgroups_of_their_columns():
    sex, age, joint = parts_of(make_target("uniform", {"sex": ["f", "m"], "age": ["young", "old"]}))
    table = pd.DataFrame({"sex": ["m", None, "f", "other"], "age": ["old", "old", "young", "old"]})
    assert sex.codes(table).tolist() == [1, -1, 0, -1] and age.codes(table).tolist() == [1, 1, 0, 1]
    assert joint.codes(table).tolist() == [3, -1, 0, -1] and joint.values[3] == "m|old"

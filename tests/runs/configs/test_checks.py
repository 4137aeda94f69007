import pytest

from medi_monai.runs.configs.checks import check_expressions, check_kind, imported_names
from medi_monai.utils.errors import InputError

NAMES = imported_names(["$import torch", "$import numpy as np", "$from pathlib import Path"])
IDS = {"bundle_root", "label", "train"}


def test_imports_define_names():
    assert sorted(NAMES) == ["Path", "np", "torch"] and imported_names("$import os.path") == {"os"}


@pytest.mark.parametrize("imports", [5, ["torch"], ["$torch"], [None], ["$import"]])
def test_imports_that_are_none_are_refused(imports):
    with pytest.raises(InputError, match="is no import statement"):
        imported_names(imports)


@pytest.mark.parametrize(
    "value",
    ["$None", "$@bundle_root + '/models'", "$np.linspace(0, 1, 3)[0]", "$[name for name in @train#items]", "@label",
     "$(lambda x: x + 1)(2)", "%label", "%other.json::id", 3, "text", ["$torch.device('cpu')"], "$import os"],
)  # fmt: skip
def test_what_monai_can_evaluate_is_accepted(value):
    check_expressions("lr", value, NAMES, IDS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("$GONE", "lr = '\\$GONE': it begins with \\$, so it is a Python expression, and 'GONE' is not defined"),
        ({"a": ["$GONE"]}, "lr#a#0 = "),
        ("$1 +", "is no Python expression"),
        ("@lr", "refers to itself"),
        ("$@lr * 2", "refers to itself"),
        ("%lr", "refers to itself"),
        ("$", "is no Python expression"),
        ("$ # none", "is no Python expression"),
        ("@", "an id has to follow every @"),
        ("$np.eye(2) @ np.eye(2)", "an id has to follow every @"),
        ("%labl", "did you mean '%label'"),
    ],
)
def test_what_it_cannot_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        check_expressions("lr", value, NAMES, IDS)


def test_a_section_is_replaced_by_a_section_alone():
    for value, own in (({"a": 1}, {"b": 2}), ([1], [2]), ("$x", {"b": 2}), (None, {"b": 2}), (5, 6), ({"a": 1}, None)):
        check_kind("option", "train", value, own)
    with pytest.raises(InputError, match="option train = 5: the config has a section with ids of its own here"):
        check_kind("option", "train", 5, {"a": 1})
    with pytest.raises(InputError, match="the config has a list here"):
        check_kind("option", "train", "x", ["$y"])

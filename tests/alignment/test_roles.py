import pandas as pd
import pytest
import torch

from medi_monai.alignment.roles import load_classifiers, subgroup_target
from medi_monai.networks.classifier import SubgroupClassifier, save_classifier
from medi_monai.utils.errors import InputError

ATTRIBUTES = {"sex": ("female", "male"), "age": ("old", "young")}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    root, paths = tmp_path_factory.mktemp("classifiers"), []
    for seed in range(3):
        torch.manual_seed(seed)
        classifier = SubgroupClassifier(ATTRIBUTES, 16, 8)
        fine = {"n": 200, "chance": 0.5, "balanced_accuracy": {"value": 0.9, "ci95": [0.85, 0.94]}}
        poor = {"n": 40, "chance": 0.5, "balanced_accuracy": {"value": 0.52, "ci95": [0.4, 0.63]}}
        classifier.held_out = {"sex": fine, "age": poor if seed == 1 else fine}
        save_classifier(root / str(seed), classifier)
        paths.append(str(root / str(seed)))
    return paths


def test_three_different_classifiers(classifiers, capsys):
    loaded = load_classifiers(*classifiers, "sex")
    assert list(loaded) == ["guide", "validation", "judge"] and capsys.readouterr().out == ""
    assert not any(parameter.requires_grad for classifier in loaded.values() for parameter in classifier.parameters())
    assert list(load_classifiers(classifiers[0], None, None, "sex")) == ["guide"]
    load_classifiers(*classifiers, "sex|age")
    printed = capsys.readouterr().out
    assert printed.count("warning") == 1 and "warning: the validation classifier" in printed
    assert "0.52 (0.40 to 0.63)" in printed and "'age'" in printed


def test_a_classifier_cannot_judge_itself(classifiers):
    first, second, third = classifiers
    for paths, message in (
        ((first, first, None), "the validation classifier is the same as the guide"),
        ((first, second, first), "the judge classifier is the same as the guide"),
    ):
        with pytest.raises(InputError, match=message):
            load_classifiers(*paths, "sex")
    with pytest.raises(InputError, match="race"):
        load_classifiers(first, second, third, "race")
    with pytest.raises(InputError, match="no classifier in"):
        load_classifiers(first, first + "_gone", None, "sex")


def test_targets(classifiers, tmp_path):
    guide = load_classifiers(classifiers[0], None, None, "sex")["guide"]
    assert subgroup_target("uniform", guide, "sex").to_dict()["target"] == {"female": 0.5, "male": 0.5}
    pd.DataFrame({"sex": ["male", "male", "female", "male"]}).to_csv(tmp_path / "t.csv", index=False)
    assert subgroup_target("table", guide, "sex", tmp_path / "t.csv").probabilities == (0.25, 0.75)
    joint = subgroup_target({"sex": {"female": 0.4, "male": 0.6}, "age": {"old": 0.5, "young": 0.5}}, guide, "sex|age")
    assert joint.to_dict()["target"] == pytest.approx(
        {"female|old": 0.2, "female|young": 0.2, "male|old": 0.3, "male|young": 0.3}
    )
    with pytest.raises(InputError, match="sums to 1.1"):
        subgroup_target({"female": 0.5, "male": 0.6}, guide, "sex")

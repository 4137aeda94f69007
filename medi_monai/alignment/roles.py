"""Classifiers of an alignment (guide, validation classifier and judge), and its target."""

from __future__ import annotations

import os
from typing import Any

import torch

from medi_monai.alignment.functional import SubgroupTarget, make_target
from medi_monai.alignment.functional.targets import joint_attributes
from medi_monai.engines.classifiers.accuracy import chance_warnings
from medi_monai.networks.classifier import AttributeClassifier, load_classifier
from medi_monai.utils.errors import InputError
from medi_monai.utils.tables import read_table

__all__ = ["load_classifiers", "subgroup_target"]


def load_classifiers(
    guide: Any, validation: Any, judge: Any, attribute: str, device: str | torch.device = "cpu"
) -> dict[str, AttributeClassifier]:
    """Load guide, validation classifier and judge by :func:`medi_monai.networks.classifier.load_classifier`.

    Args:
        guide: classifier whose gradient tunes the model.
        validation: classifier that decides when to stop; with None, the guide does.
        judge: classifier that measures the result and takes no part in tuning; None for no judge.
        attribute: attribute that all of them have to predict, or several as ``sex|age``.
        device: device of the classifiers.

    Raises:
        InputError: for a classifier without the attribute, or if two of them are the same.
    """
    classifiers: dict[str, AttributeClassifier] = {}
    for role, spec in (("guide", guide), ("validation", validation), ("judge", judge)):
        if spec is None:
            continue
        classifier = load_classifier(spec, device)
        for name in joint_attributes(attribute):
            classifier.column(name)
        for other, earlier in classifiers.items():
            if earlier.describe() == classifier.describe():
                raise InputError(
                    f"the {role} classifier is the same as the {other}, so it cannot check it. Train another one, on "
                    "other patients and with another seed"
                )
        classifiers[role] = classifier
        _warn_at_chance(role, classifier, attribute)
    return classifiers


def _warn_at_chance(role: str, classifier: AttributeClassifier, attribute: str) -> None:
    measured = {key: value for key, value in classifier.held_out.items() if key in joint_attributes(attribute)}
    for sentence in chance_warnings(measured):
        print(f"warning: the {role} classifier: {sentence}", flush=True)


def subgroup_target(
    target: Any, guide: AttributeClassifier, attribute: str, table: str | os.PathLike | None = None
) -> SubgroupTarget:
    """Return the target shares of an attribute by :func:`medi_monai.alignment.functional.make_target`.

    Args:
        target: ``uniform``, ``table``, or a mapping of values to shares.
        guide: classifier that defines the values.
        attribute: sensitive attribute, or several as ``sex|age`` for their joint distribution.
        table: path of a reference table, for ``table``.
    """
    rows = None if table is None else read_table(table)
    return make_target(target, guide.attributes, rows, names=joint_attributes(attribute))

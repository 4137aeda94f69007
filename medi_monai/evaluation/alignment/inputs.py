"""Inputs of the evaluation of an alignment, checked before any work: classifiers, target, arms, real images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from medi_monai.alignment.functional import SubgroupTarget, make_target
from medi_monai.alignment.functional.targets import Part, parts_of
from medi_monai.cohort import Cohort
from medi_monai.cohort.samples import SampledImages, known_rows, read_arms, settings_that_differ
from medi_monai.evaluation.alignment.seeds import Folders, expand_seeds
from medi_monai.evaluation.probing.arms import RESERVED_NAMES
from medi_monai.networks.classifier import AttributeClassifier, load_classifier
from medi_monai.networks.text import ClipModel
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, read_json
from medi_monai.utils.records import check_unchanged
from medi_monai.utils.tables import read_table

__all__ = ["AlignmentInputs", "GeneratedImages", "RealImages", "TargetSource", "gather"]

NEEDED = ("before", "after")


@dataclass(frozen=True)
class GeneratedImages:
    """Folders of the generated images that are compared, and how their prompts are read.

    Args:
        folders: ``output_dir`` of the sampling run of each arm: ``before``, ``after``, and any others; or a list of
            them, one for each seed of a tuning.
        named: ``output_dir`` of a second sampling of each arm, with prompts that name the attribute.
        words: for each attribute, the words that name each value in these prompts; by default the values themselves.
        prompt: column of the prompts in the manifests.
    """

    folders: Folders
    named: Folders | None = None
    words: Mapping[str, Mapping[str, str | Sequence[str]]] | None = None
    prompt: str = "caption"


@dataclass(frozen=True)
class RealImages:
    """Real images of the training, and those to compare with.

    Args:
        cohort: real images with their split; the model was trained on ``train``.
        reference: real images to compare with, with the attributes; by default the cohort.
    """

    cohort: Cohort
    reference: Cohort | None = None


@dataclass(frozen=True)
class TargetSource:
    """Where the target shares come from.

    Args:
        target: target shares, as for :func:`medi_monai.alignment.functional.make_target`; None for the target that the
            tuning recorded.
        attributes: aligned attributes, if ``target`` does not name them.
        table: reference table, or its path, for the target ``table``.
    """

    target: str | Mapping[Any, Any] | SubgroupTarget | None = None
    attributes: Sequence[str] | None = None
    table: pd.DataFrame | str | os.PathLike | None = None

    def shares(self, judge: AttributeClassifier, recorded: Mapping[str, Any] | None) -> SubgroupTarget:
        """Return the target shares, in the order of the judge's values.

        Args:
            judge: classifier that defines the values.
            recorded: record of the tuning with its target, or None.

        Raises:
            InputError: for an invalid or missing target, or a table that no target uses.
        """
        table = read_table(self.table) if isinstance(self.table, (str, os.PathLike)) else self.table
        if isinstance(self.target, SubgroupTarget):
            # the judge may have the values in another order
            shares = dict(zip(self.target.names, self.target.probabilities))
            return make_target(shares, judge.attributes, names=self.target.attributes)
        if self.target is not None:
            return make_target(self.target, judge.attributes, table, self.attributes)
        if table is not None:
            raise InputError("a reference table is given by target_table, and target is not 'table'")
        if recorded is None:
            raise InputError("there is no target: give --target, or --alignment with the record of the tuning")
        own = recorded["target"]
        return make_target(own["target"], judge.attributes, names=self.attributes or own["attributes"])


@dataclass(frozen=True)
class AlignmentInputs:
    """Inputs of the evaluation.

    Args:
        classifiers: classifiers by name, ``judge`` first.
        target: target shares, in the order of the judge's values.
        parts: parts of the target, the joint target last.
        arms: generated images by arm.
        named: images generated for prompts that name the attribute, by arm.
        cohort: real images of the training.
        real: real images with attributes and patient, to compare with.
        clip: CLIP model of the CLIP score, or None.
        recorded: content of ``alignment.json``, the record of the tuning, or None.
        prompt: column of the prompts.
        words: words that name each value of each attribute in the prompts of ``named``.
        seeds: names of the arms that are seeds of one tuning, by the name of the first.
    """

    classifiers: Mapping[str, AttributeClassifier]
    target: SubgroupTarget
    parts: Sequence[Part]
    arms: Mapping[str, SampledImages]
    named: Mapping[str, SampledImages]
    cohort: Cohort
    real: Cohort
    clip: ClipModel | None
    recorded: Mapping[str, Any] | None
    prompt: str
    words: Mapping[str, Mapping[str, str | Sequence[str]]]
    seeds: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def joint(self) -> Part:
        """The part on which the verdict is based: the joint target of several attributes, or the only one."""
        return self.parts[-1]

    @property
    def selections(self) -> dict[str, dict[str, int]]:
        """The numbers of selected images and of candidates, for arms of selected images."""
        return {name: images.selection for name, images in self.arms.items() if images.selection is not None}

    @property
    def differing_settings(self) -> dict[str, dict[str, Any]]:
        """Settings that differ between sampled arms; arms of selected images have no settings."""
        own = {name: images for name, images in self.arms.items() if images.settings}
        return settings_that_differ(own) if own else {}

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the images and models that are compared."""
        return {
            "cohort": self.cohort.digest,
            "reference": self.real.digest,
            **{f"classifier.{name}": json_digest(own.describe()) for name, own in self.classifiers.items()},
            **({} if self.clip is None else {"clip": self.clip.digest}),
            **{arm: images.digest for arm, images in self.arms.items()},
            **{f"named.{arm}": images.digest for arm, images in self.named.items()},
        }


def gather(
    generated: GeneratedImages,
    real: RealImages,
    target: TargetSource,
    classifiers: Mapping[str, Any],
    clip: ClipModel | str | os.PathLike | None,
    alignment: str | os.PathLike | None,
    device: str | torch.device,
) -> AlignmentInputs:
    """Load and check the inputs; see :func:`medi_monai.evaluation.alignment.run.evaluate_alignment_run`."""
    loaded = _load_classifiers(classifiers, device)
    recorded = _recorded(alignment)
    shares = target.shares(loaded["judge"], recorded)
    folders, seeds = expand_seeds(generated.folders)
    arms = _arms(folders, generated.prompt)
    named = _arms(expand_seeds(generated.named)[0], generated.prompt) if generated.named else {}
    for sampled in (arms, named):
        _check_weights(sampled, recorded, seeds.get("after", ()))
    reference = known_rows(real.cohort if real.reference is None else real.reference, shares.attributes)
    parts = parts_of(shares)
    _check_values(parts[: len(shares.attributes)], reference)
    model = clip if clip is None or isinstance(clip, ClipModel) else ClipModel(clip)
    return AlignmentInputs(
        classifiers=loaded,
        target=shares,
        parts=parts,
        arms=arms,
        named=named,
        cohort=real.cohort,
        real=reference,
        clip=None if model is None else model.to(device),
        recorded=recorded,
        prompt=generated.prompt,
        words=generated.words or {},
        seeds=seeds,
    )


def _check_values(parts: Sequence[Part], real: Cohort) -> None:
    for part in parts:
        if (part.codes(real.table) < 0).all():
            raise unknown_value(f"value of {part.name!r}", real.table[part.name].iloc[0], part.values,
                                "The judge reads none of the values of the real images.")  # fmt: skip


def _load_classifiers(classifiers: Mapping[str, Any], device: str | torch.device) -> dict[str, AttributeClassifier]:
    if classifiers.get("judge") is None:
        raise InputError("there is no judge: give --judge, a classifier that neither guided nor validated")
    loaded = {name: load_classifier(spec, device) for name, spec in classifiers.items() if spec is not None}
    own = loaded["judge"].describe()["weights_sha256"]
    for name, classifier in loaded.items():
        if name != "judge" and own == classifier.describe()["weights_sha256"]:
            raise InputError(
                f"the judge and the {name} classifier are the same ({own[:12]}): whoever had a say in the tuning "
                "cannot judge it. Train another one with other settings and another seed, on other patients"
            )
    return loaded


def _recorded(alignment: str | os.PathLike | None) -> Mapping[str, Any] | None:
    if alignment is None:
        return None
    path = Path(alignment) / "alignment.json" if Path(alignment).is_dir() else Path(alignment)
    if not path.is_file():
        raise InputError(
            f"there is no record of `aligning` at {path}: give its folder by --alignment, or '$None' with a --target"
        )
    content = read_json(path)
    if not isinstance(content, dict) or not {"curve", "kept_step", "target"} <= set(content):
        raise InputError(f"{path} is no record of `aligning`: it needs curve, kept_step and target")
    check_unchanged(path)
    return content


def _arms(arms: Mapping[str, str | os.PathLike], prompt: str) -> dict[str, SampledImages]:
    for name in NEEDED:
        if name not in arms:
            raise InputError(f"there is no arm {name!r}, only {list(arms)}: an evaluation needs 'before' and 'after'")
    sampled = read_arms(arms, [prompt], RESERVED_NAMES)
    asked = {name: set(images.table[prompt]) for name, images in sampled.items()}
    for name, prompts in asked.items():
        if not prompts & asked["before"]:
            first = {arm: sorted(asked[arm])[0] for arm in ("before", name)}
            raise InputError(
                f"the arms 'before' and {name!r} have no prompt in common ({first['before']!r}, {first[name]!r}, …): "
                "sample both from one file of prompts"
            )
        keys = [column for column in (prompt, "number", "seed") if column in sampled[name].table.columns]
        twice = int(sampled[name].table.duplicated(keys).sum())
        if twice and "number" in keys:
            raise InputError(
                f"{twice} rows of {sampled[name].root / 'manifest.csv'} repeat a prompt ({prompt}) with its number; if "
                "the plan has several columns, give --prompt combination"
            )
    return sampled


def _check_weights(arms: Mapping[str, SampledImages], recorded: Mapping[str, Any] | None, seeds: Sequence[str]) -> None:
    # swapped arms would turn a gain into a loss
    untuned = (recorded or {}).get("untuned_sha256")
    for name, images in arms.items():
        if untuned is None or name not in (*NEEDED, *seeds) or not images.settings:
            continue
        used = images.settings.get("checkpoint")
        if name == "before" and used not in (None, untuned):
            raise InputError(
                f"the images of 'before' in {images.root} are not of the model that was tuned: their checkpoint is "
                f"{used[:12]}, the tuning began with {untuned[:12]}. Are the arms swapped, or is --alignment "
                "that of another one?"
            )
        if name != "before" and used == untuned and (recorded or {}).get("kept_step"):
            raise InputError(
                f"the images of {name!r} in {images.root} are of the untuned model ({untuned[:12]}): give "
                "--ckpt_dir with the tuned weights to `sampling`, and look whether the arms are swapped"
            )

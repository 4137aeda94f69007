"""What the evaluation of an alignment is made from, checked before any work: classifiers, target, arms, real images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment.functional import SubgroupTarget, make_target
from medi_monai.alignment.functional.targets import Part, parts_of
from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import known_codes
from medi_monai.cohort.reading import image_blocks
from medi_monai.cohort.samples import known_rows, read_arms, settings_that_differ
from medi_monai.engines.classifiers.accuracy import accuracies, patients_of, read_probabilities
from medi_monai.evaluation.probing.arms import RESERVED_NAMES
from medi_monai.networks.classifier import AttributeClassifier, load_classifier
from medi_monai.networks.text import ClipModel
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import json_digest, read_json, read_table

__all__ = ["AlignmentInputs", "differing_settings", "gather", "measured"]

NEEDED = ("before", "after")


@dataclass(frozen=True)
class AlignmentInputs:
    """All that is compared.

    Args:
        readers: classifiers, ``judge`` first.
        target: the shares wanted, in the order of the judge's values.
        parts: of the target, the joint last.
        arms: generated images by name.
        named: those of prompts that name the attribute.
        cohort: real images of the training.
        real: real images with attributes and patient, to compare with.
        clip: of consistency and score, or None.
        recorded: content of ``alignment.json``, or None.
        prompt: column of the prompts.
    """

    readers: Mapping[str, AttributeClassifier]
    target: SubgroupTarget
    parts: Sequence[Part]
    arms: Mapping[str, Cohort]
    named: Mapping[str, Cohort]
    cohort: Cohort
    real: Cohort
    clip: ClipModel | None
    recorded: Mapping[str, Any] | None
    prompt: str

    @property
    def joint(self) -> Part:
        """The part that the verdict goes by: the joint of several attributes, or the only one."""
        return self.parts[-1]

    @property
    def digests(self) -> dict[str, str]:
        """Of the images and models that are compared."""
        return {
            "cohort": self.cohort.digest,
            "reference": self.real.digest,
            **{f"classifier.{name}": json_digest(reader.describe()) for name, reader in self.readers.items()},
            **({} if self.clip is None else {"clip": self.clip.digest}),
            **{arm: images.digest for arm, images in self.arms.items()},
            **{f"named.{arm}": images.digest for arm, images in self.named.items()},
        }


def gather(
    arms: Mapping[str, str | os.PathLike],
    target: str | Mapping[Any, Any] | SubgroupTarget | None,
    classifiers: Mapping[str, Any],
    cohort: Cohort,
    reference: Cohort | None,
    clip: ClipModel | str | os.PathLike | None,
    alignment: str | os.PathLike | None,
    named: Mapping[str, str | os.PathLike] | None,
    attributes: Sequence[str] | None,
    target_table: pd.DataFrame | str | os.PathLike | None,
    prompt: str,
    device: str | torch.device,
) -> AlignmentInputs:
    """Load and check what was given; arguments and errors as of the run."""
    readers = _readers(classifiers, device)
    recorded = _recorded(alignment)
    judge = readers["judge"]
    table = read_table(target_table) if isinstance(target_table, (str, os.PathLike)) else target_table
    wanted = _target(target, judge, recorded, attributes, table)
    sampled, with_names = _arms(arms, prompt), _arms(named, prompt) if named else {}
    for some in (sampled, with_names):
        _check_weights(some, recorded)
    real = known_rows(cohort if reference is None else reference, wanted.attributes)
    for name in wanted.attributes:
        if (known_codes(real.table, judge.column(name).values, name) < 0).all():
            raise unknown_value(f"value of {name!r}", real.table[name].iloc[0], judge.column(name).values,
                                "The judge reads none of the values of the real images.")  # fmt: skip
    model = clip if clip is None or isinstance(clip, ClipModel) else ClipModel(clip)
    return AlignmentInputs(
        readers,
        wanted,
        parts_of(wanted),
        sampled,
        with_names,
        cohort,
        real,
        None if model is None else model.to(device),
        recorded,
        prompt,
    )


def _readers(classifiers: Mapping[str, Any], device: str | torch.device) -> dict[str, AttributeClassifier]:
    if classifiers.get("judge") is None:
        raise InputError("there is no judge: give --judge, a classifier that neither guided nor validated")
    readers = {name: load_classifier(spec, device) for name, spec in classifiers.items() if spec is not None}
    own = readers["judge"].describe()["weights_sha256"]
    for name, reader in readers.items():
        if name != "judge" and own == reader.describe()["weights_sha256"]:
            raise InputError(
                f"the judge and the {name} classifier are the same ({own[:12]}): whoever had a say in the tuning "
                "cannot judge it. Train another one with other settings and another seed, on other patients"
            )
    return readers


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
    return content


def _target(
    target: str | Mapping[Any, Any] | SubgroupTarget | None,
    judge: AttributeClassifier,
    recorded: Mapping[str, Any] | None,
    attributes: Sequence[str] | None,
    table: pd.DataFrame | None,
) -> SubgroupTarget:
    if isinstance(target, SubgroupTarget):
        # in the order of the judge, who may know the values in another one
        return make_target(dict(zip(target.names, target.probabilities)), judge.attributes, names=target.attributes)
    if target is not None:
        return make_target(target, judge.attributes, table, attributes)
    if table is not None:
        raise InputError("a reference table is given by target_table, and target is not 'table'")
    if recorded is None:
        raise InputError("there is no target: give --target, or --alignment with the record of the tuning")
    own = recorded["target"]
    return make_target(own["target"], judge.attributes, names=attributes or own["attributes"])


def _arms(arms: Mapping[str, str | os.PathLike], prompt: str) -> dict[str, Cohort]:
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
            raise InputError(f"{twice} rows of {sampled[name].root / 'manifest.csv'} repeat a prompt with its number")
    return sampled


def _check_weights(arms: Mapping[str, Cohort], recorded: Mapping[str, Any] | None) -> None:
    # arms that are swapped would turn a gain into a loss
    untuned = (recorded or {}).get("untuned_sha256")
    for name, images in arms.items():
        path = images.root / "sampling.json"
        if untuned is None or name not in NEEDED or not path.is_file():
            continue
        used = read_json(path).get("checkpoint")
        if name == "before" and used not in (None, untuned):
            raise InputError(
                f"the images of 'before' in {images.root} are not of the model that was tuned: their checkpoint is "
                f"{used[:12]}, the tuning began with {untuned[:12]}. Are the arms swapped, or is --alignment "
                "that of another one?"
            )
        if name == "after" and used == untuned and (recorded or {}).get("kept_step"):
            raise InputError(
                f"the images of 'after' in {images.root} are of the untuned model ({untuned[:12]}): give "
                "--ckpt_dir with the tuned weights to `sampling`, and look whether the arms are swapped"
            )


def measured(
    inputs: AlignmentInputs, image_size: int, batch_size: int, seed: int
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What each reader does on held-out images, by attribute, and sentences about what had to be done for it.

    A judge without such figures is measured on the real images at hand.
    """
    held_out = {name: dict(reader.held_out) for name, reader in inputs.readers.items()}
    judge, real = inputs.readers["judge"], inputs.real
    lacking = [name for name in inputs.target.attributes if name not in held_out["judge"]]
    if not lacking:
        return held_out, []
    blocks = [read_probabilities(judge, pixels, batch_size) for pixels in image_blocks(real, image_size)]
    values = {name: judge.column(name).values for name in lacking}
    codes = np.stack([known_codes(real.table, values[name], name) for name in lacking], axis=1)
    read = {name: torch.cat([block[name] for block in blocks]) for name in lacking}
    held_out["judge"] |= accuracies(read, torch.from_numpy(codes), values, patients_of(real.table), seed)
    sentence = (
        f"The judge came without held-out accuracies of {', '.join(lacking)}: it was measured on the {len(real):,} "
        "real images compared with, which it may have been trained on."
    )
    return held_out, [sentence]


def differing_settings(arms: Mapping[str, Cohort]) -> dict[str, dict[str, Any]]:
    """Sampling settings that are not the same in all arms that were sampled; what was chosen among others has none."""
    own = {name: arm for name, arm in arms.items() if (arm.root / "sampling.json").is_file()}
    return settings_that_differ(own) if own else {}

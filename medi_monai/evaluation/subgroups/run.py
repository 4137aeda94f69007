"""The run ``evaluation`` of an alignment: subgroups among generated images before and after, beside a target."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment.functional import SubgroupTarget
from medi_monai.alignment.functional.targets import Part
from medi_monai.alignment.resampling import chosen_of
from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import known_codes
from medi_monai.cohort.reading import PatchReader
from medi_monai.engines.classifiers.accuracy import is_at_chance
from medi_monai.evaluation.embedding import embed_all
from medi_monai.evaluation.fidelity import DISTANCES, FLOOR, SHARES, FidelitySettings
from medi_monai.evaluation.memorization import memorization
from medi_monai.evaluation.subgroups.inputs import AlignmentInputs, differing_settings, gather, measured
from medi_monai.evaluation.subgroups.pairs import consistency, obedience, same_noise
from medi_monai.evaluation.subgroups.quality import diversity, fidelity
from medi_monai.evaluation.subgroups.shares import (
    Looked,
    change_of_distance,
    counts_of,
    look,
    mean_figure,
    of_prompts,
    part_figures,
)
from medi_monai.evaluation.verdicts.alignment import cautions, of_arms
from medi_monai.metrics.subgroups import proportions
from medi_monai.networks.encoders import Encoder
from medi_monai.networks.text import ClipModel
from medi_monai.report.alignment_page import Pairs, write_alignment_page
from medi_monai.results import plain, write_results
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest, write_table
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.seeding import seed_from

__all__ = ["evaluate_alignment_run"]

RESULTS = ("metrics.json", "metrics.csv", "report.html", "summary.json")
#: pairs of the same noise shown, of those that stayed and of those that changed
SHOWN = 12


def evaluate_alignment_run(
    arms: Mapping[str, str | os.PathLike],
    target: str | Mapping[Any, Any] | SubgroupTarget | None,
    judge: Any,
    cohort: Cohort,
    encoder: Encoder,
    image_size: int,
    output_dir: str | os.PathLike,
    reference: Cohort | None = None,
    guide: Any = None,
    validation: Any = None,
    attributes: Sequence[str] | None = None,
    target_table: pd.DataFrame | str | os.PathLike | None = None,
    clip: ClipModel | str | os.PathLike | None = None,
    alignment: str | os.PathLike | None = None,
    named: Mapping[str, str | os.PathLike] | None = None,
    words: Mapping[str, Mapping[str, str | Sequence[str]]] | None = None,
    prompt: str = "caption",
    settings: FidelitySettings | None = None,
    tolerance: float = 0.05,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    num_workers: int = 0,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Compare images before and after a tuning with a target; write ``metrics.json``, ``.csv`` and ``report.html``.

    Args:
        arms: ``before``, ``after`` and further ones by name to the ``output_dir`` of their sampling.
        target: as for :func:`medi_monai.alignment.functional.make_target`; None takes that of ``alignment``.
        judge: a classifier that neither guided nor validated, as for
            :func:`medi_monai.networks.classifier.load_classifier`.
        cohort: real images with their split; those of ``train`` are what the model saw.
        encoder: of the features.
        image_size: side in pixels.
        output_dir: earlier results move to ``earlier-<n>``.
        reference: real images with the attributes to compare with; by default the cohort.
        guide: classifier that guided; what it says stands beside.
        validation: classifier that decided when to stop.
        attributes: to align, where ``target`` does not say.
        target_table: for the target ``table``; also as a path.
        clip: model of consistency and CLIP score; None leaves them out.
        alignment: ``alignment.json`` of the tuning, or its folder.
        named: a second set of arms, of prompts that name the attribute.
        words: of each attribute, the words that name each value in these prompts; by default the values themselves.
        prompt: column of the manifests that holds the prompt.
        settings: how sets of images are compared.
        tolerance: a total variation up to it is within the target.
        batch_size: of all networks.
        device: of all networks.
        num_workers: processes that read images for the encoder.
        costs: of each arm, for the page: ``stages`` (name to seconds), ``gradient_images`` that went through the
            network forward and back, ``gradient_images_allowed``, and ``left_out``, why it has no images; where known.

    Returns:
        The content of ``metrics.json``; nothing in the other processes of ``torchrun``, which embed and end.

    Raises:
        InputError: for arms that are not there or have no prompt in common, a judge that lacks an attribute or is the
            guide, a target that is none, and columns that lack.
    """
    settings, output = settings or FidelitySettings(), Path(output_dir)
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance = {tolerance}: a total variation between 0 and 1, such as 0.05 for five points")
    classifiers = {"judge": judge, "guide": guide, "validation": validation}
    inputs = gather(
        arms, target, classifiers, cohort, reference, clip, alignment, named, attributes, target_table, prompt, device
    )
    with_real = {**inputs.arms, "reference": inputs.real}
    features, first = embed_all(cohort, with_real, encoder, image_size, batch_size, str(device), num_workers)
    if not first:
        return {}
    looks, codes = _look(inputs, image_size, batch_size)
    generated = {arm: (features[arm], one) for arm, one in inputs.arms.items()}
    memory, closest = memorization(features["real"], cohort, generated, image_size, settings.seed)
    content: dict[str, Any] = {
        **_of_subgroups(inputs, looks, image_size, batch_size, settings.seed),
        **_of_quality(inputs, features, codes, settings, image_size),
        "memorization": memory,
        **_of_pairs(inputs, looks),
        "named_prompts": _of_named(inputs, words or {}, image_size, batch_size, settings.seed),
        "curve": inputs.recorded and {"rows": inputs.recorded["curve"], "kept_step": inputs.recorded["kept_step"]},
        "costs": {arm: dict(one) for arm, one in (costs or {}).items()},
        "chosen": chosen_of(inputs.arms),
        "settings_that_differ": differing_settings(inputs.arms),
        "encoder": encoder.describe(),
        "settings": {
            **vars(settings),
            "tolerance": tolerance,
            "image_size": image_size,
            "prompt": prompt,
            "arms": {arm: os.fspath(path) for arm, path in arms.items()},
            "named": {arm: os.fspath(path) for arm, path in (named or {}).items()},
        },
        "digests": _digests(inputs),
    }
    content["verdict"] = plain(of_arms(content, list(inputs.arms)))
    content["warnings"] = plain(cautions(content))
    pairs = _pairs(inputs, codes, image_size, settings.seed)
    return _write(content, output, pairs, closest, inputs)


def _look(inputs: AlignmentInputs, image_size: int, batch_size: int) -> tuple[dict[str, Looked], dict[str, np.ndarray]]:
    # and the subgroups of the joint: of generated images as the judge reads them, of real ones as they are known
    scored = inputs.prompt if inputs.clip is not None else None
    looks = {
        arm: look(one, inputs.readers, inputs.parts, image_size, inputs.clip, scored, batch_size)
        for arm, one in inputs.arms.items()
    }
    codes = {arm: one.codes["judge"][inputs.joint.name] for arm, one in looks.items()}
    return looks, {**codes, "reference": _known(inputs.real.table, inputs.joint)}


def _known(table: pd.DataFrame, part: Part) -> np.ndarray:
    return part.join({name: known_codes(table, values, name) for name, values in part.vocabulary.items()})


def _of_subgroups(
    inputs: AlignmentInputs, looks: Mapping[str, Looked], image_size: int, batch_size: int, seed: int
) -> dict[str, Any]:
    held_out, notes = measured(inputs, image_size, batch_size, seed)
    unread = int((_known(inputs.real.table, inputs.joint) < 0).sum())
    if unread:
        notes.append(f"{unread:,} real images have a value that the judge does not read; they are left out.")
    own = {name: held_out["judge"][name] for name in inputs.target.attributes}
    tables = {arm: one.table for arm, one in inputs.arms.items()}
    codes = {arm: one.codes["judge"] for arm, one in looks.items()}
    return {
        "part": inputs.joint.name,
        "target": {
            **inputs.target.to_dict(),
            "parts": {part.name: dict(zip(part.values, part.target.tolist())) for part in inputs.parts},
        },
        "judge": {"held_out": own, "at_chance": [name for name, one in own.items() if is_at_chance(one)]},
        "training": _of_training(inputs),
        **_by_reader(looks, inputs.parts, "judge", held_out["judge"], seed),
        "readers": {
            name: {**_by_reader(looks, inputs.parts, name, None, seed), "held_out": held_out[name]}
            for name in inputs.readers
            if name != "judge"
        },
        "by_prompt": of_prompts(tables, codes, inputs.parts, inputs.prompt, seed),
        "notes": [*notes, *_other_target(inputs)],
    }


def _other_target(inputs: AlignmentInputs) -> list[str]:
    aimed = (inputs.recorded or {}).get("target", {}).get("target")
    own = dict(zip(inputs.target.names, inputs.target.probabilities))
    if aimed is None or (set(aimed) == set(own) and all(abs(aimed[name] - own[name]) < 1e-6 for name in own)):
        return []
    return [f"The tuning aimed at another target than this page measures: {aimed}."]


def _by_reader(
    looks: Mapping[str, Looked], parts: Sequence[Part], reader: str, held_out: Mapping[str, Any] | None, seed: int
) -> dict[str, Any]:
    """``proportions`` and ``distance_to_target`` by arm and part, and ``change`` of the distance since ``before``."""
    found: dict[str, Any] = {"proportions": {}, "distance_to_target": {}, "change": {}}
    for arm, one in looks.items():
        counts = {part.name: counts_of(one.codes[reader][part.name], part) for part in parts}
        made = {part.name: part_figures(counts[part.name], part, held_out, seed) for part in parts}
        found["proportions"][arm] = {name: figures.pop("proportions") for name, figures in made.items()}
        found["distance_to_target"][arm] = made
        if arm != "before":
            found["change"][arm] = {
                part.name: change_of_distance(
                    counts_of(looks["before"].codes[reader][part.name], part), counts[part.name], part, seed
                )
                for part in parts
            }
    return found


def _of_training(inputs: AlignmentInputs) -> dict[str, Any]:
    """Proportions among the real images in training, where their table says."""
    table = inputs.cohort.split("train").table
    found = {}
    for part in inputs.parts:
        if set(part.vocabulary) <= set(table.columns):
            found[part.name] = dict(zip(part.values, proportions(counts_of(_known(table, part), part))))
    return found


def _of_quality(
    inputs: AlignmentInputs,
    features: Mapping[str, np.ndarray],
    codes: Mapping[str, np.ndarray],
    settings: FidelitySettings,
    image_size: int,
) -> dict[str, Any]:
    with_real = {**inputs.arms, "reference": inputs.real}
    tables = {name: one.table for name, one in with_real.items()}
    return {
        "fidelity": fidelity(features, tables, codes, inputs.joint, settings),
        "diversity": diversity(
            features, with_real, codes, inputs.joint, image_size, settings.min_images, settings.seed
        ),
    }


def _of_pairs(inputs: AlignmentInputs, looks: Mapping[str, Looked]) -> dict[str, Any]:
    before = inputs.arms["before"].table
    found = {}
    for arm, one in looks.items():
        if arm != "before":
            rows = same_noise(before, inputs.arms[arm].table, inputs.prompt)
            found[arm] = consistency(looks["before"], one, rows, "judge", inputs.joint.name)
    return {"consistency": found, "clip_score": {arm: mean_figure(one.scores) for arm, one in looks.items()}}


def _of_named(
    inputs: AlignmentInputs,
    words: Mapping[str, Mapping[str, str | Sequence[str]]],
    image_size: int,
    batch_size: int,
    seed: int,
) -> dict[str, Any]:
    if not inputs.named:
        return {}
    judge, codes = {"judge": inputs.readers["judge"]}, {}
    for arm, one in inputs.named.items():
        codes[arm] = look(one, judge, inputs.parts, image_size, batch_size=batch_size).codes["judge"]
    tables = {arm: one.table for arm, one in inputs.named.items()}
    return obedience(tables, codes, inputs.parts, words, inputs.prompt, seed)


def _digests(inputs: AlignmentInputs) -> dict[str, str]:
    return {
        "cohort": inputs.cohort.digest,
        "reference": inputs.real.digest,
        **{f"classifier.{name}": json_digest(reader.describe()) for name, reader in inputs.readers.items()},
        **({} if inputs.clip is None else {"clip": inputs.clip.digest}),
        **{arm: one.digest for arm, one in inputs.arms.items()},
        **{f"named.{arm}": one.digest for arm, one in inputs.named.items()},
    }


def _pairs(inputs: AlignmentInputs, codes: Mapping[str, np.ndarray], image_size: int, seed: int) -> Pairs:
    """Pictures of the same noise before and after by what became of the subgroup, drawn evenly from each kind."""
    first, second = same_noise(inputs.arms["before"].table, inputs.arms["after"].table, inputs.prompt)
    was, now = codes["before"][first], codes["after"][second]
    sources = [PatchReader(inputs.arms[arm], image_size) for arm in ("before", "after")]
    found: dict[str, dict[str, Any]] = {"stayed": {}, "changed": {}}
    for kind, mask in (("stayed", was == now), ("changed", was != now)):
        ways, counts = np.unique(np.stack([was[mask], now[mask]], 1), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:SHOWN]
        shown = _dealt(counts[order], SHOWN)
        for (start, end), take in zip(ways[order].tolist(), shown):
            rows = np.flatnonzero((was == start) & (now == end))
            rng = np.random.default_rng(seed_from("pairs", seed, start, end))
            some = rng.permutation(rows)[:take]
            names = [inputs.joint.values[code] for code in dict.fromkeys((start, end))]
            pictures = [sources[0].read(first[some].tolist()), sources[1].read(second[some].tolist())]
            found[kind][f"{' to '.join(names)} ({len(rows):,})"] = list(zip(*pictures))
    for source in sources:
        source.close()
    return found


def _dealt(counts: np.ndarray, total: int) -> list[int]:
    """``total`` dealt evenly, where what one has too few for goes to the others."""
    dealt, left = [0] * len(counts), total
    for done, place in enumerate(np.argsort(counts, kind="stable").tolist()):
        dealt[place] = min(int(counts[place]), left // (len(counts) - done))
        left -= dealt[place]
    return dealt


def _write(
    content: dict[str, Any], output: Path, pairs: Pairs, closest: Mapping[str, list], inputs: AlignmentInputs
) -> dict[str, Any]:
    set_aside(output, [output / name for name in RESULTS])
    content = write_results(output / "metrics.json", content)
    write_table(output / "metrics.csv", _long_table(content))
    write_alignment_page(content, pairs, closest, output / "report.html")
    counts = {arm: len(one) for arm, one in inputs.arms.items()}
    finish_run(
        "evaluation",
        output,
        made={"arms": list(inputs.arms), "real_images": len(inputs.real), **counts},
        figures={
            "answer": {arm: one["answer"] for arm, one in content["verdict"].items()},
            "distance_to_target": {
                arm: one[inputs.joint.name]["total_variation"] for arm, one in content["distance_to_target"].items()
            },
        },
        settings=content["settings"],
        digests=content["digests"],
        where=output / "report.html",
    )
    return content


def _long_table(content: Mapping[str, Any]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []

    def add(arm: str, metric: str, group: str, one: Mapping[str, Any], reader: str = "", prompt: str = "") -> None:
        low, high = one["ci95"] or (None, None)
        row = {"arm": arm, "metric": metric, "group": group, "reader": reader, "prompt": prompt}
        rows.append({**row, "value": one["value"], "low": low, "high": high, "n": one["n"]})

    for reader, read in {"judge": content, **content["readers"]}.items():
        for arm, by_part in read["distance_to_target"].items():
            for part, one in by_part.items():
                for value, share in read["proportions"][arm][part].items():
                    add(arm, f"proportion of {part}", value, share, reader)
                for metric in ("total_variation", "kl"):
                    add(arm, metric, part, one[metric], reader)
                    if "corrected" in one:
                        add(arm, f"corrected {metric}", part, one["corrected"][metric], reader)
                for value, share in one.get("corrected", {}).get("proportions", {}).items():
                    add(arm, f"corrected proportion of {part}", value, share, reader)
    for part, given in content["by_prompt"].items():
        for row in given["prompts"]:
            for arm, one in row["arms"].items():
                add(arm, "total_variation", part, one["total_variation"], "judge", row["prompt"])
    for group, one in content["fidelity"].items():
        for arm, figures in {FLOOR: one[FLOOR], **one["arms"]}.items():
            for metric in (*DISTANCES, *SHARES, "ratio"):
                if metric in figures:
                    add(arm, "frechet_distance_ratio" if metric == "ratio" else metric, group, figures[metric])
    for group, by_name in content["diversity"].items():
        for name, measures in by_name.items():
            for measure, one in measures.items():
                add(name, f"diversity_{measure}", group, one)
    for arm, one in content["consistency"].items():
        for group in ("all", "stayed", "changed", "unrelated"):
            add(arm, "consistency", group, one[group])
    for arm, one in content["clip_score"].items():
        add(arm, "clip_score", "all", one)
    for name, by_arm in content["named_prompts"].items():
        for arm, one in by_arm.items():
            add(arm, "read as asked", name, one["share"], "judge")
    return pd.DataFrame(rows)

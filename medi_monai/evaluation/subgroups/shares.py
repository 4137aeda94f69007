"""What classifiers read in generated images, beside a target: proportions and distances, overall and by prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment.functional.targets import Part
from medi_monai.cohort import Cohort
from medi_monai.cohort.reading import image_blocks
from medi_monai.engines.classifiers.accuracy import read_probabilities
from medi_monai.metrics import figure, interval_around
from medi_monai.metrics.resampling import Z95
from medi_monai.metrics.subgroups import corrected_proportions, distance_to_target, proportions, total_variation
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.networks.text import ClipModel
from medi_monai.utils.errors import InputError
from medi_monai.utils.pixels import from_uint8
from medi_monai.utils.seeding import seed_from

__all__ = ["Looked", "change_of_distance", "counts_of", "look", "mean_figure", "of_prompts", "part_figures"]

#: a prompt with fewer images is called one with few
FEW_OF_A_PROMPT = 30
NUM_REPLICATES = 1000


@dataclass(frozen=True)
class Looked:
    """What was seen in the images of one arm, in the order of its rows.

    Args:
        codes: reader to part to the ``(N,)`` subgroup read.
        features: ``(N, D)`` CLIP features of length 1, or None.
        scores: ``(N,)`` cosine with the caption, or None.
    """

    codes: Mapping[str, Mapping[str, np.ndarray]]
    features: np.ndarray | None = None
    scores: np.ndarray | None = None


@torch.no_grad()
def look(
    images: Cohort,
    readers: Mapping[str, AttributeClassifier],
    parts: Sequence[Part],
    image_size: int,
    clip: ClipModel | None = None,
    prompt: str | None = None,
    batch_size: int = 256,
) -> Looked:
    """Read all images once: what every classifier finds and, with a CLIP model, its features.

    Args:
        images: of an arm.
        readers: classifiers by name.
        parts: of the target.
        image_size: side in pixels.
        clip: of features and scores.
        prompt: column of the captions; None leaves the scores out.
        batch_size: of the reading.

    Raises:
        InputError: for a classifier without an attribute, or with other values.
    """
    places = {name: {part.name: _places(reader, part) for part in parts} for name, reader in readers.items()}
    codes: dict[str, dict[str, list[np.ndarray]]] = {name: {part.name: [] for part in parts} for name in readers}
    features = []
    for pixels in image_blocks(images, image_size):
        for name, reader in readers.items():
            read = read_probabilities(reader, pixels, batch_size)
            for part in parts:
                found = {of: read[of][:, order].argmax(1).numpy() for of, order in places[name][part.name].items()}
                codes[name][part.name].append(part.join(found))
        if clip is not None:
            device = next(clip.parameters()).device
            for block in pixels.split(batch_size):
                features.append(clip.image_features(from_uint8(block.to(device))).cpu())
    joined = {name: {part: np.concatenate(blocks) for part, blocks in one.items()} for name, one in codes.items()}
    if clip is None:
        return Looked(joined)
    together = torch.cat(features)
    scores = None
    if prompt is not None:
        scores = (together * clip.text_features(images.table[prompt].tolist()).cpu()).sum(1).numpy()
    return Looked(joined, together.numpy(), scores)


def _places(reader: AttributeClassifier, part: Part) -> dict[str, list[int]]:
    # classifiers may have the values of an attribute in another order
    found = {}
    for name, values in part.vocabulary.items():
        known = reader.column(name).values
        if set(known) != set(values):
            raise InputError(
                f"a classifier reads {name!r} as {list(known)}, and the judge as {list(values)}: all of them need the "
                "same values"
            )
        found[name] = [known.index(value) for value in values]
    return found


def counts_of(codes: np.ndarray, part: Part) -> np.ndarray:
    """``(G,)`` images per subgroup, those that are unknown (-1) left out."""
    return np.bincount(codes[codes >= 0], minlength=len(part.values))


def part_figures(
    counts: np.ndarray, part: Part, held_out: Mapping[str, Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Proportions by value, and the distances to the target.

    Args:
        counts: ``(G,)`` as read.
        part: of the target.
        held_out: accuracies of the reader by attribute; adds the same figures behind its mistakes as ``corrected``.
        seed: of the bootstraps.
    """
    found: dict[str, Any] = {
        "proportions": dict(zip(part.values, proportions(counts))),
        **distance_to_target(counts, part.target, NUM_REPLICATES, seed),
    }
    if held_out is None:
        return found
    confusion, n = _confusion(held_out, part), int(counts.sum())
    if confusion is None:
        nothing = figure(None, n=n)
        return {
            **found,
            "corrected": {
                "proportions": dict.fromkeys(part.values, nothing),
                "total_variation": nothing,
                "kl": nothing,
                "undefined": "nobody measured the classifier on held-out images",
            },
        }
    made = corrected_proportions(counts, confusion, part.target, NUM_REPLICATES, seed)
    return {**found, "corrected": {**made, "proportions": dict(zip(part.values, made["proportions"]))}}


def _confusion(held_out: Mapping[str, Any], part: Part) -> np.ndarray | None:
    # of a joint, heads are taken to err independently; its rows count as the rarer of their values
    tables = []
    for name, values in part.vocabulary.items():
        one = held_out.get(name)
        if not one:
            return None
        order = [list(one["values"]).index(value) for value in values]
        tables.append(np.asarray(one["confusion"], float)[np.ix_(order, order)])
    if len(tables) == 1:
        return tables[0].astype(np.int64)
    sizes = [table.sum(1) for table in tables]
    rates = [
        np.divide(table, size[:, None], out=np.zeros_like(table), where=size[:, None] > 0)
        for table, size in zip(tables, sizes)
    ]
    least = reduce(lambda one, other: np.minimum.outer(one, other).ravel(), sizes)
    joint: np.ndarray = reduce(np.kron, rates) * least[:, None]
    return joint


def change_of_distance(before: np.ndarray, after: np.ndarray, part: Part, seed: int = 0) -> dict[str, Any]:
    """Total variation from the target after less before, with a bootstrap of both; below 0 is nearer.

    The images are resampled independently of each other: what the same noise has in common makes it no wider.

    Args:
        before: ``(G,)`` counts.
        after: likewise.
        part: of the target.
        seed: of the bootstrap.
    """
    n = int(min(before.sum(), after.sum()))
    if n == 0:
        return figure(None, n=0)
    rng = np.random.default_rng(seed_from("change of distance", seed))
    values, drawn = [], []
    for counts in (before, after):
        total = int(counts.sum())
        values.append(float(total_variation(counts / total, part.target)))
        replicates = rng.multinomial(total, counts / total, NUM_REPLICATES) / total
        drawn.append(total_variation(replicates, part.target))
    value = values[1] - values[0]
    return {"value": value, "ci95": interval_around(value, drawn[1] - drawn[0]), "n": n}


def of_prompts(
    tables: Mapping[str, pd.DataFrame], codes: Mapping[str, Mapping[str, np.ndarray]], parts: Sequence[Part],
    prompt: str, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Proportions and distances of every prompt, and the mean distance over those with images enough.

    Args:
        tables: manifests by arm.
        codes: arm to part to subgroups.
        parts: of the target.
        prompt: column.
        seed: of the bootstraps.

    Returns:
        By part ``prompts`` (rows with ``prompt`` and by arm ``n``, ``few``, ``proportions`` and distances), and
        ``mean``: by arm the mean total variation over prompts with images enough in it, before and after, with what
        draws from the target itself would have at these counts as ``by_chance``.
    """
    found: dict[str, Any] = {}
    for part in parts:
        rows: list[dict[str, Any]] = []
        names = list(dict.fromkeys(name for table in tables.values() for name in table[prompt]))
        held = {arm: _by_prompt(table[prompt], codes[arm][part.name], part) for arm, table in tables.items()}
        for name in names:
            by_arm = {}
            for arm, of_prompt in held.items():
                counts = of_prompt.get(name, np.zeros(len(part.values), np.int64))
                n = int(counts.sum())
                by_arm[arm] = {"n": n, "few": n < FEW_OF_A_PROMPT, **part_figures(counts, part, seed=seed)}
            rows.append({"prompt": name, "arms": by_arm})
        enough = {}
        for arm in tables:
            compared = {"before", "after", arm} & set(tables)
            enough[arm] = [row["arms"][arm] for row in rows if not any(row["arms"][one]["few"] for one in compared)]
        found[part.name] = {
            "prompts": rows,
            "mean": {arm: _mean_over_prompts(of_arm, part, seed) for arm, of_arm in enough.items()},
            "least_images": FEW_OF_A_PROMPT,
        }
    return found


def _by_prompt(prompts: pd.Series, codes: np.ndarray, part: Part) -> dict[str, np.ndarray]:
    places, names = pd.factorize(prompts)
    table = np.bincount(places * len(part.values) + codes, minlength=len(names) * len(part.values))
    return dict(zip(names, table.reshape(len(names), -1)))


def _mean_over_prompts(rows: Sequence[Mapping[str, Any]], part: Part, seed: int) -> dict[str, Any]:
    if not rows:
        return {**figure(None, n=0), "by_chance": None}
    rng = np.random.default_rng(seed_from("prompts by chance", seed))
    expected = {
        n: float(total_variation(rng.multinomial(n, part.target, NUM_REPLICATES) / n, part.target).mean())
        for n in sorted({row["n"] for row in rows})
    }
    made = mean_figure(np.array([row["total_variation"]["value"] for row in rows]))
    return {**made, "by_chance": float(np.mean([expected[row["n"]] for row in rows]))}


def mean_figure(values: np.ndarray | None) -> dict[str, Any]:
    """The mean with its 95 % interval by the normal law; undefined for no value."""
    if values is None or not len(values):
        return figure(None, n=0)
    value, n = float(np.mean(values)), len(values)
    half = Z95 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
    return {"value": value, "ci95": None if half is None else [value - half, value + half], "n": n}

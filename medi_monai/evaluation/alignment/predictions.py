"""What classifiers and a CLIP model say of the images of each arm, and of pairs that began with the same noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.alignment.functional.targets import Part
from medi_monai.cohort import Cohort
from medi_monai.cohort.groups import known_codes
from medi_monai.cohort.reading import PatchReader, image_blocks
from medi_monai.engines.classifiers.accuracy import read_probabilities
from medi_monai.metrics import figure, mean_figure
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.networks.text import ClipModel
from medi_monai.utils.errors import InputError
from medi_monai.utils.pixels import from_uint8
from medi_monai.utils.seeding import seed_from

__all__ = ["ArmPredictions", "consistency", "known_subgroups", "pair_pictures", "predict_arm", "same_noise"]

#: pairs of the same noise shown, of those that stayed and of those that changed
SHOWN = 12


@dataclass(frozen=True)
class ArmPredictions:
    """What was predicted of the images of one arm, in the order of its rows.

    Args:
        codes: classifier to attribute, or joint, to the ``(N,)`` predicted subgroup.
        features: ``(N, D)`` CLIP features of length 1, or None.
        scores: ``(N,)`` cosine with the caption, or None.
    """

    codes: Mapping[str, Mapping[str, np.ndarray]]
    features: np.ndarray | None = None
    scores: np.ndarray | None = None


@torch.no_grad()
def predict_arm(
    images: Cohort,
    readers: Mapping[str, AttributeClassifier],
    parts: Sequence[Part],
    image_size: int,
    clip: ClipModel | None = None,
    prompt: str | None = None,
    batch_size: int = 256,
) -> ArmPredictions:
    """Read all images once: what every classifier predicts and, with a CLIP model, its features.

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
    orders = {name: {part.name: _value_order(reader, part) for part in parts} for name, reader in readers.items()}
    blocks: dict[str, dict[str, list[np.ndarray]]] = {name: {part.name: [] for part in parts} for name in readers}
    features = []
    for pixels in image_blocks(images, image_size):
        for name, reader in readers.items():
            read = read_probabilities(reader, pixels, batch_size)
            for part in parts:
                order = orders[name][part.name]
                values = {column: read[column][:, order[column]].argmax(1).numpy() for column in order}
                blocks[name][part.name].append(part.join(values))
        if clip is not None:
            device = next(clip.parameters()).device
            features += [clip.image_features(from_uint8(some.to(device))).cpu() for some in pixels.split(batch_size)]
    codes = {name: {part: np.concatenate(some) for part, some in own.items()} for name, own in blocks.items()}
    if clip is None:
        return ArmPredictions(codes)
    together = torch.cat(features)
    scores = None
    if prompt is not None:
        scores = (together * clip.text_features(images.table[prompt].tolist()).cpu()).sum(1).numpy()
    return ArmPredictions(codes, together.numpy(), scores)


def _value_order(reader: AttributeClassifier, part: Part) -> dict[str, list[int]]:
    # classifiers may have the values of an attribute in another order
    order = {}
    for name, values in part.vocabulary.items():
        known = reader.column(name).values
        if set(known) != set(values):
            raise InputError(
                f"a classifier reads {name!r} as {list(known)}, and the judge as {list(values)}: all of them need the "
                "same values"
            )
        order[name] = [known.index(value) for value in values]
    return order


def known_subgroups(table: pd.DataFrame, part: Part) -> np.ndarray:
    """``(N,)`` subgroup of every row as its columns say, -1 where one of them is unknown."""
    return part.join({name: known_codes(table, values, name) for name, values in part.vocabulary.items()})


def same_noise(before: pd.DataFrame, after: pd.DataFrame, prompt: str) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of both tables whose images began with the same noise: alike in prompt, number and seed."""
    if not all("number" in table.columns for table in (before, after)):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    keys = [prompt, "number", *(["seed"] if "seed" in before.columns and "seed" in after.columns else [])]
    left, right = (table[keys].assign(row=np.arange(len(table))) for table in (before, after))
    pairs = left.merge(right, on=keys, suffixes=("_before", "_after"))
    return pairs["row_before"].to_numpy(np.int64), pairs["row_after"].to_numpy(np.int64)


def consistency(
    before: ArmPredictions, after: ArmPredictions, rows: tuple[np.ndarray, np.ndarray], reader: str, part: str
) -> dict[str, Any]:
    """Cosine of CLIP features of the same noise and prompt in two arms, by whether the subgroup stayed.

    Args:
        before: one arm.
        after: the other.
        rows: of :func:`same_noise`.
        reader: who says what the subgroup is.
        part: of the target.

    Returns:
        ``all``, ``stayed`` and ``changed`` as figures, ``unrelated``: the mean cosine of images of other noise, which a
        cosine has to be seen beside, ``num_stayed``, ``num_changed``, and ``score_change``: the CLIP score of an image
        less that before.
    """
    first, second = (arm.codes[reader][part][some] for arm, some in zip((before, after), rows))
    stays = first == second
    scores = [arm.scores[some] for arm, some in zip((before, after), rows) if arm.scores is not None]
    counts: dict[str, Any] = {"num_stayed": int(stays.sum()), "num_changed": int((~stays).sum())}
    counts["score_change"] = mean_figure(scores[1] - scores[0] if len(scores) == 2 else None)
    if before.features is None or after.features is None:
        nothing = {"all": len(stays), "stayed": int(stays.sum()), "changed": int((~stays).sum())}
        return {**counts, **{name: figure(None, n=n) for name, n in nothing.items()}, "unrelated": figure(None, n=0)}
    first_features = before.features[rows[0]].astype(float)
    second_features = after.features[rows[1]].astype(float)
    cosine, n = (first_features * second_features).sum(1), len(stays)
    unrelated = (first_features.sum(0) @ second_features.sum(0) - cosine.sum()) / (n * (n - 1)) if n > 1 else None
    figures = {"all": cosine, "stayed": cosine[stays], "changed": cosine[~stays]}
    return {
        **counts,
        **{name: mean_figure(values) for name, values in figures.items()},
        "unrelated": figure(unrelated, n=n * (n - 1)),
    }


def pair_pictures(
    arms: Mapping[str, Cohort], codes: Mapping[str, np.ndarray], joint: Part, prompt: str, image_size: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Pictures of the same noise before and after by what became of the subgroup, drawn evenly from each kind.

    Args:
        arms: ``before`` and ``after``.
        codes: their subgroups.
        joint: of the target.
        prompt: column.
        image_size: side in pixels.
        seed: of the choice.

    Returns:
        ``stayed`` and ``changed`` to a title and its pairs, ``(H, W, 3)`` uint8 each.
    """
    first, second = same_noise(arms["before"].table, arms["after"].table, prompt)
    was, now = codes["before"][first], codes["after"][second]
    sources = [PatchReader(arms[arm], image_size) for arm in ("before", "after")]
    pictures: dict[str, dict[str, Any]] = {"stayed": {}, "changed": {}}
    for kind, mask in (("stayed", was == now), ("changed", was != now)):
        ways, counts = np.unique(np.stack([was[mask], now[mask]], 1), axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:SHOWN]
        shown = _dealt(counts[order], SHOWN)
        for (start, end), take in zip(ways[order].tolist(), shown):
            rows = np.flatnonzero((was == start) & (now == end))
            rng = np.random.default_rng(seed_from("pairs", seed, start, end))
            some = rng.permutation(rows)[:take]
            names = [joint.values[code] for code in dict.fromkeys((start, end))]
            both = [sources[0].read(first[some].tolist()), sources[1].read(second[some].tolist())]
            pictures[kind][f"{' to '.join(names)} ({len(rows):,})"] = list(zip(*both))
    for source in sources:
        source.close()
    return pictures


def _dealt(counts: np.ndarray, total: int) -> list[int]:
    """``total`` dealt evenly, where what one has too few for goes to the others."""
    dealt, left = [0] * len(counts), total
    for done, index in enumerate(np.argsort(counts, kind="stable").tolist()):
        dealt[index] = min(int(counts[index]), left // (len(counts) - done))
        left -= dealt[index]
    return dealt

"""Pool of prompts and noise that an alignment draws from, with the untuned model's images as references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from medi_monai.alignment.functional import SubgroupTarget
from medi_monai.cohort import expand_plan
from medi_monai.engines.generator import ImageGenerator
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = [
    "Features",
    "ReferencePool",
    "SubgroupPredictor",
    "by_blocks",
    "codes_of_prompts",
    "draw_images",
    "spread_rows",
]

Features = Callable[[torch.Tensor], torch.Tensor]


class SubgroupPredictor:
    """Predict ``(N, G)`` log-probabilities of a target's subgroups from ``(N, 3, H, W)`` images in [-1, 1].

    Classifiers may have the values of an attribute in any order; the output has the order of the target.

    Args:
        name: name of the classifier, for errors.
        classifier: frozen classifier.
        target: target whose subgroups are predicted.
        batch_size: number of images classified at once.

    Raises:
        InputError: for a classifier without one of the target's attributes, or with other values of it.
    """

    def __init__(self, name: str, classifier: AttributeClassifier, target: SubgroupTarget, batch_size: int) -> None:
        self.classifier, self.target, self.batch_size = classifier, target, batch_size
        self._value_indices: dict[str, list[int]] = {}
        for axis, attribute in enumerate(target.attributes):
            values = list(dict.fromkeys(group[axis] for group in target.groups))
            known = classifier.column(attribute).values
            if set(values) != set(known):
                raise InputError(
                    f"the {name} classifier predicts the values {list(known)} of {attribute!r}, but the target has "
                    f"{values}: train all classifiers on the same values"
                )
            self._value_indices[attribute] = [known.index(value) for value in values]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return by_blocks(self._predict, images.split(self.batch_size))

    def _predict(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.classifier(images)
        return self.target.log_probabilities({name: logits[name][:, at] for name, at in self._value_indices.items()})


def by_blocks(function: Features, blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """Apply a function to each block and join the results; several blocks are recomputed in the backward pass."""
    if len(blocks) == 1 or not torch.is_grad_enabled():
        return torch.cat([function(block) for block in blocks])
    results: list[torch.Tensor] = [recomputed(function, block, use_reentrant=False) for block in blocks]
    return torch.cat(results)


def spread_rows(prompts: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return rows to draw, each with its own ``number`` and therefore its own noise.

    Args:
        prompts: sampling plan, with ``count`` or with one row per image.
        count: number of rows; any number of leading rows has about the shares of the plan, which repeats at its end.

    Raises:
        InputError: for a plan without rows.
    """
    rows = expand_plan(prompts.reset_index(drop=True)) if "count" in prompts else prompts
    rows = rows.drop(columns="number", errors="ignore").reset_index(drop=True)
    if not len(rows):
        raise InputError("there is no prompt to align: give a plan or a file with at least one")
    group = pd.Series(codes_of_prompts(rows), index=rows.index)
    within = (group.groupby(group).cumcount() + 0.5) / group.map(group.value_counts())
    order = within.sort_values(kind="stable").index
    chosen = rows.loc[[order[index % len(order)] for index in range(count)]]
    return chosen.reset_index(drop=True).assign(number=range(count))


def codes_of_prompts(rows: pd.DataFrame) -> np.ndarray:
    """Return ``(N,)`` integer codes of the prompts, numbered by first occurrence."""
    if not len(rows.columns):
        return np.zeros(len(rows), int)
    return rows.groupby(list(rows.columns), dropna=False, sort=False).ngroup().to_numpy()


class ReferencePool:
    """Pairs of prompt and noise, with the untuned model's image for each, which is drawn only once.

    Args:
        network: untuned model, frozen.
        generator: generator of the images; its solver has to be ``ddim``.
        prompts: sampling plan, as for :func:`spread_rows`.
        size: number of pairs.
        predictor: guide of the tuning, which predicts the subgroups of the target.
        features: function that returns features of images, for the consistency loss.
        seed: seed of noise and order.
        together: number of consecutive images of the same prompt, so that an update has enough images of a prompt to
            compare with the target; with 1, the order does not depend on the prompts.

    Raises:
        InputError: for a plan without rows, or another solver.
    """

    def __init__(
        self,
        network: nn.Module,
        generator: ImageGenerator,
        prompts: pd.DataFrame,
        size: int,
        predictor: SubgroupPredictor,
        features: Features | None,
        seed: int,
        together: int = 1,
    ) -> None:
        if generator.solver != "ddim":
            raise InputError(f"solver = {generator.solver!r}: alignment needs 'ddim', which gradients pass through")
        self.network, self.predictor, self.features, self.seed, self.together = (
            network,
            predictor,
            features,
            seed,
            together,
        )
        self.generator = copy(generator)
        self.generator.seed = seed_from("alignment", seed)
        rows = spread_rows(prompts, size).drop(columns="number")
        # the first pass takes the rows in order, so that each update draws only the references it needs
        self.rows = rows.iloc[self._order(0, codes_of_prompts(rows))].reset_index(drop=True).assign(number=range(size))
        #: ``(size,)`` integer prompt of every row
        self.prompts = codes_of_prompts(self.rows.drop(columns="number"))
        self._drawn: dict[int, dict[str, torch.Tensor]] = {}

    @property
    def target(self) -> SubgroupTarget:
        """The target whose subgroups are predicted."""
        return self.predictor.target

    def row_numbers(self, step: int, count: int) -> list[int]:
        """Return the row numbers of an update; each pass through the pool has a different order.

        A pass consists of whole updates; the remaining rows are left out of that pass.

        Args:
            step: number of the update, counted from 1.
            count: number of rows per update.
        """
        turn, update = divmod(step - 1, max(1, len(self.rows) // count))
        order = range(len(self.rows)) if turn == 0 else self._order(turn, self.prompts).tolist()
        return list(order[update * count : (update + 1) * count])

    def _order(self, turn: int, prompts: np.ndarray) -> np.ndarray:
        """Return all rows in random order, in blocks of up to ``together`` rows of the same prompt."""
        rng = np.random.default_rng(seed_from("alignment order", self.seed, turn))
        shuffled = rng.permutation(len(prompts))
        if self.together == 1:
            return shuffled
        mine = [shuffled[prompts[shuffled] == code] for code in range(prompts.max() + 1)]
        blocks = [rows[at : at + self.together] for rows in mine for at in range(0, len(rows), self.together)]
        return np.concatenate([blocks[index] for index in rng.permutation(len(blocks))])

    def reference(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        """Return ``images``, subgroup ``probabilities`` and ``features`` of the untuned model for the given rows."""
        size = self.generator.batch_size
        # always drawn in the same batches, so that a resumed run has bit-identical references
        for block in sorted({number // size for number in numbers if number not in self._drawn}):
            rows = self.rows.iloc[block * size : (block + 1) * size]
            drawn = self._draw(rows)
            for row, number in enumerate(rows["number"].tolist()):
                self._drawn[number] = {name: values[row] for name, values in drawn.items()}
        entries = [self._drawn[number] for number in numbers]
        return {name: torch.stack([entry[name] for entry in entries]) for name in entries[0]}

    @torch.no_grad()
    def _draw(self, rows: pd.DataFrame) -> dict[str, torch.Tensor]:
        images = draw_images(self.network, self.generator, rows)
        drawn = {"images": images, "probabilities": self.predictor(images).exp()}
        return drawn if self.features is None else {**drawn, "features": self.features(images)}


def draw_images(network: nn.Module, generator: ImageGenerator, rows: pd.DataFrame) -> torch.Tensor:
    """Draw ``(N, 3, H, W)`` images in about [-1, 1] for all rows of a plan, in batches, without rounding to uint8."""
    return torch.cat([generator.sample(network, batch) for batch in generator.batches(rows)])

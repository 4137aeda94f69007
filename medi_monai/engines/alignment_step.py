"""One update of subgroup-distribution-aligned tuning (arXiv 2406.14847)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from ignite.engine import Engine
from monai.engines import IterationEvents
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from medi_monai.alignment import (
    DIVERGENCES,
    ROLLOUTS,
    Rollout,
    SubgroupTarget,
    batch_matching_loss,
    consistency_loss,
    consistency_weights,
    form_and_color_loss,
    transport_labels,
    transport_loss,
)
from medi_monai.cohort import expand_plan
from medi_monai.diffusion import ddim
from medi_monai.diffusion.objectives import denoiser
from medi_monai.engines.images import ImageGenerator
from medi_monai.engines.settings import KINDS
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import generator_from, seed_from

__all__ = [
    "LOSSES",
    "AlignmentLosses",
    "AlignmentStep",
    "ReferencePool",
    "SubgroupReader",
    "check_numbers",
    "draw_images",
    "spread_rows",
]

#: ``matching`` is the paper's batch probability matching; ``transport`` the optimal-transport pseudo-targets
LOSSES = ("matching", "transport")

Features = Callable[[torch.Tensor], torch.Tensor]
#: what an update does to images before the guide sees them: ``(images, step) -> images``, differentiable
Augment = Callable[[torch.Tensor, int], torch.Tensor]


def check_numbers(settings: object, kinds: Mapping[str, str]) -> None:
    """Refuse a number that cannot be.

    Args:
        settings: has the numbers as attributes.
        kinds: names of attributes, parted by blanks, for each of :data:`medi_monai.engines.settings.KINDS`.

    Raises:
        InputError: naming the first that is wrong.
    """
    for kind, names in kinds.items():
        test, words = KINDS[kind]
        for name in names.split():
            if not test(getattr(settings, name)):
                raise InputError(f"{name} = {getattr(settings, name)!r} of an alignment: it has to be {words}")


@dataclass(frozen=True)
class AlignmentLosses:
    """What an update minimizes.

    Args:
        loss: one of :data:`LOSSES`.
        divergence: of ``matching``, one of :data:`medi_monai.alignment.DIVERGENCES`.
        min_confidence: of ``transport``: pseudo-targets below it are left out.
        draws: of ``transport``: label sets that are drawn; None apportions the target to each batch.
        subgroup_weight: of the loss above.
        consistency_weight: of 1 - cosine between CLIP features of tuned and untuned images.
        pixel_weight: of the term that sees color and form in the pixels.
        anchor_weight: of the denoising loss on real images.
        stays: weight of consistency of an image that keeps its subgroup.
        changes: weight of one that has to change it.
        rollout: one of :data:`medi_monai.alignment.ROLLOUTS`: the way of the gradient through the sampler.
        last_steps: sampling steps that it goes through; None is all.

    Raises:
        InputError: for a choice that is unknown, or a number out of its range.
    """

    loss: str = "matching"
    divergence: str = "kl"
    min_confidence: float = 0.8
    draws: int | None = 100
    subgroup_weight: float = 1.0
    consistency_weight: float = 1.0
    pixel_weight: float = 1.0
    anchor_weight: float = 1.0
    stays: float = 1.0
    changes: float = 0.2
    rollout: str = "adjusted"
    last_steps: int | None = None

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("loss", self.loss, LOSSES),
            ("divergence", self.divergence, DIVERGENCES),
            ("rollout", self.rollout, tuple(ROLLOUTS)),
        ):
            if value not in known:
                raise unknown_value(kind, value, known)
        check_numbers(
            self,
            {
                # without it nothing is aligned
                "rate": "subgroup_weight",
                "weight": "consistency_weight pixel_weight anchor_weight stays changes",
                "fraction": "min_confidence",
                "optional count": "draws last_steps",
            },
        )


class SubgroupReader:
    """Log-probabilities of a target's subgroups, ``(N, 3, H, W)`` images in [-1, 1] to ``(N, G)``.

    Classifiers may have the values of an attribute in any order; what is read has that of the target.

    Args:
        name: of the classifier, for errors.
        classifier: frozen.
        target: whose subgroups are read.
        batch_size: images read at once.

    Raises:
        InputError: for a classifier without an attribute of the target, or with other values.
    """

    def __init__(self, name: str, classifier: AttributeClassifier, target: SubgroupTarget, batch_size: int) -> None:
        self.classifier, self.target, self.batch_size = classifier, target, batch_size
        self._places: dict[str, list[int]] = {}
        for place, attribute in enumerate(target.attributes):
            wanted = list(dict.fromkeys(group[place] for group in target.groups))
            known = classifier.column(attribute).values
            if set(wanted) != set(known):
                raise InputError(
                    f"the {name} classifier knows the values {list(known)} of {attribute!r}, and the target has "
                    f"{wanted}: train all classifiers on the same values"
                )
            self._places[attribute] = [known.index(value) for value in wanted]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return by_parts(self._read, images.split(self.batch_size))

    def _read(self, images: torch.Tensor) -> torch.Tensor:
        logits = self.classifier(images)
        return self.target.log_probabilities({name: logits[name][:, at] for name, at in self._places.items()})


def by_parts(function: Features, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """A function of each part, joined; where there are several, what lies within is computed again on the way back."""
    if len(parts) == 1 or not torch.is_grad_enabled():
        return torch.cat([function(part) for part in parts])
    results: list[torch.Tensor] = [recomputed(function, part, use_reentrant=False) for part in parts]
    return torch.cat(results)


def spread_rows(prompts: pd.DataFrame, count: int) -> pd.DataFrame:
    """Rows to draw, each with a ``number`` of its own and so with its own noise.

    Args:
        prompts: a plan (with ``count``) or an expanded one.
        count: of the rows; they have the shares of the plan, however many are taken, and begin anew at its end.

    Raises:
        InputError: for a plan without a row.
    """
    rows = expand_plan(prompts.reset_index(drop=True)) if "count" in prompts else prompts
    rows = rows.drop(columns="number", errors="ignore").reset_index(drop=True)
    if not len(rows):
        raise InputError("there is no prompt to align: give a plan or a file with at least one")
    group = rows.groupby(list(rows.columns), dropna=False, sort=False).ngroup() if len(rows.columns) else rows.index * 0
    group = pd.Series(group, index=rows.index)
    within = (group.groupby(group).cumcount() + 0.5) / group.map(group.value_counts())
    order = within.sort_values(kind="stable").index
    chosen = rows.loc[[order[place % len(order)] for place in range(count)]]
    return chosen.reset_index(drop=True).assign(number=range(count))


class ReferencePool:
    """Prompts with their noise, and what the untuned model makes of them; each is drawn once.

    Args:
        network: the untuned model, frozen.
        generator: how images are drawn; its solver has to be ``ddim``.
        prompts: a plan; see :func:`spread_rows`.
        size: of the pool.
        guide: reads the subgroups.
        target: whose attributes are read.
        features: of images, for the consistency.
        seed: of noise and order.

    Raises:
        InputError: for a plan without a row, another solver, or a guide that does not fit the target.
    """

    def __init__(
        self,
        network: nn.Module,
        generator: ImageGenerator,
        prompts: pd.DataFrame,
        size: int,
        guide: AttributeClassifier,
        target: SubgroupTarget,
        features: Features | None,
        seed: int,
    ) -> None:
        if generator.solver != "ddim":
            raise InputError(f"solver = {generator.solver!r}: an alignment sends gradients through 'ddim' alone")
        self.network, self.target, self.features, self.seed = network, target, features, seed
        self.reader = SubgroupReader("guide", guide, target, generator.batch_size)
        self.generator = copy(generator)
        self.generator.seed = seed_from("alignment", seed)
        self.rows = spread_rows(prompts, size)
        self._made: dict[int, dict[str, torch.Tensor]] = {}

    def places(self, step: int, count: int) -> list[int]:
        """The rows of one update, counted from 1: all of the pool once, in another order every time."""
        found = []
        for place in range((step - 1) * count, step * count):
            turn, within = divmod(place, len(self.rows))
            found.append(int(self._order(turn)[within]))
        return found

    def _order(self, turn: int) -> torch.Tensor:
        # first as they come, so that each update draws the references it needs
        if turn == 0:
            return torch.arange(len(self.rows))
        return torch.randperm(len(self.rows), generator=generator_from("alignment order", self.seed, turn))

    def reference(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """``images``, ``probabilities`` of the subgroups and ``features`` of the untuned model, in the order asked."""
        size = self.generator.batch_size
        # always drawn in the same company, so that a resumed run has the same to the bit
        for block in sorted({place // size for place in places if place not in self._made}):
            rows = self.rows.iloc[block * size : (block + 1) * size]
            made = self._draw(rows)
            for row, place in enumerate(rows["number"].tolist()):
                self._made[place] = {name: values[row] for name, values in made.items()}
        parts = [self._made[place] for place in places]
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def _draw(self, rows: pd.DataFrame) -> dict[str, torch.Tensor]:
        drawn = draw_images(self.network, self.generator, rows)
        made = {"images": drawn, "probabilities": self.reader(drawn).exp()}
        return made if self.features is None else {**made, "features": self.features(drawn)}


@torch.no_grad()
def draw_images(network: nn.Module, generator: ImageGenerator, rows: pd.DataFrame) -> torch.Tensor:
    """``(N, 3, H, W)`` images in [-1, 1] of the rows, by DDIM in batches, without rounding to uint8."""
    device = next(network.parameters()).device
    drawn = []
    for part in generator.batches(rows):
        predict = generator.bind(network, part)
        denoise = denoiser(predict, generator.schedule, generator.objective, generator.space.clip)
        latents = ddim(denoise, generator.noise(part).to(device), generator.schedule, generator.num_steps)
        drawn.append(generator.space.decode(latents))
    return torch.cat(drawn)


class AlignmentStep:
    """The process function of an Ignite engine: draws a batch, compares its subgroups with the target, updates.

    The gradient is that of the loss over the whole batch, whatever is drawn at once: images, latents and what the guide
    says of them are kept, all else is computed again by parts of the generator's ``batch_size`` on the way back.

    Args:
        network: in tuning, in evaluation mode.
        optimizer: of its parameters.
        pool: prompts and references.
        losses: what is minimized.
        batch_size: images in an update; those drawn at once are the generator's ``batch_size``.
        anchor: returns the denoising loss of a step on real images; None leaves it out.
        augment: changes images before the guide sees them.
        max_grad_norm: the gradient's norm is clipped to it.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        pool: ReferencePool,
        losses: AlignmentLosses,
        batch_size: int,
        anchor: Callable[[nn.Module, int], torch.Tensor] | None = None,
        augment: Augment | None = None,
        max_grad_norm: float = 1.0,
    ) -> None:
        self.network, self.optimizer, self.pool, self.losses = network, optimizer, pool, losses
        self.batch_size, self.anchor, self.augment, self.max_grad_norm = batch_size, anchor, augment, max_grad_norm
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def __call__(self, engine: Engine, batch: Any) -> dict[str, Any]:
        """One update; ``loss``, ``grad_norm``, ``terms`` and ``seconds``.

        ``BACKWARD_COMPLETED`` is fired before the weights change, so that a lost loss does not spoil them.
        """
        start, step = time.perf_counter(), engine.state.iteration
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.backward(step)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        loss = torch.tensor(sum(terms.values()))
        output: dict[str, Any] = {"loss": loss, "grad_norm": norm.detach(), "terms": terms, "seconds": 0.0}
        engine.state.output = output  # type: ignore[assignment]
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.optimizer.step()
        output["seconds"] = time.perf_counter() - start
        return output

    def backward(self, step: int) -> dict[str, float]:
        """Add the gradient of one update to that of the parameters; returns the weighted terms of the loss."""
        places = self.pool.places(step, self.batch_size)
        reference = self.pool.reference(places)
        rollouts = list(self._rollouts(places))
        images = by_parts(self.pool.generator.space.decode, [rollout.images for rollout in rollouts])
        terms = self._terms(images, reference, step)
        torch.stack(list(terms.values())).sum().backward()
        for rollout in rollouts:
            if rollout.images.grad is not None:
                rollout.send_back(rollout.images.grad)
        if self.anchor is not None and self.losses.anchor_weight:
            terms["anchor"] = self.losses.anchor_weight * self.anchor(self.network, step)
            terms["anchor"].backward()
        return {name: float(term.detach()) for name, term in terms.items()}

    def _rollouts(self, places: Sequence[int]) -> Iterator[Rollout]:
        generator, losses = self.pool.generator, self.losses
        device = next(self.network.parameters()).device
        for rows in generator.batches(self.pool.rows.iloc[list(places)]):
            yield ROLLOUTS[losses.rollout](
                generator.bind(self.network, rows),
                generator.noise(rows).to(device),
                generator.schedule,
                generator.objective,
                generator.num_steps,
                last_steps=losses.last_steps,
                clip=generator.space.clip,
            )

    def _terms(self, images: torch.Tensor, reference: Mapping[str, torch.Tensor], step: int) -> dict[str, torch.Tensor]:
        losses, pool = self.losses, self.pool
        seen = images if self.augment is None else self.augment(images, step)
        subgroup, weights = self._subgroup(pool.reader(seen), reference["probabilities"], step)
        terms = {"subgroup": losses.subgroup_weight * subgroup}
        if losses.consistency_weight and pool.features is not None:
            features = by_parts(pool.features, images.split(pool.generator.batch_size))
            distance = consistency_loss(features, reference["features"], weights)
            terms["consistency"] = losses.consistency_weight * distance
        if losses.pixel_weight:
            terms["pixels"] = losses.pixel_weight * form_and_color_loss(images, reference["images"], weights)
        return terms

    def _subgroup(self, logs: torch.Tensor, reference: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss that aligns, and the weight of each image's consistency."""
        losses, share = self.losses, self.pool.target.tensor(logs)
        stays, changes = losses.stays, losses.changes
        if losses.loss == "matching":
            weights = consistency_weights(reference, share, stays=stays, changes=changes)
            return batch_matching_loss(logs, share, losses.divergence), weights
        drawing = generator_from("alignment transport", self.pool.seed, step)
        found = transport_labels(logs.exp(), share, losses.draws, drawing, losses.min_confidence)
        labels, confident = found.labels, found.confident
        weights = consistency_weights(reference, None, labels, confident, stays, changes)
        return transport_loss(logs, labels, confident), weights

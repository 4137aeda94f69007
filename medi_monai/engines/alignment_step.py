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
from torch import nn

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
from medi_monai.diffusion import ddim
from medi_monai.diffusion.objectives import denoiser
from medi_monai.engines.images import ImageGenerator
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import generator_from, seed_from

__all__ = ["AlignmentLosses", "AlignmentStep", "LOSSES", "ReferencePool"]

#: ``matching`` is the paper's batch probability matching; ``transport`` the optimal-transport pseudo-targets
LOSSES = ("matching", "transport")

Features = Callable[[torch.Tensor], torch.Tensor]


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
        if self.subgroup_weight <= 0:
            raise InputError(f"subgroup_weight = {self.subgroup_weight}: without it nothing is aligned; above 0")


class ReferencePool:
    """Prompts with their noise, and what the untuned model makes of them; each is drawn once.

    Args:
        network: the untuned model, frozen.
        generator: how images are drawn; its solver has to be ``ddim``.
        prompts: an expanded plan; its rows are repeated until the pool is full, with noise of their own each.
        size: of the pool.
        guide: reads the subgroups.
        target: whose attributes are read.
        features: of images, for the consistency.
        seed: of noise and order.
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
        if prompts.empty:
            raise InputError("there is no prompt to align: give a plan or a file with at least one")
        self.network, self.guide, self.target, self.features = network, guide, target, features
        self.generator = copy(generator)
        self.generator.seed = seed_from("alignment", seed)
        order = torch.randperm(len(prompts), generator=generator_from("alignment prompts", seed)).tolist()
        chosen = [order[place % len(order)] for place in range(size)]
        rows = prompts.drop(columns="number", errors="ignore").iloc[chosen].reset_index(drop=True)
        self.rows = rows.assign(number=range(size))
        self.seed = seed
        self._made: dict[int, dict[str, torch.Tensor]] = {}

    def places(self, step: int, count: int) -> list[int]:
        """The rows of one update, counted from 1: all of the pool once, in another order every time."""
        size = len(self.rows)
        found = []
        for place in range((step - 1) * count, step * count):
            turn, within = divmod(place, size)
            found.append(int(self._order(turn)[within]))
        return found

    def _order(self, turn: int) -> torch.Tensor:
        return torch.randperm(len(self.rows), generator=generator_from("alignment order", self.seed, turn))

    def reference(self, places: Sequence[int]) -> dict[str, torch.Tensor]:
        """``images``, ``probabilities`` of the subgroups and ``features`` of the untuned model, in the order asked."""
        lacking = [place for place in places if place not in self._made]
        if lacking:
            made = self._draw(self.rows.iloc[lacking])
            for row, place in enumerate(lacking):
                self._made[place] = {name: values[row] for name, values in made.items()}
        parts = [self._made[place] for place in places]
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    @torch.no_grad()
    def _draw(self, rows: pd.DataFrame) -> dict[str, torch.Tensor]:
        drawn = torch.cat([draw_images(self.network, self.generator, part) for part in self.generator.batches(rows)])
        probabilities = self.target.log_probabilities(self.guide(drawn)).exp()
        made = {"images": drawn, "probabilities": probabilities}
        return made if self.features is None else {**made, "features": self.features(drawn)}


@torch.no_grad()
def draw_images(network: nn.Module, generator: ImageGenerator, rows: pd.DataFrame) -> torch.Tensor:
    """``(N, 3, H, W)`` images in [-1, 1] of one batch of rows, by DDIM, without rounding to uint8."""
    denoise = denoiser(generator.bind(network, rows), generator.schedule, generator.objective, generator.space.clip)
    noise = generator.noise(rows).to(next(network.parameters()).device)
    latents = ddim(denoise, noise, generator.schedule, generator.num_steps)
    images: torch.Tensor = generator.space.decode(latents)
    return images


class AlignmentStep:
    """The process function of an Ignite engine: draws a batch, compares its subgroups with the target, updates.

    Args:
        network: in tuning.
        optimizer: of its parameters.
        pool: prompts and references.
        losses: what is minimized.
        batch_size: images in an update; those drawn at once are the generator's ``batch_size``.
        anchor: returns the denoising loss of a step on real images; None leaves it out.
        augment: changes images before the guide sees them, ``(images, step) -> images``, differentiable.
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
        augment: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
        max_grad_norm: float = 1.0,
    ) -> None:
        self.network, self.optimizer, self.pool, self.losses = network, optimizer, pool, losses
        self.batch_size, self.anchor, self.augment, self.max_grad_norm = batch_size, anchor, augment, max_grad_norm
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def __call__(self, engine: Engine, batch: Any) -> dict[str, Any]:
        start, step = time.perf_counter(), engine.state.iteration
        self.optimizer.zero_grad(set_to_none=True)
        places = self.pool.places(step, self.batch_size)
        reference = self.pool.reference(places)
        rollouts = list(self._rollouts(places))
        images = torch.cat([self.pool.generator.space.decode(rollout.images) for rollout in rollouts])
        terms = self._terms(images, reference, step)
        sum(terms.values(), torch.zeros((), device=images.device)).backward()
        for rollout in rollouts:
            if rollout.images.grad is not None:
                rollout.send_back(rollout.images.grad)
        if self.anchor is not None and self.losses.anchor_weight:
            terms["anchor"] = self.losses.anchor_weight * self.anchor(self.network, step)
            terms["anchor"].backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        loss = sum(float(term) for term in terms.values())
        output = {"loss": torch.tensor(loss), "grad_norm": norm.detach(), "terms": _floats(terms)}
        self.optimizer.step()
        return {**output, "seconds": time.perf_counter() - start}

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
        losses, target = self.losses, self.pool.target
        seen = images if self.augment is None else self.augment(images, step)
        logs = target.log_probabilities(self.pool.guide(seen))
        share = target.tensor(logs)
        if losses.loss == "transport":
            drawing = generator_from("alignment transport", self.pool.seed, step)
            found = transport_labels(logs.exp(), share, losses.draws, drawing, losses.min_confidence)
            subgroup = transport_loss(logs, found.labels, found.confident)
            weights = consistency_weights(
                reference["probabilities"], labels=found.labels, confident=found.confident,
                stays=losses.stays, changes=losses.changes,
            )  # fmt: skip
        else:
            subgroup = batch_matching_loss(logs, share, losses.divergence)
            weights = consistency_weights(reference["probabilities"], share, stays=losses.stays, changes=losses.changes)
        terms = {"subgroup": losses.subgroup_weight * subgroup}
        if losses.consistency_weight and self.pool.features is not None:
            features = self.pool.features(images)
            terms["consistency"] = losses.consistency_weight * consistency_loss(
                features, reference["features"], weights
            )
        if losses.pixel_weight:
            terms["pixels"] = losses.pixel_weight * form_and_color_loss(images, reference["images"], weights)
        return terms


def _floats(terms: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {name: float(term) for name, term in terms.items()}

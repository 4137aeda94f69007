"""One update of subgroup-distribution-aligned tuning (arXiv 2406.14847)."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.engines import IterationEvents, PrepareBatch
from monai.inferers import Inferer
from torch import nn
from torch.utils.data import default_collate

from medi_monai.alignment.functional import (
    ROLLOUTS,
    Rollout,
    batch_matching_loss,
    consistency_loss,
    consistency_weights,
    form_and_color_loss,
    transport_labels,
    transport_loss,
)
from medi_monai.alignment.pool import ReferencePool, by_blocks
from medi_monai.alignment.settings import AlignmentLosses
from medi_monai.cohort import BalancedBatchSampler, PatchDataset
from medi_monai.utils.seeding import generator_from

__all__ = [
    "FEW",
    "AlignmentStep",
    "AnchorLoss",
    "sets_by_prompt",
]

#: number of images below which the images of a prompt are pooled with those of other such prompts
FEW = 4

#: differentiable augmentation of images for the guide: ``(images, step) -> images``
Augment = Callable[[torch.Tensor, int], torch.Tensor]
#: ``(network, untuned network, step, whether to distill) -> terms`` of :class:`AnchorLoss`
Anchor = Callable[[nn.Module, nn.Module, int, bool], Mapping[str, torch.Tensor]]


class AnchorLoss:
    """Two losses on real images, which preserve image quality and the meaning of conditions that name the attribute.

    The first is the denoising loss of the training. The second is the squared distance between the predictions of the
    tuned and the untuned network for the same noisy images and conditions, so that images requested by their subgroup
    still belong to it.

    Args:
        dataset: real images with conditions that name the attribute, so that the shares of the training data do not
            pull the model back.
        batch_size: real images per update.
        prepare_batch: batch preparation of the training, which applies its own dropout and augmentation.
        inferer: inferer that runs the network.
        device: device of the network.
        seed: seed of the image selection.
        attributes: columns whose subgroups are drawn with equal frequency.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        batch_size: int,
        prepare_batch: PrepareBatch,
        inferer: Inferer,
        device: str | torch.device = "cpu",
        seed: int = 0,
        attributes: Sequence[str] = (),
    ) -> None:
        self.dataset, self.prepare_batch, self.inferer, self.device = dataset, prepare_batch, inferer, device
        groups = dataset.groups(attributes, "subpopulation")
        self.sampler = BalancedBatchSampler(groups, batch_size, num_steps=1, seed=seed)

    def __call__(
        self, network: nn.Module, untuned: nn.Module, step: int, distilled: bool = True
    ) -> dict[str, torch.Tensor]:
        """Return ``anchor`` and, if ``distilled``, ``distillation`` for a batch that depends only on seed and step."""
        batch = default_collate([self.dataset[index] for index in self.sampler.batch(step)])
        inputs, targets, args, kwargs = self.prepare_batch(batch, self.device, step=step)
        predicted = self.inferer(inputs, network, *args, **kwargs)
        terms = {"anchor": nn.functional.mse_loss(predicted, targets)}
        if distilled:
            with torch.no_grad():
                before = self.inferer(inputs, untuned, *args, **kwargs)
            terms["distillation"] = nn.functional.mse_loss(predicted.float(), before.float())
        return terms


class AlignmentStep:
    """Process function of an Ignite engine: draws a batch, compares its subgroups with the target, and updates.

    The gradient is that of the loss over the whole batch, independent of how many images are drawn at once: images,
    latents and the guide's predictions are kept, and everything else is recomputed in the backward pass, in blocks of
    the generator's ``batch_size``.

    Args:
        network: network to tune, in evaluation mode.
        optimizer: optimizer of its parameters.
        pool: neutral prompts and their references.
        losses: weights and choices of the losses.
        batch_size: images per update; the generator's ``batch_size`` is the number drawn at once.
        anchor: function that returns the losses on real images in a step; None for no such losses.
        augment: augmentation of the images that the guide classifies; None for no augmentation.
        max_grad_norm: norm to which the gradient is clipped.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        pool: ReferencePool,
        losses: AlignmentLosses,
        batch_size: int,
        anchor: Anchor | None = None,
        augment: Augment | None = None,
        max_grad_norm: float = 1.0,
    ) -> None:
        self.network, self.optimizer, self.pool, self.losses = network, optimizer, pool, losses
        self.batch_size, self.anchor, self.augment, self.max_grad_norm = batch_size, anchor, augment, max_grad_norm
        self.parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]

    def __call__(self, engine: Engine, batch: Any) -> dict[str, Any]:
        """Run one update and return ``loss``, ``grad_norm``, ``terms`` and ``seconds``.

        ``BACKWARD_COMPLETED`` is fired before the weights change, so that a loss that is not finite does not corrupt
        them.
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
        """Accumulate the gradient of one update in the parameters, and return the weighted terms of the loss."""
        numbers = self.pool.row_numbers(step, self.batch_size)
        reference = self.pool.reference(numbers)
        rollouts = list(self._rollouts(numbers))
        images = by_blocks(self.pool.generator.space.decode, [rollout.images for rollout in rollouts])
        terms = self._terms(images, reference, numbers, step)
        torch.stack(list(terms.values())).sum().backward()
        for rollout in rollouts:
            if rollout.images.grad is not None:
                rollout.send_back(rollout.images.grad)
        real = self._real_images(step)
        if real:
            torch.stack(list(real.values())).sum().backward()
        return {name: float(term.detach()) for name, term in {**terms, **real}.items()}

    def _real_images(self, step: int) -> dict[str, torch.Tensor]:
        weights = {"anchor": self.losses.anchor_weight, "distillation": self.losses.distillation_weight}
        if self.anchor is None or not any(weights.values()):
            return {}
        terms = self.anchor(self.network, self.pool.network, step, weights["distillation"] > 0)
        return {name: weights[name] * term for name, term in terms.items() if weights[name]}

    def _rollouts(self, numbers: Sequence[int]) -> Iterator[Rollout]:
        generator, losses = self.pool.generator, self.losses
        device = next(self.network.parameters()).device
        for rows in generator.batches(self.pool.rows.iloc[list(numbers)]):
            yield ROLLOUTS[losses.rollout](
                generator.bind(self.network, rows),
                generator.noise(rows).to(device),
                generator.schedule,
                generator.objective,
                generator.num_steps,
                last_steps=losses.last_steps,
                clip=generator.space.clip,
            )

    def _terms(
        self, images: torch.Tensor, reference: Mapping[str, torch.Tensor], numbers: Sequence[int], step: int
    ) -> dict[str, torch.Tensor]:
        losses, pool = self.losses, self.pool
        augmented = images if self.augment is None else self.augment(images, step)
        subgroup, weights = self._subgroup(pool.predictor(augmented), reference["probabilities"], numbers, step)
        terms = {"subgroup": losses.subgroup_weight * subgroup}
        if losses.consistency_weight and pool.features is not None:
            features = by_blocks(pool.features, images.split(pool.generator.batch_size))
            distance = consistency_loss(features, reference["features"], weights)
            terms["consistency"] = losses.consistency_weight * distance
        if losses.pixel_weight:
            terms["pixels"] = losses.pixel_weight * form_and_color_loss(images, reference["images"], weights)
        return terms

    def _subgroup(
        self, logs: torch.Tensor, reference: torch.Tensor, numbers: Sequence[int], step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the subgroup loss, and the consistency weight of each image."""
        drawing = generator_from("alignment transport", self.pool.seed, step)
        loss, weights = logs.new_zeros(()), logs.new_empty(len(logs))
        prompts = self.pool.prompts[list(numbers)]
        for members in sets_by_prompt(prompts if self.losses.scope == "prompt" else np.zeros_like(prompts)):
            loss_of_set, weights[members] = self._loss_and_weights_of_set(logs[members], reference[members], drawing)
            loss = loss + loss_of_set * (len(members) / len(logs))
        return loss, weights

    def _loss_and_weights_of_set(
        self, logs: torch.Tensor, reference: torch.Tensor, drawing: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        losses, share = self.losses, self.pool.target.tensor(logs)
        weighed = functools.partial(
            consistency_weights, keep_weight=losses.keep_weight, change_weight=losses.change_weight
        )
        if losses.subgroup_loss == "matching":
            weights = weighed(reference, share, generator=drawing)
            return batch_matching_loss(logs, share), weights
        transported = transport_labels(logs.exp(), share, losses.draws, drawing, losses.min_confidence)
        labels, confident = transported.labels, transported.confident
        weights = weighed(reference, None, labels, confident)
        return transport_loss(logs, labels, confident), weights


def sets_by_prompt(prompts: np.ndarray, few: int = FEW) -> list[np.ndarray]:
    """Return the sets of images that each have to meet the target: one per prompt, and one of all rare prompts.

    If the rare prompts together still have too few images, they join the smallest of the other sets.

    Args:
        prompts: ``(N,)`` integer prompt of every image.
        few: smallest size of a set, unless there are fewer images in total.

    Returns:
        Image indices, each in exactly one set.
    """
    codes, sizes = np.unique(prompts, return_inverse=True, return_counts=True)[1:]
    sets = [np.flatnonzero(codes == code) for code in np.flatnonzero(sizes >= few)]
    few_of_prompt = np.flatnonzero(sizes[codes] < few)
    if len(few_of_prompt) >= few or not sets:
        return [*sets, few_of_prompt] if len(few_of_prompt) else sets
    smallest = min(range(len(sets)), key=lambda index: len(sets[index]))
    sets[smallest] = np.sort(np.concatenate([sets[smallest], few_of_prompt]))
    return sets

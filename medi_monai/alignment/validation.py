"""Validation during tuning: distance of images from the target by independent classifiers, and early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from torch import nn

from medi_monai.alignment.pool import ReferencePool, SubgroupPredictor, codes_of_prompts, draw_images, spread_rows
from medi_monai.alignment.settings import AlignmentSettings
from medi_monai.alignment.step import sets_by_prompt
from medi_monai.engines.events import EventWriter
from medi_monai.metrics.subgroups import total_variation
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import seed_from

__all__ = ["SubgroupWatch"]

GUIDE, VALIDATION = "guide", "validation"
#: number of images below which a prompt's distance is dominated by chance; such prompts are pooled
FEW_OF_A_PROMPT = 16


class SubgroupWatch:
    """Validates the weights during tuning on images of the same prompts and noise, and keeps the best weights.

    If the model learns to fool its guide, this becomes visible: the guide's distance keeps falling while that of the
    other classifiers rises. The weights kept are those with the smallest distance according to the validation
    classifier; the judge is not used for this.

    Args:
        network: network being tuned, in evaluation mode.
        pool: pool of the tuning, with its guide and target.
        prompts: sampling plan, as for :func:`medi_monai.alignment.pool.spread_rows`.
        classifiers: additional classifiers by name. ``validation`` decides which weights are kept, or the guide in its
            absence; the predictions of all others are only recorded.
        settings: settings of the tuning, of which the number of images per validation, the number of updates between
            validations and the patience are used; every validation has the same prompts and noise.
        writer: TensorBoard writer.
        tolerance: smallest reduction of the distance (total variation, in [0, 1]) that counts as an improvement.
        by_prompt: whether to use the mean of each prompt's distance instead of the distance of all images.

    Raises:
        InputError: for a classifier that does not match the target, or has the name of the guide.
    """

    def __init__(
        self,
        network: nn.Module,
        pool: ReferencePool,
        prompts: pd.DataFrame,
        classifiers: Mapping[str, AttributeClassifier],
        settings: AlignmentSettings,
        writer: EventWriter | None,
        tolerance: float = 0.005,
        by_prompt: bool = False,
    ) -> None:
        if GUIDE in classifiers:
            raise InputError(f"a classifier named {GUIDE!r}: the guide is always included; choose another name")
        self.network, self.target, self.writer = network, pool.target, writer
        self.every, self.patience, self.tolerance = settings.val_interval, settings.patience, tolerance
        size = pool.generator.batch_size
        others = {
            name: SubgroupPredictor(name, classifier, pool.target, size) for name, classifier in classifiers.items()
        }
        self.predictors = {GUIDE: pool.predictor, **others}
        self.generator = copy(pool.generator)
        self.generator.seed = seed_from("alignment validation", pool.seed)
        self.rows = spread_rows(prompts, settings.num_validation)
        prompts_of = codes_of_prompts(self.rows.drop(columns="number"))
        self.sets = sets_by_prompt(prompts_of, FEW_OF_A_PROMPT) if by_prompt else [np.arange(len(self.rows))]
        #: one record per validation: the step and, for each classifier, the proportions, their distance to the target
        #: and the mean distance over prompts
        self.curve: list[dict[str, Any]] = []
        self._best: dict[str, torch.Tensor] = {}
        self.best_step = 0

    def attach(self, engine: Engine) -> None:
        """Validate before the first update and after every ``every``-th one, and end tuning when it stops improving."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._validate_or_end)

    def _begin(self, engine: Engine) -> None:
        # a resumed tuning was already validated before its first update
        if not self.curve:
            self.validate(engine.state.iteration)

    def _validate_or_end(self, engine: Engine) -> None:
        self.validate(engine.state.iteration)
        if self.exhausted:
            engine.terminate()

    @property
    def exhausted(self) -> bool:
        """Whether the last ``patience`` validations found no smaller distance."""
        return sum(record["step"] > self.best_step for record in self.curve) >= self.patience

    @property
    def kept(self) -> dict[str, Any]:
        """The record of the kept weights."""
        return next(record for record in self.curve if record["step"] == self.best_step)

    def outcome(self) -> str:
        """Describe which weights are kept, with the distance to the target before and after for each classifier."""
        moved = ", ".join(
            f"{name} {self.curve[0][name]['distance']:.2f} to {self.kept[name]['distance']:.2f}"
            for name in self.predictors
        )
        words = (
            f"weights of update {self.best_step} of {self.curve[-1]['step']} are kept; distance to the target: {moved}"
        )
        nothing = "; no update came closer to the target, and the model is unchanged"
        return words + (nothing if self.best_step == 0 else "")

    @torch.no_grad()
    def validate(self, step: int) -> None:
        """Validate the weights after a step, unless already done, and keep them if they are the best so far."""
        if self.curve and self.curve[-1]["step"] == step:
            return
        images = draw_images(self.network, self.generator, self.rows)
        record: dict[str, Any] = {"step": step}
        for name, predictor in self.predictors.items():
            probabilities = predictor(images).exp()
            shares = probabilities.mean(0)
            distances = [len(members) * self._distance(probabilities[members].mean(0)) for members in self.sets]
            record[name] = {
                "proportions": dict(zip(self.target.names, shares.tolist())),
                "distance": self._distance(shares),
                "distance_of_prompts": sum(distances) / len(images),
            }
            self._write(name, record[name], step)
        decides = VALIDATION if VALIDATION in self.predictors else GUIDE
        distance = record[decides]["distance_of_prompts"]
        if not self.curve or distance < self.kept[decides]["distance_of_prompts"] - self.tolerance:
            state = self.network.state_dict()
            self._best = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
            self.best_step = step
        self.curve.append(record)

    def _write(self, name: str, reading: Mapping[str, Any], step: int) -> None:
        if self.writer is None:
            return
        self.writer.add_scalar(f"distance/{name}", reading["distance"], step)
        self.writer.add_scalar(f"distance_of_prompts/{name}", reading["distance_of_prompts"], step)
        for group, share in reading["proportions"].items():
            self.writer.add_scalar(f"proportion_{group}/{name}", share, step)

    def restore(self) -> None:
        """Load the kept weights into the network."""
        self.network.load_state_dict(self._best)

    def _distance(self, proportions: torch.Tensor) -> float:
        return float(total_variation(proportions.cpu().numpy(), np.array(self.target.probabilities)))

    def state_dict(self) -> dict[str, Any]:
        """Return the validation curve and the kept weights, for a checkpoint."""
        return {"curve": self.curve, "best": self._best, "best_step": self.best_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from :meth:`state_dict`."""
        self.curve, self._best, self.best_step = list(state["curve"]), dict(state["best"]), int(state["best_step"])

"""How far tuned images are from the target as classifiers see it that do not guide, and when that is enough."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

import pandas as pd
import torch
from ignite.engine import Engine, Events
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from medi_monai.alignment import SubgroupTarget
from medi_monai.engines.alignment_step import ReferencePool, draw_images
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.utils.seeding import seed_from

__all__ = ["SubgroupWatch"]


class SubgroupWatch:
    """Draws the same images again and again as the weights change, and keeps the weights that serve best.

    A tuning that learns to fool its guide shows here: the guide's distance goes on falling while that of the others
    rises. The weights kept are those at which the validation classifier finds the least distance; the judge has no say.

    Args:
        network: in tuning.
        pool: of the training; guide and target are its own.
        prompts: an expanded plan.
        num_images: drawn at each look, with the same prompts and noise every time.
        readers: further classifiers by name: ``validation`` decides, any other is only written down.
        every: updates between two looks.
        patience: looks without a lesser distance after which the tuning ends.
        tolerance: distances within it of the least count as no less: total variation, in [0, 1].
        writer: TensorBoard.
    """

    def __init__(
        self,
        network: nn.Module,
        pool: ReferencePool,
        prompts: pd.DataFrame,
        num_images: int,
        readers: Mapping[str, AttributeClassifier],
        every: int,
        patience: int,
        writer: SummaryWriter | None,
        tolerance: float = 0.005,
    ) -> None:
        self.network, self.pool, self.every, self.patience, self.writer = network, pool, every, patience, writer
        self.readers = {"guide": pool.guide, **readers}
        self.generator = copy(pool.generator)
        self.generator.seed = seed_from("alignment validation", pool.seed)
        places = [place % len(prompts) for place in range(num_images)]
        rows = prompts.drop(columns="number", errors="ignore").iloc[places].reset_index(drop=True)
        self.rows = rows.assign(number=range(num_images))
        self.tolerance = tolerance
        #: one record per look: step, and by reader the proportions and the distance to the target
        self.curve: list[dict[str, Any]] = []
        self._best: dict[str, torch.Tensor] = {}
        self.best_step = 0

    def attach(self, engine: Engine) -> None:
        """Look before the first update, then on every ``every``-th and at the end."""
        engine.add_event_handler(Events.STARTED, self._look)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._look)
        engine.add_event_handler(Events.COMPLETED, self._look)

    def images(self) -> torch.Tensor:
        """``(num_images, 3, H, W)`` in [-1, 1], of the weights as they are."""
        was = self.network.training
        self.network.eval()
        batches = self.generator.batches(self.rows)
        images = torch.cat([draw_images(self.network, self.generator, rows) for rows in batches])
        self.network.train(was)
        return images

    @torch.no_grad()
    def _look(self, engine: Engine) -> None:
        step = engine.state.iteration
        if self.curve and self.curve[-1]["step"] == step:
            return
        images, target = self.images(), self.pool.target
        record: dict[str, Any] = {"step": step}
        for name, reader in self.readers.items():
            share = target.log_probabilities(reader(images)).exp().mean(0)
            record[name] = {
                "proportions": dict(zip(target.names, share.tolist())),
                "distance": total_variation(share, target),
            }
            if self.writer is not None:
                self.writer.add_scalar(f"distance/{name}", record[name]["distance"], step)
        self.curve.append(record)
        self._keep(engine)

    def _keep(self, engine: Engine) -> None:
        decides = "validation" if "validation" in self.readers else "guide"
        distances = [record[decides]["distance"] for record in self.curve]
        if len(distances) == 1 or distances[-1] < min(distances[:-1]) - self.tolerance:
            self._best = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
            self.best_step = self.curve[-1]["step"]
        steps = [record["step"] for record in self.curve]
        if len(steps) - 1 - steps.index(self.best_step) >= self.patience:
            engine.terminate()

    def restore(self) -> None:
        """Put the kept weights into the network."""
        self.network.load_state_dict(self._best)

    def state_dict(self) -> dict[str, Any]:
        return {"curve": self.curve, "best": self._best, "best_step": self.best_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.curve, self._best, self.best_step = list(state["curve"]), dict(state["best"]), int(state["best_step"])


def total_variation(share: torch.Tensor, target: SubgroupTarget) -> float:
    """``½ Σ |p - q|`` between ``(G,)`` proportions and the target, in [0, 1]."""
    return float((share.double().cpu() - target.tensor().double()).abs().sum() / 2)

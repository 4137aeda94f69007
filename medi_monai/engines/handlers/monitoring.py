"""Monitor a training: progress bar, scalars, sample grids, and a stop if the loss is not finite."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.engines import Evaluator, IterationEvents
from PIL import Image
from torch.optim import Optimizer

from medi_monai.engines.events import EventWriter
from medi_monai.engines.handlers.checkpoints import TrainingCheckpoint
from medi_monai.utils.errors import RunStopped
from medi_monai.utils.files import atomic_path
from medi_monai.utils.progress import bar_settings

__all__ = [
    "attach_bar",
    "ProgressHandler",
    "ScalarHandler",
    "ValidationLossHandler",
    "SampleGridHandler",
    "FiniteLossGuard",
]


def _output(engine: Engine) -> dict:
    return cast(dict, engine.state.output)


def attach_bar(engine: Engine, task: str, total: int) -> None:
    """Show progress over ``total`` iterations: every iteration on a terminal, about twenty lines in a log file."""
    step = 1 if sys.stderr.isatty() else max(1, total // 20)

    def drawn(_: Engine, iteration: int) -> bool:
        return iteration == total or iteration % step == 0

    bar = ProgressBar(desc=task, persist=True, **bar_settings())
    bar.attach(engine, event_name=Events.ITERATION_COMPLETED(event_filter=drawn))


class ProgressHandler:
    """Progress bar over the steps of a trainer, with the smoothed loss and the speed.

    Args:
        task: description of the task.
        num_images: images per step, for the speed.
    """

    #: in distributed training, only the first process has this handler
    main_process_only = True

    def __init__(self, task: str = "training", num_images: int = 1) -> None:
        self.task, self.num_images = task, num_images
        self._loss: float | None = None

    def attach(self, engine: Engine) -> None:
        """Follow every step; a terminal shows each one, a log file every fiftieth."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._smooth)
        bar = ProgressBar(desc=self.task, persist=True, **bar_settings())
        event = Events.ITERATION_COMPLETED(every=1 if sys.stderr.isatty() else 50)
        bar.attach(engine, event_name=event, output_transform=self._figures)

    def _smooth(self, engine: Engine) -> None:
        loss = float(_output(engine)["loss"])
        self._loss = loss if self._loss is None else 0.98 * self._loss + 0.02 * loss

    def _figures(self, output: dict) -> dict:
        return {"loss": self._loss, "images/s": round(self.num_images / max(output["seconds"], 1e-9))}


class ScalarHandler:
    """Writes loss, learning rate, gradient norm and speed to TensorBoard, averaged over ``every`` steps.

    Args:
        writer: TensorBoard writer.
        optimizer: optimizer, for its learning rate.
        num_images: images per step, for the speed.
        every: number of steps between points.
    """

    #: in distributed training, only the first process has this handler
    main_process_only = True

    def __init__(self, writer: EventWriter, optimizer: Optimizer, num_images: int = 1, every: int = 10) -> None:
        self.writer, self.optimizer, self.num_images, self.every = writer, optimizer, num_images, every
        self._losses: list[torch.Tensor] = []
        self._norms: list[torch.Tensor] = []
        self._since = time.perf_counter()

    def attach(self, engine: Engine) -> None:
        """Collect loss and gradient norm in every step."""
        if isinstance(self.writer, EventWriter):  # not a writer of TensorBoard's own
            self.writer.follow(engine)
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)

    def _start(self, engine: Engine) -> None:
        self._since = time.perf_counter()

    def _collect(self, engine: Engine) -> None:
        self._losses.append(_output(engine)["loss"])
        self._norms.append(_output(engine)["grad_norm"])
        step = engine.state.iteration
        if step % self.every:
            return
        now = time.perf_counter()
        self.writer.add_scalar("train/loss", torch.stack(self._losses).mean().item(), step)
        self.writer.add_scalar("train/gradient_norm", torch.stack(self._norms).mean().item(), step)
        self.writer.add_scalar("train/learning_rate", self.optimizer.param_groups[0]["lr"], step)
        self.writer.add_scalar(
            "train/images_per_second", len(self._losses) * self.num_images / (now - self._since), step
        )
        self._losses, self._norms, self._since = [], [], now


class ValidationLossHandler:
    """Evaluates the loss of the averaged weights on a fixed set of patches, noise and timesteps.

    With several processes, each one validates on all patches.

    Args:
        evaluator: engine with the metric ``validation_loss``.
        writer: TensorBoard writer; None except in the first process.
        every: number of steps between validations; the last step is also followed by one.
    """

    def __init__(self, evaluator: Evaluator, writer: EventWriter | None, every: int) -> None:
        self.evaluator, self.writer, self.every = evaluator, writer, every

    def attach(self, engine: Engine) -> None:
        """Validate after every ``every``-th step and at the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._validate)
        engine.add_event_handler(Events.COMPLETED, self._validate)

    def _validate(self, engine: Engine) -> None:
        step = engine.state.iteration
        if engine.state.metrics.get("validation_step") == step:
            return
        self.evaluator.run()
        loss = self.evaluator.state.metrics["validation_loss"]
        engine.state.metrics.update(validation_loss=loss, validation_step=step)
        if self.writer is not None:
            self.writer.add_scalar("validation/loss", loss, step)


class SampleGridHandler:
    """Writes a grid of samples by class and subpopulation to TensorBoard and ``samples/step_<n>.png``.

    Args:
        draw: function that returns the grid as ``(H, W, 3)`` uint8.
        writer: TensorBoard writer.
        folder: output folder for the PNG files.
        every: number of steps between grids; the last step is also followed by one.
    """

    #: in distributed training, only the first process has this handler
    main_process_only = True

    def __init__(
        self, draw: Callable[[], np.ndarray], writer: EventWriter, folder: str | os.PathLike, every: int
    ) -> None:
        self.draw, self.writer, self.folder, self.every = draw, writer, Path(folder), every
        self._last: int | None = None

    def attach(self, engine: Engine) -> None:
        """Draw a grid after every ``every``-th step and at the end."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self._show)
        engine.add_event_handler(Events.COMPLETED, self._show)

    def _show(self, engine: Engine) -> None:
        step = engine.state.iteration
        if self._last == step:
            return
        self._last = step
        try:
            grid = self.draw()
            with atomic_path(self.folder / f"step_{step:08d}.png") as path:
                Image.fromarray(grid).save(path, format="png")
        except RunStopped as error:
            # a failed figure, or a full disk, must not end the training
            print(f"warning: no samples at step {step}: {error}", flush=True)
            return
        self.writer.add_image("samples", grid, step, dataformats="HWC")


class FiniteLossGuard:
    """Stops a training whose loss or gradient is not finite, before the step that would corrupt the weights.

    Args:
        checkpoint: checkpoint handler, which names the last good checkpoint.
    """

    def __init__(self, checkpoint: TrainingCheckpoint) -> None:
        self.checkpoint = checkpoint

    def attach(self, engine: Engine) -> None:
        """Check after every backward pass."""
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._check)

    def _check(self, engine: Engine) -> None:
        loss, norm = float(_output(engine)["loss"]), float(_output(engine)["grad_norm"])
        if math.isfinite(loss) and math.isfinite(norm):
            return
        good = self.checkpoint.newest
        raise RunStopped(
            f"the loss is {loss} and the gradient norm {norm} at step {engine.state.iteration}; the weights were not "
            f"changed by this step. The last good checkpoint is {good or 'none, because no step was saved yet'}. Train "
            "again with a lower learning_rate or max_grad_norm."
        )

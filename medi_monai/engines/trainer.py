"""Trainer: MONAI's supervised trainer for diffusion models, with one optimizer update per step."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents, SupervisedTrainer

from medi_monai.engines.distributed import explain_lost_connections, is_main_process, require_joined_processes
from medi_monai.engines.events import event_files
from medi_monai.engines.handlers import TrainingCheckpoint, WeightAverage
from medi_monai.engines.model_dir import MODEL_FILES, save_model, save_settings
from medi_monai.results import plain
from medi_monai.results.training import RECORD, TrainingRecord
from medi_monai.schema import Conditioning
from medi_monai.utils.console import OUT_OF_TIME, STOP_SIGNALS, note_out_of_time
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import file_digest
from medi_monai.utils.records import check_results, claim_results
from medi_monai.utils.run_dir import finish_run, set_aside

__all__ = ["DiffusionTrainer", "stop_after_step", "train"]


class DiffusionTrainer(SupervisedTrainer):
    """``SupervisedTrainer`` whose iteration is one optimizer update.

    It passes the step to ``prepare_batch``, scales the loss if the inferer computes in float16, splits a batch for
    gradient accumulation (the update equals that of the whole batch), clips the gradient, and reports ``loss``,
    ``grad_norm`` and ``seconds`` in ``state.output``. In distributed training, only the first process has the handlers
    that log and save (``main_process_only``).

    Args:
        max_steps: total number of updates.
        max_epochs: 1; steps are not divided into epochs.
        accumulation_steps: number of parts into which a batch is split to save memory.
        max_grad_norm: norm to which the gradient is clipped.
        average: weight average, updated before any other handler runs.
        train_handlers: handlers of the training, attached in this order.
        kwargs: arguments of ``monai.engines.SupervisedTrainer`` (``device``, ``network``, ``optimizer``, …).
    """

    def __init__(
        self,
        *,
        max_steps: int,
        max_epochs: int = 1,
        accumulation_steps: int = 1,
        max_grad_norm: float = 1.0,
        average: WeightAverage | None = None,
        train_handlers: Sequence | None = None,
        **kwargs: Any,
    ) -> None:
        if max_epochs != 1:
            raise InputError(f"max_epochs = {max_epochs}: training is a single epoch of max_steps steps")
        if max_grad_norm <= 0:
            raise InputError(f"max_grad_norm = {max_grad_norm}: it has to be above 0")
        if accumulation_steps < 1:
            raise InputError(f"accumulation_steps = {accumulation_steps}: it has to be 1 or more")
        super().__init__(
            max_epochs=max_epochs,
            epoch_length=max_steps,
            decollate=False,
            optim_set_to_none=True,
            train_handlers=[*([average] if average else []), *_handlers_of_this_process(train_handlers or [])],
            **kwargs,
        )
        self.num_parts, self.max_grad_norm = accumulation_steps, max_grad_norm
        #: scales the loss in float16, so that gradients do not vanish; a step that overflows is skipped
        self.loss_scaler: torch.amp.GradScaler | None = None
        if getattr(self.inferer, "precision", None) == "float16":
            self.loss_scaler = torch.amp.GradScaler(torch.device(self.state.device).type)

    def _iteration(  # type: ignore[override]
        self, engine: DiffusionTrainer, batchdata: dict[str, torch.Tensor]
    ) -> dict:
        start = time.perf_counter()
        inputs, targets, args, kwargs = engine.prepare_batch(
            batchdata, engine.state.device, engine.non_blocking, step=engine.state.iteration, **engine.to_kwargs
        )
        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=inputs.device)
        for rows in torch.arange(len(inputs), device=inputs.device).tensor_split(min(self.num_parts, len(inputs))):
            row_kwargs = {name: value[rows] for name, value in kwargs.items()}
            prediction = engine.inferer(inputs[rows], engine.network, *args, **row_kwargs)
            loss = engine.loss_function(prediction, targets[rows]) * (len(rows) / len(inputs))
            (loss if engine.loss_scaler is None else engine.loss_scaler.scale(loss)).backward()
            total += loss.detach()
        if engine.loss_scaler is not None:
            engine.loss_scaler.unscale_(engine.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(engine.network.parameters(), self.max_grad_norm)
        engine.state.output = {"loss": total, "grad_norm": norm.detach(), "seconds": 0.0}
        # a gradient that overflows only because it is scaled is no failure: the scaler skips the step
        if torch.isfinite(norm) or engine.loss_scaler is None or engine.loss_scaler.get_scale() <= 1:
            engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if engine.loss_scaler is None:
            engine.optimizer.step()
        else:
            engine.loss_scaler.step(engine.optimizer)
            engine.loss_scaler.update()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        engine.state.output["seconds"] = time.perf_counter() - start
        return engine.state.output


def _handlers_of_this_process(handlers: Sequence) -> list:
    return [handler for handler in handlers if is_main_process() or not getattr(handler, "main_process_only", False)]


def train(
    trainer: DiffusionTrainer,
    checkpoint: TrainingCheckpoint,
    average: WeightAverage,
    schema: Conditioning,
    output_dir: str | os.PathLike,
    settings: Mapping[str, Any],
    resume: bool = False,
    trained_on: TrainingRecord | None = None,
) -> Path:
    """Run a training; write ``model.pt`` (averaged weights), ``model.json`` and ``schema.json``.

    Args:
        trainer: trainer with its handlers attached.
        checkpoint: checkpoint handler, which saves states and loads the one to resume from.
        average: averaged weights, which are written to ``model.pt``.
        schema: schema to save next to them.
        output_dir: output folder for ``summary.json``.
        settings: resolved settings, for the summary and for ``model.json``, which sampling reads.
        resume: whether to resume from the newest checkpoint; if not, earlier checkpoints are moved, never deleted.
        trained_on: record of the training data for ``model.json``, from which evaluations know what is unseen.

    Returns:
        The path of ``model.pt``.

    Raises:
        InputError: if there is no checkpoint to resume from, if it does not match, or if several ``torchrun`` processes
            have not joined to share gradients.
        RunStopped: after Ctrl-C (the state is saved), or if the loss is not finite.
    """
    require_joined_processes()
    if trainer.loss_scaler is not None:
        checkpoint.components["loss_scale"] = trainer.loss_scaler
    record = settings if trained_on is None else {**settings, RECORD: plain(trained_on)}
    _begin(trainer, checkpoint, schema, Path(output_dir), record, resume)
    start, first = time.perf_counter(), trainer.state.iteration
    _run_to_end(trainer, checkpoint)
    seconds, steps = time.perf_counter() - start, trainer.state.iteration - first
    folder = checkpoint.ckpt_dir
    model = folder / "model.pt"
    if not is_main_process():
        return model
    save_model(folder, average.network.state_dict(), record)
    finish_run(
        "training",
        output_dir,
        made={"model": str(model), "schema": str(folder / "schema.json"), "steps": trainer.state.iteration},
        figures={
            "train_loss": float(trainer.state.output["loss"]) if steps else None,
            "validation_loss": trainer.state.metrics.get("validation_loss"),
            "seconds": round(seconds, 2),
            "seconds_per_step": round(seconds / max(steps, 1), 4),
        },
        settings=settings,
        digests={"model.pt": file_digest(model), "schema": schema.digest},
        where=str(model),
    )
    return model


def _begin(
    trainer: DiffusionTrainer,
    checkpoint: TrainingCheckpoint,
    schema: Conditioning,
    output: Path,
    record: Mapping[str, Any],
    resume: bool,
) -> None:
    """Load the checkpoint to resume from, or set earlier results aside; the first process claims the folders."""
    folder = checkpoint.ckpt_dir
    if is_main_process():
        check_results(output, "training")
        check_results(folder, "training", 1)
    if resume:
        _resume(trainer, checkpoint)
    elif is_main_process():
        checkpoint.check_free(1, trainer.state.epoch_length)
        _set_aside_earlier(checkpoint, output)
    if is_main_process():
        claim_results(output, "training")
        claim_results(folder, "training", 1)
        # saved before the first checkpoint, so every checkpoint has its vocabulary
        schema.save(folder / "schema.json")
        save_settings(folder, record)


def _resume(trainer: DiffusionTrainer, checkpoint: TrainingCheckpoint) -> None:
    """Load the newest checkpoint; a training whose steps are complete may still have to write its last files."""
    folder, num_steps = checkpoint.ckpt_dir, trainer.state.epoch_length
    if checkpoint.newest is None:
        raise InputError(f"there is no checkpoint to resume from in {folder}; train without --resume true first")
    step = checkpoint.resume(trainer)
    checkpoint.check_free(step + 1, num_steps)
    trainer.data_loader.batch_sampler.start_step = step  # type: ignore[union-attr]
    if step > num_steps:
        raise InputError(
            f"the training in {folder} is already at step {step}; give a larger --max_steps and --decay_steps"
        )
    if is_main_process():
        end = "; training is complete: to continue, give a larger --max_steps and --decay_steps"
        print(f"resuming from {checkpoint.newest} at step {step}{end if step == num_steps else ''}", flush=True)


def _set_aside_earlier(checkpoint: TrainingCheckpoint, output: Path) -> None:
    """Move the results of an earlier training in the same folders to ``earlier-<n>``."""
    set_aside(output, [output / "samples", output / "summary.json", *event_files(output)])
    checkpoint.set_aside(tuple(checkpoint.ckpt_dir / name for name in MODEL_FILES))


def _run_to_end(trainer: DiffusionTrainer, checkpoint: TrainingCheckpoint) -> None:
    """Train up to the last step and save it; an interrupted training saves its state and stops."""
    num_steps = trainer.state.epoch_length
    if trainer.state.iteration < num_steps:
        with stop_after_step(trainer), explain_lost_connections():
            trainer.run()
        if is_main_process():
            checkpoint.save(trainer)
    if trainer.state.iteration < num_steps:
        raise RunStopped(
            f"interrupted after step {trainer.state.iteration} of {num_steps}; the state is saved in "
            f"{checkpoint.newest}. Resume with the same command and --resume true."
        )


@contextmanager
def stop_after_step(trainer: Engine) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end a training between two steps, so that its state can be saved.

    A second signal ends it immediately. The soft limit of CPU time (SIGXCPU) also ends it between steps; its state then
    has to be saved in the time left until the hard limit. SIGHUP remains ignored if it was, as under ``nohup``.
    """

    requested = threading.Event()

    def stop(number: int, frame: object) -> None:
        requested.set()
        if number == OUT_OF_TIME:
            note_out_of_time()
            return
        for another in earlier:
            if another != OUT_OF_TIME:
                signal.signal(another, signal.default_int_handler)

    # if interrupted at any other moment, Ignite would count a step that was not completed
    @trainer.on(Events.ITERATION_COMPLETED)
    def interrupt_after_step(engine: Engine) -> None:
        # all processes stop after the same step: one that continued would wait for the gradients of the others
        if idist.all_reduce(int(requested.is_set()), "MAX"):
            engine.interrupt()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hang_up = getattr(signal, "SIGHUP", None)
    numbers = [number for number in STOP_SIGNALS if number != hang_up or signal.getsignal(number) != signal.SIG_IGN]
    earlier = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in earlier.items():
            if number != OUT_OF_TIME or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)

"""The run ``aligning``: tune a trained model until the subgroup shares of its images match a target."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from PIL import Image
from torch import nn

from medi_monai.alignment.functional import SubgroupTarget, check_rollout
from medi_monai.alignment.pool import Features, ReferencePool, SubgroupPredictor, draw_images
from medi_monai.alignment.settings import AlignmentLosses, AlignmentSettings
from medi_monai.alignment.step import FEW, AlignmentStep, AnchorLoss
from medi_monai.alignment.validation import SubgroupWatch
from medi_monai.engines.classifiers.augment import Hardening, harden
from medi_monai.engines.distributed import refuse_processes
from medi_monai.engines.events import EventWriter, event_files
from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.handlers import FiniteLossGuard, ScalarHandler, TrainingCheckpoint, attach_bar
from medi_monai.engines.model_dir import MODEL_FILES, save_model
from medi_monai.engines.schedules import WarmupCosine
from medi_monai.engines.trainer import stop_after_step
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.networks.tuning import merge_adapter, save_adapter, tuned_parameters
from medi_monai.report import labeled_grid
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import atomic_path, file_digest, json_digest, write_json
from medi_monai.utils.pixels import uint8_arrays
from medi_monai.utils.records import check_results, claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.seeding import generator_from

__all__ = ["AlignmentGoal", "TrainedModel", "align", "tuning_schedule"]

#: number of consecutive images of the same prompt, if each prompt has to meet the target: at least TOGETHER, and at
#: least PER_SUBGROUP for each subgroup, because shares of a few images cannot be compared with the target
TOGETHER, PER_SUBGROUP = 16, 6
#: share of the pool that belongs to prompts with too few images to be matched individually, above which to warn
MANY_PROMPTS = 0.25
#: number of images in the before-and-after figure
SHOWN = 12
#: fraction of the updates in which the learning rate rises, and its final value as a fraction of the peak
WARMUP, LEFT = 0.1, 0.1
ADAPTER = "adapter.pt"


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, to be tuned.

    Args:
        network: trained network; changed in place.
        generator: generator of its images, with DDIM; its schema is saved next to the tuned weights.
        train_config: settings of the training (``model.json``), saved with a mark of the alignment.
        source: file of the untuned weights, which is not changed.
    """

    network: nn.Module
    generator: ImageGenerator
    train_config: Mapping[str, Any]
    source: str | os.PathLike


@dataclass(frozen=True)
class AlignmentGoal:
    """What the images of a tuned model should have, and what they should keep.

    Args:
        target: target shares.
        classifiers: frozen classifiers of the subgroups by role: the loss uses the predictions of ``guide``, and
            ``validation`` decides when to stop and which weights to keep; those of others, such as ``judge``, are only
            recorded.
        losses: weights and choices of the losses.
        features: function that returns differentiable features of ``(N, 3, H, W)`` images in [-1, 1], for the CLIP
            consistency loss.
        anchor: losses on real images, used where their weight is not 0.
    """

    target: SubgroupTarget
    classifiers: Mapping[str, AttributeClassifier]
    losses: AlignmentLosses
    features: Features | None = None
    anchor: AnchorLoss | None = None

    @property
    def guide(self) -> AttributeClassifier:
        """The classifier whose predictions the loss uses.

        Raises:
            InputError: if there is none.
        """
        if "guide" not in self.classifiers:
            raise InputError(f"the classifiers are {list(self.classifiers)}: one with the role 'guide' is needed")
        return self.classifiers["guide"]

    @property
    def independent(self) -> dict[str, AttributeClassifier]:
        """All classifiers but the guide."""
        return {role: classifier for role, classifier in self.classifiers.items() if role != "guide"}

    @property
    def weighted_anchor(self) -> AnchorLoss | None:
        """The losses on real images, if any has a weight."""
        return self.anchor if self.losses.anchor_weight or self.losses.distillation_weight else None


def align(
    model: TrainedModel,
    prompts: pd.DataFrame,
    goal: AlignmentGoal,
    settings: AlignmentSettings,
    output_dir: str | os.PathLike,
    ckpt_dir: str | os.PathLike,
    writer: EventWriter | None = None,
) -> Path:
    """Tune a model, and save the weights that are closest to the target according to the validation classifier.

    Args:
        model: trained model.
        prompts: neutral conditions: a plan with ``count``, or one row per image.
        goal: target, classifiers and losses.
        settings: settings of the optimization. With ``resume``, the newest checkpoint is resumed; without, earlier
            results in the folders are moved aside.
        output_dir: output folder for ``alignment.json``, ``samples/``, TensorBoard events and ``summary.json``.
        ckpt_dir: output folder for ``model.pt``, ``adapter.pt`` if one was tuned, ``schema.json`` and ``model.json``.
        writer: TensorBoard writer.

    Returns:
        The path of ``model.pt``.

    Raises:
        InputError: for several ``torchrun`` processes, a folder that holds the untuned model, settings that contradict
            each other, classifiers without a guide, or if there is nothing to resume from.
        RunStopped: after Ctrl-C (the state is saved) or a loss that is not finite.
    """
    folder, output, network = Path(ckpt_dir), Path(output_dir), model.network
    _check(model, goal.losses, folder)
    check_results(output, "aligning")
    check_results(folder, "aligning", 1)
    guide = goal.guide
    record = _record(model, prompts, goal, settings)
    untuned = deepcopy(network).eval().requires_grad_(False)
    parameters = tuned_parameters(network.eval(), settings.tuned, settings.rank)
    optimizer = torch.optim.AdamW(parameters, settings.rate, weight_decay=0.0)
    schedule = tuning_schedule(optimizer, settings.max_steps)
    predictor = SubgroupPredictor("guide", guide, goal.target, model.generator.batch_size)
    pool = _pool(untuned, model.generator, prompts, predictor, goal, settings)
    augment = functools.partial(_hardened, seed=settings.seed) if settings.harden_guide else None
    step = AlignmentStep(
        network, optimizer, pool, goal.losses, settings.batch_size, goal.weighted_anchor, augment,
        settings.max_grad_norm,
    )  # fmt: skip
    by_prompt = goal.losses.scope == "prompt"
    watch = SubgroupWatch(network, pool, prompts, goal.independent, settings, writer, by_prompt=by_prompt)
    components = {"network": network, "optimizer": optimizer, "scheduler": schedule, "watch": watch}
    checkpoint = TrainingCheckpoint(folder, components, record, settings.checkpoint_every, keep=1)
    trainer = _trainer(step, schedule, watch, checkpoint, writer, settings)
    if settings.resume:
        _resume(trainer, checkpoint, settings.max_steps)
    else:
        checkpoint.check_free(1, settings.max_steps)
        _clear(output, folder, checkpoint)
    claim_results(output, "aligning")
    claim_results(folder, "aligning", 1)
    start = time.perf_counter()
    _run(trainer, watch, checkpoint, settings.max_steps)
    watch.restore()
    _show(watch, untuned, output, writer)
    seconds = round(time.perf_counter() - start, 2)
    path = _save(model, settings, record, folder)
    _finish(watch, record, path, output, seconds, model.generator.schema.digest)
    return path


def tuning_schedule(optimizer: torch.optim.Optimizer, max_steps: int) -> WarmupCosine:
    """Return a schedule with linear warmup in the first tenth of the updates and cosine decay to a tenth of the peak.

    With a constant rate, tuning ends up oscillating around the target.
    """
    warmup = max(1, round(WARMUP * max_steps))
    # the last update of the warmup has the peak rate, and the very last update the final rate
    return WarmupCosine(optimizer, warmup, max_steps - 1, cosine_start=warmup - 1, end_factor=LEFT)


def _check(model: TrainedModel, losses: AlignmentLosses, folder: Path) -> None:
    refuse_processes("aligning")
    source, num_steps = Path(model.source), model.generator.num_steps
    if not source.is_file():
        raise InputError(f"there is no model at {source}: run `training` first, or give --ckpt_dir of a trained model")
    if source.resolve().parent == folder.resolve():
        raise InputError(f"ckpt_dir = {folder} contains the model to tune; give another folder for the tuned model")
    check_rollout(losses.rollout, model.generator.objective)
    if losses.last_steps is not None and losses.last_steps > num_steps:
        raise InputError(
            f"last_steps = {losses.last_steps}: the gradient can pass through 1 to {num_steps} (num_steps) steps"
        )


def _record(
    model: TrainedModel, prompts: pd.DataFrame, goal: AlignmentGoal, settings: AlignmentSettings
) -> dict[str, Any]:
    """Return all that a result depends on, for comparison with checkpoints and for ``alignment.json``."""
    generator, anchor = model.generator, goal.weighted_anchor
    return {
        "losses": goal.losses.model_dump(),
        # whether a run was resumed does not change its result
        "settings": {**settings.model_dump(exclude={"resume"}), "learning_rate": settings.rate},
        "consistency_encoder": _regularizer(goal),
        "real_images": 0 if anchor is None else anchor.sampler.batch_size,
        "target": goal.target.to_dict(),
        "sampling": {
            "solver": generator.solver,
            "num_steps": generator.num_steps,
            "guidance_scale": generator.guidance_scale,
            "image_size": generator.image_size,
        },
        "precision": getattr(generator.inferer, "precision", None),
        "classifiers": {name: json_digest(classifier.describe()) for name, classifier in goal.classifiers.items()},
        "prompts_digest": json_digest(prompts.astype(str).to_dict("split", index=False)),
        "untuned_sha256": file_digest(model.source),
    }


def _regularizer(goal: AlignmentGoal) -> Mapping[str, Any] | None:
    # None without a consistency loss, or for features that do not say whose they are
    return getattr(goal.features, "description", None) if goal.losses.consistency_weight else None


def _pool(
    untuned: nn.Module,
    generator: ImageGenerator,
    prompts: pd.DataFrame,
    predictor: SubgroupPredictor,
    goal: AlignmentGoal,
    settings: AlignmentSettings,
) -> ReferencePool:
    by_prompt = goal.losses.scope == "prompt"
    together = max(TOGETHER, PER_SUBGROUP * len(goal.target.groups)) if by_prompt else 1
    pool = ReferencePool(
        untuned, generator, prompts, settings.pool_size, predictor, goal.features, settings.seed, together
    )
    if by_prompt:
        _warn_of_many_prompts(pool)
    return pool


def _warn_of_many_prompts(pool: ReferencePool) -> None:
    sizes = np.bincount(pool.prompts)
    share = sizes[sizes < FEW].sum() / len(pool.prompts)
    if share > MANY_PROMPTS and len(sizes) > 1:
        print(
            f"warning: {len(sizes)} prompts share a pool of {len(pool.prompts)} images, and {share:.0%} of these "
            f"belong to prompts with fewer than {FEW} images, which are matched to the target together. Give a larger "
            "--pool_size, fewer prompts, or --scope batch",
            flush=True,
        )


def _hardened(images: torch.Tensor, step: int, seed: int) -> torch.Tensor:
    return harden(images, Hardening(), generator_from("alignment harden", seed, step))


def _clear(output: Path, folder: Path, checkpoint: TrainingCheckpoint) -> None:
    events = event_files(output)
    set_aside(output, [*(output / name for name in ("samples", "alignment.json", "summary.json")), *events])
    checkpoint.set_aside(tuple(folder / name for name in (*MODEL_FILES, ADAPTER)))


def _resume(trainer: Engine, checkpoint: TrainingCheckpoint, max_steps: int) -> None:
    if checkpoint.newest is None:
        raise InputError(f"there is no checkpoint to resume from in {checkpoint.ckpt_dir}; align without --resume true")
    trainer.state.max_epochs, trainer.state.epoch_length = 1, max_steps
    step = checkpoint.resume(trainer)
    checkpoint.check_free(step + 1, max_steps)
    print(f"resuming from {checkpoint.newest} at update {step}", flush=True)


def _trainer(
    step: AlignmentStep,
    schedule: WarmupCosine,
    watch: SubgroupWatch,
    checkpoint: TrainingCheckpoint,
    writer: EventWriter | None,
    settings: AlignmentSettings,
) -> Engine:
    trainer = Engine(step)
    trainer.register_events(*IterationEvents)
    FiniteLossGuard(checkpoint).attach(trainer)
    if writer is not None:
        ScalarHandler(writer, step.optimizer, settings.batch_size, every=1).attach(trainer)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, _show_terms, writer)
    schedule.attach(trainer)
    # a checkpoint holds the learning rate of the next update and the validations up to this one
    watch.attach(trainer)
    checkpoint.attach(trainer)
    attach_bar(trainer, "aligning", settings.max_steps)
    return trainer


def _show_terms(engine: Engine, writer: EventWriter) -> None:
    output: Any = engine.state.output
    for name, value in output["terms"].items():
        writer.add_scalar(f"loss/{name}", value, engine.state.iteration)


def _run(trainer: Any, watch: SubgroupWatch, checkpoint: TrainingCheckpoint, max_steps: int) -> None:
    """Run updates until the last step, early stopping or Ctrl-C; do nothing if the resumed run was already complete."""
    if trainer.state.iteration < max_steps and not watch.exhausted:
        with stop_after_step(trainer):
            trainer.run(range(max_steps), max_epochs=1, epoch_length=max_steps)
    step = trainer.state.iteration
    if step < max_steps and not watch.exhausted:
        checkpoint.save(trainer)
        raise RunStopped(
            f"interrupted after update {step} of {max_steps}; its state is saved in {checkpoint.newest}. Resume with "
            "the same command and --resume true."
        )
    watch.validate(step)


def _show(watch: SubgroupWatch, untuned: nn.Module, output: Path, writer: EventWriter | None) -> None:
    """Save a figure of images before and after tuning, for the same prompts and noise."""
    cells = {}
    for name, network in (("before", untuned), ("after", watch.network)):
        images = draw_images(network, watch.generator, watch.rows.head(SHOWN))
        cells[name, "same noise"] = list(uint8_arrays(images))
    grid: np.ndarray = labeled_grid(cells, ["before", "after"], ["same noise"], "", (1, SHOWN), 64)
    with atomic_path(output / "samples" / "before_and_after.png") as path:
        Image.fromarray(grid).save(path, format="png")
    if writer is not None:
        writer.add_image("samples", grid, watch.best_step, dataformats="HWC")


def _save(model: TrainedModel, settings: AlignmentSettings, record: Mapping[str, Any], folder: Path) -> Path:
    """Save the tuned weights, with an adapter merged into them, and return their path."""
    if settings.tuned == "lora":
        save_adapter(model.network, folder / ADAPTER, settings.rank)
        merge_adapter(model.network)
    model.generator.schema.save(folder / "schema.json")
    save_model(folder, model.network.state_dict(), {**model.train_config, "aligned": record})
    return folder / "model.pt"


def _finish(
    watch: SubgroupWatch, record: Mapping[str, Any], model: Path, output: Path, seconds: float, schema_digest: str
) -> None:
    """Write ``alignment.json`` and ``summary.json``, and print the outcome."""
    write_json(output / "alignment.json", {**record, "curve": watch.curve, "kept_step": watch.best_step})
    before, after = watch.curve[0], watch.kept
    print(watch.outcome(), flush=True)
    finish_run(
        "aligning",
        output,
        made={"model": str(model), "updates": watch.curve[-1]["step"], "kept_update": watch.best_step},
        figures={
            "distance_before": {name: before[name]["distance"] for name in watch.predictors},
            "distance_after": {name: after[name]["distance"] for name in watch.predictors},
            "seconds": seconds,
        },
        settings=record,
        digests={"model.pt": file_digest(model), "untuned": record["untuned_sha256"], "schema": schema_digest},
        where=model,
    )

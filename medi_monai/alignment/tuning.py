"""The run ``aligning``: tune a trained model until the subgroup shares of its images match a target."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from PIL import Image
from torch import nn

from medi_monai.alignment.functional import SubgroupTarget
from medi_monai.alignment.pool import Features, ReferencePool, draw_images
from medi_monai.alignment.settings import AlignmentLosses, AlignmentSettings
from medi_monai.alignment.step import FEW, AlignmentStep, AnchorLoss, Augment
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
from medi_monai.schema import Conditioning
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import atomic_path, file_digest, json_digest, write_json
from medi_monai.utils.pixels import uint8_arrays
from medi_monai.utils.records import check_results, claim_results
from medi_monai.utils.run_dir import finish_run, set_aside
from medi_monai.utils.seeding import generator_from

__all__ = ["align", "tuning_schedule"]

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


def align(
    network: nn.Module,
    generator: ImageGenerator,
    prompts: pd.DataFrame,
    target: SubgroupTarget,
    classifiers: Mapping[str, AttributeClassifier],
    losses: AlignmentLosses,
    settings: AlignmentSettings,
    schema: Conditioning,
    train_config: Mapping[str, Any],
    output_dir: str | os.PathLike,
    ckpt_dir: str | os.PathLike,
    source: str | os.PathLike,
    features: Features | None = None,
    anchor: AnchorLoss | None = None,
    writer: EventWriter | None = None,
    resume: bool = False,
) -> Path:
    """Tune a model, and save the weights that are closest to the target according to the validation classifier.

    Args:
        network: trained network; changed in place.
        generator: generator of the images, with DDIM.
        prompts: neutral conditions: a plan with ``count``, or one row per image.
        target: target shares.
        classifiers: frozen classifiers of the subgroups by role: the loss uses the predictions of ``guide``, and
            ``validation`` decides when to stop and which weights to keep; those of others, such as ``judge``, are only
            recorded.
        losses: weights and choices of the losses.
        settings: settings of the optimization.
        schema: schema of the network, saved next to the weights.
        train_config: settings of the training (``model.json``), saved with a mark of the alignment.
        output_dir: output folder for ``alignment.json``, ``samples/``, TensorBoard events and ``summary.json``.
        ckpt_dir: output folder for ``model.pt``, ``adapter.pt`` if one was tuned, ``schema.json`` and ``model.json``.
        source: file of the untuned weights, which is not changed.
        features: function that returns differentiable features of ``(N, 3, H, W)`` images in [-1, 1], for the CLIP
            consistency loss.
        anchor: losses on real images, used where their weight is not 0.
        writer: TensorBoard writer.
        resume: whether to resume from the newest checkpoint; if not, earlier results in the folders are moved aside.

    Returns:
        The path of ``model.pt``.

    Raises:
        InputError: for several ``torchrun`` processes, a folder that holds the untuned model, settings that contradict
            each other, classifiers without a guide, or if there is nothing to resume from.
        RunStopped: after Ctrl-C (the state is saved) or a loss that is not finite.
    """
    folder, output = Path(ckpt_dir), Path(output_dir)
    _check(generator, losses, folder, Path(source))
    check_results(output, "aligning")
    check_results(folder, "aligning", 1)
    if "guide" not in classifiers:
        raise InputError(f"the classifiers are {list(classifiers)}: one with the role 'guide' is needed")
    guide = classifiers["guide"]
    readers = {role: classifier for role, classifier in classifiers.items() if role != "guide"}
    if not (losses.anchor_weight or losses.distillation_weight):
        anchor = None
    real_images = 0 if anchor is None else anchor.sampler.batch_size
    record = _record(generator, prompts, target, classifiers, losses, settings, real_images, source)
    untuned = deepcopy(network).eval().requires_grad_(False)
    parameters = tuned_parameters(network.eval(), settings.tuned, settings.rank)
    optimizer = torch.optim.AdamW(parameters, settings.rate, weight_decay=0.0)
    schedule = tuning_schedule(optimizer, settings.max_steps)
    by_prompt = losses.scope == "prompt"
    together = max(TOGETHER, PER_SUBGROUP * len(target.groups)) if by_prompt else 1
    pool = ReferencePool(
        untuned, generator, prompts, settings.pool_size, guide, target, features, settings.seed, together
    )
    if by_prompt:
        _warn_of_many_prompts(pool)
    augment = _hardened(settings.seed) if settings.harden_guide else None
    step = AlignmentStep(network, optimizer, pool, losses, settings.batch_size, anchor, augment, settings.max_grad_norm)
    watch = SubgroupWatch(
        network, pool, prompts, settings.num_validation, readers, settings.val_interval, settings.patience, writer,
        by_prompt=by_prompt,
    )  # fmt: skip
    components = {"network": network, "optimizer": optimizer, "scheduler": schedule, "watch": watch}
    checkpoint = TrainingCheckpoint(folder, components, record, settings.checkpoint_every, keep=1)
    trainer = _trainer(step, schedule, watch, checkpoint, writer, settings)
    if resume:
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
    return _save(network, watch, schema, train_config, settings, record, folder, output, seconds)


def tuning_schedule(optimizer: torch.optim.Optimizer, max_steps: int) -> WarmupCosine:
    """Return a schedule with linear warmup in the first tenth of the updates and cosine decay to a tenth of the peak.

    With a constant rate, tuning ends up oscillating around the target.
    """
    warmup = max(1, round(WARMUP * max_steps))
    # the last update of the warmup has the peak rate, and the very last update the final rate
    return WarmupCosine(optimizer, warmup, max_steps - 1, cosine_start=warmup - 1, end_factor=LEFT)


def _check(generator: ImageGenerator, losses: AlignmentLosses, folder: Path, source: Path) -> None:
    refuse_processes("aligning")
    if not source.is_file():
        raise InputError(f"there is no model at {source}: run `training` first, or give --ckpt_dir of a trained model")
    if source.resolve().parent == folder.resolve():
        raise InputError(f"ckpt_dir = {folder} contains the model to tune; give another folder for the tuned model")
    if losses.last_steps is not None and losses.last_steps > generator.num_steps:
        raise InputError(
            f"last_steps = {losses.last_steps}: the gradient can pass through 1 to {generator.num_steps} (num_steps)"
            " steps"
        )


def _record(
    generator: ImageGenerator,
    prompts: pd.DataFrame,
    target: SubgroupTarget,
    classifiers: Mapping[str, AttributeClassifier],
    losses: AlignmentLosses,
    settings: AlignmentSettings,
    real_images: int,
    source: str | os.PathLike,
) -> dict[str, Any]:
    """Return all that a result depends on, for comparison with checkpoints and for ``alignment.json``."""
    return {
        "losses": losses.model_dump(),
        # whether a run was resumed does not change its result
        "settings": {**settings.model_dump(exclude={"resume"}), "learning_rate": settings.rate},
        "real_images": real_images,
        "target": target.to_dict(),
        "sampling": {
            "solver": generator.solver,
            "num_steps": generator.num_steps,
            "guidance_scale": generator.guidance_scale,
            "image_size": generator.image_size,
        },
        "precision": getattr(generator.inferer, "precision", None),
        "classifiers": {name: json_digest(reader.describe()) for name, reader in classifiers.items()},
        "prompts_digest": json_digest(prompts.astype(str).to_dict("split", index=False)),
        "untuned_sha256": file_digest(source),
    }


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


def _hardened(seed: int) -> Augment:
    strengths = Hardening()

    def augment(images: torch.Tensor, step: int) -> torch.Tensor:
        return harden(images, strengths, generator_from("alignment harden", seed, step))

    return augment


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

    @trainer.on(Events.ITERATION_COMPLETED)
    def next_rate() -> None:
        schedule.step()

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
    watch.look(step)


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


def _save(
    network: nn.Module,
    watch: SubgroupWatch,
    schema: Conditioning,
    train_config: Mapping[str, Any],
    settings: AlignmentSettings,
    record: Mapping[str, Any],
    folder: Path,
    output: Path,
    seconds: float,
) -> Path:
    if settings.tuned == "lora":
        save_adapter(network, folder / ADAPTER, settings.rank)
        merge_adapter(network)
    model = folder / "model.pt"
    schema.save(folder / "schema.json")
    save_model(folder, network.state_dict(), {**train_config, "aligned": record})
    write_json(output / "alignment.json", {**record, "curve": watch.curve, "kept_step": watch.best_step})
    before, after = watch.curve[0], watch.kept
    print(watch.outcome(), flush=True)
    finish_run(
        "aligning",
        output,
        made={"model": str(model), "updates": watch.curve[-1]["step"], "kept_update": watch.best_step},
        figures={
            "distance_before": {name: before[name]["distance"] for name in watch.readers},
            "distance_after": {name: after[name]["distance"] for name in watch.readers},
            "seconds": seconds,
        },
        settings=record,
        digests={"model.pt": file_digest(model), "untuned": record["untuned_sha256"], "schema": schema.digest},
        where=model,
    )
    return model

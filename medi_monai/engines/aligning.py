"""The run ``aligning``: tune a trained model until the subgroups among its images meet a target."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.engines import PrepareBatch
from monai.inferers import Inferer
from torch import nn
from torch.utils.data import default_collate
from torch.utils.tensorboard import SummaryWriter

from medi_monai.alignment import SubgroupTarget
from medi_monai.cohort import BalancedBatchSampler, PatchDataset
from medi_monai.engines.alignment_step import AlignmentLosses, AlignmentStep, Features, ReferencePool
from medi_monai.engines.alignment_watch import SubgroupWatch
from medi_monai.engines.hardening import Hardening, harden
from medi_monai.engines.images import ImageGenerator
from medi_monai.engines.runs import MODEL_FILES, finish_run, set_aside
from medi_monai.handlers import SampleGridHandler, TrainingCheckpoint, attach_bar
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.networks.tuning import merge_adapter, save_adapter, tuned_parameters
from medi_monai.report import labeled_grid
from medi_monai.schema import Conditioning
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import file_digest, save_tensors, write_json
from medi_monai.utils.seeding import generator_from

__all__ = ["AlignmentSettings", "AnchorLoss", "align"]

#: images of the picture of before and after
SHOWN = 12


@dataclass(frozen=True)
class AlignmentSettings:
    """How a tuning runs.

    Args:
        max_steps: updates at most.
        batch_size: images in an update; those drawn at once are the generator's.
        learning_rate: of AdamW, constant after a tenth of the updates of warmup.
        max_grad_norm: the gradient's norm is clipped to it.
        tuned: one of :data:`medi_monai.networks.tuning.TUNED`.
        rank: of the adapter, with ``lora``.
        pool_size: prompts with their noise that updates are drawn from.
        val_interval: updates between two looks of the validation classifier.
        num_validation: images of a look.
        patience: looks without improvement after which the tuning ends.
        checkpoint_every: updates between two checkpoints.
        harden_guide: whether images are augmented before the guide sees them.
        seed: of all draws.
    """

    max_steps: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-4
    max_grad_norm: float = 1.0
    tuned: str = "all"
    rank: int = 8
    pool_size: int = 512
    val_interval: int = 10
    num_validation: int = 128
    patience: int = 3
    checkpoint_every: int = 25
    harden_guide: bool = True
    seed: int = 0


class AnchorLoss:
    """The denoising loss on real images, so that a tuned model still knows what they look like.

    Args:
        dataset: real images with conditions; those that name the attribute, so that the shares in the training data
            do not pull the model back.
        batch_size: of each update.
        prepare_batch: of the training; what it drops or augments is its own affair.
        inferer: how the network is run.
        device: where to.
        seed: of the choice of images.
    """

    def __init__(
        self,
        dataset: PatchDataset,
        batch_size: int,
        prepare_batch: PrepareBatch,
        inferer: Inferer,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self.dataset, self.prepare_batch, self.inferer, self.device = dataset, prepare_batch, inferer, device
        groups = dataset.groups((), "none")
        self.sampler = BalancedBatchSampler(groups, batch_size, num_steps=1, seed=seed)

    def __call__(self, network: nn.Module, step: int) -> torch.Tensor:
        """The mean squared error of one batch, a function of the seed and the step alone."""
        batch = default_collate([self.dataset[place] for place in self.sampler.batch(step)])
        inputs, targets, args, kwargs = self.prepare_batch(batch, self.device, step=step)
        return nn.functional.mse_loss(self.inferer(inputs, network, *args, **kwargs), targets)


def align(
    network: nn.Module,
    generator: ImageGenerator,
    prompts: pd.DataFrame,
    target: SubgroupTarget,
    guide: AttributeClassifier,
    readers: Mapping[str, AttributeClassifier],
    losses: AlignmentLosses,
    settings: AlignmentSettings,
    schema: Conditioning,
    model_settings: Mapping[str, Any],
    output_dir: str | os.PathLike,
    ckpt_dir: str | os.PathLike,
    source: str | os.PathLike,
    features: Features | None = None,
    anchor: AnchorLoss | None = None,
    writer: SummaryWriter | None = None,
    resume: bool = False,
) -> Path:
    """Tune, keep the weights that the validation classifier finds nearest to the target, and save them.

    Args:
        network: trained; changed in place.
        generator: how images are drawn, by DDIM.
        prompts: neutral conditions, one row each.
        target: the shares wanted.
        guide: frozen, reads the subgroups for the loss.
        readers: ``validation`` decides when to stop and what to keep; others, as ``judge``, are written down.
        losses: what is minimized.
        settings: how.
        schema: of the network, saved beside the weights.
        model_settings: of the training (``model.json``), kept and marked.
        output_dir: gets ``alignment.json``, ``samples/``, TensorBoard events and ``summary.json``.
        ckpt_dir: gets ``model.pt``, ``adapter.pt`` where one was tuned, ``schema.json`` and ``model.json``.
        source: the file of the untuned weights, which stays as it is.
        features: differentiable, of ``(N, 3, H, W)`` images in [-1, 1]; of the CLIP consistency.
        anchor: the denoising loss on real images.
        writer: TensorBoard.
        resume: go on from the newest checkpoint.

    Returns:
        The path of ``model.pt``.

    Raises:
        InputError: for a folder that holds the untuned model, or nothing to resume from.
        RunStopped: for a loss that is not finite.
    """
    folder, output = Path(ckpt_dir), Path(output_dir)
    if Path(source).resolve().parent == folder.resolve():
        raise InputError(f"ckpt_dir = {folder} holds the model that is to be tuned; give another folder for the result")
    untuned = deepcopy(network).eval().requires_grad_(False)
    parameters = tuned_parameters(network.eval(), settings.tuned, settings.rank)
    optimizer = torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=0.0)
    warm = max(1, settings.max_steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm))
    pool = ReferencePool(untuned, generator, prompts, settings.pool_size, guide, target, features, settings.seed)
    augment = _hardened(settings.seed) if settings.harden_guide else None
    step = AlignmentStep(network, optimizer, pool, losses, settings.batch_size, anchor, augment, settings.max_grad_norm)
    trainer = Engine(step)
    watch = SubgroupWatch(
        network,
        pool,
        prompts,
        settings.num_validation,
        readers,
        settings.val_interval,
        settings.patience,
        writer,
    )
    record = {"losses": asdict(losses), "settings": asdict(settings), "target": target.to_dict()}
    parts = {"network": network, "optimizer": optimizer, "scheduler": schedule, "watch": watch}
    checkpoint = TrainingCheckpoint(folder, parts, record, settings.checkpoint_every, keep=1)
    _begin(trainer, checkpoint, output, folder, resume, settings.max_steps)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: schedule.step())
    _attach(trainer, checkpoint, watch, writer, settings)
    if writer is not None:
        shown = SampleGridHandler(_drawing(watch, untuned), writer, output / "samples", every=settings.max_steps)
        shown.attach(trainer)
    start, first = time.perf_counter(), trainer.state.iteration
    trainer.run(range(settings.max_steps), max_epochs=1, epoch_length=settings.max_steps)
    if trainer.state.iteration == first and not watch.curve:
        raise RunStopped("no update was made")
    seconds = time.perf_counter() - start
    watch.restore()
    return _save(network, watch, schema, model_settings, settings, record, folder, output, source, seconds)


def _hardened(seed: int):  # type: ignore[no-untyped-def]
    strengths = Hardening()
    return lambda images, step: harden(images, strengths, generator_from("alignment harden", seed, step))


def _begin(
    trainer: Engine, checkpoint: TrainingCheckpoint, output: Path, folder: Path, resume: bool, max_steps: int
) -> None:
    if resume:
        if checkpoint.newest is None:
            raise InputError(f"there is no checkpoint to resume from in {folder}; align without --resume true first")
        trainer.state.max_epochs, trainer.state.epoch_length = 1, max_steps
        step = checkpoint.resume(trainer)
        print(f"resuming from {checkpoint.newest} at update {step}", flush=True)
        return
    events = sorted(output.glob("events.out.tfevents.*"))[:-1]
    set_aside(output, [*(output / name for name in ("samples", "alignment.json", "summary.json")), *events])
    set_aside(folder, [*checkpoint.paths(), *(folder / name for name in (*MODEL_FILES, "adapter.pt"))])


def _attach(
    trainer: Engine,
    checkpoint: TrainingCheckpoint,
    watch: SubgroupWatch,
    writer: SummaryWriter | None,
    settings: AlignmentSettings,
) -> None:
    watch.attach(trainer)
    checkpoint.attach(trainer)
    attach_bar(trainer, "aligning", settings.max_steps)

    @trainer.on(Events.ITERATION_COMPLETED)
    def show(engine: Engine) -> None:
        output: Any = engine.state.output
        if not torch.isfinite(output["loss"]) or not torch.isfinite(output["grad_norm"]):
            raise RunStopped(
                f"the loss is {float(output['loss'])} and the gradient norm {float(output['grad_norm'])} at update "
                f"{engine.state.iteration}; lower learning_rate, or give more weight to the consistency"
            )
        if writer is not None:
            for name, value in output["terms"].items():
                writer.add_scalar(f"loss/{name}", value, engine.state.iteration)
            writer.add_scalar("loss/gradient_norm", float(output["grad_norm"]), engine.state.iteration)


def _drawing(watch: SubgroupWatch, untuned: nn.Module):  # type: ignore[no-untyped-def]
    """A picture of the same prompts and noise before and after."""

    def draw():  # type: ignore[no-untyped-def]
        from medi_monai.engines.alignment_step import draw_images

        rows = watch.rows.head(SHOWN)
        cells = {}
        for name, network in (("before", untuned), ("after", watch.network)):
            images = draw_images(network, watch.generator, rows)
            pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            cells[name, "same noise"] = list(pixels)
        return labeled_grid(cells, ["before", "after"], ["same noise"], "", (1, SHOWN), 64)

    return draw


def _save(
    network: nn.Module,
    watch: SubgroupWatch,
    schema: Conditioning,
    model_settings: Mapping[str, Any],
    settings: AlignmentSettings,
    record: Mapping[str, Any],
    folder: Path,
    output: Path,
    source: str | os.PathLike,
    seconds: float,
) -> Path:
    untuned = file_digest(source)
    if settings.tuned == "lora":
        save_adapter(network, folder / "adapter.pt", settings.rank)
        merge_adapter(network)
    model = folder / "model.pt"
    schema.save(folder / "schema.json")
    write_json(folder / "model.json", {**model_settings, "aligned": {**record, "untuned_sha256": untuned}})
    save_tensors(model, network.state_dict())
    content = {**record, "curve": watch.curve, "kept_step": watch.best_step, "untuned_sha256": untuned}
    write_json(output / "alignment.json", content)
    before, after = watch.curve[0], next(one for one in watch.curve if one["step"] == watch.best_step)
    finish_run(
        "aligning",
        output,
        made={"model": str(model), "updates": watch.curve[-1]["step"], "kept_update": watch.best_step},
        figures={
            "distance_before": {name: before[name]["distance"] for name in watch.readers},
            "distance_after": {name: after[name]["distance"] for name in watch.readers},
            "seconds": round(seconds, 2),
        },
        settings=record,
        digests={"model.pt": file_digest(model), "untuned": untuned, "schema": schema.digest},
        where=model,
    )
    return model

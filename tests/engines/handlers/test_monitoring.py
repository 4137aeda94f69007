import io
import os
import re
import time

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Loss
from monai.engines import IterationEvents, SupervisedEvaluator
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from medi_monai.engines.handlers import (
    FiniteLossGuard,
    ProgressHandler,
    SampleGridHandler,
    ScalarHandler,
    TrainingCheckpoint,
    ValidationLossHandler,
)
from medi_monai.utils.errors import RunStopped


@pytest.fixture
def writer(tmp_path):
    with SummaryWriter(tmp_path / "events") as writer:
        yield writer


def events_of(writer):
    writer.flush()
    return EventAccumulator(str(writer.log_dir), size_guidance={"images": 0, "scalars": 0}).Reload()


def points(writer, tag):
    return {event.step: event.value for event in events_of(writer).Scalars(tag)}


def trainer_of(losses, norms=None, seconds=0.1):
    """An engine that reports the given losses and gradient norms, as the trainer does."""

    def step(engine, index):
        norm = torch.tensor(norms[index] if norms is not None else 1.0)
        return {"loss": torch.tensor(losses[index]), "grad_norm": norm, "seconds": seconds}

    return Engine(step)


def test_scalars_are_means_over_the_steps_between_two_points(writer):
    losses, norms = np.random.default_rng(0).uniform(0.1, 3, (2, 12)).astype(np.float32)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    trainer = trainer_of(losses, norms)

    @trainer.on(Events.ITERATION_COMPLETED)
    def decay(engine):
        optimizer.param_groups[0]["lr"] = 1 / engine.state.iteration

    ScalarHandler(writer, optimizer, every=5).attach(trainer)
    trainer.run(range(12))
    assert points(writer, "train/loss") == pytest.approx({5: losses[:5].mean(), 10: losses[5:10].mean()})
    assert points(writer, "train/gradient_norm") == pytest.approx({5: norms[:5].mean(), 10: norms[5:10].mean()})
    assert points(writer, "train/learning_rate") == pytest.approx({5: 0.2, 10: 0.1})


def test_the_speed_counts_the_images_of_every_step(writer):
    losses = np.ones(8, np.float32)
    trainer = trainer_of(losses)
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: time.sleep(0.02))
    ScalarHandler(writer, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), num_images=16, every=4).attach(
        trainer
    )
    start = time.perf_counter()
    trainer.run(range(8))
    seconds = time.perf_counter() - start
    speed = points(writer, "train/images_per_second")[8]
    assert 4 * 16 / seconds < speed <= 16 / 0.02


@pytest.mark.parametrize(("steps", "drawn"), [(6, [3, 6]), (7, [3, 6, 7]), (2, [2])])
def test_sample_grids_are_drawn_once_a_step_into_a_file_and_tensorboard(writer, tmp_path, steps, drawn):
    grids = []

    def draw():
        grids.append(np.random.default_rng(len(grids)).integers(0, 256, (6, 9, 3), dtype=np.uint8))
        return grids[-1]

    trainer = trainer_of(np.ones(steps, np.float32))
    SampleGridHandler(draw, writer, tmp_path / "samples", every=3).attach(trainer)
    trainer.run(range(steps))
    assert len(grids) == len(drawn)
    assert sorted(os.listdir(tmp_path / "samples")) == [f"step_{step:08d}.png" for step in drawn]
    shown = {event.step: event.encoded_image_string for event in events_of(writer).Images("samples")}
    for step, grid in zip(drawn, grids):
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"samples/step_{step:08d}.png")), grid)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(shown.pop(step)))), grid)
    assert not shown


def test_samples_that_cannot_be_drawn_do_not_end_a_training(writer, tmp_path, capsys):
    def draw():
        raise RunStopped("pixels are not finite")

    trainer = trainer_of(np.ones(4, np.float32))
    SampleGridHandler(draw, writer, tmp_path / "samples", every=3).attach(trainer)
    trainer.run(range(4))
    assert trainer.state.iteration == 4
    assert "warning: no samples at step 3: pixels are not finite" in capsys.readouterr().out


@pytest.mark.parametrize(("steps", "validated"), [(4, [2, 4]), (5, [2, 4, 5]), (1, [1])])
def test_the_validation_loss_is_the_mean_over_all_patches_of_the_network_as_it_is(writer, steps, validated):
    # five items in batches of two: the last batch must not count twice
    inputs, targets = torch.tensor([1.0, -2.0, 0.5, 3.0, 7.0]), torch.tensor([0.0, 1.0, -1.0, 2.0, -9.0])
    network = nn.Linear(1, 1, bias=False)
    items = [{"image": x.view(1), "label": y.view(1)} for x, y in zip(inputs, targets)]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=torch.utils.data.DataLoader(items, batch_size=2),
        network=network,
        decollate=False,
        key_val_metric={
            "validation_loss": Loss(nn.MSELoss(), output_transform=lambda output: (output["pred"], output["label"]))
        },
    )
    runs = []
    evaluator.add_event_handler(Events.STARTED, lambda _: runs.append(trainer.state.iteration))

    def step(engine, batch):
        nn.init.constant_(network.weight, engine.state.iteration)

    trainer = Engine(step)
    ValidationLossHandler(evaluator, writer, every=2).attach(trainer)
    trainer.run(range(steps))
    expected = {step: float(np.mean((step * inputs.numpy() - targets.numpy()) ** 2)) for step in validated}
    assert runs == validated
    assert points(writer, "validation/loss") == pytest.approx(expected, rel=1e-5)
    assert trainer.state.metrics["validation_loss"] == pytest.approx(expected[steps], rel=1e-5)


def test_the_bar_shows_the_smoothed_loss_and_the_speed(capsys):
    losses = np.random.default_rng(1).uniform(0, 5, 200).astype(np.float32)
    trainer = trainer_of(losses, seconds=0.25)
    ProgressHandler("training medi", num_images=8).attach(trainer)
    trainer.run(range(200))
    shown = capsys.readouterr().err
    # the exponential average of all losses, started at the first one
    weights = 0.02 * 0.98 ** np.arange(199, -1, -1)
    weights[0] = 0.98**199
    assert weights.sum() == pytest.approx(1)
    last = float(re.findall(r"loss=([\d.]+)", shown)[-1])
    assert last == pytest.approx(weights @ losses, rel=0.005) and abs(last - losses[-1]) > 0.1
    assert "training medi" in shown and "200/200" in shown and "images/s=32" in shown


def test_a_log_gets_a_line_in_fifty_steps(capsys):
    trainer = trainer_of(np.ones(200, np.float32))
    ProgressHandler().attach(trainer)
    trainer.run(range(200))
    assert set(re.findall(r"\[(\d+)/200\]", capsys.readouterr().err)) <= {"1", "50", "100", "150", "200"}


BAD_STEP = 4


def nan_input(step):
    return torch.full((3, 2), float("nan")) if step == BAD_STEP else torch.ones(3, 2)


def huge_input(step):
    return torch.full((3, 2), 1e38) if step == BAD_STEP else torch.ones(3, 2)


def zero_input(step):
    # the loss is the square root of zero: it is finite and its gradient is not
    return torch.zeros(3, 2) if step == BAD_STEP else torch.ones(3, 2)


def guarded_training(folder, inputs, every):
    network = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)

    def step(engine, batch):
        optimizer.zero_grad()
        loss = network(inputs(engine.state.iteration)).square().sum().sqrt()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        engine.state.output = {"loss": loss.detach(), "grad_norm": norm}
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        optimizer.step()
        return engine.state.output

    trainer = Engine(step)
    trainer.register_events(*IterationEvents)
    checkpoint = TrainingCheckpoint(folder, {"network": network, "optimizer": optimizer}, {}, every=every)
    FiniteLossGuard(checkpoint).attach(trainer)
    checkpoint.attach(trainer)
    return trainer, network


@pytest.mark.parametrize("inputs", [nan_input, huge_input, zero_input])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_weights_change(tmp_path, inputs):
    trainer, network = guarded_training(tmp_path, inputs, every=2)
    good = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: good.append(network.weight.detach().clone()))
    with pytest.raises(RunStopped, match=f"step {BAD_STEP};.*checkpoint_00000002.pt"):
        trainer.run(range(6))
    assert len(good) == BAD_STEP - 1 and torch.isfinite(good[-1]).all() and not torch.equal(good[-1], good[-2])
    assert torch.equal(network.weight, good[-1])


def test_the_guard_says_where_there_is_no_checkpoint_yet(tmp_path):
    trainer, _ = guarded_training(tmp_path, nan_input, every=100)
    with pytest.raises(RunStopped, match="no step was saved yet"):
        trainer.run(range(6))


def test_the_guard_lets_a_finite_training_pass(tmp_path):
    trainer, _ = guarded_training(tmp_path, lambda step: torch.ones(3, 2), every=100)
    trainer.run(range(6))
    assert trainer.state.iteration == 6

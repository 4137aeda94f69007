import math
import signal
import threading
from functools import partial

import pytest
import torch
from ignite.engine import Events

from medi_monai.cohort import BalancedBatchSampler, PatchDataset
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.handlers import FiniteLossGuard, TrainingCheckpoint, WeightAverage
from medi_monai.engines.prepare_batch import AutocastInferer, DiffusionPrepareBatch
from medi_monai.engines.trainer import DiffusionTrainer, train
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import load_tensors, read_json


class Training:
    """All parts of a training on the tiny cohort, as the bundle's config wires them."""

    def __init__(self, cohort, schema, ckpt_dir, max_steps, learning_rate=1e-3, precision="float32", **options):
        torch.manual_seed(0)
        self.schema = schema
        self.network = MetadataDiffusionUNet(
            schema,
            spatial_dims=2,
            in_channels=3,
            out_channels=3,
            channels=(8, 16),
            attention_levels=(False, True),
            num_res_blocks=1,
            num_head_channels=8,
            norm_num_groups=4,
        )
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=learning_rate)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step / 50))
        self.average = WeightAverage(self.network)
        components = {
            "network": self.network,
            "average": self.average,
            "optimizer": optimizer,
            "lr_scheduler": scheduler,
        }
        self.checkpoint = TrainingCheckpoint(ckpt_dir, components, {"seed": 0}, every=20)
        dataset = PatchDataset(cohort.split("train"), schema, 16)
        sampler = BalancedBatchSampler(dataset.groups(["project_id", "center"], "class"), 8, max_steps)
        self.trainer = DiffusionTrainer(
            device="cpu",
            max_steps=max_steps,
            train_data_loader=torch.utils.data.DataLoader(dataset, batch_sampler=sampler),
            network=self.network,
            optimizer=optimizer,
            loss_function=torch.nn.MSELoss(),
            prepare_batch=DiffusionPrepareBatch(NoiseSchedule("cosine", 100), "v"),
            inferer=AutocastInferer(precision),
            average=self.average,
            train_handlers=[FiniteLossGuard(self.checkpoint)],
            **options,
        )
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: scheduler.step())
        self.checkpoint.attach(self.trainer)
        self.folder = ckpt_dir

    def run(self, resume=False):
        arguments = (self.trainer, self.checkpoint, self.average, self.schema, self.folder / "output", {"seed": 0})
        return load_tensors(train(*arguments, resume=resume))


@pytest.fixture
def make(tiny_cohort, tiny_schema, tmp_path):
    def build(name, max_steps, **options):
        return Training(tiny_cohort, tiny_schema, tmp_path / name, max_steps, **options)

    return build


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_stopped_at_40_and_resumed_equals_80_without_a_stop(make):
    whole = make("whole", 80)
    expected = whole.run()
    make("parts", 40).run()
    resumed = make("parts", 80)
    assert equal(resumed.run(resume=True), expected)
    assert equal(resumed.network.state_dict(), whole.network.state_dict())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU])
def test_a_signal_saves_the_step_it_ended_with(make, number, request):
    # at the limit of CPU time, the signal is ignored from then on
    request.addfinalizer(partial(signal.signal, number, signal.getsignal(number)))
    stopped = make("stopped", 30)
    stopped.trainer.add_event_handler(Events.ITERATION_STARTED(once=11), lambda _: signal.raise_signal(number))
    with pytest.raises(RunStopped, match="after step 11 of 30.*--resume true"):
        stopped.run()
    assert stopped.checkpoint.newest.name == "checkpoint_00000011.pt"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGHUP) == signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert equal(make("stopped", 30).run(resume=True), make("whole", 30).run())


def test_under_nohup_the_end_of_the_terminal_does_not_end_a_training(make):
    earlier = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        training = make("nohup", 6)
        training.trainer.add_event_handler(
            Events.ITERATION_STARTED(once=3), lambda _: signal.raise_signal(signal.SIGHUP)
        )
        training.run()
        assert training.trainer.state.iteration == 6
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_the_loss_falls(make):
    losses = []
    training = make("falls", 80, learning_rate=4e-3)
    training.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["loss"]))
    )
    training.run()
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_accumulation_gives_the_update_of_the_whole_batch(make):
    whole, accumulated = make("one", 3).run(), make("four", 3, accumulation_steps=4).run()
    for name in whole:
        assert torch.allclose(whole[name].float(), accumulated[name].float(), atol=2e-4), name


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights(make):
    training = make("nan", 40, max_grad_norm=1e9)

    def spoil(engine):
        with torch.no_grad():
            training.network.conv_in.conv.weight.mul_(float("nan"))

    training.trainer.add_event_handler(Events.ITERATION_STARTED(once=25), spoil)
    with pytest.raises(RunStopped, match="at step 25.*checkpoint_00000020.pt"):
        training.run()
    state = load_tensors(training.checkpoint.newest)
    assert all(value.isfinite().all() for value in state["network"].values() if value.is_floating_point())


def test_gradients_are_clipped(make):
    training = make("clip", 2, max_grad_norm=1e-3)
    norms = []

    def measure(engine):
        grads = [parameter.grad for parameter in training.network.parameters() if parameter.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.cat([grad.flatten() for grad in grads])).item())

    training.trainer.add_event_handler(Events.ITERATION_COMPLETED, measure)
    training.run()
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)


def test_a_new_training_moves_the_earlier_one_aside(make):
    first = make("again", 4).run()
    make("again", 4, learning_rate=1e-2).run()
    folder = make("again", 4).folder
    assert equal(load_tensors(folder / "earlier-1" / "model.pt"), first)
    assert MetadataSchema.load(folder / "earlier-1" / "schema.json") == MetadataSchema.load(folder / "schema.json")
    summary = read_json(folder / "output" / "summary.json")
    assert summary["made"]["steps"] == 4 and summary["digests"]["schema"]


def test_resuming_without_a_checkpoint_is_refused(make):
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        make("none", 4).run(resume=True)


def test_a_training_that_ended_before_its_last_file_is_finished(make, capsys):
    make("done", 4).run()
    folder = make("done", 4).folder
    whole = load_tensors(folder / "model.pt")
    for name in ("model.pt", "output/summary.json"):
        (folder / name).unlink()
    make("done", 4).run(resume=True)
    assert "training is complete" in capsys.readouterr().out
    assert equal(load_tensors(folder / "model.pt"), whole)
    assert read_json(folder / "output" / "summary.json")["figures"]["train_loss"] is None


def test_resuming_beyond_the_last_step_is_refused(make):
    make("long", 4).run()
    with pytest.raises(InputError, match="already at step 4; give a larger --max_steps"):
        make("long", 2).run(resume=True)


def test_a_training_runs_outside_the_main_thread(make):
    results = []
    thread = threading.Thread(target=lambda: results.append(make("thread", 2).run()))
    thread.start()
    thread.join()
    assert len(results) == 1


def test_float16_scales_the_loss_leaves_out_what_overflows_and_resumes(make):
    whole = make("whole", 12, precision="float16")
    norms = []
    whole.trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: norms.append(float(engine.state.output["grad_norm"]))
    )
    # a scale that overflows at once
    whole.trainer.loss_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    expected = whole.run()
    assert not math.isfinite(norms[0]) and math.isfinite(norms[-1]) and whole.trainer.loss_scaler.get_scale() < 2.0**20
    assert all(value.isfinite().all() for value in expected.values())
    first = make("parts", 6, precision="float16")
    first.trainer.loss_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    first.run()
    assert equal(make("parts", 12, precision="float16").run(resume=True), expected)


def test_float16_ends_in_the_weights_of_float32_but_for_rounding(make):
    half, single = make("half", 10, precision="float16"), make("single", 10)
    assert single.trainer.loss_scaler is None
    weights, expected = half.run(), single.run()
    assert max(float((weights[name] - expected[name]).abs().max()) for name in expected) < 5e-3

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from medi_monai.engines.handlers import TrainingCheckpoint, WeightAverage
from medi_monai.utils.errors import InputError

SETTINGS = {"learning_rate": 0.05, "channels": [8], "seed": 0}


def training(folder, max_steps=10, settings=SETTINGS, every=3, keep=2, first_weights=0):
    """A tiny training whose data and dropout depend on the step alone."""
    torch.manual_seed(first_weights)
    network = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.7)
    average = WeightAverage(network)

    def step(engine, batch):
        torch.manual_seed(engine.state.iteration)
        inputs = torch.randn(6, 4)
        optimizer.zero_grad()
        (network(inputs) - inputs.sum(1, keepdim=True)).square().mean().backward()
        optimizer.step()
        scheduler.step()

    engine = Engine(step)
    engine.state.max_epochs, engine.state.epoch_length = 1, max_steps
    components = {"network": network, "average": average, "optimizer": optimizer, "lr_scheduler": scheduler}
    checkpoint = TrainingCheckpoint(folder, components, settings, every, keep)
    average.attach(engine)
    checkpoint.attach(engine)

    def run():
        engine.run(range(max_steps - engine.state.iteration))

    return SimpleNamespace(engine=engine, checkpoint=checkpoint, components=components, run=run)


def state(run):
    return {name: component.state_dict() for name, component in run.components.items()}


def assert_equal(first, second):
    """Bit-equality of nested containers of tensors and numbers."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for item, other in zip(first, second):
            assert_equal(item, other)
    else:
        assert first == second


def names(folder):
    return sorted(os.listdir(folder))


def interrupted(folder, after):
    """A training that dies in the step after ``after``."""
    run = training(folder)

    @run.engine.on(Events.ITERATION_STARTED(once=after + 1))
    def die(engine):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.run()
    return run


@pytest.mark.parametrize("after", [3, 5, 9])
def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path, after):
    whole = training(tmp_path / "whole")
    whole.run()
    interrupted(tmp_path / "cut", after)
    resumed = training(tmp_path / "cut", first_weights=7)
    assert resumed.checkpoint.resume(resumed.engine) == after // 3 * 3
    resumed.run()
    assert resumed.engine.state.iteration == 10
    assert_equal(state(resumed), state(whole))


def test_resuming_restores_every_part_and_the_step(tmp_path):
    stopped = training(tmp_path, max_steps=6)
    stopped.run()
    resumed = training(tmp_path, first_weights=7)
    resumed.checkpoint.resume(resumed.engine)
    assert resumed.engine.state.iteration == 6
    assert_equal(state(resumed), state(stopped))


def test_without_a_checkpoint_nothing_is_resumed(tmp_path):
    run, untouched = training(tmp_path / "absent"), training(tmp_path / "other")
    assert run.checkpoint.newest is None and run.checkpoint.resume(run.engine) == 0
    assert run.engine.state.iteration == 0
    assert_equal(state(run), state(untouched))


@pytest.mark.parametrize(("every", "keep", "kept"), [(1, 2, [9, 10]), (3, 2, [6, 9]), (2, 1, [10]), (4, 5, [4, 8])])
def test_the_newest_checkpoints_are_kept(tmp_path, every, keep, kept):
    run = training(tmp_path, every=every, keep=keep)
    run.run()
    assert names(tmp_path) == [f"checkpoint_{step:08d}.pt" for step in kept]
    assert run.checkpoint.paths() == [tmp_path / name for name in names(tmp_path)]
    assert run.checkpoint.newest == tmp_path / names(tmp_path)[-1]


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "model.pt").write_text("mine")
    run = training(tmp_path, every=1, keep=1)
    run.run()
    assert names(tmp_path) == ["checkpoint_00000010.pt", "model.pt"] and (tmp_path / "model.pt").read_text() == "mine"


def test_checkpoints_load_without_unpickling_code(tmp_path):
    run = training(tmp_path, max_steps=3)
    run.run()
    content = torch.load(run.checkpoint.newest, weights_only=True)
    assert content.pop("step") == 3 and content.pop("settings") == SETTINGS
    assert_equal(content, state(run))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"learning_rate": 0.1}, "learning_rate: 0.05 in the checkpoint, 0.1 now"),
        ({"channels": [8, 16]}, r"channels: \[8\] in the checkpoint, \[8, 16\] now"),
        ({"objective": "v"}, "objective: None in the checkpoint, v now"),
    ],
)
def test_other_settings_are_refused_by_name_before_anything_is_loaded(tmp_path, changed, says):
    training(tmp_path).run()
    resumed, untouched = (training(folder, settings={**SETTINGS, **changed}) for folder in (tmp_path, tmp_path / "x"))
    with pytest.raises(InputError, match=says) as caught:
        resumed.checkpoint.resume(resumed.engine)
    assert "checkpoint_00000009.pt" in str(caught.value)
    assert "seed:" not in str(caught.value)
    assert_equal(state(resumed), state(untouched))
    assert resumed.engine.state.iteration == 0


@pytest.mark.parametrize("fraction", [0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_named(tmp_path, fraction):
    training(tmp_path).run()
    newest = tmp_path / "checkpoint_00000009.pt"
    newest.write_bytes(newest.read_bytes()[: int(newest.stat().st_size * fraction)])
    resumed = training(tmp_path)
    with pytest.raises(InputError, match=newest.name):
        resumed.checkpoint.resume(resumed.engine)


@pytest.mark.parametrize("wrong", [{"every": 0}, {"keep": 0}, {"every": -1}])
def test_counts_below_one_are_refused(tmp_path, wrong):
    with pytest.raises(InputError, match="1 or more"):
        TrainingCheckpoint(tmp_path, {}, {}, **wrong)


FULL_DISK = """
import resource, signal, sys
import torch
from ignite.engine import Engine
from medi_monai.engines.handlers import TrainingCheckpoint
from medi_monai.utils.errors import RunStopped

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

class Growing:
    size = 16
    def state_dict(self):
        return {"weight": torch.zeros(self.size)}

part = Growing()
engine = Engine(lambda engine, batch: None)
TrainingCheckpoint(sys.argv[1], {"network": part}, {}, every=1, keep=1).attach(engine)
engine.run([0])
part.size = 2**16
resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, 2**15))
engine.state.max_epochs = 2
try:
    engine.run([0])
except RunStopped as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
def test_a_checkpoint_that_does_not_fit_the_disk_leaves_the_one_before_it_and_nothing_else(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert f"could not write {tmp_path / 'checkpoint_00000002.pt'}" in done.stdout, done.stderr
    assert names(tmp_path) == ["checkpoint_00000001.pt"]
    assert len(torch.load(tmp_path / "checkpoint_00000001.pt", weights_only=True)["network"]["weight"]) == 16

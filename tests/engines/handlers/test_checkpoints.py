import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from medi_monai.engines.handlers import CHECKPOINT_INDEX, TrainingCheckpoint, WeightAverage, saved_checkpoints
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, read_json

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
    return sorted(set(os.listdir(folder)) - {CHECKPOINT_INDEX})


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


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[len(content) // 2] ^= 1
    path.write_bytes(content if how == "flipped" else content[: int(len(content) * how)])


@pytest.mark.parametrize("how", [0, 0.5, 0.99, "flipped"])
@pytest.mark.parametrize("has_index", [True, False])
def test_a_damaged_checkpoint_is_passed_over_and_the_training_ends_as_if_undisturbed(tmp_path, how, has_index, capsys):
    whole = training(tmp_path / "whole")
    whole.run()
    folder = tmp_path / "damaged"
    training(folder).run()
    damage(folder / "checkpoint_00000009.pt", how)
    if not has_index:
        (folder / CHECKPOINT_INDEX).unlink()
    resumed = training(folder, first_weights=7)
    assert resumed.checkpoint.resume(resumed.engine) == 6
    assert f"skipped {folder / 'checkpoint_00000009.pt'}: it is damaged" in capsys.readouterr().out
    assert names(folder) == ["checkpoint_00000006.pt", "earlier-1"]
    resumed.run()
    assert_equal(state(resumed), state(whole))
    assert names(folder) == ["checkpoint_00000006.pt", "checkpoint_00000009.pt", "earlier-1"]
    assert resumed.checkpoint.resume(resumed.engine) == 9


def test_where_no_checkpoint_is_whole_each_is_named(tmp_path):
    training(tmp_path).run()
    damage(tmp_path / "checkpoint_00000006.pt", "flipped")
    damage(tmp_path / "checkpoint_00000009.pt", 0.5)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    resumed = training(tmp_path)
    with pytest.raises(InputError, match="no checkpoint .* intact: checkpoint_00000009.pt .*; checkpoint_00000006.pt"):
        resumed.checkpoint.resume(resumed.engine)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


LOOK_ALIKES = [
    "checkpoint_00000002_best.pt",
    "checkpoint_00000002 (copy).pt",
    "checkpoint_00000001_keep.pt",
    "checkpoint_best.pt",
    "checkpoint_notes.pt",
    "checkpoint_2.pt",
    "checkpoint_000000099.pt",
    "checkpoint_99999999.pt",
]


def test_look_alikes_are_neither_deleted_nor_resumed_from_nor_fatal(tmp_path, capsys):
    training(tmp_path / "whole").run()
    training(tmp_path / "cut", max_steps=6).run()
    for name in LOOK_ALIKES:
        (tmp_path / "cut" / name).write_bytes((tmp_path / "whole" / "checkpoint_00000009.pt").read_bytes())
    (tmp_path / "cut" / "checkpoint_notes.pt").write_text("mine")
    mine = {name: (tmp_path / "cut" / name).read_bytes() for name in LOOK_ALIKES}
    resumed = training(tmp_path / "cut", every=1, keep=1)
    assert resumed.checkpoint.newest.name == "checkpoint_00000006.pt"
    assert resumed.checkpoint.resume(resumed.engine) == 6
    assert "checkpoint_99999999.pt: it was not written by a training in this folder" in capsys.readouterr().out
    resumed.run()
    assert {name: (tmp_path / "cut" / name).read_bytes() for name in LOOK_ALIKES} == mine
    assert names(tmp_path / "cut") == sorted([*LOOK_ALIKES, "checkpoint_00000010.pt"])


def test_a_file_that_took_the_place_of_a_checkpoint_is_not_deleted(tmp_path):
    run = training(tmp_path, every=1, keep=1)

    @run.engine.on(Events.ITERATION_COMPLETED(once=4))
    def replace(engine):
        (tmp_path / "checkpoint_00000003.pt").write_text("mine")
        (tmp_path / "checkpoint_00000005.pt").write_text("mine too")

    # the handler of the checkpoint is called first
    run.run()
    assert (tmp_path / "earlier-1" / "checkpoint_00000005.pt").read_text() == "mine too"
    assert (tmp_path / "checkpoint_00000003.pt").read_text() == "mine"


@pytest.mark.parametrize("has_index", [True, False])
def test_a_file_in_the_way_is_refused_before_work(tmp_path, has_index):
    if has_index:
        training(tmp_path, max_steps=3).run()
    (tmp_path / "checkpoint_00000007.pt").write_text("mine")
    run = training(tmp_path)
    with pytest.raises(InputError, match="checkpoint_00000007.pt is not listed as written .*move or rename it"):
        run.checkpoint.check_free(1, 10)
    run.checkpoint.check_free(1, 6)
    run.checkpoint.check_free(8, 10)


def test_a_folder_of_an_earlier_version_without_an_index_is_resumed_from_exact_names(tmp_path):
    whole = training(tmp_path / "whole")
    whole.run()
    interrupted(tmp_path / "cut", 7)
    (tmp_path / "cut" / CHECKPOINT_INDEX).unlink()
    (tmp_path / "cut" / "checkpoint_00000009_best.pt").write_text("mine")
    assert [path.name for path in saved_checkpoints(tmp_path / "cut")] == [
        "checkpoint_00000003.pt",
        "checkpoint_00000006.pt",
    ]
    resumed = training(tmp_path / "cut", first_weights=7)
    assert resumed.checkpoint.resume(resumed.engine) == 6
    resumed.run()
    assert_equal(state(resumed), state(whole))
    assert names(tmp_path / "cut") == [
        "checkpoint_00000006.pt",
        "checkpoint_00000009.pt",
        "checkpoint_00000009_best.pt",
    ]


def test_the_index_names_the_bytes_of_each_checkpoint(tmp_path):
    training(tmp_path).run()
    files = read_json(tmp_path / CHECKPOINT_INDEX)["files"]
    assert {name: entry["step"] for name, entry in files.items()} == {
        "checkpoint_00000006.pt": 6,
        "checkpoint_00000009.pt": 9,
    }
    assert all(entry["sha256"] == file_digest(tmp_path / name) for name, entry in files.items())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "not an index of files"),
        ('{"files": {}}', "has no `format`"),
        ('{"format": 1, "files": {"../x.pt": {"sha256": "", "fingerprint": ""}}}', "not an index of files"),
        ('{"format": 1, "files": {}, "digest": ""}', "does not fit its digest"),
        ('{"format": 2, "files": {}}', "the format 2, .*update medi_monai"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, content, says):
    training(tmp_path).run()
    (tmp_path / CHECKPOINT_INDEX).write_text(content)
    resumed = training(tmp_path)
    with pytest.raises(InputError, match=f"{CHECKPOINT_INDEX}.*{says}"):
        resumed.checkpoint.resume(resumed.engine)


class Killed(BaseException):
    """Stands for the end of the process."""


def test_killed_before_or_after_any_change_to_the_disk_a_training_resumes_to_the_same_end(tmp_path, monkeypatch):
    def run_to_its_end(run):
        if run.engine.state.iteration < 10:
            run.run()
            run.checkpoint.save(run.engine)

    whole = training(tmp_path / "whole")
    run_to_its_end(whole)
    changes, kill_at = [0], [None]

    def tick():
        changes[0] += 1
        if changes[0] == kill_at[0]:
            raise Killed

    def counted(change):
        def changed(*args, **kwargs):
            tick()
            try:
                return change(*args, **kwargs)
            finally:
                tick()

        return changed

    for name in ("replace", "rename", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    run_to_its_end(training(tmp_path / "counted"))
    total, earlier = changes[0], names(tmp_path / "whole")
    assert total > 20
    for moment in range(1, total + 1):
        folder = tmp_path / f"killed-{moment}"
        changes[0], kill_at[0] = 0, moment
        with pytest.raises(Killed):
            run_to_its_end(training(folder))
        kill_at[0] = None
        resumed = training(folder, first_weights=0)
        resumed.checkpoint.resume(resumed.engine)
        resumed.checkpoint.check_free(resumed.engine.state.iteration + 1, 10)
        run_to_its_end(resumed)
        assert_equal(state(resumed), state(whole))
        assert names(folder) == earlier, moment


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

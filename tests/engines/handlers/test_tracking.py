"""Records of trainings in a real local store of MLflow."""

import contextlib

import numpy as np
import pytest
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medi_monai.engines.events import EventWriter
from medi_monai.engines.handlers.tracking import DATABASE, tracked_writer
from medi_monai.utils.errors import InputError

mlflow = pytest.importorskip("mlflow")


@pytest.fixture(autouse=True)
def local_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def train(folder, steps, first=0, fails_at=None, **settings):
    """An engine that writes a scalar in each step and a picture at the end; ``first`` is what it resumes from."""
    writer = tracked_writer(EventWriter(folder), "bundle", "training", {"seed": 3, **settings}, {"medi_monai": "1.0"})

    def step(engine, batch):
        if engine.state.iteration == fails_at:
            raise KeyboardInterrupt
        writer.add_scalar("train/loss", 1 / engine.state.iteration, engine.state.iteration)

    engine = Engine(step)
    writer.follow(engine)
    picture = np.zeros((4, 6, 3), np.uint8)
    engine.add_event_handler(Events.COMPLETED, lambda: writer.add_image("samples", picture, steps))
    if first:
        engine.load_state_dict({"iteration": first, "max_epochs": 1, "epoch_length": steps})
    with contextlib.suppress(KeyboardInterrupt):
        engine.run(range(steps), max_epochs=1, epoch_length=steps)
    writer.close()


def runs_of(folder):
    client = mlflow.MlflowClient(f"sqlite:///{folder / DATABASE}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "bundle"]
    runs = client.search_runs(experiment.experiment_id, order_by=["attributes.start_time"])
    curves = [
        [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "train/loss")]
        for run in runs
    ]
    return runs, curves


def test_a_training_is_recorded_in_both_places(tmp_path):
    train(tmp_path, 4, max_steps=4)
    (run,), (curve,) = runs_of(tmp_path)
    assert run.info.status == "FINISHED" and run.info.run_name == "training"
    assert run.data.params["seed"] == "3" and run.data.params["max_steps"] == "4"
    assert run.data.tags["medi_monai"] == "1.0"
    assert curve == [(number, pytest.approx(1 / number)) for number in range(1, 5)]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, pytest.approx(event.value)) for event in events.Scalars("train/loss")] == curve
    assert list((tmp_path / "mlruns").rglob("step_00000004.png"))


def test_a_resumed_training_goes_on_in_its_run_and_another_ends_it(tmp_path):
    train(tmp_path, 4, fails_at=3)
    (run,), (curve,) = runs_of(tmp_path)
    assert run.info.status == "RUNNING" and [number for number, _ in curve] == [1, 2]
    train(tmp_path, 4, first=2)
    (run,), (curve,) = runs_of(tmp_path)
    assert run.info.status == "FINISHED" and [number for number, _ in curve] == [1, 2, 3, 4]
    train(tmp_path, 4, fails_at=2)
    train(tmp_path, 2)
    runs, curves = runs_of(tmp_path)
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FINISHED"]
    assert [len(curve) for curve in curves] == [4, 1, 2]


def test_a_store_that_cannot_be_used_is_said_before_the_training(tmp_path, monkeypatch):
    (tmp_path / "store").write_text("not a database, but long enough to be taken for one" * 20)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'store'}")
    with pytest.raises(InputError, match="the MLflow store cannot be used"):
        train(tmp_path / "out", 2)
    assert not list((tmp_path / "out").glob("events*"))


def test_a_store_that_fails_later_does_not_end_the_training(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(mlflow.MlflowClient, "log_metric", full)
    train(tmp_path, 3)
    assert capsys.readouterr().out.count("warning: the MLflow store fails (disk full): the run goes on without it") == 1
    assert len(EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")) == 3


def test_processes_without_a_writer_stay_without_one():
    assert tracked_writer(None, "bundle", "training", {}, {}) is None

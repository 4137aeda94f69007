import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of

from medi_monai.engines.autoencoding.run import autoencode_run
from medi_monai.engines.autoencoding.training import AutoencoderStep, kl_divergence
from medi_monai.engines.events import EventWriter, event_files
from medi_monai.engines.settings import AutoencoderSettings
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import load_tensors

SMALL = {"autoencoder_channels": [8, 16], "latent_channels": 2, "batch_size": 4, "adversarial_start": 3}


def run(cohort, folder, writer=None, **options):
    settings = AutoencoderSettings(**{**SMALL, "max_steps": 6, **options})
    return autoencode_run(cohort, 16, folder, settings, writer=writer)


def test_the_divergence_is_that_of_torch():
    mean, deviation = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) + 0.1
    expected = kl_of(Normal(mean, deviation), Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, deviation), expected)


def test_stopped_and_resumed_equals_uninterrupted(tiny_cohort, tmp_path, monkeypatch):
    expected = load_tensors(run(tiny_cohort, tmp_path / "whole"))
    iterate, stop = AutoencoderStep.__call__, {"at": 4}

    def stopping(self, engine, batch):
        if engine.state.iteration == stop["at"]:
            raise KeyboardInterrupt
        return iterate(self, engine, batch)

    monkeypatch.setattr(AutoencoderStep, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_cohort, tmp_path / "parts", checkpoint_every=3)
    stop["at"] = None
    resumed = load_tensors(run(tiny_cohort, tmp_path / "parts", checkpoint_every=3, resume=True))
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    with pytest.raises(InputError, match="learning_rate: 0.001 in the checkpoint, 0.002 now"):
        run(tiny_cohort, tmp_path / "parts", resume=True, learning_rate=0.002)


def test_a_writer_changes_nothing_but_the_events(tiny_cohort, tmp_path):
    """Without one, a training leaves the same weights and figures, and no event file."""
    silent = run(tiny_cohort, tmp_path / "silent")
    with EventWriter(tmp_path / "heard") as writer:
        heard = run(tiny_cohort, tmp_path / "heard", writer, log_every=2)
    states = [load_tensors(path) for path in (silent, heard)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    records = [json.loads((path.parent / "autoencoder.json").read_text()) for path in (silent, heard)]
    assert records[0]["scale"] == records[1]["scale"] and records[0]["figures"] == records[1]["figures"]
    assert not event_files(tmp_path / "silent") and len(event_files(tmp_path / "heard")) == 1
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("silent", "heard")]
    assert names[1] - names[0] == {event_files(tmp_path / "heard")[0].name} and not names[0] - names[1]
    events = EventAccumulator(str(tmp_path / "heard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6]


def test_the_discriminator_waits_for_its_start(tiny_cohort, tmp_path, monkeypatch):
    judged, inner = [], AutoencoderStep._judge
    monkeypatch.setattr(AutoencoderStep, "_judge", lambda self, *images: judged.append(self) or inner(self, *images))
    run(tiny_cohort, tmp_path / "run")
    # steps 4, 5 and 6 of 6
    assert len(judged) == 3 and judged[0].critic_schedule.last_epoch == 3 and judged[0].schedule.last_epoch == 6


def test_a_loss_that_is_not_finite_stops_the_training(tiny_cohort, tmp_path):
    with pytest.raises(RunStopped, match="the loss of the autoencoder is"):
        run(tiny_cohort, tmp_path / "lost", learning_rate=1e9, max_steps=20)

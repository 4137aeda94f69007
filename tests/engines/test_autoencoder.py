import json

import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as kl_of

from medi_monai.engines import autoencoder as autoencoders
from medi_monai.engines.autoencoder import autoencode_run, kl_divergence
from medi_monai.engines.settings import AutoencoderSettings
from medi_monai.networks.autoencoder import load_space
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import load_tensors
from medi_monai.utils.pixels import from_uint8

SMALL = {"autoencoder_channels": [8, 16], "latent_channels": 2, "batch_size": 4, "adversarial_start": 3}


def run(cohort, folder, **options):
    return autoencode_run(cohort, 16, folder, AutoencoderSettings(**{**SMALL, "max_steps": 6, **options}))


def test_the_divergence_is_that_of_torch():
    mean, deviation = torch.randn(3, 2, 4, 4), torch.rand(3, 2, 4, 4) + 0.1
    expected = kl_of(Normal(mean, deviation), Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, deviation), expected)


def test_latents_have_unit_variance_and_images_become_more_like_the_real_ones(tiny_cohort, tmp_path):
    folder = tmp_path / "trained"
    run(tiny_cohort, folder, max_steps=60, learning_rate=0.004)
    figures = json.loads((folder / "summary.json").read_text())["figures"]
    run(tiny_cohort, tmp_path / "begun", max_steps=1)
    before = json.loads((tmp_path / "begun" / "summary.json").read_text())["figures"]
    assert figures["mean_absolute_error"] < 0.8 * before["mean_absolute_error"] and figures["psnr"] > before["psnr"]
    space = load_space(folder)
    dataset = autoencoders.StreamedPatchDataset(tiny_cohort.split("train"), None, 16)
    images = from_uint8(torch.stack([dataset[index]["image"] for index in range(len(dataset))]))
    assert abs(float(space.encode(images).std()) - 1) < 1e-3
    assert (folder / "reconstructions.png").is_file() and figures["latent_shape"] == [2, 8, 8]


def test_stopped_and_resumed_equals_uninterrupted(tiny_cohort, tmp_path, monkeypatch):
    expected = load_tensors(run(tiny_cohort, tmp_path / "whole"))
    iterate, stop = autoencoders._Step.__call__, {"at": 4}

    def stopping(self, engine, batch):
        if engine.state.iteration == stop["at"]:
            raise KeyboardInterrupt
        return iterate(self, engine, batch)

    monkeypatch.setattr(autoencoders._Step, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_cohort, tmp_path / "parts", checkpoint_every=3)
    stop["at"] = None
    resumed = load_tensors(run(tiny_cohort, tmp_path / "parts", checkpoint_every=3, resume=True))
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())
    with pytest.raises(InputError, match="learning_rate: 0.001 in the checkpoint, 0.002 now"):
        run(tiny_cohort, tmp_path / "parts", resume=True, learning_rate=0.002)


def test_given_weights_are_measured_alone(tiny_cohort, tmp_path):
    weights = run(tiny_cohort, tmp_path / "trained")
    again = run(tiny_cohort, tmp_path / "measured", max_steps=0, init_from=str(weights))
    records = [json.loads((path.parent / "autoencoder.json").read_text()) for path in (weights, again)]
    assert records[0]["scale"] == records[1]["scale"] and records[0]["digests"] == records[1]["digests"]


@pytest.mark.parametrize(("options", "message"), [
    ({"max_steps": 0}, "max_steps = 0 and no init_from"),
    ({"image_channels": 2}, "image_channels = 2"),
    ({"resume": True}, "no checkpoint to resume from"),
    ({"perceptual": "nothing"}, "perceptual = 'nothing'.*Leave it out"),
    ({"autoencoder_channels": [8, 16, 16, 16, 16, 16]}, "cannot take images of 16 pixels|turns images of 16 pixels"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused_before_work(tiny_cohort, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(tiny_cohort, tmp_path / "refused", **options)


def test_a_loss_that_is_not_finite_stops_the_training(tiny_cohort, tmp_path):
    with pytest.raises(RunStopped, match="the loss of the autoencoder is"):
        run(tiny_cohort, tmp_path / "lost", learning_rate=1e9, max_steps=20)

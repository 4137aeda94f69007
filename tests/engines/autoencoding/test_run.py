import json

import pytest
import torch

from medi_monai.cohort import StreamedPatchDataset
from medi_monai.engines.autoencoding.run import autoencode_run
from medi_monai.engines.settings import AutoencoderSettings
from medi_monai.networks.autoencoder import load_space
from medi_monai.utils.errors import InputError
from medi_monai.utils.pixels import from_uint8

SMALL = {"autoencoder_channels": [8, 16], "latent_channels": 2, "batch_size": 4, "adversarial_start": 3}


def run(cohort, folder, **options):
    return autoencode_run(cohort, 16, folder, AutoencoderSettings(**{**SMALL, "max_steps": 6, **options}))


def test_latents_have_unit_variance_and_images_become_more_like_the_real_ones(tiny_cohort, tmp_path):
    folder = tmp_path / "trained"
    run(tiny_cohort, folder, max_steps=60, learning_rate=0.004)
    figures = json.loads((folder / "summary.json").read_text())["figures"]
    run(tiny_cohort, tmp_path / "begun", max_steps=1)
    before = json.loads((tmp_path / "begun" / "summary.json").read_text())["figures"]
    assert figures["mean_absolute_error"] < 0.8 * before["mean_absolute_error"] and figures["psnr"] > before["psnr"]
    space = load_space(folder)
    dataset = StreamedPatchDataset(tiny_cohort.split("train"), None, 16)
    images = from_uint8(torch.stack([dataset[index]["image"] for index in range(len(dataset))]))
    assert abs(float(space.encode(images).std()) - 1) < 1e-3
    assert (folder / "reconstructions.png").is_file() and figures["latent_shape"] == [2, 8, 8]


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

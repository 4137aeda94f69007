import json

import pytest
import torch

from medi_monai.networks.autoencoder import (
    Architecture,
    build_autoencoder,
    build_space,
    load_space,
    save_autoencoder,
)
from medi_monai.networks.spaces import LatentSpace, PixelSpace
from medi_monai.utils.errors import InputError

SHAPE = Architecture(image_channels=3, channels=[8, 16], latent_channels=2, num_res_blocks=1)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    autoencoder = build_autoencoder(SHAPE)
    save_autoencoder(tmp_path, autoencoder, SHAPE, 0.7, {"max_steps": 3}, {"psnr": 20.0}, {"cohort": "0" * 64})
    return tmp_path, autoencoder


def test_a_saved_autoencoder_gives_the_same_latents(saved):
    folder, autoencoder = saved
    images = torch.rand(3, 3, 16, 16) * 2 - 1
    expected = LatentSpace(autoencoder, 0.7)
    for path in (folder, folder / "autoencoder.pt", folder / "autoencoder.json"):
        space = build_space(3, 1, path)
        assert torch.equal(space.encode(images), expected.encode(images))
        assert space.describe() == expected.describe() and space.shape(16) == (2, 8, 8)


def test_without_an_autoencoder_there_are_pixels():
    space = build_space(1, 2)
    assert isinstance(space, PixelSpace) and space.describe() == {"space": "pixels", "channels": 1, "patch_size": 2}


def test_what_does_not_fit_is_refused(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(InputError, match="image_channels = 1: the autoencoder in .* --image_channels 1"):
        build_space(1, 1, folder)
    with pytest.raises(InputError, match="there is no autoencoder in .*nothing: autoencoder.json is missing"):
        load_space(tmp_path / "nothing")
    with pytest.raises(InputError, match="cannot take images of 15 pixels|turns images of 15 pixels"):
        load_space(folder).shape(15)
    record = json.loads((folder / "autoencoder.json").read_text())
    (folder / "autoencoder.json").write_text(json.dumps({**record, "scale": 2.0}))
    with pytest.raises(InputError, match="damaged, or was changed by hand"):
        load_space(folder)

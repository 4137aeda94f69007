import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.metrics import frechet_distance
from medi_monai.networks.encoders.embedded import CONTRAST_UNIT, CORRELATION_UNIT, DENSITY_UNIT, EmbeddedEncoder
from medi_monai.utils.errors import InputError

STAIN = 21


def textures(count, side=32, seed=0, grain=2):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 240, (count, 3, side // grain, side // grain), dtype=np.uint8)
    return torch.from_numpy(coarse.repeat(grain, 2).repeat(grain, 3))


@pytest.fixture(scope="module")
def encoder():
    return EmbeddedEncoder()


def test_it_is_deterministic_and_images_of_a_batch_do_not_see_each_other(encoder):
    images = textures(9)
    features = encoder(images)
    assert features.shape == (9, 81) and features.dtype == torch.float32 and torch.isfinite(features).all()
    assert torch.equal(encoder(images), features) and torch.equal(EmbeddedEncoder()(images), features)
    assert encoder.describe() == EmbeddedEncoder().describe()
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(alone, features, rtol=0, atol=1e-4)
    torch.testing.assert_close(encoder(images.flip(0)).flip(0), features, rtol=0, atol=1e-4)


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (200, 100, 150)])
def test_an_image_of_one_color_has_its_density_and_no_contrast(encoder, color):
    image = torch.tensor(color, dtype=torch.uint8)[None, :, None, None].expand(1, 3, 16, 24)
    features = encoder(image)[0].double()
    density = [-math.log10((value + 1) / 256) / DENSITY_UNIT for value in color]
    torch.testing.assert_close(
        features[:15].view(3, 5), torch.tensor(density).double()[:, None].expand(3, 5), atol=1e-4, rtol=0
    )
    assert features[15:18].max() < 0.01 and features[18:21].abs().max() < 0.05 and features[STAIN:].abs().max() < 1e-4


def test_stain_features_are_those_of_numpy(encoder):
    images = textures(4)
    density = -np.log10((images.numpy().astype(float) + 1) / 256).reshape(4, 3, -1)
    expected = []
    for channels in density:
        levels = np.quantile(channels, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1).T.ravel()
        correlation = np.corrcoef(channels)[[0, 0, 1], [1, 2, 2]] / CORRELATION_UNIT
        expected.append(np.concatenate([levels / DENSITY_UNIT, channels.std(1) / DENSITY_UNIT, correlation]))
    np.testing.assert_allclose(encoder(images)[:, :STAIN], expected, atol=1e-3)


def test_stripes_answer_the_patterns_across_them_alone(encoder):
    # one column dark, one bright: an edge filter sees nothing, the line filter sees its closed form
    image = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    image[..., ::2] = 24
    line = encoder(image)[0, STAIN : STAIN + 15].view(3, 5) * CONTRAST_UNIT
    step = math.log10(256 / 25)
    # rows are alike: (1, 1, 1) / sqrt(3) down, (1, -2, 1) / sqrt(6) across; two patterns share a figure
    expected = 3 / math.sqrt(3) * 2 * step / math.sqrt(6) / 2
    torch.testing.assert_close(line[:, 1], torch.full((3,), expected), atol=1e-4, rtol=0)
    assert line[:, [0, 2, 3, 4]].abs().max() < 1e-4


@pytest.mark.parametrize(
    "turn", [lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.rot90(1, (2, 3)), lambda x: x.mT]
)
def test_no_feature_depends_on_how_an_image_lies(encoder, turn):
    images = textures(5)
    torch.testing.assert_close(encoder(turn(images)), encoder(images), rtol=0, atol=1e-3)


def test_stain_and_texture_are_seen_apart(encoder):
    images = textures(6)
    # the same pixels in another order: stain stays as it is, morphology does not
    order = torch.from_numpy(np.random.default_rng(0).permutation(32 * 32))
    mixed = images.flatten(2)[:, :, order].view_as(images)
    change = (encoder(mixed) - encoder(images)).abs().mean(0)
    assert change[:STAIN].max() < 1e-3 and change[STAIN:].mean() > 0.5
    # more of every stain, at the same contrast: the reverse
    density = -torch.log10((images.double() + 1) / 256)
    darker = (256 * 10 ** -(density + 0.15) - 1).round().clamp(0, 255).to(torch.uint8)
    change = (encoder(darker) - encoder(images)).abs().mean(0)
    assert (change[:15] - 0.15 / DENSITY_UNIT).abs().max() < 0.1 and change[STAIN:].mean() < 0.15


def test_small_images_are_refused(encoder):
    with pytest.raises(InputError, match="at least 16 px per side"):
        encoder(textures(1, side=8))


def test_real_tissue_is_ordered_by_class_and_center(encoder, real_data):
    folder = real_data / "hne_tcga"
    if not (folder / "tiles.csv").is_file():
        pytest.skip(f"no tiles in {folder}")
    table = pd.read_csv(folder / "tiles.csv", dtype=str)
    halves = []
    for name in table["image"]:
        # 64 px at 0.5 um per pixel
        pixels = np.asarray(Image.open(folder / name).convert("RGB").reduce(2))[:448, :448]
        patches = pixels.reshape(7, 64, 7, 64, 3).transpose(0, 2, 4, 1, 3).reshape(49, 3, 64, 64)
        features = encoder(torch.from_numpy(patches))[torch.randperm(49, generator=torch.Generator().manual_seed(0))]
        halves.append((features[:24], features[24:48]))
    distances: dict = {"same": [], "other center": [], "other class": []}
    for i, j in itertools.product(range(len(table)), repeat=2):
        first, second = table.iloc[i], table.iloc[j]
        kind = "other class" if first["project_id"] != second["project_id"] else "other center"
        kind = "same" if i == j else kind
        if kind != "other center" or first["center"] != second["center"]:
            distances[kind].append(frechet_distance(halves[i][0], halves[j][1]))
    same, center, label = (np.mean(values) for values in distances.values())
    assert 4 * same < center < 0.8 * label

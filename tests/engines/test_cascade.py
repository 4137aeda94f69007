import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.cascade import SmallImages, UpsamplingGenerator, UpsamplingPrepareBatch
from medi_monai.engines.prepare_batch import DiffusionPrepareBatch
from medi_monai.networks.upsampling import UpsamplingUNet, enlarged, shrunk
from medi_monai.utils.errors import InputError
from medi_monai.utils.pixels import from_uint8

SCHEDULE = NoiseSchedule("cosine", 100)


@pytest.fixture
def batch(tiny_schema):
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    return {"image": images, "conditions": tiny_schema.null_codes(4), "index": torch.arange(4)}


def test_small_images_get_noise_of_their_level_and_the_image_is_that_of_the_first_stage(batch):
    options = {"schedule": SCHEDULE, "augment": False}
    prepare = UpsamplingPrepareBatch(small_size=4, max_level=30, **options)
    noisy, target, _, arguments = prepare(batch, step=3)
    plain = DiffusionPrepareBatch(**options)(batch, step=3)
    assert torch.equal(noisy, plain[0]) and torch.equal(target, plain[1])
    assert torch.equal(prepare(batch, step=3)[3]["small"], arguments["small"])
    assert arguments["small"].shape == (4, 3, 16, 16)
    clean = enlarged(shrunk(from_uint8(batch["image"]), 4), 16)
    levels, residuals = [], []
    for step in range(200):
        further = prepare(batch, step=step + 1)[3]
        alpha, sigma = SCHEDULE.coefficients(further["level"], clean)
        residuals.append(((further["small"] - alpha * clean) / sigma).flatten())
        levels.append(further["level"])
    assert abs(float(torch.cat(residuals).std()) - 1) < 0.01
    assert set(torch.cat(levels).tolist()) == set(range(31))


def test_levels_beyond_the_schedule_are_refused():
    with pytest.raises(InputError, match="max_level = 100: it has to be from 0 to 99"):
        UpsamplingPrepareBatch(small_size=4, max_level=100, schedule=SCHEDULE)


@pytest.fixture
def sampled(tmp_path, tiny_schema):
    label = tiny_schema.label
    rows = [{"image": f"{value}_{n}.png", label.name: value, "number": n} for value in label.values for n in range(2)]
    for number, row in enumerate(rows):
        Image.fromarray(np.full((4, 4, 3), 30 * number + 20, np.uint8)).save(tmp_path / row["image"])
    table = pd.DataFrame(rows).assign(other="", seed=0)
    table.to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path, table


def generator(folder, schema, **options):
    small = SmallImages(folder, schema, list(schema.names))
    given = {"schema": schema, "schedule": SCHEDULE, "objective": "v", "image_size": 16, "num_steps": 3, "small": small}
    return UpsamplingGenerator(**{**given, "small_size": 4, "level": 5, "max_level": 30, **options})


def network_of(schema):
    torch.manual_seed(0)
    network = UpsamplingUNet(
        schema, in_channels=3, out_channels=3, spatial_dims=2, channels=(8, 16), attention_levels=(False, True),
        num_res_blocks=1, num_head_channels=8, norm_num_groups=4,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return network.eval()


def test_the_plan_is_that_of_the_manifest_and_each_row_has_its_image(sampled, tiny_schema):
    folder, table = sampled
    small = SmallImages(folder, tiny_schema, list(tiny_schema.names))
    label = tiny_schema.label.name
    assert small.plan().to_dict("list") == {
        label: list(tiny_schema.label.values),
        "count": [2] * len(tiny_schema.label.values),
    }
    rows = table[[label, "number"]].iloc[::-1]
    levels = (small.read(rows)[:, 0, 0, 0] + 1) * 127.5
    assert levels.round().tolist() == [30 * number + 20 for number in reversed(range(len(table)))]


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_an_image_depends_on_its_row_alone(sampled, tiny_schema, guidance_scale):
    folder, table = sampled
    rows, network = table[[tiny_schema.label.name, "number"]], network_of(tiny_schema)
    drawing = generator(folder, tiny_schema, guidance_scale=guidance_scale)
    together = drawing.draw(network, rows)
    assert together.shape == (len(table), 16, 16, 3)
    alone = [drawing.draw(network, rows.iloc[[index]])[0] for index in range(len(rows))]
    assert np.abs(together.astype(int) - np.stack(alone).astype(int)).max() <= 1


def test_a_recipe_tells_other_small_images_and_levels_apart(sampled, tiny_schema):
    folder, table = sampled
    recipe = generator(folder, tiny_schema).recipe()
    assert recipe == generator(folder, tiny_schema).recipe()
    assert generator(folder, tiny_schema, level=6).recipe() != recipe
    table.assign(seed=1).to_csv(folder / "manifest.csv", index=False)
    assert generator(folder, tiny_schema).recipe() != recipe


def test_what_does_not_fit_is_refused(sampled, tiny_schema, tmp_path):
    folder, table = sampled
    with pytest.raises(InputError, match="level = 31: the model was trained with levels from 0 to 30"):
        generator(folder, tiny_schema, level=31)
    rows = table[[tiny_schema.label.name, "number"]]
    with pytest.raises(InputError, match="4 x 4 pixels, and the model was trained to enlarge images of 8"):
        generator(folder, tiny_schema, small_size=8).draw(network_of(tiny_schema), rows)
    with pytest.raises(InputError, match="has no image for .* · 9"):
        generator(folder, tiny_schema).draw(network_of(tiny_schema), rows.assign(number=9))
    with pytest.raises(InputError, match="there is no .*manifest.csv: give --sampled_dir"):
        SmallImages(tmp_path / "nothing", tiny_schema, [])
    with pytest.raises(InputError, match="plan: every image in .* is enlarged"):
        SmallImages(folder, tiny_schema, []).plan({"plan"})
    table[table["number"] > 0].to_csv(folder / "manifest.csv", index=False)
    with pytest.raises(InputError, match="not numbered from 0 on"):
        SmallImages(folder, tiny_schema, []).plan()

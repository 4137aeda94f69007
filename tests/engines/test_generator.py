import inspect

import numpy as np
import pandas as pd
import pytest
import torch

from medi_monai.cohort import expand_plan
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.generator import NO_GUIDANCE, ImageGenerator, identity_noise, subpopulation_grid, training_grid
from medi_monai.engines.prepare_batch import AutocastInferer
from medi_monai.engines.sampling_settings import GuidanceSettings
from medi_monai.networks.spaces import PixelSpace
from medi_monai.schema import NULL, MetadataSchema
from medi_monai.utils.errors import InputError, RunStopped

PLAN = pd.DataFrame(
    [(label, center, 8) for label in "ABC" for center in ("NA", "North", "South")],
    columns=["project_id", "center", "count"],
)


def generator(schema, **options):
    options = {"num_steps": 8, "seed": 3, **options}
    return ImageGenerator(schema, NoiseSchedule("cosine", 100), "v", 16, **options)


def draw_all(generator, network, rows):
    images = [image for batch in generator.batches(rows) for image in generator.draw(network, batch)]
    keys = rows[["project_id", "center", "number"]].itertuples(index=False, name=None)
    return dict(zip(keys, np.stack(images).astype(float)))


def test_images_are_alike_at_every_batch_size_and_order_of_the_plan(tiny_schema, tiny_network):
    rows = expand_plan(PLAN)
    whole = draw_all(generator(tiny_schema, batch_size=64), tiny_network, rows)
    for batch_size in (3, 16):
        shuffled = rows.sample(frac=1, random_state=batch_size)
        other = draw_all(generator(tiny_schema, batch_size=batch_size), tiny_network, shuffled)
        assert max(np.abs(whole[key] - other[key]).mean() for key in whole) < 1
    assert np.abs(whole["A", "NA", 0] - whole["A", "NA", 1]).mean() > 5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_images_do_not_depend_on_the_others_of_a_batch(tiny_schema, tiny_network, precision):
    rows = expand_plan(PLAN)
    options = {"batch_size": 24, "inferer": AutocastInferer(precision), "guidance": GuidanceSettings()}
    whole = draw_all(generator(tiny_schema, **options), tiny_network, rows)
    shuffled = draw_all(generator(tiny_schema, **options), tiny_network, rows.sample(frac=1, random_state=0))
    assert all(np.array_equal(whole[key], shuffled[key]) for key in whole)


def test_noise_does_not_depend_on_the_order_of_columns_and_depends_on_seed_and_number():
    rows = pd.DataFrame({"label": ["a", "a"], "center": ["x", "x"], "number": [0, 1]})
    noise = identity_noise(rows, 0, (3, 4, 4))
    assert torch.equal(noise, identity_noise(rows[["number", "center", "label"]], 0, (3, 4, 4)))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise, identity_noise(rows, 1, (3, 4, 4)))


def test_identity_noise_is_standard_normal():
    rows = pd.DataFrame({"label": ["a"] * 100, "number": range(100)})
    noise = identity_noise(rows, 0, (3, 16, 16))
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


def test_the_conditions_reach_the_image(tiny_schema, tiny_network):
    rows = pd.DataFrame({"project_id": ["A", "A"], "center": ["NA", "South"], "number": [0, 0]})
    noise = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)).expand(2, -1, -1, -1)
    prediction = tiny_network(noise, torch.zeros(2), tiny_schema.encode(rows))
    assert (prediction[0] - prediction[1]).abs().max() > 1e-3


def test_guidance_of_1_is_the_conditional_network_and_0_ignores_the_conditions(tiny_schema, tiny_network):
    rows = pd.DataFrame({"project_id": ["A"], "center": ["NA"], "number": [0]})
    null = rows.assign(project_id=None, center=None)
    none, zero = (generator(tiny_schema, guidance_scale=scale) for scale in (1.0, 0.0))
    free = none.schema.encode(null)
    assert (free == -2).all()
    images = {scale: generator(tiny_schema, guidance_scale=scale).draw(tiny_network, rows) for scale in (0.0, 1.0, 3.0)}
    assert np.array_equal(images[0.0], zero.draw(tiny_network, rows))
    assert np.array_equal(images[1.0], none.draw(tiny_network, rows))
    assert not np.array_equal(images[1.0], images[3.0]) and not np.array_equal(images[0.0], images[1.0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"solver": "dim"}, "did you mean 'ddim'"),
        ({"num_steps": 101}, "allows 1 to 100"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_bad_settings_are_refused(tiny_schema, options, message):
    with pytest.raises(InputError, match=message):
        generator(tiny_schema, **options)


OTHER_SETTINGS = {
    "schema": MetadataSchema.from_table(pd.DataFrame({"project_id": ["A", "B"]}), "project_id"),
    "schedule": NoiseSchedule("linear", 100),
    "objective": "epsilon",
    "image_size": 32,
    "solver": "unipc",
    "num_steps": 9,
    "guidance_scale": 2.0,
    "seed": 4,
    "inferer": AutocastInferer("bfloat16"),
    "space": PixelSpace(1),
    "noise_from": {"center": "NA"},
    "guidance": GuidanceSettings(),
}


def test_every_setting_of_the_guidance_is_in_the_recipe(tiny_schema):
    changed = {
        "label_guidance": 3.0,
        "attribute_guidance": {"center": 2.0},
        "guidance_interval": [0.1, 5.0],
        "guidance_rescale": 0.5,
    }
    assert set(changed) == set(GuidanceSettings.model_fields)
    recipe = generator(tiny_schema, guidance=GuidanceSettings()).recipe()
    for name, value in changed.items():
        assert generator(tiny_schema, guidance=GuidanceSettings(**{name: value})).recipe() != recipe, name


def test_scales_of_attributes_do_not_stop_the_class_only_model():
    settings = GuidanceSettings(attribute_guidance={"center": 2})
    assert settings.of(["project_id", "center"]).columns == {0: 2.25, 1: 2.0}
    assert settings.of(["project_id"]).columns == {0: 2.25}


def test_guidance_by_label_and_attribute_is_that_of_their_columns(tiny_schema, tiny_network):
    rows = expand_plan(PLAN).iloc[::20]
    settings = GuidanceSettings(label_guidance=2.0, attribute_guidance={"center": 0.5}, guidance_interval=None)
    bound = generator(tiny_schema, guidance=settings).bind(tiny_network, rows)
    codes = tiny_schema.encode(rows, absent="null")
    noisy, timesteps = torch.randn(len(rows), 3, 16, 16), torch.full((len(rows),), 40)
    names = list(tiny_schema.names)

    def without(name):
        changed = codes.clone()
        changed[:, names.index(name)] = NULL
        return tiny_network(noisy, timesteps, changed)

    with torch.no_grad():
        plain = tiny_network(noisy, timesteps, codes)
        expected = plain + (plain - without("project_id")) - 0.5 * (plain - without("center"))
        torch.testing.assert_close(bound(noisy, timesteps), expected, rtol=0, atol=1e-5)


def test_guidance_is_described_by_column():
    names = ("tumor", "center")
    assert GuidanceSettings().text(names) == "guidance tumor 2.25, center 1.5 at noise levels 0.2 to 3"
    assert NO_GUIDANCE.text(names) == "no guidance" and NO_GUIDANCE.text(names, 2.0) == "guidance all 2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attribute_guidance": {"centre": 2.0}}, "'centre'.*did you mean.*center"),
        ({"attribute_guidance": {"center": "high"}}, "center = 'high'.*0 or more"),
        ({"attribute_guidance": {"center": -1}}, "center = -1.*0 or more"),
        ({"guidance_interval": [5, 0.2]}, r"\[5.*lowest and the highest"),
    ],
)
def test_guidance_that_the_schema_does_not_have_is_refused(tiny_schema, options, message):
    with pytest.raises(InputError, match=message):
        generator(tiny_schema, guidance=GuidanceSettings(**options))


def test_a_recipe_tells_all_settings_apart_that_decide_pixels(tiny_schema):
    parameters = set(inspect.signature(ImageGenerator).parameters) - {"batch_size"}
    assert parameters == set(OTHER_SETTINGS), (
        "add the new parameter to ImageGenerator.recipe, and another value of it to OTHER_SETTINGS: otherwise a "
        "sampling keeps the images that were drawn with its old value"
    )
    default = {"schema": tiny_schema, "schedule": NoiseSchedule("cosine", 100), "objective": "v", "image_size": 16}
    recipe = ImageGenerator(**default).recipe()
    assert recipe == ImageGenerator(**default, batch_size=3).recipe()
    for name, value in OTHER_SETTINGS.items():
        assert ImageGenerator(**{**default, name: value}).recipe() != recipe, name


class Traveling(PixelSpace):
    """Pixels with a weight, that notes where it is sent."""

    def __init__(self):
        super().__init__(3)
        self.gain, self.sent = torch.nn.Parameter(torch.ones(1)), []

    def to(self, *args, **kwargs):
        self.sent.append((*args, *kwargs.items()))
        return super().to(*args, **kwargs)

    def decode(self, values):
        return super().decode(values * self.gain)


class Plain:
    """A space that is no module: nothing to move."""

    clip = 1.0

    def decode(self, values):
        return values

    def shape(self, image_size):
        return 3, image_size, image_size


def test_a_space_with_weights_follows_the_network_and_keeps_its_precision(tiny_schema, tiny_network):
    rows = expand_plan(PLAN.head(1).assign(count=2))
    expected = generator(tiny_schema).draw(tiny_network, rows)
    space = Traveling().double()
    drawn = generator(tiny_schema, space=space).draw(tiny_network, rows)
    assert space.sent == [(torch.device("cpu"),)] and space.gain.dtype == torch.float64
    assert np.array_equal(drawn, expected)
    assert np.array_equal(generator(tiny_schema, space=Plain()).draw(tiny_network, rows), expected)


def test_a_drawn_image_is_the_sample_rounded_to_gray_levels(tiny_schema, tiny_network):
    drawing, rows = generator(tiny_schema), expand_plan(PLAN.head(1).assign(count=2))
    sampled = drawing.sample(tiny_network, rows)
    levels = (sampled.clamp(-1, 1) * 127.5 + 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(drawing.draw(tiny_network, rows) - levels).max() <= 0.5 + 1e-4
    assert not sampled.requires_grad and np.abs(levels - levels.round()).max() > 0.01


def test_pixels_that_are_not_finite_stop_the_sampling_before_they_are_drawn_as_black(tiny_schema):
    class Spoiled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, image, timesteps, conditions):
            return torch.full_like(image, torch.nan)

    rows = pd.DataFrame({"project_id": ["A", "B"], "center": ["NA", "NA"], "number": [0, 0]})
    with pytest.raises(RunStopped, match="2 of 2 images have pixels that are not finite"):
        generator(tiny_schema).draw(Spoiled(), rows)


def test_grids_have_a_cell_for_every_combination(tiny_schema, tiny_network, tiny_cohort):
    table = tiny_cohort.split("train").table
    grid = training_grid(generator(tiny_schema), tiny_network, table, ["project_id", "center"])
    rows = expand_plan(PLAN.assign(count=1))
    images = [np.full((16, 16, 3), 7, np.uint8)] * len(rows)
    full = subpopulation_grid(rows, images, ["project_id", "center"], cell=(1, 1), cell_size=64)
    assert grid.shape == full.shape
    assert np.all(full == 7, axis=2).sum() == 9 * 64 * 64

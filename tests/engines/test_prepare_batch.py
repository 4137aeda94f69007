import numpy as np
import pytest
import torch

from medi_monai.cohort import PatchDataset
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.prepare_batch import AutocastInferer, DiffusionPrepareBatch, random_symmetry
from medi_monai.schema import NULL
from medi_monai.utils.errors import InputError
from medi_monai.utils.seeding import generator_from

SCHEDULE = NoiseSchedule("cosine", 100)


@pytest.fixture(scope="module")
def batch(tiny_cohort, tiny_schema):
    dataset = PatchDataset(tiny_cohort, tiny_schema, 16)
    return torch.utils.data.default_collate([dataset[index] for index in range(12)])


@pytest.mark.parametrize("objective", ["epsilon", "v"])
def test_noisy_image_and_target_give_the_clean_image_back(batch, objective):
    noisy, target, _, arguments = DiffusionPrepareBatch(SCHEDULE, objective)(batch)
    alpha_bar = SCHEDULE.alphas.square()[arguments["timesteps"]].view(-1, 1, 1, 1)
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    clean = (noisy - sigma * target) / alpha if objective == "epsilon" else alpha * noisy - sigma * target
    # epsilon loses digits where the image is nearly all noise
    visible = (alpha > 0.05).flatten()
    assert torch.allclose(clean[visible].float(), batch["image"][visible] / 127.5 - 1, atol=1e-4)


def test_a_training_batch_depends_on_seed_and_step_alone(batch):
    prepare = DiffusionPrepareBatch(SCHEDULE, seed=1)
    first, again, other = prepare(batch, step=5), prepare(batch, step=5), prepare(batch, step=6)
    assert torch.equal(first[0], again[0]) and torch.equal(first[3]["conditions"], again[3]["conditions"])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], DiffusionPrepareBatch(SCHEDULE, seed=2)(batch, step=5)[0])
    assert not torch.equal(first[0], DiffusionPrepareBatch(SCHEDULE, seed=1, rank=1)(batch, step=5)[0])


def test_validation_drops_and_turns_nothing(batch):
    prepare = DiffusionPrepareBatch(SCHEDULE, label_dropout=1.0, attribute_dropout=1.0)
    assert torch.equal(prepare(batch)[3]["conditions"], batch["conditions"])
    assert (prepare(batch, step=1)[3]["conditions"] == NULL).all()
    assert torch.equal(prepare(batch)[0], prepare(batch)[0])


def test_symmetries_are_the_eight_of_a_square_in_equal_shares():
    image = torch.arange(9.0).view(1, 1, 3, 3)
    expected = {
        np.ascontiguousarray(turned).tobytes()
        for k in range(4)
        for turned in (np.rot90(image[0, 0].numpy(), k), np.rot90(image[0, 0].numpy().T, k))
    }
    drawn = random_symmetry(image.expand(4000, 1, 3, 3), generator_from("symmetry"))
    counts: dict[bytes, int] = {}
    for turned in drawn[:, 0].numpy():
        counts[turned.tobytes()] = counts.get(turned.tobytes(), 0) + 1
    assert set(counts) == expected and len(expected) == 8
    assert all(abs(count - 500) < 5 * np.sqrt(500) for count in counts.values())


def test_autocast_computes_in_bfloat16_and_returns_float32(tiny_network):
    seen = []
    tiny_network.conv_in.register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
    image = torch.randn(2, 3, 16, 16)
    outputs = [AutocastInferer(precision)(image, tiny_network) for precision in ("bfloat16", "float32")]
    assert seen == [torch.bfloat16, torch.float32]
    assert all(output.dtype == torch.float32 for output in outputs)
    assert torch.allclose(*outputs, atol=0.1)


def test_a_dropout_outside_0_to_1_is_refused():
    with pytest.raises(InputError, match="label_dropout = 1.5"):
        DiffusionPrepareBatch(SCHEDULE, label_dropout=1.5)


def test_the_null_of_guidance_is_met_however_many_columns_there_are(batch):
    prepare = DiffusionPrepareBatch(SCHEDULE, label_dropout=0, attribute_dropout=0, joint_dropout=0.3)
    codes = torch.cat([prepare(batch, step=step)[3]["conditions"] for step in range(1, 201)])
    null = codes == NULL
    assert torch.equal(null.all(1), null.any(1))
    assert abs(null.all(1).float().mean() - 0.3) < 0.03

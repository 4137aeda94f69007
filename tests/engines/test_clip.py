import math

import pytest
import torch

pytest.importorskip("transformers")

from medi_monai.engines.clip import ClipTraining, contrastive_loss, train_clip
from medi_monai.networks.text import ClipModel, load_text_encoder
from medi_monai.utils.errors import InputError

SHAPES, SHADES = ("disk", "square"), ("dark", "bright")


def pairs(count, seed):
    """Disks and squares, dark and bright, somewhere on a noisy ground."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    images, captions, truth = [], [], []
    for _ in range(count):
        shape, shade = torch.randint(2, (2,), generator=generator).tolist()
        center = torch.randint(12, 20, (2,), generator=generator)
        away = torch.stack([(rows - center[0]).abs(), (columns - center[1]).abs()]).float()
        inside = away.square().sum(0).sqrt() < 8.5 if shape == 0 else away.amax(0) < 7.5
        image = torch.where(inside, 90.0 + 90 * shade, 30.0) + 8 * torch.randn(32, 32, generator=generator)
        images.append(image.clamp(0, 255).to(torch.uint8).expand(3, -1, -1))
        captions.append(f"a {SHADES[shade]} {SHAPES[shape]} on a gray ground")
        truth.append((shape, shade))
    return torch.stack(images), captions, torch.tensor(truth)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    images, captions, _ = pairs(400, 0)
    folder = tmp_path_factory.mktemp("clip") / "model"
    return train_clip(images, captions, folder, ClipTraining(80, 32, 3e-3)), folder


def test_a_prompt_finds_what_it_names(trained):
    images, _, truth = pairs(200, 1)
    features = trained[0].image_features(images.float() / 127.5 - 1)
    shade = trained[0].text_features([f"a {shade} disk on a gray ground" for shade in SHADES])
    assert ((features @ shade.T).argmax(1) == truth[:, 1]).float().mean() >= 0.95


def test_the_folder_is_read_by_ordinary_code(trained):
    model, folder = trained
    assert isinstance(model, ClipModel) and ClipModel(folder).digest == model.digest
    assert load_text_encoder(folder).max_length == model.captions.max_length
    assert list((folder / "events").glob("events.out.tfevents.*"))


def test_the_seed_decides_everything_and_the_global_one_nothing(tmp_path):
    images, captions, _ = pairs(24, 2)
    digests = []
    for name, seed, chance in (("one", 3, 0), ("two", 3, 1), ("three", 4, 0)):
        torch.manual_seed(chance)
        before = torch.get_rng_state()
        model = train_clip(images, captions, tmp_path / name, ClipTraining(3, 8, seed=seed, augment=True))
        digests.append(model.digest)
        assert torch.equal(torch.get_rng_state(), before)
    assert digests[0] == digests[1] != digests[2]


def test_a_dataset_trains_as_its_tensor_does(tmp_path):
    images, captions, _ = pairs(16, 2)
    training = ClipTraining(2, 8)
    of_tensor = train_clip(images, captions, tmp_path / "one", training)
    of_dataset = train_clip([{"image": image} for image in images], captions, tmp_path / "two", training)
    assert of_tensor.digest == of_dataset.digest


def loss_by_hand(images, texts, scale, captions):
    """Row by row, with math alone."""
    count, total = len(captions), 0.0
    for left, right in ((images, texts), (texts, images)):
        for row in range(count):
            logits = [scale * sum(a * b for a, b in zip(left[row], right[other])) for other in range(count)]
            whole = math.log(sum(math.exp(value) for value in logits))
            equal = [other for other in range(count) if captions[other] == captions[row]]
            total -= sum(logits[other] - whole for other in equal) / len(equal)
    return total / (2 * count)


@pytest.mark.parametrize("captions", [[0, 1, 2, 3], [0, 1, 0, 2], [5, 5, 5, 5]])
def test_the_loss_agrees_with_a_sum_by_hand(captions):
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.nn.functional.normalize(torch.randn(2, 4, 3, generator=generator, dtype=torch.float64), dim=2)
    loss = contrastive_loss(images, texts, torch.tensor(4.0), torch.tensor(captions))
    assert loss.item() == pytest.approx(loss_by_hand(images.tolist(), texts.tolist(), 4.0, captions), rel=1e-6)


def test_equal_captions_are_no_negatives_of_each_other():
    images = torch.eye(2).repeat(2, 1)
    loss = contrastive_loss(images, images, torch.tensor(50.0), torch.tensor([[1, 2], [1, 3], [1, 2], [1, 3]]))
    # two positives share the target: the entropy of a fair coin is all that is left
    assert loss.item() == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": torch.zeros(3, 3, 32, 32)}, "float32.*uint8"),
        ({"images": torch.zeros(3, 1, 32, 32, dtype=torch.uint8)}, r"\(3, 1, 32, 32\)"),
        ({"captions": ["a", "b"]}, "3 images and 2 captions"),
        ({"captions": ["", "", ""]}, "at least one caption"),
        ({"images": torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "captions": ["a"]}, "at least two"),
        ({"training": ClipTraining(max_steps=0)}, "max_steps = 0"),
        ({"training": ClipTraining(batch_size=1)}, "batch_size = 1"),
        ({"patch_size": 5}, "patch_size = 5"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(tmp_path, changes, reason):
    settings = {"images": torch.zeros(3, 3, 32, 32, dtype=torch.uint8), "captions": ["a", "b", "c"], **changes}
    with pytest.raises(InputError, match=reason):
        train_clip(folder=tmp_path / "clip", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_before_any_work(trained):
    images, captions, _ = pairs(8, 0)
    with pytest.raises(InputError, match="not empty"):
        train_clip(images, captions, trained[1], ClipTraining(10**9))

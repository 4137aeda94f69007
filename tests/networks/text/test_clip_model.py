import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

transformers = pytest.importorskip("transformers")

from medi_monai.networks import build_encoder  # noqa: E402
from medi_monai.networks.text import ClipImageEncoder, ClipModel  # noqa: E402
from medi_monai.networks.text.clip_model import Processing  # noqa: E402
from medi_monai.networks.text.loading import quiet  # noqa: E402
from medi_monai.utils.errors import InputError  # noqa: E402

TEXTS = ["a man of 63 years", "", "axial FLAIR slice of the brain of a woman", "a man of 63 years"]


@pytest.fixture(scope="module")
def clip(clip_folder):
    return ClipModel(clip_folder)


@pytest.fixture(scope="module")
def theirs(clip_folder):
    with quiet():
        return transformers.CLIPModel.from_pretrained(clip_folder).eval()


def pictures(count, side, seed=0):
    """Smooth pictures as uint8: noise has no common answer to a resize."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)
    return (fine * 255).round().to(torch.uint8)


def as_float(images):
    return images.float() / 127.5 - 1


def features_of(theirs, folder, images):
    with quiet():
        processor = transformers.CLIPImageProcessor.from_pretrained(folder)
    inputs = processor([Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images], return_tensors="pt")
    with torch.no_grad():
        return theirs.get_image_features(**inputs).pooler_output


def test_image_features_equal_those_of_transformers(clip, theirs, clip_folder):
    images = pictures(3, 32)
    expected = features_of(theirs, clip_folder, images)
    torch.testing.assert_close(clip.image_features(as_float(images)), normalize(expected), rtol=1e-5, atol=1e-5)
    assert clip.dim == 16 and normalize(expected).std(0).max() > 0.01


@pytest.mark.parametrize("side", [20, 50, 97])
def test_resized_images_equal_those_of_pillow_but_for_its_rounding(clip, clip_folder, side):
    with quiet():
        processor = transformers.CLIPImageProcessor.from_pretrained(clip_folder)
    images = pictures(2, side)
    inputs = processor([Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images], return_tensors="pt")
    # half a gray level in each of Pillow's two passes
    torch.testing.assert_close(clip.processing(as_float(images)), inputs["pixel_values"], rtol=0, atol=2.1 / 127.5)


def test_text_features_equal_those_of_transformers(clip, theirs, clip_folder):
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(clip_folder)
    with torch.no_grad():
        expected = theirs.get_text_features(**tokenizer(TEXTS, padding=True, return_tensors="pt")).pooler_output
    features = clip.text_features(TEXTS)
    torch.testing.assert_close(features, normalize(expected), rtol=1e-5, atol=1e-5)
    assert (features[0] - features[2]).norm() > 0.01 and clip.text_features([]).shape == (0, 16)


def test_the_score_is_the_cosine_that_transformers_multiplies(clip, theirs, clip_folder):
    images = pictures(4, 32)
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(clip_folder)
    with torch.no_grad():
        output = theirs(
            **tokenizer(TEXTS, padding=True, return_tensors="pt"), pixel_values=clip.processing(as_float(images))
        )
    expected = output.logits_per_image.diagonal() / theirs.logit_scale.exp()
    torch.testing.assert_close(clip.score(as_float(images), TEXTS), expected.detach(), rtol=1e-5, atol=1e-5)


def test_a_dual_encoder_equals_transformers(dual_folder):
    with quiet():
        model = transformers.VisionTextDualEncoderModel.from_pretrained(dual_folder).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(dual_folder)
        settings = transformers.ViTImageProcessor.from_pretrained(dual_folder).to_dict()
    clip = ClipModel(dual_folder)
    images = as_float(pictures(2, 16))
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("image_mean", "image_std"))
    texts = ["brain of a man", "the"]
    with torch.no_grad():
        output = model(
            **tokenizer(texts, padding=True, return_tensors="pt"), pixel_values=((images + 1) / 2 - mean) / std
        )
    torch.testing.assert_close(clip.image_features(images), output.image_embeds, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(clip.text_features(texts), output.text_embeds, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", [32, 40])
def test_the_gradient_to_the_images_agrees_with_finite_differences(clip_folder, side):
    # its own copy, for it is set to double precision below
    clip = ClipModel(clip_folder)
    clip.model.double()
    images = 0.8 * as_float(pictures(1, side)).double()
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    text = clip.text_features(["a man"]).double()

    def score(values):
        embeddings = clip.model.get_image_features(pixel_values=clip.processing(values)).pooler_output
        return (normalize(embeddings, dim=1) * text).sum()

    leaf = images.clone().requires_grad_()
    score(leaf).backward()
    step = 1e-5
    difference = (score(images + step * direction) - score(images - step * direction)) / (2 * step)
    assert abs(difference) > 1e-4
    torch.testing.assert_close((leaf.grad * direction).sum(), difference.detach(), rtol=1e-5, atol=1e-9)


def test_the_public_score_has_that_gradient_and_leaves_the_model_without(clip):
    images = as_float(pictures(2, 40)).requires_grad_()
    clip.score(images, ["a man", "a woman"]).sum().backward()
    assert images.grad.abs().sum() > 0 and all(value.grad is None for value in clip.parameters())
    assert not clip.train().training


def test_autocast_does_not_change_features(clip):
    images = as_float(pictures(2, 32))
    before, texts = clip.image_features(images), clip.text_features(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(clip.image_features(images), before) and torch.equal(clip.text_features(TEXTS), texts)


def test_the_encoder_gives_the_projected_features_of_uint8_images(clip, theirs, clip_folder):
    encoder = ClipImageEncoder(clip_folder)
    images = pictures(3, 32)
    torch.testing.assert_close(encoder(images), features_of(theirs, clip_folder, images), rtol=1e-5, atol=1e-5)
    large = pictures(3, 50)
    torch.testing.assert_close(
        normalize(encoder(large), dim=1), clip.image_features(as_float(large)), rtol=1e-4, atol=1e-5
    )
    assert (encoder.name, encoder.dim, encoder.image_size, encoder.interpolation) == ("clip", 16, 32, "bicubic")
    assert build_encoder(encoder) is encoder and encoder.describe()["crop"] == 32
    assert ClipImageEncoder(clip, "own").weights_digest() == encoder.weights_digest()


def test_the_center_is_kept_as_the_processor_of_transformers_does():
    settings = {
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        "resample": 2,
    }
    images = pictures(1, 40)
    with quiet():
        processor = transformers.CLIPImageProcessor(**settings)
    expected = processor(Image.fromarray(images[0].permute(1, 2, 0).numpy()), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(Processing.from_settings(settings)(as_float(images)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"), [({"resample": 0}, "filter 0"), ({"size": {"height": 3, "width": 4}}, "a square")]
)
def test_processing_that_is_not_known_is_refused(changes, reason):
    with pytest.raises(InputError, match=reason):
        Processing.from_settings({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **changes})


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "uint8"),
        (torch.zeros(1, 1, 8, 8), r"\(1, 1, 8, 8\)"),
        (torch.zeros(1, 3, 8, 9), "9 x 8"),
    ],
)
def test_images_that_do_not_fit_are_refused(clip, images, reason):
    with pytest.raises(InputError, match=reason):
        clip.image_features(images)


def test_counts_and_captions_that_do_not_fit_are_refused(clip, clip_folder):
    with pytest.raises(InputError, match="1 images and 2 captions"):
        clip.score(torch.zeros(1, 3, 32, 32), ["a", "b"])
    with pytest.raises(InputError, match="at most 24"):
        clip.text_features([" ".join(["man"] * 30)])
    cut = ClipModel(clip_folder, on_long="truncate").text_features([" ".join(["man"] * 30)])
    assert np.isclose(cut.norm(), 1, atol=1e-5)


def test_what_is_no_clip_is_refused(clip_folder, tmp_path):
    with quiet():
        transformers.CLIPTextModel.from_pretrained(clip_folder).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="'clip_text_model' model, but one of clip, vision-text-dual-encoder"):
        ClipModel(tmp_path)

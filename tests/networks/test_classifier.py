import json
import math

import pytest
import torch
from torch import nn

from medi_monai.networks.classifier import (
    ClassifierEnsemble,
    OffTheShelfClassifier,
    SubgroupClassifier,
    load_classifier,
    save_classifier,
)
from medi_monai.utils.errors import InputError

ATTRIBUTES = {"sex": ["female", "male"], "lesion": ["left", "none", "right"]}
FOLD = {"lesion": ["none", "right", "left"], "sex": ["male", "female"]}


def small(attributes=ATTRIBUTES, seed=0, **options):
    torch.manual_seed(seed)
    return SubgroupClassifier(attributes, **{"image_size": 16, "width": 8, **options})


def images(count=3, size=16, seed=1, dtype=torch.float32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


class Brightness(nn.Module):
    """Log-odds of two values that are known by hand: ``scale`` times the mean of the input."""

    def __init__(self, scale=1.0, kind="logits"):
        super().__init__()
        self.scale, self.kind = nn.Parameter(torch.tensor(float(scale))), kind

    def forward(self, inputs):
        odds = self.scale * inputs.mean((1, 2, 3))
        both = torch.stack([torch.zeros_like(odds), odds], 1)
        return {
            "logits": both,
            "odds": odds[:, None],
            "by_name": {"sex": both},
            "object": type("Output", (), {"logits": both})(),
            "blind": both.detach(),
            "nan": both / 0 * 0,
        }[self.kind]


class TestSubgroupClassifier:
    @pytest.mark.parametrize("options", [{}, {"depth": 2}, {"residual": True}, {"residual": True, "depth": 2}])
    def test_gives_logits_of_every_attribute(self, options):
        found = small(**options)(images())
        assert {name: tuple(logits.shape) for name, logits in found.items()} == {"sex": (3, 2), "lesion": (3, 3)}

    def test_has_as_many_weights_as_a_small_network_should(self):
        counts = [
            sum(p.numel() for p in SubgroupClassifier(ATTRIBUTES, **one).parameters()) for one in ({}, {"depth": 2})
        ]
        assert 0.09e6 < counts[0] < 0.11e6 and 0.25e6 < counts[1] < 0.3e6

    def test_probabilities_sum_to_one(self):
        for logs in small().log_probabilities(images()).values():
            assert torch.allclose(logs.exp().sum(1), torch.ones(3))

    def test_gradient_to_images_of_another_size_agrees_with_finite_differences(self):
        network = small().double().freeze()
        pixels = images(1, 24, dtype=torch.float64).requires_grad_()

        def score(x):
            return network.log_probabilities(x)["lesion"][:, 2].sum()

        (gradient,) = torch.autograd.grad(score(pixels), pixels)
        assert gradient.abs().max() > 1e-6
        for place in [(0, 0, 0, 0), (0, 1, 11, 13), (0, 2, 23, 5)]:
            step = torch.zeros_like(pixels)
            step[place] = 1e-5
            difference = (score(pixels + step) - score(pixels - step)) / 2e-5
            assert gradient[place].item() == pytest.approx(difference.item(), rel=1e-5, abs=1e-10)

    def test_an_image_is_read_alike_in_any_batch_and_in_training(self):
        network, pixels = small(), images(4)
        alone = torch.cat([network(pixels[i : i + 1])["sex"] for i in range(4)])
        assert torch.allclose(network.eval()(pixels)["sex"], alone, atol=1e-6)

    def test_frozen_it_stays_in_evaluation_mode_and_has_no_gradients_of_weights(self):
        network = small().freeze().train()
        assert not any(module.training for module in network.modules())
        network(pixels := images().requires_grad_())["sex"].sum().backward()
        assert pixels.grad.abs().sum() > 0
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())

    def test_images_that_it_does_not_take(self):
        network = small()
        with pytest.raises(InputError, match="float images.*torch.uint8"):
            network(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        with pytest.raises(InputError, match=r"\(1, 1, 16, 16\)"):
            network(torch.zeros(1, 1, 16, 16))
        with pytest.raises(InputError, match="square images, not of 20 x 16"):
            network(torch.zeros(1, 3, 16, 20))

    @pytest.mark.parametrize(
        ("attributes", "options", "message"),
        [
            ({}, {}, "needs an attribute"),
            ({"sex": ["male"]}, {}, "'sex' has the values \\['male'\\]"),
            ({"sex": ["male", "male"]}, {}, "holds a value twice"),
            (ATTRIBUTES, {"image_size": 4}, "image_size 4"),
            (ATTRIBUTES, {"width": 12}, "width 12 has to be a multiple of 8"),
        ],
    )
    def test_settings_that_cannot_be(self, attributes, options, message):
        with pytest.raises(InputError, match=message):
            SubgroupClassifier(attributes, **options)

    def test_an_attribute_that_it_does_not_have(self):
        with pytest.raises(InputError, match="'sxe': did you mean 'sex'"):
            small().column("sxe")
        assert small().column("sex").encode("male") == 1


class TestFiles:
    def test_what_is_saved_is_loaded(self, tmp_path):
        network = small(depth=2, residual=True)
        network.held_out = {"sex": {"confusion": [[3, 1], [0, 4]], "balanced_accuracy": {"value": 0.875, "n": 8}}}
        path = save_classifier(tmp_path, network, {"seed": 3}, {"cohort": "abc"})
        for spec in (tmp_path, str(tmp_path), path, tmp_path / "classifier.json"):
            loaded = load_classifier(spec)
            assert torch.equal(loaded(images())["sex"], network(images())["sex"])
            assert loaded.attributes == network.attributes and loaded.held_out == network.held_out
            assert loaded.describe() == network.describe()
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
        torch.load(path, weights_only=True)
        record = json.loads((tmp_path / "classifier.json").read_text())
        assert record["training"] == {"seed": 3} and set(record["digests"]) == {"cohort", "classifier.pt"}

    def test_a_folder_without_a_classifier(self, tmp_path):
        with pytest.raises(InputError, match="no classifier in .*classifier.json is missing"):
            load_classifier(tmp_path)

    def test_a_record_that_is_broken(self, tmp_path):
        save_classifier(tmp_path, small())
        record = json.loads((tmp_path / "classifier.json").read_text())
        (tmp_path / "classifier.json").write_text(json.dumps({**record, "format": 7}))
        with pytest.raises(InputError, match="format 1, not 7"):
            load_classifier(tmp_path)
        (tmp_path / "classifier.json").write_text(json.dumps({**record, "architecture": {"hight": 3}}))
        with pytest.raises(InputError, match="not the record of a classifier.*hight"):
            load_classifier(tmp_path)
        (tmp_path / "classifier.json").write_text(json.dumps({**record, "attributes": {"sex": list("abcd")}}))
        with pytest.raises(InputError, match="do not fit the classifier.*head"):
            load_classifier(tmp_path)


class TestOffTheShelf:
    @pytest.mark.parametrize("kind", ["logits", "odds", "by_name", "object"])
    def test_normalizes_and_takes_every_kind_of_answer(self, kind):
        wrapped = OffTheShelfClassifier(
            Brightness(kind=kind), {"sex": ["f", "m"]}, 16, [0.5, 0.4, 0.3], [0.1, 0.2, 0.5]
        )
        pixels = images(5, 16)
        scaled = (pixels.double() + 1) / 2
        expected = sum(
            (scaled[:, c].mean((1, 2)) - m) / s for c, (m, s) in enumerate([(0.5, 0.1), (0.4, 0.2), (0.3, 0.5)])
        )
        probability = 1 / (1 + torch.exp(-expected / 3))
        assert torch.allclose(wrapped.log_probabilities(pixels)["sex"][:, 1].exp().double(), probability, atol=1e-5)

    def test_gray_modules_get_one_channel(self):
        wrapped = OffTheShelfClassifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), ATTRIBUTES, 8, channels=1)
        assert {name: tuple(v.shape) for name, v in wrapped(images(2, 8)).items()} == {"sex": (2, 2), "lesion": (2, 3)}

    @pytest.mark.parametrize(
        ("module", "options", "message"),
        [
            (Brightness(), {"attributes": {"sex": ["a", "b", "c"]}}, r"gives \(2, 2\) for 2 images.*\(2, 3\)"),
            (Brightness(kind="by_name"), {"attributes": {"age": ["a", "b"]}}, "attribute of the module 'age'"),
            (Brightness(kind="blind"), {}, "passes no gradient to the images"),
            (Brightness(kind="nan"), {}, "not finite"),
            (nn.Linear(7, 2), {}, "Linear cannot read images of 16 x 16"),
            (Brightness(), {"std": [0.5, 0.5]}, "one number for each of 3 channels"),
            (Brightness(), {"channels": 2}, "channels = 2"),
        ],
    )
    def test_modules_that_do_not_serve(self, module, options, message):
        with pytest.raises(InputError, match=message):
            OffTheShelfClassifier(module, **{"attributes": {"sex": ["f", "m"]}, "image_size": 16, **options})

    def test_by_config_with_weights(self, tmp_path):
        config = {
            "_target_": "monai.networks.nets.EfficientNetBN",
            "model_name": "efficientnet-b0",
            "pretrained": False,
            "num_classes": 2,
            "weights": "sex.pt",
            "attributes": {"sex": ["female", "male"]},
            "image_size": 32,
        }
        from monai.networks.nets import EfficientNetBN

        torch.manual_seed(0)
        network = EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=2).eval()
        torch.save({"state_dict": network.state_dict()}, tmp_path / "sex.pt")
        (tmp_path / "sex.json").write_text(json.dumps(config))
        for spec in (tmp_path / "sex.json", {**config, "weights": str(tmp_path / "sex.pt")}):
            loaded = load_classifier(spec).train()
            assert torch.equal(loaded(images(2, 32))["sex"], network(images(2, 32)))
            assert not any(parameter.requires_grad for parameter in loaded.parameters())

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"attributes": ATTRIBUTES}, "has `_target_`"),
            ({"_target_": "torch.nn.Flatten", "module": nn.Flatten(), "attributes": ATTRIBUTES}, "has `_target_`"),
            ({"_target_": "torch.nn.Flatten"}, "needs `attributes`"),
            ({"_target_": "torch.nn.Flattn", "attributes": ATTRIBUTES}, "'torch.nn.Flattn' cannot be made"),
            ({"_target_": "torch.nn.Linear", "in_features": 3, "attributes": ATTRIBUTES}, "out_features"),
            ({"_target_": "math.sqrt", "x": 4, "attributes": ATTRIBUTES}, "sqrt"),
            ({"_target_": "torch.nn.Flatten", "weights": "nowhere.pt", "attributes": ATTRIBUTES}, "nowhere.pt"),
        ],
    )
    def test_configs_that_cannot_be(self, config, message):
        with pytest.raises(InputError, match=message):
            load_classifier(config)


class TestEnsemble:
    def test_is_the_mean_of_the_probabilities(self):
        members = [small(seed=1), small(FOLD, seed=2, image_size=24)]
        ensemble = ClassifierEnsemble(members)
        pixels = images(4, 20)
        female = [members[0](pixels)["sex"].softmax(1)[:, 0], members[1](pixels)["sex"].softmax(1)[:, 1]]
        found = ensemble.log_probabilities(pixels)
        assert torch.allclose(found["sex"][:, 0].exp(), sum(female) / 2, atol=1e-6)
        right = [members[0](pixels)["lesion"].softmax(1)[:, 2], members[1](pixels)["lesion"].softmax(1)[:, 1]]
        assert torch.allclose(found["lesion"][:, 2].exp(), sum(right) / 2, atol=1e-6)
        assert torch.allclose(ensemble(pixels)["sex"], found["sex"], atol=1e-6)

    def test_stays_finite_where_members_are_sure(self):
        members = [OffTheShelfClassifier(Brightness(sign * 1e4), {"sex": ["f", "m"]}, 16) for sign in (1, 1)]
        found = ClassifierEnsemble(members).log_probabilities(torch.ones(1, 3, 16, 16))["sex"]
        assert found[0].tolist() == pytest.approx([-1e4, 0], rel=1e-5) and math.isfinite(found.sum())

    def test_keeps_what_all_read(self, tmp_path):
        save_classifier(tmp_path / "one", small())
        save_classifier(tmp_path / "two", small({"sex": ["female", "male"], "age": ["old", "young"]}))
        ensemble = load_classifier([tmp_path / "one", tmp_path / "two"])
        assert ensemble.attributes == {"sex": ("female", "male")}
        assert len(ensemble.describe()["members"]) == 2
        with pytest.raises(InputError, match="no attribute in common"):
            ClassifierEnsemble([small(), small({"age": ["old", "young"]})])
        with pytest.raises(InputError, match="one classifier or more"):
            load_classifier([])

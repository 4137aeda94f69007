import json

import pytest
import torch

from medi_monai.networks.classifier import (
    AttributeClassifier,
    SubgroupClassifier,
    load_classifier,
    save_classifier,
)
from medi_monai.utils.errors import InputError

ATTRIBUTES = {"sex": ["female", "male"], "lesion": ["left", "none", "right"]}


def small(attributes=ATTRIBUTES, seed=0, **options):
    torch.manual_seed(seed)
    return SubgroupClassifier(attributes, **{"image_size": 16, "width": 8, **options})


def images(count=3, size=16, seed=1, dtype=torch.float32):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype) * 2 - 1


class TestSubgroupClassifier:
    @pytest.mark.parametrize("options", [{}, {"depth": 2}, {"residual": True}, {"residual": True, "depth": 2}])
    def test_gives_logits_of_every_attribute(self, options):
        by_attribute = small(**options)(images())
        assert {name: tuple(logits.shape) for name, logits in by_attribute.items()} == {"sex": (3, 2), "lesion": (3, 3)}

    def test_has_as_many_weights_as_a_small_network_should(self):
        counts = [
            sum(p.numel() for p in SubgroupClassifier(ATTRIBUTES, **options).parameters())
            for options in ({}, {"depth": 2})
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
        for index in [(0, 0, 0, 0), (0, 1, 11, 13), (0, 2, 23, 5)]:
            step = torch.zeros_like(pixels)
            step[index] = 1e-5
            difference = (score(pixels + step) - score(pixels - step)) / 2e-5
            assert gradient[index].item() == pytest.approx(difference.item(), rel=1e-5, abs=1e-10)

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
        with pytest.raises(InputError, match="square images, not images of 20 x 16"):
            network(torch.zeros(1, 3, 16, 20))

    @pytest.mark.parametrize(
        ("attributes", "options", "message"),
        [
            ({}, {}, "needs an attribute"),
            ({"sex": ["male"]}, {}, "'sex' has the values \\['male'\\]"),
            ({"sex": ["male", "male"]}, {}, "contains a duplicate value"),
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
        with pytest.raises(InputError, match="the format 7, .*reads format 1"):
            load_classifier(tmp_path)
        (tmp_path / "classifier.json").write_text(json.dumps({**record, "architecture": {"hight": 3}}))
        with pytest.raises(InputError, match="'hight', which this version of medi_monai does not know"):
            load_classifier(tmp_path)
        (tmp_path / "classifier.json").write_text(json.dumps({**record, "attributes": {"sex": list("abcd")}}))
        with pytest.raises(InputError, match="does not fit its digest"):
            load_classifier(tmp_path)
        del record["digest"]
        (tmp_path / "classifier.json").write_text(json.dumps({**record, "attributes": {"sex": list("abcd")}}))
        with pytest.raises(InputError, match="do not fit the classifier.*head"):
            load_classifier(tmp_path)

    def test_a_classifier_of_ones_own_is_frozen_and_what_is_none_is_refused(self):
        class Brightness(AttributeClassifier):
            """Log-odds of two values that are known by hand."""

            def __init__(self):
                super().__init__({"sex": ["female", "male"]}, None)
                self.scale = torch.nn.Parameter(torch.tensor(2.0))

            def logits(self, images):
                odds = self.scale * images.mean((1, 2, 3))
                return torch.stack([torch.zeros_like(odds), odds], 1)

        own = load_classifier(Brightness()).train()
        assert not own.training and not own.scale.requires_grad
        odds = own.log_probabilities(torch.full((1, 3, 9, 7), 0.25))["sex"]
        assert (odds[0, 1] - odds[0, 0]).item() == pytest.approx(0.5)
        for wrong in ({"_target_": "torch.nn.Flatten"}, ["one", "two"], 3):
            with pytest.raises(InputError, match="the folder of a trained one"):
                load_classifier(wrong)

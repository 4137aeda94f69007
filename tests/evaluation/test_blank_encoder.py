import numpy as np
import pytest
import torch

from medi_monai.evaluation.blank_encoder import LEAST_SPREAD, encoder_findings, similarity_findings
from medi_monai.networks import build_encoder
from medi_monai.results import Figure


def images(count=40, size=32):
    rng = np.random.default_rng(0)
    colors = rng.integers(80, 220, (count, 3, 1, 1))
    return torch.from_numpy(np.clip(colors + rng.normal(0, 20, (count, 3, size, size)), 0, 255).astype(np.uint8))


class Network(torch.nn.Module):
    """A linear network whose output is mostly its bias, as that of a network hardly trained may be."""

    def __init__(self, weight):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3 * 32 * 32, 16)
        self.weight = weight

    def forward(self, pixels):
        return 10 + self.weight * self.linear(pixels.float().flatten(1) / 255)


@pytest.mark.parametrize("weight", [0.0, 0.01])
def test_a_network_that_ignores_its_images_is_told(weight):
    with torch.no_grad():
        features = Network(weight)(images()).numpy()
    (finding,) = encoder_findings(features, "net")
    assert finding.level == "warning" and finding.name == "blank_encoder"
    assert finding.text.startswith("The encoder net does not distinguish images") and "Do not rely on" in finding.text
    cosines = features @ features.T / np.outer(*[np.linalg.norm(features, axis=1)] * 2)
    brute = (cosines.sum() - len(cosines)) / (len(cosines) * (len(cosines) - 1))
    assert finding.figures["mean_cosine"] == pytest.approx(brute, abs=1e-5) and brute > 1 - LEAST_SPREAD


def test_a_network_that_sees_its_images_and_a_real_encoder_are_not_told():
    with torch.no_grad():
        assert encoder_findings(Network(30.0)(images()).numpy(), "net") == []
    assert encoder_findings(build_encoder("embedded")(images()).numpy(), "embedded") == []


@pytest.mark.parametrize("features", [np.zeros((5, 4)), np.ones((5, 4), np.float32)])
def test_equal_features_are_told_and_a_single_image_is_not(features):
    assert len(encoder_findings(features, "x")) == 1
    assert encoder_findings(features[:1], "x") == []


@pytest.mark.parametrize(("cosine", "count"), [(0.9995, 1), (1.0, 1), (0.998, 0), (None, 0)])
def test_a_clip_model_that_finds_all_images_alike_is_told(cosine, count):
    found = similarity_findings(Figure(cosine))
    assert len(found) == count and similarity_findings(None) == []
    assert all("different noise" in finding.text for finding in found)

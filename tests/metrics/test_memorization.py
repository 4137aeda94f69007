import pytest
import torch
from scipy.spatial.distance import cdist

from medi_monai.metrics.memorization import nearer_share
from medi_monai.utils.errors import InputError


def test_images_of_the_same_distribution_are_nearer_to_training_half_of_the_time():
    draw = torch.Generator().manual_seed(0)

    def rows(count, scale=1.0):
        return scale * torch.randn(count, 8, generator=draw, dtype=torch.float64)

    fresh, training = rows(200), [rows(200) for _ in range(6)]
    # smooth ones lie in the middle, near to all: that is no memory
    for generated in (rows(400), rows(400, 0.3)):
        share = nearer_share(generated, training, fresh)
        assert share["ci95"][0] < 0.5 < share["ci95"][1] and share["n"] == 400
    copier = torch.cat([rows(300), training[0][:100] + 1e-3])
    share = nearer_share(copier, training[:1], fresh)
    distances = [cdist(copier.numpy(), other.numpy()).min(1) for other in (training[0], fresh)]
    assert share["value"] == pytest.approx((distances[0] < distances[1]).mean()) and share["ci95"][0] > 0.5
    # a tie tells nothing
    assert nearer_share(fresh[:9], [fresh], fresh)["value"] == 0.5
    with pytest.raises(InputError, match="must have 200 images"):
        nearer_share(copier, [training[0][:9]], fresh)

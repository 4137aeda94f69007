import pytest

from medi_monai.alignment.settings import AlignmentSettings
from medi_monai.utils.errors import InputError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tuned": "loar"}, "did you mean 'lora'"),
        ({"max_steps": 0}, "max_steps = 0.*whole number of 1"),
        ({"learning_rate": 0}, "learning_rate = 0.*above 0"),
        ({"learning_rate": "1e-4"}, "learning_rate = '1e-4'"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm = inf"),
        ({"patience": True}, "patience = True"),
        ({"rank": 2.0}, "rank = 2.0"),
        ({"seed": -1}, "seed = -1"),
        ({"batch_size": 1}, "compares the shares within a batch"),
        ({"pool_size": 16}, "pool_size = 16 is less than batch_size = 48"),
        ({"harden_guide": "no"}, "harden_guide = 'no'"),
    ],
)
def test_settings_that_cannot_be(wrong, message):
    with pytest.raises(InputError, match=message):
        AlignmentSettings(**wrong)

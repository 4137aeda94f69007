from pathlib import Path

import pytest

from medi_monai.runs.model_record import check_record
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import Count, Settings, setting


class Training(Settings):
    steps: Count = setting(3, recorded=True)


class Other(Settings):
    color: str = setting("red")


GROUPS = {"training": Training, "other": Other}


def check(content, needed=("steps",)):
    check_record(Path("model.json"), content, GROUPS, ["training"], needed)


def test_what_was_recorded_is_accepted():
    check({"steps": 5, "color": "blue", "schema": "0" * 64, "aligned": {}})
    check({}, needed=())
    # older models were trained as its default says
    check({"steps": 5}, needed=("steps", "adam_betas"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "it lacks steps of the training"),
        ({"steps": 3, "sharpness": 1}, "'sharpness', which this version .*update medi_monai"),
        ({"steps": 0}, "damaged, or was changed by hand: steps = 0"),
        ({"steps": "x"}, "damaged, or was changed by hand: steps = 'x'"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(content, says):
    with pytest.raises(InputError, match=f"model.json .*{says}"):
        check(content)

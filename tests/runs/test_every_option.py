"""Every option of every config with values that are wrong, at a bound, or beyond reason: refused, or taken as given."""

import json
import math
from pathlib import Path

import pytest

from medi_monai.runs.settings import GROUPS
from medi_monai.runs.workflow import declared, read_configs
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import check_setting, is_optional

BUNDLES = Path(__file__).parents[2] / "bundles"
CONFIGS = [file for file in sorted(BUNDLES.glob("*/configs/*.json")) if "settings" in json.loads(file.read_text())]
SHOWN = [f"{file.parts[-3].split('_')[0]}-{file.stem}" for file in CONFIGS]
OPTIONS = {(kind, name) for kind in GROUPS.values() for name in kind.model_fields if name != "device"}

#: what nothing takes, and what only text and paths take
HUGE = [2**62, 2**63, 10**12, 10**30, 10**400, 1e12, 1e300, -(2**62), float("nan"), float("inf"), -float("inf")]
LONG = [[1] * 100_000, [0.5] * 100_000, [True] * 100_000]
VALUES = [
    *HUGE, *LONG, None, True, False, 0, -1, 1, 2, 0.5, 1.5, 1e-320, "", " ", "x", "null", "true", "1", "$x", "@x", "%x",
    "a" * 300, "a/" * 3000, "a\0b", "\ud800", [], [0], [-1], ["x"], [""], [None], [[1]], [1, 2], [0.5], {}, {"x": 1},
    {1: 2}, {"x": {"y": []}}, b"x", object(), {1, 2}, (1, 2), 1j, range(3),
]  # fmt: skip
#: seeds, which are names and no amounts; ranges of intensities
ANY_SIZE = {"seed", "split_seed", "intensity_range", "intensity_percentiles"}


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def numbers_in(value):
    if is_number(value):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers_in(item)


def equal(taken, given):
    if given in ("true", "false"):
        return taken in (given, given == "true")
    if given == "null" and taken is None:
        return True
    return taken == (list(given) if isinstance(given, tuple) else given)


@pytest.mark.parametrize(("kind", "name"), sorted(OPTIONS, key=lambda option: (option[1], option[0].__name__)))
def test_a_value_is_refused_in_one_line_or_taken_as_given(kind, name):
    for value in VALUES:
        try:
            taken = check_setting(kind, name, value)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000, (name, value)
            assert name in str(error) or "unknown" in str(error) or "path" in str(error), str(error)
            continue
        assert equal(taken, value), (name, value, taken)
        assert value is not None or is_optional(kind.model_fields[name]), name
        if name not in ANY_SIZE:
            assert all(math.isfinite(number) and number <= 10**12 for number in numbers_in(taken)), (name, value)
            assert not isinstance(taken, list) or len(taken) <= 10_000, name


@pytest.mark.parametrize("file", CONFIGS, ids=SHOWN)
def test_every_option_of_a_config_is_checked_when_it_is_read(file):
    groups = declared(json.loads(file.read_text())["settings"])
    for name in {name for group in groups.values() for name in group}:
        with pytest.raises(InputError, match=name):
            read_configs([file], file.parent, {name: [[1], {}]})

import pytest

from medi_monai.runs.configs import tracking
from medi_monai.runs.configs.tracking import check_tracking
from medi_monai.utils.errors import InputError

CONFIG = {"writer": "$events.EventWriter(@output_dir)", "max_steps": 3}


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(tracking, "is_installed", lambda package: True)


def test_without_the_option_nothing_is_tracked():
    assert check_tracking(None, CONFIG, "training") is None


def test_a_run_without_curves_is_refused(installed):
    assert check_tracking("mlflow", CONFIG, "training") == "mlflow"
    with pytest.raises(InputError, match="the run 'sampling' has no curves to record; it is for runs that train"):
        check_tracking("mlflow", {"num_steps": 3}, "sampling")


def test_settings_of_the_user_need_both_sections():
    settings = {"handlers_id": {}, "configs": {}}
    assert check_tracking(settings, CONFIG, "training") is settings
    with pytest.raises(InputError, match="the settings have no section 'configs'"):
        check_tracking({"handlers_id": {}}, CONFIG, "training")


def test_only_values_are_recorded_as_parameters():
    config = {"about": "x", "seed": 0, "name": "a", "from": "@seed", "code": "$1 + 1", "sizes": [1, 2], "names": ["a"]}
    assert tracking._literals(config) == {"seed": "0", "name": "a", "sizes": "[1, 2]"}

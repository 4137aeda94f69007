import json
import re
import sys
from pathlib import Path

import pytest

from medi_monai.runs.settings import KIND_OF, check_model, check_settings, check_trained, flags
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import write_json

CONFIGS = Path(__file__).parents[2] / "bundles" / "pathology_medi_diffusion" / "configs"
MODEL = {
    "arm": "medi",
    "label": "tumor",
    "attributes": ["center"],
    "subpopulation_columns": ["tumor", "center"],
    "metadata_columns": ["center", "sex"],
    "image_size": 32,
    "channels": [32, 64, 64],
}


@pytest.mark.parametrize(
    "name, values",
    [
        ("batch_size", [0, -1, 1.5, "8", True, None, [1]]),
        ("num_workers", [0, "all"]),
        ("seed", [-1, 0.5, 2**63]),
        ("learning_rate", [0, -1.0, "1e-3x", float("nan"), float("inf"), True, [1]]),
        ("weight_decay", [-1, "abc"]),
        ("label_dropout", [-0.1, 1.1, float("nan"), "abc"]),
        ("subpopulation_columns", ["center", [1]]),
        ("channels", [32, "abc", [], [0.5]]),
        ("output_dir", [20260101, None]),
        ("arm", [5]),
        ("num_folds", [0, 2.5, None]),
        ("max_patches_per_slide", [0, "all", True]),
        ("stride", [0, 1.5]),
        ("fold", [-1, "0"]),
        ("min_tissue", [-0.1, 1.1, "half"]),
        ("mpp", [0, -0.5, float("nan"), float("inf"), "0.5", None]),
        ("source_mpp", [0, -0.5, float("nan"), "0.5", True]),
        ("val_fraction", [-0.1, 1.5, "none"]),
        ("split_columns", ["center", None, [1]]),
        ("holdout_values", ["Aspen", None, [2]]),
        ("missing", ["--", [False], [1]]),
        ("columns", [None, "image", ["image"]]),
        ("mapping", ["center", ["center"], 1]),
        ("table", [None, 5, ["a.csv"]]),
        ("dataset_dir", [5, ["a"]]),
        ("patch_format", [None, True]),
        ("patch_cache", [None, 1]),
        ("target", [None, 0.5, ["female"]]),
        ("resample_to", [0.5, ["female"], True]),
        ("target_table", [5]),
        ("costs", ["100", [100]]),
        ("retrain_steps", [0, 1.5, "all"]),
        ("retrain_learning_rate", [0, None]),
        ("num_candidates", [0, None]),
        ("sampling_dir", [None, 5]),
        ("prompts", [5, True, {"a brain": 1}]),
        ("guide", [5, False]),
        ("attention_levels", ["foo", [0, 1]]),
        ("width", ["x", 0]),
        ("tolerance", [float("nan"), -1]),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_with_what_it_has_to_be(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"^{name} = .*it has to be"):
            check_settings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("objective", "foo", "unknown objective 'foo'"),
        ("solver", "dimm", "did you mean 'ddim'"),
        ("divergence", "lk", "unknown divergence 'lk'"),
        ("subgroup_loss", "match", "did you mean 'matching'"),
        ("role", "juge", "did you mean 'judge'"),
        ("draws", "null", "'\\$None' on the command line"),
    ],
)
def test_a_word_that_is_none_of_a_few_is_refused_before_work(name, value, message):
    with pytest.raises(InputError, match=message):
        check_settings(**{name: value})


@pytest.mark.parametrize(
    ("target", "table", "message"),
    [
        ({"female": 0.7, "male": 0.7}, None, "sums to 1.4"),
        ("table", None, "no reference table is given"),
        ("uniform", "table.csv", "it has to be 'table' to follow it"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_work(target, table, message):
    with pytest.raises(InputError, match=message):
        check_settings(target=target, attribute="sex|age", target_table=table)
    check_settings(target="table", attribute="sex", target_table="table.csv")


def test_settings_of_another_training_are_refused(tmp_path):
    trained = {"objective": "v", "space": {"space": "pixels", "channels": 1}}
    # without a model there is nothing to compare with
    check_trained(tmp_path, trained, objective="epsilon")
    (tmp_path / "model.json").write_text("{}")
    check_trained(tmp_path, trained, objective="v", space={"channels": 1, "space": "pixels"}, pooled=True)
    with pytest.raises(InputError, match="objective = 'epsilon': the model in .* was trained with 'v'"):
        check_trained(tmp_path, trained, objective="epsilon")
    with pytest.raises(InputError, match="space = .*latents"):
        check_trained(tmp_path, trained, space={"space": "latents", "channels": 1})


@pytest.mark.parametrize(
    "name, value",
    [
        ("num_workers", None),
        ("max_patches_per_slide", None),
        ("stride", None),
        ("val_fraction", None),
        ("source_mpp", None),
        ("source_mpp", 0.25),
        ("mpp", 1),
        ("mapping", None),
        ("mapping", {}),
        ("missing", None),
        ("missing", ["--", ""]),
        ("table", {"layout": "tcga_ut"}),
        ("table", "slides.csv"),
        ("dataset_dir", None),
        ("holdout_values", []),
        ("fold", 0),
        ("target", "uniform"),
        ("target", {"female": 0.5, "male": 0.5}),
        ("resample_to", None),
        ("resample_to", {"female": 0.5, "male": 0.5}),
        ("retrain_steps", None),
        ("costs", None),
        ("attribute", None),
        ("prompts", ["a brain"]),
        ("guide", ["a", "b"]),
        ("attention_levels", [False, True]),
    ],
)
def test_a_setting_of_its_kind_passes(name, value):
    check_settings(**{name: value})


CONFIG_FILES = ["prepare.json", "audit.json", "train.json", "inference.json"]


def test_all_configs_mean_the_same_cohort():
    """Or training would prepare another one beside the one that `preparing` made."""
    base, *others = [json.loads((CONFIGS / name).read_text()) for name in CONFIG_FILES]
    used = set(re.findall(r'"@(\w+)"', json.dumps(base["preparation"])))
    assert len(used) > 15
    # sampling takes these from the model, which has them from its training
    from_model = {"label", "subpopulation_columns", "image_size", "mpp"}
    for other, own in zip(others, (set(), set(), from_model)):
        assert other["preparation"] == base["preparation"]
        assert {name for name in used if other[name] != base[name]} <= own


@pytest.mark.parametrize("config", ["prepare.json", "audit.json", "train.json"])
def test_every_setting_of_a_cohort_is_checked_before_work(config):
    content = json.loads((CONFIGS / config).read_text())
    # where results go is checked as `output_dir`
    assert {name for name in content if name in KIND_OF} - set(content["checked"]) <= {"cohort_dir"}


def test_runs_know_before_work_that_leakage_is_to_be_refused():
    started = {"prepare.json": "preparing", "audit.json": "cohort"}
    for config, name in started.items():
        assert "@flags['fail_on_leakage']" in str(json.loads((CONFIGS / config).read_text())[name])


@pytest.mark.parametrize("config", CONFIG_FILES)
def test_every_config_checks_settings_that_it_has(config):
    content = json.loads((CONFIGS / config).read_text())
    checked = {name: value for name, value in content["checked"].items() if name not in ("_target_", "device")}
    assert all(value == f"@{name}" and name in content and name in KIND_OF for name, value in checked.items())
    plain = {name: content[name] for name in checked if not str(content[name]).startswith(("$", "@"))}
    assert len(plain) > 5
    check_settings(**plain)


@pytest.mark.parametrize(
    ("setting", "names", "says"),
    [
        ("metadata_columns", ["diagnosis", "center"], "'diagnosis' is named twice; the label is no attribute"),
        ("attributes", ["center", "center"], "'center' is named twice; name each column once"),
        ("attributes", ["sex", "center", "sex", "diagnosis"], "'diagnosis', 'sex' is named twice"),
    ],
)
def test_a_column_that_is_named_twice_is_refused(setting, names, says):
    with pytest.raises(InputError, match=re.escape(f"{setting} = {names}: {says}")):
        check_settings(label="diagnosis", **{setting: names})


def test_a_decay_shorter_than_the_training_is_refused():
    with pytest.raises(InputError, match="decay_steps = 5 is less than max_steps = 10"):
        check_settings(max_steps=10, decay_steps=5)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_here_is_named(device):
    with pytest.raises(InputError, match=f"device '{device}' is not here.*cpu"):
        check_settings(device=device)


@pytest.mark.parametrize("joined", [False, True])
def test_a_misspelled_option_is_named(tmp_path, monkeypatch, joined):
    write_json(tmp_path / "train.json", {"max_steps": 1, "net": {"a": 1}})
    file = str(tmp_path / "train.json")
    command = ["x/monai/bundle/__main__.py", "run", "training"]
    command += [f"--config_file={file}"] if joined else ["--config_file", file]
    monkeypatch.setattr(sys, "argv", [*command, "--max_step", "3"])
    with pytest.raises(InputError, match="'max_step': did you mean 'max_steps'"):
        check_settings()
    monkeypatch.setattr(sys, "argv", [*command, "--max_steps", "3", "--net#a=2", "--net::a", "2", "--bundle_root", "."])
    check_settings()


def test_settings_that_fit_each_other_pass():
    check_model(**MODEL)
    check_model(**{**MODEL, "arm": "cls", "attributes": []})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"arm": "cls"}, "class_only.json has to come last"),
        ({"attributes": []}, "class_only.json has to come last"),
        ({"label": "gender"}, "the label, 'gender', has to be first"),
        ({"attributes": ["sexx"]}, "'sexx': did you mean 'sex'.*metadata_columns"),
        ({"image_size": 30}, "needs a multiple of 4"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        check_model(**{**MODEL, **changes})


def test_on_and_off_are_read_in_any_spelling_of_true_and_false():
    assert flags(amp="true", resume="False", augment=True) == {"amp": True, "resume": False, "augment": True}
    with pytest.raises(InputError, match="resume = 'perhaps'"):
        flags(resume="perhaps")

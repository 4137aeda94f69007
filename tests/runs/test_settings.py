import json
import re
from pathlib import Path

import pytest

from medi_monai.runs.settings import GROUPS, check_groups, check_trained, load_train_config
from medi_monai.runs.workflow import declared, read_configs
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import check_setting, config_default, words_of

BUNDLES = Path(__file__).parents[2] / "bundles"
CONFIGS = [file for file in sorted(BUNDLES.glob("*/configs/*.json")) if "settings" in json.loads(file.read_text())]
SHOWN = [f"{file.parts[-3].split('_')[0]}-{file.stem}" for file in CONFIGS]


def group_of(name, *preferred):
    return next(
        kind for kind in (*(GROUPS[group] for group in preferred), *GROUPS.values()) if name in kind.model_fields
    )


def is_syntax(value):
    if isinstance(value, dict):
        return any(map(is_syntax, value.values()))
    return isinstance(value, str) and value.startswith(("$", "@"))


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
        ("num_folds", [0, 2.5]),
        ("max_patches_per_slide", [0, "all", True]),
        ("stride", [0, 1.5]),
        ("fold", [-1, "0"]),
        ("min_tissue", [-0.1, 1.1, "half"]),
        ("mpp", [0, -0.5, float("nan"), float("inf"), "0.5", None]),
        ("source_mpp", [0, -0.5, float("nan"), "0.5", True]),
        ("val_fraction", [-0.1, 1.5, "none"]),
        ("split_columns", ["center", [1]]),
        ("holdout_values", ["Aspen", None, [2]]),
        ("missing", ["--", [False], [1]]),
        ("columns", [None, "image", ["image"]]),
        ("mapping", ["center", ["center"], 1]),
        ("table", [None, 5, ["a.csv"]]),
        ("dataset_dir", [5, ["a"]]),
        ("patch_format", [None, True]),
        ("patch_cache", [None, 1]),
        ("target", [0.5, ["female"]]),
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
        ("resume", ["perhaps", 1]),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named_with_what_it_has_to_be(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"^{name} = .*it has to be"):
            check_setting(group_of(name, "cohort", "alignment"), name, value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("objective", "foo", "unknown objective 'foo'"),
        ("solver", "dimm", "did you mean 'ddim'"),
        ("subgroup_loss", "match", "did you mean 'matching'"),
        ("role", "juge", "did you mean 'judge'"),
        ("seed", "null", "null is not allowed"),
    ],
)
def test_a_choice_that_is_none_of_a_few_is_refused(name, value, message):
    with pytest.raises(InputError, match=message):
        check_setting(group_of(name), name, value)


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
        ("retrain_steps", None),
        ("costs", None),
        ("attribute", None),
        ("prompts", ["a brain"]),
        ("guide", ["a", "b"]),
        ("attention_levels", [False, True]),
    ],
)
def test_a_setting_of_its_kind_passes(name, value):
    assert check_setting(group_of(name, "cohort"), name, value) == value


def test_switches_and_null_are_read_as_the_command_line_gives_them():
    assert check_setting(GROUPS["training"], "amp", "False") is False
    assert check_setting(GROUPS["training"], "resume", "true") is True
    assert check_setting(GROUPS["cohort"], "stride", "null") is None


@pytest.mark.parametrize("file", CONFIGS, ids=SHOWN)
def test_a_config_shows_the_default_of_the_declaration(file):
    content = json.loads(file.read_text())
    for group in declared(content["settings"]).values():
        for name, kind in group.items():
            default = config_default(kind.model_fields[name])
            if name in content and not is_syntax(content[name]):
                assert content[name] == default, f"{name} in {file.name}"


@pytest.mark.parametrize("file", CONFIGS, ids=SHOWN)
def test_every_setting_that_a_config_shows_is_declared_once(file):
    content = json.loads(file.read_text())
    names = [name for group in declared(content["settings"]).values() for name in group]
    twice = {name for name in names if names.count(name) > 1}
    for name in twice:  # of groups that share it, as the seed
        kinds = [group[name] for group in declared(content["settings"]).values() if name in group]
        assert len({repr(config_default(kind.model_fields[name])) for kind in kinds}) == 1, name
    everywhere = {name for kind in GROUPS.values() for name in kind.model_fields}
    assert {name for name in content if name in everywhere} <= set(names)


#: settings of a training that other runs accept as well, so that one overlay suits all of them
ACCEPTED = {"arm", "attributes", "continuous", "seed"}


@pytest.mark.parametrize("file", CONFIGS, ids=SHOWN)
def test_every_setting_of_a_config_is_handed_to_something(file):
    content = json.loads(file.read_text())
    groups = declared(content.pop("settings"))
    defaults = [config_default(kind.model_fields[name]) for group in groups.values() for name, kind in group.items()]
    text = json.dumps([content, defaults], default=str)
    for group, fields in groups.items():
        if f"@settings#{group}" in text or f"'{group}'" in text:
            continue
        unused = [name for name in fields if not re.search(rf"@{name}\b", text) and name not in ACCEPTED]
        assert not unused, f"{file.name} ignores {unused}: hand each on, as `@name`, to what uses it"


@pytest.mark.parametrize("file", CONFIGS, ids=SHOWN)
def test_a_config_alone_has_all_that_it_refers_to(file):
    config = read_configs([file], file.parent)
    own = {"train", "validate", *config}
    assert set(re.findall(r"@(\w+)", json.dumps(config, default=str))) <= own


def test_every_setting_says_what_it_is():
    for kind in GROUPS.values():
        for name, field in kind.model_fields.items():
            assert field.description and not field.description.endswith("."), name
            assert words_of(field), name


@pytest.mark.parametrize(
    ("target", "table", "message"),
    [
        ({"female": 0.7, "male": 0.7}, None, "sums to 1.4"),
        ("table", None, "no reference table is given"),
        ("uniform", "table.csv", "set it to 'table'"),
    ],
)
def test_a_target_that_cannot_be_is_refused_before_work(target, table, message):
    groups = {"captions": {"attribute": "sex|age"}, "target": GROUPS["target"](target=target, target_table=table)}
    with pytest.raises(InputError, match=message):
        check_groups(groups)
    check_groups({**groups, "target": GROUPS["target"](target="table", target_table="table.csv")})


def test_without_this_package_behind_monai_the_run_says_so():
    with pytest.raises(InputError, match="has to be installed"):
        check_groups(["seed", "output"])


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


def test_without_a_model_its_settings_are_the_defaults(tmp_path):
    config = load_train_config(tmp_path, "cohort", "network")
    assert config["objective"] == "v" and config["mpp"] == 1.0 and config["cohort_dir"] is None
    assert "min_tissue" not in config


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_available_is_named(device):
    with pytest.raises(InputError, match=f"device '{device}' is not available.*cpu"):
        check_setting(GROUPS["device"], "device", device)


COHORT = {"label": "tumor", "subpopulation_columns": ["tumor", "center"], "metadata_columns": ["center", "sex"]}


def model(conditions=None, cohort=None, network=None):
    return {
        "conditions": GROUPS["conditions"](**(conditions or {})),
        "cohort": GROUPS["cohort"](**{**COHORT, **(cohort or {})}),
        "network": GROUPS["network"](**(network or {})),
    }


def test_settings_that_fit_each_other_pass():
    check_groups(model())
    check_groups(model({"arm": "cls", "attributes": []}))


@pytest.mark.parametrize(
    "conditions, cohort, message",
    [
        ({"arm": "cls"}, {}, "class_only.json has to be the last"),
        ({"attributes": []}, {}, "class_only.json has to be the last"),
        ({}, {"label": "gender"}, "the label, 'gender', has to be first"),
        ({"attributes": ["sexx"]}, {}, "'sexx': did you mean 'sex'.*metadata_columns"),
        ({}, {"image_size": 30}, "needs a multiple of 4"),
        ({}, {"metadata_columns": ["tumor", "center"]}, "'tumor' is named twice; the label cannot also be"),
        ({"attributes": ["center", "center"]}, {}, "'center' is named twice; name each column once"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(conditions, cohort, message):
    with pytest.raises(InputError, match=message):
        check_groups(model(conditions, cohort))


@pytest.mark.parametrize(
    "diffusion, autoencoder, message",
    [
        ({"objective": "flow"}, None, "'flow' with schedule 'cosine'.*belong together"),
        ({"schedule": "flow"}, None, "'v' with schedule 'flow'.*belong together"),
        ({"objective": "epsilon"}, "vae", "'epsilon' with schedule 'cosine'.*--objective v"),
    ],
)
@pytest.mark.parametrize("network, space", [("network", "patch_space"), ("text_network", "space")])
def test_an_objective_that_the_schedule_does_not_allow_is_refused_in_both_bundles(
    diffusion, autoencoder, message, network, space
):
    groups = {network: GROUPS[network](**diffusion), space: GROUPS[space](autoencoder=autoencoder)}
    with pytest.raises(InputError, match=message):
        check_groups(groups)
    check_groups({**groups, network: GROUPS[network](objective="flow", schedule="flow")})


def test_a_decay_shorter_than_the_training_is_refused():
    with pytest.raises(InputError, match="decay_steps = 5 is less than max_steps = 10"):
        GROUPS["training"](max_steps=10, decay_steps=5)


@pytest.mark.parametrize("file", CONFIGS, ids=SHOWN)
def test_a_config_shows_only_what_differs_from_the_declarations(file):
    content = json.loads(file.read_text())
    fields = {name: kind for group in declared(content["settings"]).values() for name, kind in group.items()}
    # the Model Zoo reads these without the declarations
    zoo = {"bundle_root", "dataset_dir", "device", "output_dir"}
    if file.name in ("train.json", "inference.json"):
        zoo |= referred_to("network_def", content)
    same = [
        name
        for name, kind in fields.items()
        if name in content and name not in zoo and content[name] == config_default(kind.model_fields[name])
    ]
    assert not same, f"{file.name} repeats the defaults of {same}: delete these lines"


@pytest.mark.parametrize("file", CONFIGS, ids=SHOWN)
def test_what_a_config_takes_from_the_training_is_a_setting_and_listed_once(file):
    content = json.loads(file.read_text())
    listed = content.get("from_training", [])
    fields = {name for group in declared(content["settings"]).values() for name in group}
    assert set(listed) <= fields and len(set(listed)) == len(listed) and not set(listed) & set(content)
    assert not listed or "train_config" in content
    if file.name == "inference.json":
        # MONAI and the Model Zoo read the network from the file alone
        assert referred_to("network_def", content) <= set(content)


def referred_to(name, content):
    """The ids that a section of a config refers to, directly or not."""
    found, left = set(), {name}
    while left:
        found.add(name := left.pop())
        left |= set(re.findall(r"@(\w+)", json.dumps(content.get(name)))) - found
    return found

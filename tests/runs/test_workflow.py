"""What a user gives is checked before MONAI reads it: by its ``ConfigWorkflow``, which everything else goes by."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from medi_monai.runs.configs.typed import Typed
from medi_monai.runs.settings import GROUPS
from medi_monai.runs.workflow import checked_options, read_configs, run_ids
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import Count, setting

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_medi_diffusion"
CONFIGS = BUNDLE / "configs"
TRAIN = str(CONFIGS / "train.json")


def workflow(*files, run_id="training", **options):
    options = {"bundle_root": str(BUNDLE), **options}
    return ConfigWorkflow(config_file=list(files) or TRAIN, run_id=run_id, **options)


@pytest.fixture
def overlay(tmp_path):
    def write(text, name="overlay.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def given(flow, name):
    return flow.parser.get_parsed_content(name)


def test_text_arrives_as_it_was_written_from_an_overlay_and_from_python(overlay):
    file = overlay('missing: ["#N/A"]\ncolumns: {image: "{image}", patient: "Case #"}\nholdout_values: ["@site"]\n')
    flow = workflow(TRAIN, file, output_dir="run #2")
    assert given(flow, "missing") == ["#N/A"] and given(flow, "output_dir") == "run #2"
    assert given(flow, "columns")["patient"] == "Case #" and given(flow, "holdout_values") == ["@site"]
    assert flow.parser.get_parsed_content("settings::cohort").missing == ["#N/A"]


@pytest.mark.parametrize(
    "text",
    ["run #2", "2024", "a,b", "[x]", "{x}", "1e3", "0x1f", "a|b", "Köln/größe", "a=b", "50%", "a b", "a::b", "@x"],
)
def test_text_of_the_command_line_is_what_was_typed(text):
    # Fire reads `run #2` as the name `run`, with a comment, and `2024` as a number
    assert given(workflow(output_dir=Typed(text), label=Typed(text)), "output_dir") == text
    assert given(workflow(label=Typed(text)), "label") == text


def test_quotes_keep_text_of_the_command_line_from_being_read():
    assert given(workflow(output_dir=Typed("'None'")), "output_dir") == "None"
    assert given(workflow(missing=Typed("['#N/A', '007']")), "missing") == ["#N/A", "007"]


@pytest.mark.parametrize("nothing", [None, Typed("None"), "null", "$None"])
def test_nothing_is_a_value_and_is_checked(nothing):
    flow = monai.bundle.create_workflow(
        config_file=TRAIN, bundle_root=str(BUNDLE), init_id="imports", max_patches_per_slide=nothing
    )
    assert given(flow, "max_patches_per_slide") is None
    with pytest.raises(InputError, match="patch_cache"):
        monai.bundle.run("training", config_file=TRAIN, bundle_root=str(BUNDLE), patch_cache=nothing)


def test_the_folder_of_the_bundle_arrives_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for root, path in {tmp_path / "run #2": "run #2", "$SCRATCH/x": "x", "~/@x": "@x"}.items():
        flow = ConfigWorkflow(TRAIN, run_id="training", bundle_root=root)
        assert given(flow, "ckpt_dir") == f"{tmp_path}/{path}/models"


def test_options_by_position_and_subclasses_are_checked_as_well():
    class Mine(ConfigWorkflow):
        pass

    assert given(Mine(TRAIN, None, False, run_id="training", missing=["#1"]), "missing") == ["#1"]
    with pytest.raises(InputError, match="did you mean '--max_steps'"):
        Mine(TRAIN, None, False, max_step=3)


ARGS_FILES = {
    "bad.yaml": (b"channels: [1, 2", "line 1, column 16: invalid YAML"),
    "bad.json": (b'{"max_steps": 3,}', "line 1, column 17: invalid JSON"),
    "list.yaml": (b"- max_steps", "is not a mapping"),
    "number.json": (b"5", "is not a mapping"),
    "empty.yaml": (b"", "is empty"),
    "null.yaml": (b"null", "is empty"),
    "wide.yaml": ("max_steps: 3".encode("utf-16"), r"is not UTF-8 \(byte 0\): save it as UTF-8"),
    "latin.yaml": ("label: Größe".encode("latin-1"), r"is not UTF-8 \(byte 9\)"),
    "tab.yaml": (b"max_steps:\n\t- 3", "indent with spaces, not with tabs"),
    "twice.yaml": (b"seed: 1\nseed: 1", "duplicate key 'seed'"),
    "text.txt": (b"max_steps: 3", "has to end with .json, .yaml, .yml"),
    "gone.yaml": (None, "there is no config file .*gone.yaml"),
    "folder.yaml": ("folder", "folder.yaml is a folder and not a config file"),
    "pipe.yaml": ("pipe", "pipe.yaml is a pipe and not a regular file"),
    f"{'x' * 300}.yaml": (None, "is too long: a name in it has 305 bytes"),
}
CONFIGS_WITH_RUNS = [
    (run_id, file) for bundle in BUNDLE.parent.iterdir() for file in sorted((bundle / "configs").glob("*.json"))
    if (run_id := str(json.loads(file.read_text()).get("run", "")).lstrip("%"))
]  # fmt: skip


@pytest.mark.parametrize(("run_id", "config"), CONFIGS_WITH_RUNS, ids=lambda value: getattr(value, "stem", value))
def test_a_broken_args_file_is_one_line_for_every_run(tmp_path, run_id, config):
    assert {run for run, _ in CONFIGS_WITH_RUNS} >= {*run_ids(CONFIGS), "resampling"}
    for name, (content, says) in ARGS_FILES.items():
        path = tmp_path / name
        if content == "folder":
            path.mkdir()
        elif content == "pipe":
            os.mkfifo(path)
        elif content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=says) as error:
            monai.bundle.run(
                run_id, args_file=str(path), config_file=str(config), bundle_root=str(config.parents[1]),
                output_dir=str(tmp_path / "out"),
            )  # fmt: skip
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_defaults_of_an_args_file_are_options(tmp_path):
    file = tmp_path / "args.yaml"
    file.write_text(f"config_file: '{TRAIN}'\nbundle_root: '{BUNDLE}'\noutput_dir: 'run #2'\nmax_steps: 5\n")
    flow = monai.bundle.create_workflow(args_file=str(file), init_id="imports", batch_size=3)
    assert [given(flow, name) for name in ("output_dir", "max_steps", "batch_size")] == ["run #2", 5, 3]
    flow = monai.bundle.create_workflow(args_file=str(file), init_id="imports", max_steps=4)
    assert given(flow, "max_steps") == 4
    file.write_text(file.read_text() + "max_step: 3")
    with pytest.raises(InputError, match="did you mean '--max_steps'"):
        monai.bundle.run(args_file=str(file))
    with pytest.raises(InputError, match="there is no config file gone.json"):
        monai.bundle.run("training", args_file="gone.json", bundle_root=str(BUNDLE))
    file.write_text("config_file: [")
    with pytest.raises(InputError, match="invalid YAML"):
        monai.bundle.run("training", args_file=str(file), bundle_root=str(BUNDLE))


def test_switches_numbers_and_null_come_as_they_are_meant():
    flow = workflow(resume="true", stride="null", max_steps=3)
    assert given(flow, "resume") is True and given(flow, "stride") is None
    # a reference to another id goes on to mean it
    assert given(flow, "decay_steps") == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_step": 3}, "unknown option '--max_step': did you mean '--max_steps'"),
        ({"max_steps": "many"}, "max_steps = 'many': it has to be a whole number of 1 or more"),
        ({"output_dir": "$NOWHERE/x"}, "NOWHERE is not set"),
        ({"run_id": "trainig"}, "unknown run id 'trainig': did you mean 'training'"),
        ({"run_id": "train"}, "unknown run id 'train'"),
        ({"run_id": "sampling"}, "the run 'sampling' is in .*inference.json, but .*train.json has"),
        ({"tracking": "mlflow"}, r'needs the package mlflow: pip install "medi_monai\[mlflow\]"'),
        ({"tracking": "gone.json"}, "no config file gone.json"),
        ({"meta_file": "gone.json"}, "no config file gone.json"),
        ({"meta_file": TRAIN}, "is not the metadata of a bundle"),
        ({"logging_file": "gone.conf"}, "Cannot find the logging config file: gone.conf"),
        ({"logging_file": TRAIN}, "cannot parse logging config file"),
        ({"workflow_type": "other"}, "Unsupported workflow type: 'other'"),
        ({"init_id": "b.yaml"}, "unknown init_id 'b.yaml'.*several config files as one list"),
        ({"final_id": "end"}, "unknown final_id 'end'"),
        ({"output_dir": " "}, "output_dir = ' ': it has to be a path"),
        ({"settings": ["seed"]}, "unknown option '--settings'"),
        ({"settings#training#max_steps": 3}, "unknown option .*The setting is --max_steps"),
        ({"generator#num_step": 3}, "unknown argument of generator.*'num_step': did you mean 'num_steps'"),
        ({"train#trainer#max_epoch": 3}, "unknown argument of train::trainer.*did you mean 'max_epochs'"),
        ({"train::trainr::max_epochs": 3}, "there is no 'trainr': did you mean 'trainer'"),
        ({"train#handlers#99#every": 3}, "there is no '99'"),
        ({"train#something": 3}, "there is no 'something'"),
        ({"max_steps#x": 3}, "there is no 'x'"),
        ({"about": "x"}, "unknown option '--about'"),
        ({"train": 3}, "train = 3: the config has a section with ids of its own here"),
        ({"loss": {"_target_": "torch.nn.L1Los"}}, "loss: there is no 'torch.nn.L1Los'"),
        ({"loss": "%gone.json#loss"}, "gone.json"),
        ({"learning_rate": "@my_rate"}, "unknown reference in learning_rate: '@my_rate'"),
        ({"bundle_root": str(BUNDLE.parent / "brain_mri_fair_text_diffusion")}, "is the bundle .* config file is of"),
    ],
)
def test_a_mistake_is_one_line_from_python(options, message, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=message) as error:
        workflow(**options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("split_sheme: sites\n", "unknown id in .*overlay.yaml: 'split_sheme': did you mean 'split_scheme'"),
        ("max_step: 3\n", "'max_step': did you mean 'max_steps'"),
        ("max_steps: 0\n", "max_steps = 0: it has to be"),
        ("dataset_dir: $SCRATCH_NOWHERE/data\n", "SCRATCH_NOWHERE is not set"),
        ("settings: [seed]\n", "unknown id in .*: 'settings'"),
        ("train: {trainer: {max_epochs: 3}}\n", "which no longer exists: train was replaced as a whole"),
        ("train#trainer#max_epoch: 3\n", "did you mean 'max_epochs'"),
        ("+train: {trainr: 3}\n", "there is no 'trainr': did you mean 'trainer'"),
        ("+generator: {num_step: 3}\n", "'num_step': did you mean 'num_steps'"),
        ("+metadata_columns: center\n", "'.metadata_columns' of a config refers to"),
    ],
)
def test_a_mistake_in_an_overlay_is_one_line(overlay, text, message):
    with pytest.raises(InputError, match=message):
        workflow(TRAIN, overlay(text))


def test_an_overlay_may_hold_settings_of_other_runs_and_parts_of_its_own(overlay):
    flow = workflow(TRAIN, overlay("classifier_folds: 5\nmy_rate: 0.125\nlearning_rate: '@my_rate'\n"))
    assert given(flow, "learning_rate") == 0.125


def test_an_overlay_extends_a_list(overlay):
    flow = workflow(TRAIN, overlay("+metadata_columns: ['#stage']\n"))
    assert given(flow, "metadata_columns") == ["center", "race", "gender", "age_at_index", "#stage"]


def test_parts_of_components_are_options():
    flow = workflow(
        **{"validate#dataloader#batch_size": 3, "loss#reduction": "sum", "lr_scheduler::cycles": Typed("2.5e-1")}
    )
    assert given(flow, "loss").reduction == "sum" and flow.parser["lr_scheduler#cycles"] == 0.25
    assert flow.parser["validate#dataloader#batch_size"] == 3
    note = {"_target_": "builtins.dict", "note": "a #1", "label": "@label"}
    assert given(workflow(loss=note), "loss") == {"note": "a #1", "label": "project_id"}


def test_without_a_config_file_the_runs_are_listed():
    with pytest.raises(InputError, match="add --config_file.*training is in .*train.json"):
        ConfigWorkflow(config_file=None, bundle_root=str(BUNDLE))


def test_the_reason_comes_first_where_a_run_fails(tmp_path):
    with pytest.raises(InputError, match="class_only.json has to be the last") as error:
        monai.bundle.run("training", config_file=TRAIN, bundle_root=str(BUNDLE), arm="cls", output_dir=str(tmp_path))
    assert error.value.__cause__ is None and error.value.__suppress_context__


def test_other_bundles_are_left_to_monai(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text("{}")
    file = tmp_path / "configs" / "train.json"
    file.write_text(json.dumps({"a": "#x", "run": "$1"}))
    flow = ConfigWorkflow(config_file=str(file), workflow_type=None, anything=3)
    assert flow.parser.get_parsed_content("a") == "::x" and flow.run() == [1]


def test_runs_are_known_with_their_configs():
    runs = run_ids(CONFIGS)
    assert (
        runs["training"] == "train.json" and runs["evaluation"] == "evaluate.json" and runs["auditing"] == "audit.json"
    )


def test_a_setting_is_added_by_its_declaration_and_a_line_of_a_config(tmp_path, monkeypatch):
    class More(GROUPS["training"]):
        throw_away: Count = setting(7, "a setting of this test")

    monkeypatch.setitem(GROUPS, "training", More)
    assert read_configs([CONFIGS / "train.json"], CONFIGS)["throw_away"] == 7
    file = tmp_path / "train.json"
    file.write_text(TRAIN and Path(TRAIN).read_text().replace('"run":', '"throw_away": 9, "run":'))
    assert read_configs([file], tmp_path)["throw_away"] == 9
    with pytest.raises(InputError, match="throw_away = 0: it has to be a whole number of 1 or more"):
        read_configs([file], tmp_path, {"throw_away": 0})


def test_settings_of_the_training_are_listed_and_may_be_replaced(tmp_path):
    files = [CONFIGS / "inference.json"]
    config = read_configs(files, CONFIGS)
    assert "from_training" not in config and config["objective"] == "$@train_config['objective']"
    assert read_configs(files, CONFIGS, {"objective": "epsilon"})["objective"] == "epsilon"
    assert read_configs([*files, CONFIGS / "class_only.json"], CONFIGS)["arm"] == "cls"
    overlay = tmp_path / "mine.yaml"
    overlay.write_text("mpp: 0.5")
    assert read_configs([*files, overlay], CONFIGS)["mpp"] == 0.5
    overlay.write_text("from_training: [seed]")
    with pytest.raises(InputError, match="'from_training'"):
        read_configs([*files, overlay], CONFIGS)
    with pytest.raises(InputError, match="unknown option '--from_training'"):
        read_configs(files, CONFIGS, {"from_training": ["seed"]})


def test_exports_find_the_settings_of_the_training(tmp_path):
    (tmp_path / "model.pt").touch()
    given = {"net_id": "network_def", "config_file": str(CONFIGS / "align.json"), "conditioning": "additive"}
    options = checked_options(monai.bundle.ckpt_export, {**given, "ckpt_file": str(tmp_path / "model.pt")})
    assert options["channels"] == "$@train_config['channels']" and options["conditioning"] == "additive"


def test_values_of_python_are_those_of_the_command_line(tmp_path):
    flow = workflow(
        output_dir=Path("run #7"),
        max_steps=np.int64(5),
        learning_rate=np.float32(0.5),
        amp=np.bool_(False),
        channels=np.array([32, 64, 64]),
        attention_levels=(False, False, True),
        device=torch.device("cpu"),
        dataset_dir=tmp_path / "$x #1",
    )
    assert given(flow, "output_dir") == "run #7" and given(flow, "dataset_dir") == str(tmp_path / "$x #1")
    assert [given(flow, name) for name in ("max_steps", "learning_rate", "amp")] == [5, 0.5, False]
    assert given(flow, "channels") == [32, 64, 64] and given(flow, "attention_levels") == [False, False, True]
    assert given(flow, "device") == torch.device("cpu")


@pytest.mark.parametrize("value", [np.array([1, 2]), torch.tensor(3), torch.float32, Path, lambda: 1, object()])
@pytest.mark.parametrize("name", ["max_steps", "output_dir", "amp"])
def test_objects_of_python_that_are_no_values_are_refused(name, value):
    with pytest.raises(InputError, match=f"^{name} = .*it has to be"):
        workflow(**{name: value})


def test_every_run_of_a_process_and_of_its_threads_is_checked():
    def refused(_):
        with pytest.raises(InputError, match="did you mean '--max_steps'"):
            monai.bundle.run("training", config_file=TRAIN, bundle_root=str(BUNDLE), max_step=3)
        return True

    assert refused(0) and refused(1)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(refused, range(8)))

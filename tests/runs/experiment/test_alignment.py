"""The stages of the experiment of a text-to-image bundle: what each is given, and what is refused before which."""

from pathlib import Path

import pandas as pd
import pytest
from monai.bundle import ConfigParser
from result_contents import alignment_content

pytest.importorskip("transformers")

import medi_monai.runs.experiment.run as runner
from medi_monai.results import typed, write_results
from medi_monai.results.alignment import AlignmentMetrics
from medi_monai.runs.workflow import read_configs
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import write_json

BUNDLE = Path(__file__).parents[3] / "bundles" / "brain_mri_fair_text_diffusion"
RECORD = {
    "curve": [{"step": 0}, {"step": 40}],
    "settings": {"max_steps": 60, "batch_size": 48},
    "losses": {"last_steps": None},
    "real_images": 32,
    "sampling": {"num_steps": 15, "guidance_scale": 1.0},
}


def settings(**changed):
    """What the config hands over."""
    configs = BUNDLE / "configs"
    parser = ConfigParser(read_configs([configs / "experiment.json"], configs, {"output_dir": "out", **changed}))
    names = ("experiment_def", "options", "stage_options")
    return dict(zip(names, map(parser.get_parsed_content, names)))


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """Runs the experiment with stages that take a second each, or 10 to align, and leave little; returns them."""
    started = []

    class Schedule:
        def __init__(self, bundle, output, options, stage_options, max_parallel, resources):
            self.bundle, self.options, self.stage_options, self.seconds = bundle, options, stage_options, {}

        def run(self, stages):
            for stage in stages:
                # what it needs was there before, or is in the list before it
                assert {*stage.needs} <= set(self.seconds), stage.name
                own = self.stage_options.get(stage.kind or stage.run_id, {})
                configs = self.bundle / "configs"
                known = read_configs([configs / name for name in stage.configs], configs)
                assert {*stage.options, *own} <= set(known), stage.name
                started.append((stage, {**{k: v for k, v in self.options.items() if k in known}, **own}))
                leave(stage)
                self.seconds[stage.name] = 10.0 if stage.run_id == "aligning" else 1.0

    def leave(stage):
        if stage.name == "preparing":
            table = pd.DataFrame({"sex": ["female", "male"], "split": "train", "caption": run.captions})
            table = table.assign(image=["a.png", "b.png"], slide="s", patient="p", age="50", lesion="left")
            stage.options["output_dir"].mkdir(parents=True, exist_ok=True)
            table.to_csv(stage.options["output_dir"] / "cohort.csv", index=False)
        elif stage.run_id == "aligning":
            write_json(stage.options["output_dir"] / "alignment.json", RECORD)
        elif stage.run_id == "resampling":
            write_json(stage.result, {"figures": {"why_none": run.why_none}})
        elif stage.run_id == "evaluation":
            write_results(stage.result, typed(AlignmentMetrics, alignment_content()))

    def run(alternatives=True, **changed):
        started.clear()
        given = settings(alternatives=alternatives, **changed)
        runner.run_experiment(given["experiment_def"], BUNDLE, tmp_path, given["options"], given["stage_options"])
        return {stage.name: {**own, **stage.options} for stage, own in started}

    run.why_none, run.started, run.captions = None, started, ["a brain of a woman", "a brain of a man"]
    monkeypatch.setattr(runner, "Schedule", Schedule)
    return run


def test_alternatives_begin_from_the_untuned_model_and_meet_in_the_evaluation(experiment, tmp_path):
    stages = experiment()
    names = list(stages)
    assert names[-1] == "evaluation"
    retraining, models = stages["retraining"], tmp_path / "models"
    assert retraining["init_from"] == models / "model.pt" and retraining["text_model_dir"] == models / "clip"
    assert retraining["ckpt_dir"] == models / "retrained" != stages["training"]["ckpt_dir"]
    assert retraining["resample_to"] == stages["aligning"]["target"] == stages["resampling"]["target"] == "uniform"
    assert "resample_to" not in stages["training"]
    # the same noise and prompts as before
    before, other = stages["sampling neutral before"], stages["sampling neutral retrained"]
    own = ("ckpt_dir", "output_dir")
    assert {k: v for k, v in before.items() if k not in own} == {k: v for k, v in other.items() if k not in own}
    # and another noise for what is chosen from
    drawn = stages["sampling neutral to choose from"]
    assert drawn["seed"] == 1 and before["seed"] == 0 and drawn["num_images"] == 1800
    assert drawn["output_dir"] == stages["resampling"]["sampling_dir"] and drawn["ckpt_dir"] == before["ckpt_dir"]
    arms = stages["evaluation"]["arms"]
    assert list(arms) == ["before", "after", "retrained", "resampled", "prompted", "debiased"]
    # the original model, with the noise and prompts of before, and subgroups at the target's shares
    for arm, choice in (("prompted", "named"), ("debiased", "debiased")):
        other = stages[f"sampling neutral {arm}"]
        assert (other["subgroups"], other["target"], other["ckpt_dir"]) == (choice, "uniform", models)
        assert {k: v for k, v in other.items() if k not in (*own, "subgroups", "target", "target_table")} == {
            k: v for k, v in before.items() if k not in (*own, "subgroups", "target", "target_table")
        }
        assert arms[arm] == str(other["output_dir"])
    assert arms["resampled"] == str(stages["resampling"]["output_dir"])
    assert list(stages["evaluation"]["named"]) == ["before", "after"]


def test_costs_are_those_of_the_stages_that_an_arm_needs(experiment):
    costs = experiment(retrain_steps=100)["evaluation"]["costs"]
    assert sum(costs["after"]["stages"].values()) == 14 and sum(costs["retrained"]["stages"].values()) == 2
    assert costs["after"]["gradient_images"] == 40 * (48 * 15 + 32)
    assert costs["after"]["gradient_images_allowed"] == 60 * (48 * 15 + 32)
    assert costs["retrained"]["gradient_images"] == 100 * settings()["stage_options"]["retraining"]["batch_size"]
    assert "gradient_images" not in costs["resampled"]
    # every stage that is counted is one
    assert {name for one in costs.values() for name in one["stages"]} <= {stage.name for stage, _ in experiment.started}


@pytest.mark.parametrize(("changed", "images"), [({}, 15), ({"last_steps": 2}, 2), ({"num_steps": 10}, 10)])
def test_the_retraining_sees_as_many_images_as_the_tuning_may(changed, images):
    given = settings(batch_size=16, align_steps=60, align_batch_size=48, anchor_batch_size=32, **changed)[
        "stage_options"
    ]
    assert given["retraining"]["max_steps"] * 16 == 60 * (48 * images + 32)
    assert given["retraining"]["learning_rate"] < given["training"]["learning_rate"]


def test_every_tuning_has_its_own_seed_and_is_sampled_from_the_same_noise(experiment, tmp_path):
    stages = experiment(num_tunings=3, seed=5)
    first, third = stages["aligning"], stages["aligning 3"]
    assert (first["seed"], stages["aligning 2"]["seed"], third["seed"]) == (5, 6, 7)
    assert third["aligned_dir"] == tmp_path / "models" / "aligned 3" and third["ckpt_dir"] == first["ckpt_dir"]
    own = ("ckpt_dir", "output_dir")
    for kind in ("neutral", "named"):
        one, other = stages[f"sampling {kind} after"], stages[f"sampling {kind} after 3"]
        assert {k: v for k, v in one.items() if k not in own} == {k: v for k, v in other.items() if k not in own}
        assert other["ckpt_dir"] == third["aligned_dir"]
        folders = stages["evaluation"]["arms" if kind == "neutral" else "named"]["after"]
        assert folders == [str(tmp_path / f"{kind} after{end}") for end in ("", " 2", " 3")]
    assert "aligning 2" not in experiment()


def test_without_alternatives_there_are_two_arms(experiment):
    stages = experiment(alternatives=False)
    assert not {"retraining", "resampling", "sampling neutral to choose from"} & set(stages)
    assert list(stages["evaluation"]["arms"]) == list(stages["evaluation"]["costs"]) == ["before", "after"]


def test_where_nothing_could_be_chosen_the_evaluation_goes_without(experiment):
    experiment.why_none = "no image is predicted as 'female'"
    evaluation = experiment()["evaluation"]
    assert list(evaluation["arms"]) == ["before", "after", "retrained", "prompted", "debiased"]
    assert evaluation["costs"]["resampled"]["left_out"] == experiment.why_none


@pytest.mark.parametrize(
    ("target", "message", "stages"),
    [
        ({"female": 0.7, "male": 0.7}, "sums to 1.4", 0),
        ({"sex": {"female": 50, "male": 50}}, "not percent", 0),
        ({"female": -0.5, "male": 1.5}, "'female' the share -0.5", 0),
        ("unifrom", "did you mean 'uniform'", 0),
        ("table", "no reference table is given", 0),
        # which values there are, the cohort knows
        ({"femal": 0.5, "male": 0.5}, "did you mean 'female'", 2),
        ({"male": 0.5, "other": 0.5}, "'other'", 2),
    ],
)
def test_a_target_that_cannot_be_is_refused_early(experiment, target, message, stages):
    with pytest.raises(InputError, match=message):
        experiment(target=target)
    assert len(experiment.started) == stages


def test_captions_that_are_read_have_no_neutral_prompts(experiment):
    for templates in (None, {"words": {"sex": {"male": "man"}}}):
        with pytest.raises(InputError, match="which `templates` make.*give --prompts"):
            experiment(templates=templates)
    assert not experiment.started


def test_own_prompts_are_kept_under_the_name_of_their_content(experiment, tmp_path):
    given = tmp_path / "mine.txt"
    given.write_text("a brain\n")
    stages = experiment(templates=None, prompts=str(given))
    kept = {stages[name]["prompts"] for name in ("aligning", "sampling neutral before", "sampling neutral after")}
    assert len(kept) == 1 and Path(*kept).read_text() == "a brain\n" and Path(*kept).parent == tmp_path
    given.write_text("another brain\n")
    assert experiment(templates=None, prompts=str(given))["aligning"]["prompts"] not in kept
    assert experiment(prompts=["a brain"])["aligning"]["prompts"] == ["a brain"]


@pytest.mark.parametrize(
    ("prompts", "message", "stages"),
    [
        ("gone.txt", "prompt file not found: gone.txt", 0),
        (["brain of a man"], "all 1 prompts name sex", 2),
        (["a brain", "brain of a man"], "1 of the 2 prompts name sex.*remove them", 2),
        ([], "contains no prompt", 0),
    ],
)
def test_prompts_that_cannot_be_are_refused_early(experiment, prompts, message, stages):
    with pytest.raises(InputError, match=message):
        experiment(prompts=prompts)
    assert len(experiment.started) == stages


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (["a brain", 3], "the list of prompts: prompt 2 is 3; it must be a text.*quote numbers and `no`.*or remove it"),
        (["a brain", None], "prompt 2 is None; it must be a text"),
        (["", "a brain"], "prompt 1 is ''; it must be a text that is not empty"),
        ([["a brain"]], "prompt 1 is ..a brain..; it must be a text"),
        ({"a brain": 3}, "prompts = {'a brain': 3}: give 'neutral', a file with one prompt per line, or a list"),
        (3, "prompts = 3: give 'neutral'"),
    ],
)
def test_wrong_prompts_from_python_are_refused_before_any_work(tmp_path, prompts, message):
    # the declaration of the setting checks only what configs and options give
    given = settings()
    args = {**given["options"], "prompts": prompts}, given["stage_options"]
    with pytest.raises(InputError, match=message):
        runner.run_experiment(given["experiment_def"], BUNDLE, tmp_path / "new", *args)
    assert not list(tmp_path.glob("new/*"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"last_steps": 99}, "last_steps = 99: the gradient can pass through 1 to 15"),
        ({"encoder": "unknwon"}, "unknown encoder 'unknwon'"),
        ({"encoder": {"name": "embedded", "wieghts": "x"}}, "wieghts"),
        ({"attribute": None}, "name it with --attribute"),
    ],
)
def test_what_a_late_stage_would_refuse_is_said_before_the_first(experiment, changed, message):
    with pytest.raises(InputError, match=message):
        experiment(**changed)
    assert not experiment.started


def test_where_captions_do_not_name_the_subgroup_the_experiment_goes_without_such_images(experiment, capsys):
    experiment.captions = ["a brain of a woman", "a brain"]
    stages = experiment()
    assert "warning: no caption in training names 'male'" in capsys.readouterr().out
    assert not any("named" in name for name in stages)
    assert stages["evaluation"]["named"] is None and "generated" not in stages["classifying guide"]
    experiment.captions = ["a brain of a woman", "a brain of a man"]
    stages = experiment()
    assert "warning" not in capsys.readouterr().out
    assert stages["sampling named before"]["prompts"] == "named"
    assert stages["classifying guide"]["generated"] == stages["sampling named before"]["output_dir"]


def test_own_images_are_not_compared_with_the_demo():
    assert settings()["experiment_def"].reference_dir == "demo_balanced"
    assert settings(dataset_dir="mine")["experiment_def"].reference_dir is None
    assert settings(dataset_dir="mine", reference_dataset="theirs")["experiment_def"].reference_dir == "theirs"

"""The list of stages for a scheduler of jobs: the stages of the experiment, in an order that works, each by itself."""

import json
import sys
from pathlib import Path

import pytest

import medi_monai.runs.experiment.listing as listing
from medi_monai.__main__ import main
from medi_monai.runs.experiment.listing import EXPERIMENT, list_stages, run_stage
from medi_monai.runs.experiment.metadata import metadata_stages
from medi_monai.runs.experiment.resolved import Stage, resolve_stages
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import read_json, write_json

BUNDLE = Path(__file__).parents[3] / "bundles" / "pathology_medi_diffusion"
WORK = {
    "imports": ["$from pathlib import Path"],
    "result": "",
    "seed": 0,
    "work": ["$Path(@result).write_text(str(@seed))"],
}


@pytest.fixture
def config(tmp_path):
    return {"output_dir": str(tmp_path / "output"), "second_encoder": None, "device": "cpu"}


def test_the_list_has_all_stages_of_the_experiment_and_each_comes_after_what_it_needs(config, tmp_path):
    path = list_stages(config)
    assert path == tmp_path / "output" / "stages" / "workflow.json"
    listed = read_json(path)
    names = [stage.name for stage in metadata_stages(tmp_path / "output", 1.0)]
    assert list(listed["stages"]) == [*names, "embedding"]
    # the real images are embedded before they are needed, which is no part of what results depend on
    assert "embedding" in listed["stages"]["probing"]["needs"] and listed["stages"]["embedding"]["needs"] == [
        "preparing"
    ]
    assert [name for name, job in listed["stages"].items() if job["alone"]] == ["preparing"]
    assert listed[EXPERIMENT]["needs"] == list(listed["stages"])
    assert listed["stages"]["training medi"]["command"][-3:] == ["stage", str(tmp_path / "output"), "training medi"]
    assert listed["stages"]["training medi"]["rule"] == "training_medi"


def test_resources_are_those_of_the_stage_then_of_the_run_then_the_default(config):
    resources = {
        "default": {"mem_mb": 1, "threads": 2}, "training": {"mem_mb": 2, "processes": 2},
        "training medi": {"mem_mb": 3}, EXPERIMENT: {"runtime": 5},
    }  # fmt: skip
    plain = read_json(list_stages(config))["stages"]
    listed = read_json(list_stages({**config, "device": "cuda", "workflow": {"resources": resources}}))
    stages = listed["stages"]
    assert stages["training cls"]["resources"] == {"gpu": 2, "mem_mb": 2, "threads": 2, "processes": 2}
    assert stages["training medi"]["resources"]["mem_mb"] == 3
    assert stages["preparing"]["resources"] == {"mem_mb": 1, "threads": 2}
    assert listed[EXPERIMENT]["resources"] == {"gpu": 1, "mem_mb": 1, "threads": 2, "runtime": 5}
    assert Path(stages["training cls"]["configs"][-1]).name == "multi_gpu_train.json"
    assert "device" not in stages["training cls"]["settings"] and stages["probing"]["settings"]["device"] == "cuda"
    assert plain["training cls"]["resources"] == {} and len(plain["training cls"]["configs"]) == 2


def test_processes_change_what_a_training_depends_on_and_no_other_stage(tmp_path):
    stages = metadata_stages(tmp_path, 1.0)[:1] + metadata_stages(tmp_path, 1.0)[2:3]

    def digests(**resources):
        given = {name: {"processes": count} for name, count in resources.items()}
        return [stage.digest for stage in resolve_stages(BUNDLE, tmp_path, stages, {"seed": 3}, {}, {}, given)]

    one = digests()
    assert digests(preparing=4) == one == digests(training=1)
    assert digests(training=2)[0] == one[0] and len({one[1], digests(training=2)[1], digests(training=4)[1]}) == 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output_dir": None}, "output_dir is missing"),
        ({"max_step": 3}, "did you mean '--max_steps'"),
        ({"num_trainings": 0}, "num_trainings = 0: it has to be a whole number of 1 or more"),
        ({"baselines": ["reweigted"]}, "did you mean 'reweighted'"),
        ({"device": "gpu0"}, "device = 'gpu0': it has to be cpu, cuda"),
        (
            {"workflow": {"bundle": "pathology_medi"}},
            "unknown bundle 'pathology_medi': did you mean 'pathology",
        ),
        ({"workflow": {"resource": {}}}, "unknown setting 'resource': did you mean 'resources'"),
        ({"workflow": [1]}, r"workflow = \[1\]: give a mapping"),
        ({"workflow": {"resources": {"trainin": {}}}}, "unknown stage 'trainin': did you mean 'training'"),
        ({"workflow": {"resources": {"training": 4}}}, "resources of 'training' = 4: give names with values"),
        ({"workflow": {"resources": {"training": {"gpu": [1]}}}}, r"'gpu' = \[1\]; a resource has a name"),
        ({"workflow": {"resources": {"training": {"threads": 0}}}}, "threads of 'training' = 0: it has to be a whole"),
        ({"workflow": {"resources": {"probing": {"processes": 2}}}}, "probing runs in one process; torchrun divides"),
    ],
)
def test_what_the_experiment_or_a_scheduler_would_refuse_is_refused_before_any_stage(config, changed, message):
    with pytest.raises(InputError, match=message):
        list_stages({**config, **changed})


def test_stages_that_depend_on_the_cohort_are_listed_once_it_is_prepared(tmp_path):
    pytest.importorskip("transformers")
    workflow = {"bundle": "brain_mri_fair_text_diffusion", "resources": {"classifying": {"threads": 2}}}
    listed = read_json(list_stages({"output_dir": str(tmp_path / "output"), "workflow": workflow}))
    # the last job does the rest
    assert list(listed["stages"]) == listed[EXPERIMENT]["needs"] == ["preparing", "preparing the reference"]


@pytest.fixture
def listed(tmp_path):
    """A list of two stages, the second of which needs the first, of a bundle whose runs write one file."""
    bundle, output = tmp_path / "bundle", tmp_path / "output"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs" / "work.json").write_text(json.dumps(WORK))
    output.mkdir()
    stages = [
        Stage(name, "work", ["work.json"], output / f"{name}.txt", {"result": str(output / f"{name}.txt")}, needs)
        for name, needs in (("first", ()), ("second", ("first",)))
    ]
    resolved = resolve_stages(bundle, output, stages, {"seed": 7}, {})
    jobs = listing._jobs(resolved, output, {}, on_gpu=False)
    content = {"config": {}, "bundle": str(bundle), EXPERIMENT: jobs.pop(EXPERIMENT), "stages": jobs}
    write_json(output / "stages" / "workflow.json", content)
    return output


def test_each_stage_is_run_once_and_only_after_those_it_needs(listed, capsys):
    with pytest.raises(InputError, match="'second' needs 'first', which is not done"):
        run_stage(listed, "second")
    run_stage(listed, "first")
    run_stage(listed, "second")
    assert (listed / "second.txt").read_text() == "7"
    assert (
        "second: took" in capsys.readouterr().out and "monai.bundle" in (listed / "stages" / "second.log").read_text()
    )
    made = (listed / "first.txt").stat().st_mtime_ns
    run_stage(listed, "first")
    assert (listed / "first.txt").stat().st_mtime_ns == made and "already done" in capsys.readouterr().out


def test_a_stage_that_fails_says_where_its_output_is(listed, tmp_path):
    broken = {**WORK, "work": ["$1 / 0"]}
    (tmp_path / "bundle" / "configs" / "work.json").write_text(json.dumps(broken))
    with pytest.raises(RunStopped, match=r"'first' ended with 1; .*; its output is in .*first\.log"):
        run_stage(listed, "first")


def test_unknown_stages_and_folders_without_a_list_are_refused(listed, tmp_path):
    with pytest.raises(InputError, match="unknown stage 'frist': did you mean 'first'"):
        run_stage(listed, "frist")
    with pytest.raises(InputError, match="no list of stages in .*: write it with `medi-monai stages CONFIG`"):
        run_stage(tmp_path, "first")


def test_without_snakemake_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "snakemake", None)
    with pytest.raises(InputError, match=r'Remedy: pip install "medi_monai\[workflow\]"'):
        main(["workflow"])

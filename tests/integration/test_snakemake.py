"""The workflow of Snakemake: its jobs are the stages of the experiment, and its results those of ``run experiment``."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("snakemake")

from medi_monai.__main__ import main
from medi_monai.utils.files import read_json

TINY = {
    "num_workers": 1, "max_patches_per_slide": 6, "max_steps": 4, "warmup_steps": 2, "batch_size": 8,
    "channels": [16, 32], "attention_levels": [False, True], "num_res_blocks": 1, "val_interval": 2,
    "checkpoint_every": 2, "sample_every": 8, "num_validation": 8, "images_per_combination": 8, "num_steps": 2,
    "num_halves": 2, "num_replicates": 8, "num_repeats": 2, "sweep_repeats": 0, "c_values": [0.1], "num_augmented": 1,
    "min_images": 8, "baselines": ["reweighted"], "amp": False, "second_encoder": None, "device": "cpu",
}  # fmt: skip
STAGES = {"preparing", "embedding", "evaluation", "probing", "experiment"} | {
    f"{run}_{arm}" for run in ("training", "sampling") for arm in ("cls", "medi")
}
SNAKEFILE = Path(__file__).parents[2] / "configs" / "workflow" / "Snakefile"
#: what depends on the time that stages took, or on where the folder is
OWN = ("seconds", "settings", "versions")


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("workflow")
    config = {**TINY, "output_dir": "output", "workflow": {"bundle": str(bundle.root)}}
    (folder / "my.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def snakemake(bundle, folder):
    """Runs Snakemake in the folder; returns what it printed."""

    def run(*arguments, code=0):
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--configfile", "my.yaml"]
        command += ["--cores", "1", *arguments]
        done = subprocess.run(command, cwd=folder, env=bundle.environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def jobs_of(printed):
    """Names of rules in the order in which Snakemake lists them."""
    return [line.split()[1].rstrip(":") for line in printed.splitlines() if line.startswith(("rule ", "localrule "))]


def figures(value):
    """Results without what differs between two runs with the same settings and seed."""
    if isinstance(value, dict):
        return {name: figures(item) for name, item in value.items() if name not in OWN}
    return [figures(item) for item in value] if isinstance(value, list) else value


def test_a_dry_run_lists_the_stages_and_a_mistake_is_an_error_before_any_job(snakemake, folder):
    jobs = jobs_of(snakemake("--dry-run"))
    assert set(jobs) - {"all"} == STAGES
    listed = read_json(folder / "output" / "stages" / "workflow.json")
    place = {name: jobs.index(job["rule"]) for name, job in listed["stages"].items()}
    for name, job in listed["stages"].items():
        assert all(place[needed] < place[name] for needed in job["needs"]), name
    printed = snakemake("--config", "max_step=3", code=1)
    assert "did you mean '--max_steps'" in printed and "Traceback" not in printed


@pytest.mark.slow
def test_the_results_are_those_of_the_run_and_each_resumes_the_other(snakemake, bundle, folder):
    printed = snakemake()
    assert set(jobs_of(printed)) - {"all"} == STAGES
    mine = folder / "output"
    assert (mine / "report.html").is_file() and read_json(mine / "summary.json")["run"] == "experiment"
    # nothing is left
    assert "Nothing to be done" in snakemake()
    other = folder / "other"
    bundle.must_run("experiment", "experiment.json", output_dir=other, max_parallel_stages=1, **TINY)
    for name in ("evaluation/metrics.json", "probing/probe.json"):
        assert figures(read_json(mine / name)) == figures(read_json(other / name))
    for record in (mine / "stages").glob("*.done"):
        if (mine / "stages" / f"{record.stem}.json").is_file() and record.stem != "embedding":
            name = f"stages/{record.stem}.json"
            assert read_json(mine / name)["digest"] == read_json(other / name)["digest"], name
    # the run finds all of it done, and other options make only what depends on them again
    again = bundle.must_run("experiment", "experiment.json", output_dir=mine, max_parallel_stages=1, **TINY)
    assert again.count("already done") == len(STAGES) - 2
    jobs = jobs_of(snakemake("--dry-run", "--config", "num_repeats=3"))
    assert "probing" in jobs and "evaluation" not in jobs and "training_medi" not in jobs


def test_the_command_prints_the_snakefile(capsys):
    main(["workflow"])
    assert Path(capsys.readouterr().out.strip()) == SNAKEFILE

"""The runner of experiments: its order, what it refuses first, and the summary."""

import json
from dataclasses import dataclass, field

import pytest

from medi_monai.runs.experiment.resolved import Stage
from medi_monai.runs.experiment.run import Outcome, run_experiment
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json

CONFIG = {
    "imports": ["$from pathlib import Path"],
    "result": "",
    "seed": 0,
    "steps": 0,
    "work": ["$Path(@result).write_text(str(@seed) + ' ' + str(@steps))"],
}


@dataclass
class Two:
    """Two stages, the second of which is made up once the first has run."""

    config: str = "work.json"
    log: list = field(default_factory=list)

    def check(self, output, options, stage_options):
        self.log.append("check")
        if options["seed"] < 0:
            raise InputError("seed")
        return {**options, "seed": options["seed"] + 1}

    def stages(self, run):
        for name in ("first", "second"):
            before = [path.name for path in run.output.glob("*.txt")]
            self.log.append((name, before, list(run.seconds)))
            result = run.output / f"{name}.txt"
            yield [Stage(name, "work", ["work.json"], result, {"result": str(result)}, ["first"] * (name != "first"))]

    def finish(self, run):
        self.log.append("finish")
        return Outcome({"seconds": dict(run.seconds)}, {"images": 3}, {"cohort": "abc"}, run.output / "report.html")


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "work.json").write_text(json.dumps(CONFIG))
    return folder


def test_stages_are_asked_for_once_those_before_them_were_run(bundle, tmp_path, capsys):
    experiment, output = Two(), tmp_path / "output"
    output.mkdir()
    content = run_experiment(experiment, bundle, output, {"seed": 4, "other": 1}, {"work": {"steps": 9}}, 1)
    assert experiment.log == ["check", ("first", [], []), ("second", ["first.txt"], ["first"]), "finish"]
    assert (output / "second.txt").read_text() == "5 9"
    assert list(content["seconds"]) == ["first", "second"]
    summary = read_json(output / "summary.json")
    assert summary["run"] == "experiment" and summary["made"] == {"stages": content["seconds"]}
    assert summary["settings"] == {"seed": 5, "other": 1, "work: steps": 9}
    assert summary["figures"]["images"] == 3 and summary["figures"]["seconds"] > 0
    assert summary["digests"] == {"cohort": "abc"}
    assert f"Results: {output / 'report.html'}" in capsys.readouterr().out


def test_a_folder_without_such_a_bundle_and_options_are_refused_before_any_stage(bundle, tmp_path):
    experiment = Two("align.json")
    with pytest.raises(InputError, match=r"no configs/align.json\); give --bundle_root"):
        run_experiment(experiment, bundle, tmp_path / "output", {"seed": 4}, {})
    assert experiment.log == []
    experiment = Two()
    with pytest.raises(InputError, match="seed"):
        run_experiment(experiment, bundle, tmp_path / "output", {"seed": -1}, {})
    assert experiment.log == ["check"] and not (tmp_path / "output").exists()

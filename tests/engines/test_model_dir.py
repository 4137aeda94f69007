import sys
from contextlib import suppress
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from medi_monai.cohort import Cohort
from medi_monai.cohort.demo import demo_schema
from medi_monai.cohort.selection import build_schema, training_cohort, validation_cohort
from medi_monai.engines.model_dir import load_network, load_schema, load_settings, save_settings, trained_cohort_dir
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import save_tensors, write_json
from medi_monai.utils.run_dir import begin_run, finish_run, set_aside


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        begin_run(tmp_path / "file" / "folder")


def test_two_runs_do_not_work_in_one_folder_and_of_one_run_the_first_process_claims_it(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    lock = tmp_path / ".run.lock"

    def is_claimed():
        # a lock belongs to the file as it was opened, so that this process is refused as another one is
        with open(lock, "a") as file, suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
        return True

    # a notebook keeps nobody out: it would until its end, also where its run failed
    begin_run(tmp_path)
    assert not lock.exists()
    monkeypatch.setattr(sys, "argv", ["bundle/__main__.py"])
    with monkeypatch.context() as one_of_several:
        one_of_several.setenv("RANK", "1")
        begin_run(tmp_path)
        assert not lock.exists()
    begin_run(tmp_path)
    assert is_claimed()
    finish_run("sampling", tmp_path, {}, {}, {}, {}, tmp_path)
    assert not is_claimed()
    with open(lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=f"another run is using {tmp_path}"):
            begin_run(tmp_path)


def test_a_folder_with_results_of_another_kind_is_refused(tmp_path):
    finish_run("preparing", tmp_path, {}, {}, {}, {}, tmp_path)
    begin_run(tmp_path, run="preparing")
    with pytest.raises(InputError, match="contains the results of a 'preparing' run"):
        begin_run(tmp_path, run="sampling")
    begin_run(tmp_path / "new", tmp_path, run="sampling")


def test_nothing_that_exists_is_lost(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "model.pt").write_text(content)
        set_aside(tmp_path, [tmp_path / "model.pt", tmp_path / "absent"])
    assert (tmp_path / "earlier-1" / "model.pt").read_text() == "first"
    assert (tmp_path / "earlier-2" / "model.pt").read_text() == "second"


def test_a_record_of_a_training_that_was_changed_by_hand_is_refused(tmp_path):
    save_settings(tmp_path, {"objective": "v", "seed": 0, "channels": [8, 16]}, [])
    assert load_settings(tmp_path, {}) == {"objective": "v", "seed": 0, "channels": [8, 16]}
    path = tmp_path / "model.json"
    path.write_text(path.read_text().replace('"v"', '"epsilon"'))
    with pytest.raises(InputError, match="model.json is damaged, or was changed by hand: .* does not fit its digest"):
        load_settings(tmp_path, {})


def test_weights_come_back_as_they_were_saved(tiny_network, tmp_path):
    save_tensors(tmp_path / "model.pt", tiny_network.state_dict())
    image = torch.randn(2, 3, 16, 16)
    expected = tiny_network(image)
    torch.nn.init.zeros_(tiny_network.out[2].conv.weight)
    loaded = load_network(tiny_network, tmp_path / "model.pt")
    assert torch.equal(loaded(image), expected) and not loaded.training


def test_weights_that_do_not_fit_are_refused(tiny_network, tmp_path):
    with pytest.raises(InputError, match="run `training` first"):
        load_network(tiny_network, tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_network(tiny_network, tmp_path / "model.pt")
    state = tiny_network.state_dict()
    del state["conv_in.conv.weight"]
    save_tensors(tmp_path / "model.pt", state)
    with pytest.raises(InputError, match="do not fit the network.*conv_in"):
        load_network(tiny_network, tmp_path / "model.pt")


def test_weights_of_another_schema_of_the_same_shape_are_refused(tiny_network, tmp_path):
    from medi_monai.networks import MetadataConditioner

    columns = tiny_network.schema.columns
    renamed = MetadataSchema(columns[0], (type(columns[1])("center", ("East", "NA", "North")),))
    state = tiny_network.state_dict()
    state["class_embedding.schema_digest"] = MetadataConditioner(renamed, 64).schema_digest
    save_tensors(tmp_path / "model.pt", state)
    with pytest.raises(InputError, match="a different schema"):
        load_network(tiny_network, tmp_path / "model.pt")


def test_a_label_with_one_patch_is_named(tiny_cohort):
    table = tiny_cohort.table
    rare = (table["project_id"] == "C") & (table["image"] != "C_NA_0.png")
    cohort = Cohort(table[~rare].reset_index(drop=True), tiny_cohort.root)
    with pytest.raises(InputError, match=r"'C' \(1\)"):
        training_cohort(cohort, "project_id")
    assert len(training_cohort(cohort, "project_id", min_patches_per_label=1)) == len(cohort.split("train"))


def test_validation_patches_are_a_fixed_choice_of_other_patients(tiny_cohort):
    training = training_cohort(tiny_cohort, "project_id")
    chosen, again = (validation_cohort(tiny_cohort, training, 4, seed=0) for _ in range(2))
    assert chosen.table.equals(again.table) and len(chosen) == 4
    assert not set(chosen.table["patient"]) & set(training.table["patient"])


def test_the_schema_is_the_checkpoints_or_the_demos(tiny_schema, tmp_path):
    assert load_schema(tmp_path) == demo_schema()
    tiny_schema.save(tmp_path / "schema.json")
    assert load_schema(tmp_path) == tiny_schema
    (tmp_path / "schema.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(InputError, match="schema not found"):
        load_schema(tmp_path)


def own_cohort(folder):
    """A preparation whose data set is a prepared cohort itself."""
    folder.mkdir()
    (folder / "cohort.csv").touch()
    return SimpleNamespace(source=SimpleNamespace(root=folder))


def test_model_and_cohort_may_be_moved_together(tmp_path, capsys):
    cohort, models = tmp_path / "before" / "cohort", tmp_path / "before" / "models"
    cohort.mkdir(parents=True)
    models.mkdir()
    (cohort / "cohort.csv").touch()
    save_settings(models, {"cohort_dir": str(cohort), "objective": "v"})
    assert load_settings(models, {})["cohort_dir"] == str(cohort)
    (tmp_path / "before").rename(tmp_path / "after")
    settings = load_settings(tmp_path / "after" / "models", {})
    assert settings["cohort_dir"] == str(tmp_path / "after" / "cohort") and settings["objective"] == "v"
    (tmp_path / "after" / "cohort" / "cohort.csv").unlink()
    assert capsys.readouterr().out == ""
    settings = load_settings(tmp_path / "after" / "models", {})
    assert trained_cohort_dir(settings, own_cohort(tmp_path / "own"), "bundle") == str(tmp_path / "own")
    assert f"is no longer in {cohort}; {tmp_path / 'own'} is used instead" in capsys.readouterr().out


def test_sampling_looks_for_the_cohort_of_the_training(tiny_cohort, tmp_path):
    recorded = {"cohort_dir": str(tiny_cohort.root)}
    # where it is, no other data set is looked at
    assert trained_cohort_dir(recorded, None, "bundle") == str(tiny_cohort.root)
    preparation = own_cohort(tmp_path / "own")
    assert trained_cohort_dir({"cohort_dir": str(tmp_path / "gone")}, preparation, "bundle") == str(tmp_path / "own")
    assert trained_cohort_dir({}, preparation, "bundle") == str(tmp_path / "own")
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "cohort.parquet").touch()
    assert trained_cohort_dir({"cohort_dir": str(tmp_path / "long")}, None, "bundle") == str(tmp_path / "long")


def test_the_settings_of_a_training_go_before_the_defaults_and_lie_beside_the_weights(tmp_path):
    assert load_settings(tmp_path, {"objective": "v"}) == {"objective": "v"}
    write_json(tmp_path / "model.json", {"objective": "epsilon"})
    assert load_settings(tmp_path, {"objective": "v", "image_size": 32}) == {"objective": "epsilon", "image_size": 32}
    write_json(tmp_path / "model.json", [])
    with pytest.raises(InputError, match="not the record of a training"):
        load_settings(tmp_path, {})
    (tmp_path / "model.json").rename(tmp_path / "model.pt")
    with pytest.raises(InputError, match="no .*model.json beside the weights"):
        load_settings(tmp_path, {})


def test_numbers_taken_for_categories_are_pointed_out(capsys):
    table = pd.DataFrame({"label": "a", "age": [str(age) for age in range(40, 50)], "site": list("0123456789")})
    build_schema(table, "label", ["age"], [])
    assert "'age' has 10 values" in capsys.readouterr().out
    build_schema(table, "label", ["age"], ["age"])
    assert capsys.readouterr().out == ""

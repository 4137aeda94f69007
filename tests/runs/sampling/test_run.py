import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.extension import along_path, path_of
from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.sampling_settings import PlanSettings
from medi_monai.networks.learned_values import LearnedValue
from medi_monai.results import plain
from medi_monai.results.training import RECORD, TrainingRecord
from medi_monai.runs.sampling import image_name, not_in_plan, resolve_plan, sample_plan
from medi_monai.schema import CategoricalColumn, MetadataSchema
from medi_monai.schema.columns import NULL
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import file_digest, read_json, save_tensors

COLUMNS = ["project_id", "center"]
DROPOUT = {"label_dropout": 0.1, "attribute_dropout": 0.1, "joint_dropout": 0.1}
PLAN = pd.DataFrame([("A", "South", 3), ("B", "NA", 2)], columns=[*COLUMNS, "count"])


def settings(plan, count=16, **more):
    return PlanSettings(plan=plan, images_per_combination=count, **more)


@pytest.fixture
def run(tiny_schema, tiny_network, tmp_path):
    save_tensors(tmp_path / "model.pt", tiny_network.state_dict())

    def sample(plan=PLAN, seed=0, columns=COLUMNS, train_config=None, **more):
        drawing = ImageGenerator(tiny_schema, NoiseSchedule("cosine", 100), "v", 16, num_steps=2, seed=seed)
        folder = tmp_path / "output"
        images = sample_plan(
            tiny_network, drawing, plan, columns, folder, tmp_path / "model.pt", {"seed": seed}, train_config, **more
        )
        return images.table()

    return sample


def test_every_image_is_in_the_manifest_and_says_that_it_is_synthetic(run, tmp_path):
    manifest = run()
    written = sorted(path.relative_to(tmp_path / "output").as_posix() for path in tmp_path.glob("output/images/*/*"))
    assert sorted(manifest["image"]) == written and len(written) == 5
    stored = pd.read_csv(tmp_path / "output" / "manifest.csv", dtype=str, keep_default_na=False)
    assert stored["center"].tolist() == ["South"] * 3 + ["NA"] * 2
    assert set(stored["checkpoint"]) == {file_digest(tmp_path / "model.pt")}
    with Image.open(tmp_path / "output" / written[0]) as image:
        assert image.size == (16, 16)
        assert "Synthetic" in image.text["Comment"] and json.loads(image.text["medi_monai"])["center"] == "South"
    assert read_json(tmp_path / "output" / "summary.json")["made"]["images"] == 5
    assert (tmp_path / "output" / "grid.png").is_file()


def test_a_repeated_run_draws_what_lacks_and_nothing_else(run, tmp_path):
    manifest = run()
    lost, kept = (tmp_path / "output" / name for name in manifest["image"][:2])
    before, untouched = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    run()
    assert read_json(tmp_path / "output" / "summary.json")["made"]["drawn_now"] == 1
    assert lost.read_bytes() == before and kept.stat().st_mtime_ns == untouched


def test_images_of_other_settings_are_moved_aside(run, tmp_path):
    first = run(seed=0)["image"][0]
    before = np.asarray(Image.open(tmp_path / "output" / first))
    run(seed=1)
    moved = np.asarray(Image.open(tmp_path / "output" / "earlier-1" / first))
    assert np.array_equal(before, moved)
    assert not np.array_equal(before, np.asarray(Image.open(tmp_path / "output" / first)))


def test_an_unknown_center_is_named_before_anything_is_written(run, tmp_path):
    with pytest.raises(InputError, match="'Nort'.*did you mean 'North'"):
        run(pd.DataFrame([("A", "Nort", 1)], columns=PLAN.columns))
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("left", ["project_id", "project_id center"])
def test_a_label_is_left_to_the_model_that_knows_it_null(run, tmp_path, left, capsys):
    free = left.split()
    plan = PLAN.drop(columns=free).assign(count=3).drop_duplicates()
    manifest = run(plan, columns=[], train_config=DROPOUT)
    assert f"the plan does not specify {', '.join(free)}: the model chooses" in capsys.readouterr().out
    assert manifest["project_id"].isna().all() and len(manifest) == plan["count"].sum()
    # an empty cell of a table would be another thing, the unknown label
    stored = pd.read_csv(tmp_path / "output" / "manifest.csv", dtype=str, keep_default_na=False)
    assert set(stored["project_id"]) == {""} and set(stored["combination"]) == set(manifest["combination"])
    pixels = [np.asarray(Image.open(tmp_path / "output" / name)) for name in manifest["image"]]
    again = run(plan.assign(project_id=None).head(1).assign(count=2), columns=[], train_config=DROPOUT)
    assert again["image"].tolist() == manifest["image"][:2].tolist()
    assert read_json(tmp_path / "output" / "summary.json")["made"]["drawn_now"] == 0
    assert not np.array_equal(pixels[0], pixels[1])


def test_a_null_label_is_drawn_by_its_identity_and_null_codes(run, tiny_schema, tiny_network, tmp_path):
    manifest = run(pd.DataFrame({"count": [2]}), columns=[], train_config=DROPOUT)
    drawing = ImageGenerator(tiny_schema, NoiseSchedule("cosine", 100), "v", 16, num_steps=2)
    rows = pd.DataFrame({"project_id": pd.Series([None], dtype=object), "number": [1]})
    assert (tiny_schema.encode(rows, absent="null") == NULL).all()
    expected = drawing.draw(tiny_network, rows)[0]
    assert np.abs(np.asarray(Image.open(tmp_path / "output" / manifest["image"][1])).astype(int) - expected).max() <= 1


def test_a_null_label_that_was_never_trained_is_refused(run, tmp_path):
    plan = pd.DataFrame({"center": ["South"], "count": [1]})
    with pytest.raises(InputError, match="never trained with project_id left out"):
        run(plan, train_config={**DROPOUT, "label_dropout": 0.0})
    with pytest.raises(InputError, match="do not contain label_dropout"):
        run(plan)
    assert not (tmp_path / "output").exists()


def test_file_names_are_safe_and_different_for_different_combinations():
    values = ["a/b", "a b", "a-b", "a_b", "", "../x", "Ärzte", None, "unknown", "any", ".."]
    names = [image_name({"center": value, "number": 0}, ["center"]) for value in values]
    assert len(set(names)) == len(values)
    assert all(name.count("/") == 2 and ".." not in name.split("/")[1] for name in names)
    pairs = [("a_b", "c"), ("a", "b_c")]
    assert len({image_name({"x": x, "y": y, "number": 0}, ["x", "y"]) for x, y in pairs}) == 2


def test_values_that_differ_in_case_alone_do_not_share_a_folder_on_any_disk():
    twins = {("class", "LUAD"), ("class", "luad")}
    rows = [{"class": value, "center": "Aspen", "number": 0} for value in ("LUAD", "luad", "LUSC")]
    names = [image_name(row, ["class", "center"], twins) for row in rows]
    assert len({name.casefold() for name in names}) == 3
    # a name depends on the vocabulary and not on the plan; others stay as they are
    assert names[2] == "images/LUSC_Aspen/00000.png" and names[0].startswith("images/LUAD_Aspen_")


def test_a_model_whose_labels_differ_in_case_alone_draws_all_of_them(tiny_schema, tiny_network, tmp_path, monkeypatch):
    save_tensors(tmp_path / "model.pt", tiny_network.state_dict())
    schema = MetadataSchema(CategoricalColumn("project_id", ("A", "B", "a")), tiny_schema.attributes)
    monkeypatch.setattr(MetadataSchema, "digest", tiny_schema.digest)
    drawing = ImageGenerator(schema, NoiseSchedule("cosine", 100), "v", 16, num_steps=2)
    plan = pd.DataFrame([("A", "NA", 1), ("a", "NA", 1), ("B", "NA", 1)], columns=PLAN.columns)
    manifest = sample_plan(tiny_network, drawing, plan, COLUMNS, tmp_path / "output", tmp_path / "model.pt", {}).table()
    assert len(set(manifest["image"].str.casefold())) == 3 and manifest["image"][2] == "images/B_NA/00000.png"


@pytest.mark.parametrize("name", ["summary.json", "grid.png", "manifest.csv", "images/mine.png", "sampling.json"])
def test_files_of_the_user_are_neither_overwritten_nor_moved(run, tmp_path, name):
    path = tmp_path / "output" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(InputError, match="was not written by medi_monai, and sampling would take its place"):
        run()
    left = [path for path in (tmp_path / "output").rglob("*") if path.is_file()]
    assert left == [path] and path.read_text() == "mine"


def test_a_grid_that_the_user_changed_since_is_not_overwritten(run, tmp_path):
    run()
    (tmp_path / "output" / "grid.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="grid.png was changed after a run wrote it"):
        run()
    with pytest.raises(InputError, match="grid.png was changed after a run wrote it"):
        run(seed=1)
    assert (tmp_path / "output" / "grid.png").read_bytes() == b"mine"


def test_another_order_of_the_same_plan_moves_the_earlier_manifest_aside(run, tmp_path):
    run()
    stored = (tmp_path / "output" / "manifest.csv").read_bytes()
    run(PLAN.iloc[::-1])
    assert (tmp_path / "output" / "earlier-1" / "manifest.csv").read_bytes() == stored
    assert read_json(tmp_path / "output" / "summary.json")["made"]["drawn_now"] == 0


def test_a_class_only_model_is_sampled_from_the_same_plan_with_the_same_noise(tiny_cohort, tiny_network):
    from medi_monai.engines.generator import identity_noise
    from medi_monai.schema import MetadataSchema

    schema = MetadataSchema.from_table(tiny_cohort.table, "project_id")
    rows = pd.DataFrame({"project_id": ["A", "A"], "center": ["NA", "South"], "number": [0, 0]})
    assert torch.equal(*schema.encode(rows)[:, 0].split(1))
    noise = identity_noise(rows, 0, (3, 16, 16))
    assert not torch.equal(noise[0], noise[1])


def test_a_second_plan_shares_the_images_and_keeps_the_papers_of_the_first(run, tmp_path):
    first = run()
    run(PLAN.head(1).assign(count=4))
    assert read_json(tmp_path / "output" / "summary.json")["made"] == {"images": 4, "drawn_now": 1, "combinations": 1}
    kept = pd.read_csv(tmp_path / "output" / "earlier-1" / "manifest.csv", dtype=str, keep_default_na=False)
    assert kept["image"].tolist() == first["image"].tolist()


def test_a_column_that_means_nothing_and_a_row_without_label_are_refused(run, tmp_path):
    with pytest.raises(InputError, match="column of the plan 'Center': did you mean 'center'"):
        run(PLAN.rename(columns={"center": "Center"}))
    with pytest.raises(InputError, match="no 'project_id'"):
        run(pd.DataFrame([("", "South", 1)], columns=PLAN.columns))
    assert not (tmp_path / "output").exists()


def test_a_plan_that_no_disk_holds_is_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(InputError, match="a plan of 9,223,372,036,854,775,808 images of .* EB on disk.*Plan fewer"):
        run(PLAN.assign(count=2**62))
    assert not (tmp_path / "output").exists()


def test_the_record_of_the_training_goes_into_sampling_json_without_drawing_again(run, tiny_cohort, tmp_path):
    run()
    record = plain(TrainingRecord.of(tiny_cohort.split("train").table, COLUMNS, tiny_cohort.digest))
    run(train_config={RECORD: record})
    assert read_json(tmp_path / "output" / "sampling.json")[RECORD] == record
    assert read_json(tmp_path / "output" / "summary.json")["made"]["drawn_now"] == 0
    assert not list((tmp_path / "output").glob("earlier-*"))


def test_a_plan_of_another_cohort_does_not_call_unseen_what_the_model_saw(tiny_cohort):
    record = plain(TrainingRecord.of(tiny_cohort.split("train").table, COLUMNS, tiny_cohort.digest))
    table = tiny_cohort.table
    own = resolve_plan(
        settings("unseen", 4), lambda: tiny_cohort.split("train").table, COLUMNS, train_config={RECORD: record}
    )
    assert len(own) == 1
    other = table[~((table["project_id"] == "B") & (table["center"] == "NA"))]
    with pytest.raises(InputError, match=r"1 combination of 1 .* example B · NA: leave out --cohort_dir"):
        resolve_plan(settings("unseen", 4), lambda: other, COLUMNS, train_config={RECORD: record})
    assert len(resolve_plan(settings("all", 4), lambda: other, COLUMNS, train_config={RECORD: record})) == 9


def test_what_is_held_out_and_cannot_be_sampled_is_named(run, tiny_cohort, tmp_path, capsys):
    # no image of West is in training, so that no model can be asked for it
    west = tiny_cohort.table["image"].isin(["A_South_0.png", "B_North_5.png"])
    table = tiny_cohort.table.assign(center=tiny_cohort.table["center"].mask(west, "West"))
    cohort = Cohort(table, tiny_cohort.root)
    plan = resolve_plan(settings("unseen", 1), lambda: cohort.split("train").table, COLUMNS)
    assert plan.to_dict("records") == [{"project_id": "A", "center": "South", "count": 1}]
    absent = not_in_plan(settings("unseen"), plan, lambda: cohort, COLUMNS)
    assert absent == [{"project_id": label, "center": "West"} for label in "AB"]
    run(plan, not_sampled=absent)
    assert "2 combinations that the cohort holds out cannot be sampled" in (out := capsys.readouterr().out)
    assert "A · West, B · West" in out
    assert read_json(tmp_path / "output" / "summary.json")["made"]["not_sampled"] == absent
    assert not_in_plan(settings("balance"), plan, lambda: cohort, COLUMNS) == []
    assert not_in_plan(settings("unseen"), plan, lambda: tiny_cohort, COLUMNS) == []


def test_a_mixture_in_a_plan_keeps_its_images_whatever_else_the_plan_has(run, tmp_path, tiny_network):
    mixed = pd.DataFrame([("A", "NA:1+South:3", 2)], columns=PLAN.columns)
    first = run(mixed)
    assert first["center"].tolist() == ["NA:25+South:75"] * 2
    both = run(pd.concat([PLAN, mixed.assign(center="South:75 + NA:25")]))
    assert read_json(tmp_path / "output" / "summary.json")["made"]["drawn_now"] == len(both) - 2
    assert set(first["image"]) < set(both["image"])


def test_the_grid_of_a_path_is_a_strip(run, tmp_path, tiny_schema):
    path = path_of("center=South..NA", 4, tiny_schema)
    manifest = run(along_path(path, tiny_schema, 1), path=path)
    assert len(manifest) == 4 * len(tiny_schema.label.values)
    with Image.open(tmp_path / "output" / "grid.png") as grid:
        assert grid.size[0] > 4 * 96


def test_a_learned_value_is_drawn_until_the_weights_change(run, tmp_path, tiny_schema, tiny_network):
    row = tiny_network.class_embedding.embeddings[1].table.weight[3].detach()
    weights = file_digest(tmp_path / "model.pt")
    values = [LearnedValue("center", "Yew", row, tiny_schema.digest, weights)]
    run()
    manifest = run(pd.concat([PLAN, PLAN.assign(center="Yew")], ignore_index=True), learned=values)
    assert manifest["center"].tolist().count("Yew") == 5
    # the learned value changes the schema, so that images of another one under this name are not kept
    assert read_json(tmp_path / "output" / "summary.json")["made"]["drawn_now"] == 10
    run(learned=values)
    assert read_json(tmp_path / "output" / "summary.json")["made"]["drawn_now"] == 5
    save_tensors(tmp_path / "model.pt", {**tiny_network.state_dict(), "more": torch.zeros(1)})
    with pytest.raises(InputError, match="'Yew' was learned for other weights"):
        run(PLAN.assign(center="Yew"), learned=values)

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.generator import ImageGenerator
from medi_monai.engines.sampling_settings import PlanSettings
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.results import plain
from medi_monai.results.training import RECORD, TrainingRecord
from medi_monai.runs.sampling import resolve_plan, sample_plan
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json, save_tensors

COLUMNS = ["project_id", "center"]
DROPOUT = {"label_dropout": 0.1, "attribute_dropout": 0.1, "joint_dropout": 0.1}


def settings(plan, **more):
    return PlanSettings(plan=plan, **{"images_per_combination": 2, **more})


@pytest.fixture
def table(tiny_cohort):
    """The training rows of the tiny cohort, with ages."""
    rows = tiny_cohort.split("train").table
    return rows.assign(age=[str(30 + number % 50) for number in range(len(rows))])


@pytest.fixture
def run(table, tmp_path):
    """Sample a plan with a model of label, center and age."""
    schema = MetadataSchema.from_table(table, "project_id", ["center", "age"], ["age"])
    torch.manual_seed(0)
    network = MetadataDiffusionUNet(
        schema, spatial_dims=2, in_channels=3, out_channels=3, channels=(16, 32), attention_levels=(False, True),
        num_res_blocks=1, num_head_channels=16, norm_num_groups=8,
    ).eval()  # fmt: skip
    save_tensors(tmp_path / "model.pt", network.state_dict())
    record = plain(TrainingRecord.of(table, COLUMNS, ""))

    def sample(plan, folder="output", **train_config):
        generator = ImageGenerator(schema, NoiseSchedule("cosine", 100), "v", 16, num_steps=2)
        images = sample_plan(
            network, generator, plan, COLUMNS, tmp_path / folder, tmp_path / "model.pt", {},
            {RECORD: record, **DROPOUT, **train_config},
        )  # fmt: skip
        return images.table()

    sample.schema = schema
    return sample


def test_plans_come_by_name_or_by_path(table, tmp_path):
    unseen = resolve_plan(settings("unseen", images_per_combination=4), lambda: table, COLUMNS)
    assert unseen.to_dict("records") == [{"project_id": "A", "center": "South", "count": 4}]
    plan = pd.DataFrame([("A", "South", 3), ("B", "NA", 2)], columns=[*COLUMNS, "count"])
    plan.to_csv(tmp_path / "plan.csv", index=False)
    assert resolve_plan(settings(str(tmp_path / "plan.csv")), lambda: table, COLUMNS).equals(plan)
    with pytest.raises(InputError, match="did you mean 'unseen'"):
        resolve_plan(settings("unsen"), lambda: table, COLUMNS)


@pytest.mark.parametrize(
    "target",
    [
        {"NA": 0.5, "North": 0.25, "South": 0.25},
        {"center": {"NA": 0.5, "North": 0.25, "South": 0.25}},
        "table",
    ],
)
def test_a_target_is_written_as_that_of_an_alignment(table, tmp_path, target, capsys):
    names = ["center", "project_id"] if target == "table" else ["center"]
    pd.DataFrame(
        [(label, center, share) for label in "ABC" for center, share in (("NA", 2), ("North", 1), ("South", 1))],
        columns=[*COLUMNS, "count"],
    ).to_csv(tmp_path / "target.csv", index=False)
    more = {"plan_target_table": str(tmp_path / "target.csv")} if target == "table" else {}
    plan = resolve_plan(settings("target", plan_target=target, **more), lambda: table, COLUMNS)
    both = pd.concat([table.assign(count=1), plan]).groupby(names)["count"].sum()
    shares = both / both.sum()
    assert shares.groupby("center").sum().round(6).to_dict() == {"NA": 0.5, "North": 0.25, "South": 0.25}
    assert "differ from the target" in (out := capsys.readouterr().out) and "by 0.000 (total variation" in out


def test_targets_that_name_no_column_or_several_are_refused(table):
    for values in ({"NA": 0.5, "A": 0.5}, {"X": 1.0}):
        with pytest.raises(InputError, match="plan_target: .* not all values of one of the columns project_id, center"):
            resolve_plan(settings("target", plan_target=values), lambda: table, COLUMNS)
    twice = table.assign(center=table["project_id"])
    with pytest.raises(InputError, match="may be values of several of the columns"):
        resolve_plan(settings("target", plan_target={"A": 0.5, "B": 0.3, "C": 0.2}), lambda: twice, COLUMNS)
    with pytest.raises(InputError, match="'target' needs the shares"):
        settings("target")
    with pytest.raises(InputError, match="plan_target is given, and the plan is 'all'"):
        settings("all", plan_target="uniform")


def test_values_restrict_classes_and_cross_ranges_of_ages(table, run):
    values = {"project_id": ["A", "B"], "age": ["30..40", "60..75", 50]}
    plan = resolve_plan(settings("all", plan_values=values), lambda: table, COLUMNS, run.schema)
    assert list(plan.columns) == [*COLUMNS, "age", "count"] and len(plan) == 2 * 3 * 3
    assert set(plan["age"]) == {"30..40", "60..75", "50"} and set(plan["project_id"]) == {"A", "B"}
    with pytest.raises(InputError, match="value of 'project_id' in plan_values 'D'"):
        resolve_plan(settings("all", plan_values={"project_id": "D"}), lambda: table, COLUMNS, run.schema)


def test_settings_of_made_plans_are_refused_for_a_table(table, tmp_path):
    pd.DataFrame([("A", "South", 3), ("B", "NA", 2)], columns=[*COLUMNS, "count"]).to_csv(tmp_path / "p.csv")
    with pytest.raises(InputError, match="max_plan_images is given, and the plan is the table .*p.csv"):
        resolve_plan(settings(str(tmp_path / "p.csv"), max_plan_images=3), lambda: table, COLUMNS)


@pytest.mark.parametrize("kind", ["balance", "observed"])
def test_a_count_that_has_no_effect_is_reported(table, kind, capsys):
    columns = ["project_id", "center"]
    resolve_plan(settings(kind), lambda: table, columns)
    assert ("images_per_combination has no effect" in capsys.readouterr().out) == (kind == "balance")
    resolve_plan(PlanSettings(plan=kind), lambda: table, columns)
    assert not capsys.readouterr().out


def test_rows_of_a_table_with_too_little_training_are_left_out_aloud(table, tmp_path, capsys):
    rows = [("A", "South", 3), ("B", "NA", 2)]
    pd.DataFrame(rows, columns=[*COLUMNS, "count"]).to_csv(tmp_path / "p.csv", index=False)
    few = table.drop(table.index[table["center"] == "South"][1:])
    for train_config in (None, {RECORD: plain(TrainingRecord.of(few, COLUMNS, ""))}):
        chosen = settings(str(tmp_path / "p.csv"), min_training_patches=2)
        plan = resolve_plan(chosen, lambda: few, COLUMNS, train_config=train_config)
        assert plan["center"].tolist() == ["NA"]
        assert "1 combination of" in (out := capsys.readouterr().out) and "not be sampled: A · South" in out


def test_ages_are_drawn_from_the_range_and_are_in_the_manifest(run, tmp_path):
    plan = pd.DataFrame([("A", "NA", "40..60", 3), ("B", "NA", "47", 1)], columns=[*COLUMNS, "age", "count"])
    manifest = run(plan)
    assert manifest["age"].iloc[3] == "47" and manifest["age"].iloc[:3].astype(float).between(40, 60).all()
    assert manifest["image"].iloc[0] == "images/A_NA_40..60/00000.png" and manifest["age"].nunique() == 4
    # the same image as in a plan of the number itself
    alone = plan.head(1).assign(age=manifest["age"].iloc[0], count=1)
    pixels = [np.asarray(Image.open(tmp_path / "output" / manifest["image"].iloc[0]))]
    again = run(alone, "other")
    pixels.append(np.asarray(Image.open(tmp_path / "other" / again["image"].iloc[0])))
    assert np.array_equal(*pixels)
    with pytest.raises(InputError, match="age = 140.0 is outside the range of the training data"):
        run(plan.assign(age="40..140"))


def test_manifest_and_summary_say_how_near_the_training_is(run, tmp_path, capsys):
    plan = pd.DataFrame([("A", "NA", 1), ("A", "South", 2)], columns=[*COLUMNS, "count"])
    manifest = run(plan)
    assert manifest["seen"].tolist() == ["combination", "values", "values"]
    assert manifest["training_patches"].tolist() == [5, 0, 0]
    assert manifest["rarest_value_patches"].tolist() == [10, 10, 10]
    assert read_json(tmp_path / "output" / "summary.json")["made"]["seen"] == {"combination": 1, "values": 2}
    assert "1 have a combination that was in training, 2 have values that" in capsys.readouterr().out


def test_what_was_never_trained_is_refused(run, tmp_path, capsys):
    plan = pd.DataFrame([("A", "", 1)], columns=[*COLUMNS, "count"])
    with pytest.raises(InputError, match="empty cell of 'center', .* no training patch lacked 'center'"):
        run(plan)
    with pytest.raises(InputError, match="never trained with center and age left out"):
        run(plan.drop(columns="center"), attribute_dropout=0.0)
    assert not (tmp_path / "output").exists()
    run(plan.assign(center="NA", age=""))
    assert "empty cell of 'age'. Whether any training patch lacked it is not recorded" in capsys.readouterr().out

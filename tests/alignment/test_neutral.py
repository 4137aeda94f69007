"""Neutral conditions of a model of metadata: shares by hand, nulls by counting, gradients by finite differences."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.alignment.functional.targets import joint_attributes
from medi_monai.alignment.neutral import encoder_features, neutral_plan, neutral_share, rows_naming, sampled_subgroups
from medi_monai.alignment.pool import spread_rows
from medi_monai.cohort import Cohort
from medi_monai.networks.conditioner import drop_to_null
from medi_monai.networks.encoders import EmbeddedEncoder, Encoder
from medi_monai.schema import MetadataSchema
from medi_monai.schema.columns import NULL
from medi_monai.utils.errors import InputError

RATES = {"label_dropout": 0.1, "attribute_dropout": 0.2, "joint_dropout": 0.05}
TABLE = pd.DataFrame(
    {
        "tumor": ["A"] * 6 + ["B"] * 3 + ["C"],
        "center": ["N", "S", ""] * 3 + ["N"],
        "sex": ["f", "f", "m", "m", "m", "m", "f", "f", "", "f"],
    }
)


@pytest.fixture
def schema():
    return MetadataSchema.from_table(TABLE, "tumor", ["center", "sex"])


def plan_of(schema, *attributes, plan="neutral", num_images=20, **rates):
    return neutral_plan(plan, lambda: TABLE, schema, attributes, {**RATES, **rates}, num_images)


def test_joint_attributes_are_split_at_the_bar():
    assert joint_attributes("center") == ["center"]
    assert joint_attributes("tumor | center") == ["tumor", "center"]
    for wrong in ("", "center|", "center|center"):
        with pytest.raises(InputError, match="each once"):
            joint_attributes(wrong)


@pytest.mark.parametrize("attributes", [["center"], ["tumor"], ["center", "sex"], ["tumor", "center", "sex"]])
def test_the_neutral_share_is_what_the_training_drops(schema, attributes):
    dropped = drop_to_null(torch.zeros(400_000, 3), 0.1, 0.2, torch.Generator().manual_seed(0), 0.05) == NULL
    wanted = torch.tensor([name in attributes for name in schema.names])
    assert neutral_share(schema, attributes, RATES) == pytest.approx(
        float((dropped == wanted).all(1).float().mean()), abs=2e-3
    )


def test_a_null_that_was_never_trained_is_refused_and_a_rare_one_warned_of(schema, capsys):
    with pytest.raises(InputError, match=r"never trained with center left out .*attribute_dropout 0,"):
        plan_of(schema, "center", attribute_dropout=0)
    with pytest.raises(InputError, match="never trained"):
        plan_of(schema, "tumor", label_dropout=0.0)
    assert len(plan_of(schema, "tumor", "center", "sex", label_dropout=0, attribute_dropout=0)) == 1
    assert capsys.readouterr().out == ""
    plan_of(schema, "center", attribute_dropout=0.005)
    assert "warning: 0.43% of the training had center left out" in capsys.readouterr().out
    with pytest.raises(InputError, match="do not contain joint_dropout"):
        plan_of(schema, "center", joint_dropout=None)
    with pytest.raises(InputError, match="unknown attribute 'centre': did you mean 'center'"):
        plan_of(schema, "centre")
    with pytest.raises(InputError, match="unknown attribute 'centre'"):
        plan_of(schema, "center", "centre")


def test_a_neutral_plan_has_the_other_columns_as_often_as_the_training(schema):
    counts = {("A", "f"): 4, ("A", "m"): 8, ("B", ""): 2, ("B", "f"): 4, ("C", "f"): 2}
    plan = plan_of(schema, "center")
    assert plan.columns.tolist() == ["tumor", "sex", "count"]
    assert dict(zip(zip(plan["tumor"], plan["sex"]), plan["count"])) == counts
    assert plan_of(schema, "center", "sex")[["tumor", "count"]].values.tolist() == [["A", 12], ["B", 6], ["C", 2]]
    assert plan_of(schema, "center", "sex", num_images=2)["tumor"].tolist() == ["A", "B"]


def test_all_that_a_model_draws_is_neutral_in_what_it_is_not_conditioned_on(schema, capsys):
    class_only = MetadataSchema.from_table(TABLE, "tumor")
    assert neutral_share(class_only, ["center"], {}) == 1
    plan = neutral_plan("neutral", lambda: TABLE, class_only, ["center"], {}, 20)
    assert plan.values.tolist() == [["A", 12], ["B", 6], ["C", 2]]
    said = capsys.readouterr().out
    assert "not conditioned on center: every prompt is neutral" in said and "--anchor_weight" in said
    # of the joint, what it is conditioned on has to be known null
    assert neutral_share(class_only, ["tumor", "center"], RATES) == neutral_share(class_only, ["tumor"], RATES) < 1
    with pytest.raises(InputError, match="never trained with tumor left out"):
        neutral_share(class_only, ["tumor", "center"], {**RATES, "label_dropout": 0, "joint_dropout": 0})
    plan_of(schema, "center")
    assert capsys.readouterr().out == ""


def test_an_aligned_label_is_null_in_the_codes(schema):
    for attributes, columns in ((("tumor", "center"), [0, 1]), (("tumor", "center", "sex"), [0, 1, 2])):
        plan = plan_of(schema, *attributes)
        assert plan["count"].sum() == 20
        null = schema.encode(spread_rows(plan, 20), absent="null") == NULL
        assert null.all(0).nonzero()[:, 0].tolist() == columns and int(null.sum()) == 20 * len(columns)


def test_a_plan_from_a_file_must_leave_the_attribute_out(schema, tmp_path):
    pd.DataFrame({"tumor": ["B"], "sex": ["m"], "count": [3]}).to_csv(tmp_path / "plan.csv", index=False)
    assert plan_of(schema, "center", plan=str(tmp_path / "plan.csv")).values.tolist() == [["B", "m", 3]]
    with pytest.raises(InputError, match="plan.csv names 'sex'"):
        plan_of(schema, "center", "sex", plan=str(tmp_path / "plan.csv"))


def test_rows_naming_drops_what_is_unknown(tmp_path):
    kept = rows_naming(Cohort(TABLE, tmp_path), ["center", "sex"])
    assert len(kept) == 7 and (kept.table[["center", "sex"]] != "").all(axis=None)
    with pytest.raises(InputError, match="no image"):
        rows_naming(Cohort(TABLE.assign(center=""), tmp_path), ["center"])


def test_sampled_images_are_labeled_by_what_was_asked_for(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    table = pd.DataFrame({"image": ["one.png"], "tumor": ["A"], "center": ["N"]})
    table.to_csv(tmp_path / "manifest.csv", index=False)
    assert sampled_subgroups(tmp_path, ["center"]).table["center"].tolist() == ["N"]
    table.drop(columns="center").to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(InputError, match="center"):
        sampled_subgroups(tmp_path, ["center"])


def test_features_of_files_and_of_tensors_agree():
    pixels = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    features = encoder_features("embedded")
    assert encoder_features(None) is None
    torch.testing.assert_close(features(pixels.float() / 127.5 - 1), EmbeddedEncoder()(pixels), rtol=1e-4, atol=1e-4)
    beyond = torch.full((1, 3, 32, 32), 1.5)
    beyond[..., ::2] = -1.5
    assert features(beyond).isfinite().all()


def test_the_gradient_of_features_is_that_of_finite_differences():
    drawing = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, 32, 32, generator=drawing) * 1.6 - 0.8
    # one shift for all pixels of a channel: the derivative of a quantile ends where two pixels change places
    direction = torch.tensor([0.5, -1.0, 0.7])[:, None, None].expand(images.shape)
    features, weights = encoder_features("embedded"), torch.randn(81, generator=drawing)
    value = (features(images.requires_grad_()) @ weights).sum()
    (gradient,) = torch.autograd.grad(value, images)
    with torch.no_grad():
        ahead, behind = ((features(images + sign * 1e-3 * direction) @ weights).sum() for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-3, rel=0.02)


def test_an_encoder_without_gradient_is_refused():
    class Steps(Encoder):
        dim = 3

        def encode(self, images):
            return (images > 0.5).float().mean((2, 3))

    with pytest.raises(InputError, match="steps passes no gradient"):
        encoder_features(Steps("steps", None))


def test_rows_do_not_decide_the_plan(schema):
    mixed = TABLE.iloc[np.random.default_rng(0).permutation(len(TABLE))]
    plan = neutral_plan("neutral", lambda: mixed, schema, ["center"], RATES, 7)
    pd.testing.assert_frame_equal(plan, plan_of(schema, "center", num_images=7))

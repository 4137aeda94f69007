"""Aligning by the pathology bundle's own configs, on a cohort and a network that are made in a blink."""

import json

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.cohort.selection import build_schema
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.results import read_schema
from medi_monai.utils.files import file_digest, read_json, write_json
from medi_monai.utils.records import sealed

pytestmark = pytest.mark.slow

CENTERS, LABELS, SIDE = ("North", "South"), ("A", "B"), 16
NETWORK = {"channels": [16, 32], "attention_levels": [False, True], "num_res_blocks": 1, "num_head_channels": 16}
TRAINED = {
    "arm": "medi", "label": "tumor", "attributes": ["center"], "subpopulation_columns": ["tumor", "center"],
    "image_size": SIDE, "mpp": 1.0, "objective": "v", "schedule": "cosine", "num_timesteps": 50, "norm_num_groups": 8,
    "conditioning": "concat", "label_dropout": 0.05, "attribute_dropout": 0.05, "joint_dropout": 0.1, **NETWORK,
}  # fmt: skip
FEW = {
    "max_steps": 2, "batch_size": 8, "draw_batch_size": 8, "pool_size": 16, "num_images": 10, "num_steps": 2,
    "num_validation": 8, "val_interval": 1, "checkpoint_every": 1, "anchor_batch_size": 2, "amp": False,
}  # fmt: skip


def make_cohort(root):
    rng, rows = np.random.default_rng(0), []
    for number in range(72):
        label, center = LABELS[number % 3 == 0], CENTERS[number // 2 % 4 == 0]
        pixels = rng.integers(40, 120, (SIDE, SIDE, 3)) + (0, 0, 100 * (center == "South"))
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{number}.png")
        split = "val" if number >= 60 else "train"
        rows.append((f"{number}.png", f"S{number}", f"P{number}", "0", "0", "1.0", label, center, split))
    columns = ["image", "slide", "patient", "x", "y", "mpp", "tumor", "center", "split"]
    cohort = Cohort(pd.DataFrame(rows, columns=columns), root)
    cohort.write()
    return cohort


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of a cohort and of a model with random weights."""
    folder = tmp_path_factory.mktemp("aligning")
    for name in ("cohort", "models"):
        (folder / name).mkdir()
    cohort = make_cohort(folder / "cohort")
    schema = build_schema(cohort.split("train").table, "tumor", ["center"], [])
    torch.manual_seed(0)
    network = MetadataDiffusionUNet(
        schema, spatial_dims=2, in_channels=3, out_channels=3, norm_num_groups=8, use_combined_linear=True, **NETWORK
    )
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    schema.save(folder / "models" / "schema.json")
    (folder / "models" / "model.json").write_text(json.dumps({**TRAINED, "cohort_dir": str(folder / "cohort")}))
    return folder


@pytest.fixture(scope="module")
def classifiers(bundle, root):
    for role in ("guide", "validation", "judge"):
        options = {"role": role, "output_dir": root / role, "cohort_dir": root / "cohort", "image_size": SIDE}
        bundle.run_in_process(
            "classifying", "classify.json", max_steps=30, batch_size=16, attribute="tumor|center", **options
        )
    return root


def align(bundle, root, name, **options):
    folders = {"ckpt_dir": root / "models", "classifier_dir": root, "aligned_dir": root / name / "models"}
    return folders | {"output_dir": root / name / "output"} | FEW | options


def test_classifiers_differ_by_role_and_read_the_attribute(classifiers):
    records = {role: json.loads((classifiers / role / "classifier.json").read_text()) for role in ("guide", "judge")}
    assert records["guide"]["architecture"] != records["judge"]["architecture"]
    for record in records.values():
        assert record["attributes"] == {"tumor": list(LABELS), "center": list(CENTERS)}
        assert record["held_out"]["center"]["balanced_accuracy"]["value"] > 0.8


@pytest.mark.parametrize(
    ("options", "combinations"),
    [({}, {"A_North", "A_South", "B_North", "B_South"}), ({"plan_columns": ["tumor"]}, {"A", "B"})],
)
def test_a_plan_is_made_of_its_columns_and_leaves_the_others_to_the_model(
    bundle, root, tmp_path, options, combinations
):
    bundle.run_in_process(
        "sampling", "inference.json", plan="all", images_per_combination=2, num_steps=2, ckpt_dir=root / "models",
        output_dir=tmp_path, **options,
    )  # fmt: skip
    manifest = pd.read_csv(tmp_path / "manifest.csv")
    assert manifest["combination"].value_counts().to_dict() == dict.fromkeys(combinations, 2)


@pytest.mark.parametrize("loss", ["transport", "matching"])
def test_aligning_from_neutral_conditioning(bundle, classifiers, loss):
    before = file_digest(classifiers / "models" / "model.pt")
    bundle.run_in_process("aligning", "align.json", **align(bundle, classifiers, loss, subgroup_loss=loss))
    output = classifiers / loss / "output"
    # 60 patches in training, 20 of them of the second label
    assert (output / "plan.csv").read_text().splitlines() == ["tumor,count", "A,7", "B,3"]
    record = json.loads((output / "alignment.json").read_text())
    assert record["target"] == {"attributes": ["center"], "target": {"North": 0.5, "South": 0.5}}
    assert record["losses"]["distillation_weight"] == 100
    assert [look["step"] for look in record["curve"]] == [0, 1, 2]
    assert all({"guide", "validation", "judge"} <= set(look) for look in record["curve"])
    assert file_digest(classifiers / "models" / "model.pt") == before
    aligned = torch.load(classifiers / loss / "models" / "model.pt", weights_only=True)
    assert all(value.isfinite().all() for value in aligned.values())
    assert json.loads((classifiers / loss / "models" / "model.json").read_text())["label"] == "tumor"


def test_the_joint_of_label_and_center_leaves_both_null(bundle, classifiers):
    target = {"A|North": 0.1, "A|South": 0.4, "B|North": 0.4, "B|South": 0.1}
    options = align(bundle, classifiers, "joint", attribute="tumor|center", target=target)
    bundle.run_in_process("aligning", "align.json", **options)
    record = json.loads((classifiers / "joint" / "output" / "alignment.json").read_text())
    assert record["target"] == {"attributes": ["tumor", "center"], "target": target}
    assert (classifiers / "joint" / "output" / "plan.csv").read_text().split() == ["count", "10"]


@pytest.mark.parametrize(
    ("name", "columns", "attribute"), [("transport", ["tumor"], "center"), ("joint", [], "tumor|center")]
)
def test_before_and_after_are_sampled_with_one_plan_and_compared(bundle, classifiers, name, columns, attribute):
    output = classifiers / name / "output"
    for arm, models in (("before", classifiers / "models"), ("after", classifiers / name / "models")):
        bundle.run_in_process(
            "sampling", "inference.json", plan=output / "plan.csv", plan_columns=columns, num_steps=2,
            ckpt_dir=models, output_dir=output / arm,
        )  # fmt: skip
    manifests = [pd.read_csv(output / arm / "manifest.csv") for arm in ("before", "after")]
    assert len(manifests[0]) == 10
    shared = ["image", "combination", "tumor", "number"]
    assert manifests[0][shared].equals(manifests[1][shared])
    bundle.run_in_process(
        "evaluation", "evaluate_alignment.json", arms={arm: str(output / arm) for arm in ("before", "after")},
        alignment=output, classifier_dir=classifiers, cohort_dir=classifiers / "cohort", label="tumor",
        subpopulation_columns=["tumor", "center"], attribute=attribute, image_size=SIDE, min_images=4, neighbors=3,
        num_halves=1, num_replicates=5, output_dir=output / "page",
    )  # fmt: skip
    content = read_json(output / "page" / "metrics.json")
    jsonschema.validate(content, read_schema("metrics"))
    assert {"before", "after"} <= set(content["proportions"]) and (output / "page" / "report.html").is_file()
    assert content["part"] == attribute and len(content["by_prompt"][attribute]["prompts"]) == (2 if columns else 1)


def test_a_class_only_model_is_aligned_as_it_is(bundle, classifiers):
    folder = classifiers / "class_only"
    folder.mkdir()
    schema = build_schema(Cohort.read(classifiers / "cohort").split("train").table, "tumor", [], [])
    torch.manual_seed(0)
    network = MetadataDiffusionUNet(
        schema, spatial_dims=2, in_channels=3, out_channels=3, norm_num_groups=8, use_combined_linear=True, **NETWORK
    )
    torch.save(network.state_dict(), folder / "model.pt")
    schema.save(folder / "schema.json")
    settings = {**TRAINED, "arm": "cls", "attributes": [], "cohort_dir": str(classifiers / "cohort")}
    (folder / "model.json").write_text(json.dumps(settings))
    bundle.run_in_process("aligning", "align.json", **align(bundle, classifiers, "from_cls", ckpt_dir=folder))
    output = classifiers / "from_cls" / "output"
    assert (output / "plan.csv").read_text().splitlines() == ["tumor,count", "A,7", "B,3"]
    record = json.loads((output / "alignment.json").read_text())
    assert [look["step"] for look in record["curve"]] == [0, 1, 2]
    # nothing that the model is conditioned on names a center
    assert record["losses"]["distillation_weight"] == 0


def test_several_processes_are_refused(bundle, classifiers, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = align(bundle, classifiers, "several")
    assert "one process" in bundle.error_in_process("aligning", "align.json", **options)
    assert not (classifiers / "several").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attribute": "centre"}, "unknown attribute 'centre'"),
        ({"target": {"North": 0.7, "South": 0.7}}, "sums to 1.4, not to 1"),
        ({"encoder": "none"}, "unknown encoder 'none'"),
        ({"judge": "guide"}, "cannot check"),
    ],
)
def test_mistakes_end_in_one_line(bundle, classifiers, options, words):
    if "judge" in options:
        options = {"judge": classifiers / options["judge"]}
    message = bundle.error_in_process("aligning", "align.json", **align(bundle, classifiers, "wrong", **options))
    assert words in message


def test_a_model_that_never_saw_null_is_refused(bundle, classifiers, tmp_path):
    for name in ("model.pt", "schema.json"):
        (tmp_path / name).write_bytes((classifiers / "models" / name).read_bytes())
    settings = json.loads((classifiers / "models" / "model.json").read_text())
    write_json(tmp_path / "model.json", sealed({**settings, "attribute_dropout": 0.0}))
    options = align(bundle, classifiers, "never", ckpt_dir=tmp_path)
    assert "never trained with center left out" in bundle.error_in_process("aligning", "align.json", **options)

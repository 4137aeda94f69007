"""The bundle of captioned brain MR by its real runs, on a small cohort drawn on the spot and on real slices."""

import json
import shutil
from pathlib import Path

import jsonschema
import monai.bundle
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

pytest.importorskip("transformers")

from medi_monai.cohort.demo.brain_cohort import make_brain_cohort
from medi_monai.networks.classifier import load_classifier, save_classifier
from medi_monai.report.words import arm_title
from medi_monai.results import read_schema
from medi_monai.runs.packing import pack_bundle
from medi_monai.utils.files import load_tensors, read_json, write_json
from medi_monai.utils.records import sealed

ROOT = Path(__file__).parents[2]
SMALL = {"channels": [8, 16], "attention_levels": [False, True], "num_res_blocks": [1, 1]}
SMALL |= {"num_head_channels": 8, "norm_num_groups": 4}
CLASSIFIER = {"max_steps": 5, "batch_size": 16}
ALIGN = {"max_steps": 2, "batch_size": 4, "pool_size": 4, "num_validation": 4, "val_interval": 1, "num_steps": 2}
ALIGN |= {"anchor_batch_size": 2, "num_images": 8, "draws": 4}
# at this rate a model stays what it began as
RETRAIN = {"resample_to": "uniform", "learning_rate": 1e-9, "max_steps": 2, "batch_size": 4, "warmup_steps": 1}
RETRAIN |= {"num_validation": 8}
COSTS = {"after": {"stages": {"aligning": 12.0}}, "retrained": {"stages": {"retraining": 34.0}}}


@pytest.fixture(scope="module")
def brains(tmp_path_factory, bundle):
    """The bundle, a small data set, and a function that runs with the paths of both."""
    folder = tmp_path_factory.mktemp("brains")
    root = folder / "b"
    source = ROOT / "bundles" / "brain_mri_fair_text_diffusion"
    shutil.copytree(source, root, ignore=shutil.ignore_patterns("models", "output"))
    runner = type(bundle)(root, folder / "cache", bundle.forks)
    runner.data = make_brain_cohort(folder / "data", num_patients=40, slices_per_patient=2, image_size=32)
    runner.out = folder
    return runner


def guide_of_both(guide, folder, images):
    """A guide of five steps may read all images alike: its threshold moves into the middle of these."""
    classifier = load_classifier(str(guide))
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(images.rglob("*.png"))]
    with torch.no_grad():
        logits = classifier(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1)["sex"]
        classifier.head.bias[0] -= (logits[:, 0] - logits[:, 1]).quantile(0.3)
    save_classifier(folder, classifier)
    return folder


@pytest.fixture(scope="module")
def aligned(brains):
    """Everything from the cohort to the page, with as little work as can be."""
    out = brains.out
    side = {"image_size": 16}
    brains.run_in_process("preparing", "prepare.json", dataset_dir=brains.data, output_dir=out / "cohort", **side)
    cohort = {"cohort_dir": out / "cohort", **side}
    models = {"ckpt_dir": out / "models"}
    brains.run_in_process(
        "training", "train.json", **cohort, **models, **SMALL,
        text_steps=3, text_model_dir=out / "models" / "clip", output_dir=out / "training", max_steps=3, batch_size=4,
        warmup_steps=1, num_validation=8,
    )  # fmt: skip
    sampling = {**models, "num_steps": 2, "num_images": 18, "cohort_dir": out / "cohort"}
    for kind in ("neutral", "named"):
        brains.run_in_process("sampling", "inference.json", **sampling, prompts=kind, output_dir=out / f"{kind} before")
    for role in ("guide", "validation", "judge"):
        generated = {} if role == "judge" else {"generated": out / "named before"}
        brains.run_in_process(
            "classifying", "classify.json", **cohort, **generated, **CLASSIFIER,
            role=role, output_dir=out / "models" / role,
        )  # fmt: skip
    paths = {"classifier_dir": out / "models", "cohort_dir": out / "cohort", **models}
    brains.run_in_process(
        "aligning", "align.json", **paths, **ALIGN, aligned_dir=out / "aligned", output_dir=out / "aligning"
    )
    after = {**sampling, "ckpt_dir": out / "aligned"}
    for kind in ("neutral", "named"):
        brains.run_in_process("sampling", "inference.json", **after, prompts=kind, output_dir=out / f"{kind} after")
    brains.run_in_process(
        "training", "train.json", **cohort, **SMALL, **RETRAIN, ckpt_dir=out / "models" / "retrained",
        text_model_dir=out / "models" / "clip", init_from=out / "models" / "model.pt", output_dir=out / "retraining",
    )  # fmt: skip
    own = {**sampling, "ckpt_dir": out / "models" / "retrained", "output_dir": out / "neutral retrained"}
    brains.run_in_process("sampling", "inference.json", **own)
    drawn = {**sampling, "num_images": 30, "seed": 1, "output_dir": out / "to choose from"}
    brains.run_in_process("sampling", "inference.json", **drawn)
    brains.run_in_process(
        "resampling", "resample.json", **models, sampling_dir=out / "to choose from", output_dir=out / "resampled",
        guide=guide_of_both(out / "models" / "guide", out / "guide of both", out / "to choose from" / "images"),
    )  # fmt: skip
    both = {
        name: {when: str(out / f"{kind} {when}") for when in ("before", "after")}
        for name, kind in (("arms", "neutral"), ("named", "named"))
    }
    both["arms"] |= {"retrained": str(out / "neutral retrained"), "resampled": str(out / "resampled")}
    brains.run_in_process(
        "evaluation", "evaluate.json", **paths, **both, alignment=out / "aligning", output_dir=out / "evaluation",
        costs=COSTS, min_images=4, num_replicates=10, num_halves=1, neighbors=2,
    )  # fmt: skip
    return out


def test_the_cohort_has_captions_and_patients_on_one_side(aligned):
    table = pd.read_csv(aligned / "cohort" / "cohort.csv", dtype=str, keep_default_na=False)
    assert len(table) == 80 and table.groupby("patient")["split"].nunique().max() == 1
    named = table["caption"].str.contains(r"\b(?:man|woman)\b")
    assert 0 < named.mean() < 1
    women = table["caption"].str.contains(r"\bwoman\b")
    assert (table.loc[named & women, "sex"] == "female").all() and (table.loc[named & ~women, "sex"] == "male").all()


def test_before_and_after_have_the_same_prompts_and_the_original_stays(aligned):
    tables = [pd.read_csv(aligned / f"neutral {when}" / "manifest.csv") for when in ("before", "after")]
    for column in ("caption", "number", "seed"):
        assert tables[0][column].tolist() == tables[1][column].tolist()
    assert not tables[0]["caption"].str.contains(r"\b(?:man|woman)\b").any()
    # so short a tuning may keep the weights as they were, and equal weights are equal files
    record = read_json(aligned / "aligning" / "alignment.json")
    assert (tables[0]["checkpoint"][0] != tables[1]["checkpoint"][0]) == (record["kept_step"] > 0)
    assert record["untuned_sha256"] == tables[0]["checkpoint"][0]
    # captions name sex: what they mean is distilled
    assert record["losses"]["distillation_weight"] == 100 and record["real_images"] == ALIGN["anchor_batch_size"]


def test_the_page_and_its_figures(aligned):
    content = read_json(aligned / "evaluation" / "metrics.json")
    jsonschema.validate(content, read_schema("metrics"))
    kept = len(pd.read_csv(aligned / "resampled" / "manifest.csv"))
    for arm, count in {"before": 18, "after": 18, "retrained": 18, "resampled": kept}.items():
        shares = content["proportions"][arm]["sex"]
        assert sum(figure["value"] for figure in shares.values()) == pytest.approx(1)
        assert all(figure["n"] == count for figure in shares.values())
    # the same noise as before, and none of it
    assert content["consistency"]["retrained"]["all"]["n"] == 18
    assert content["consistency"]["resampled"]["all"] == {"value": None, "ci95": None, "n": 0}
    assert content["chosen"] == {"resampled": {"images": kept, "of": 30}}
    for arm, cost in content["costs"].items():
        assert {name: value for name, value in cost.items() if value is not None} == COSTS[arm]
    page = (aligned / "evaluation" / "report.html").read_text()
    assert len(page) > 20_000 and f"{kept} of 30" in page
    assert all(arm_title(arm) in page for arm in ("retrained", "resampled"))


def test_a_model_is_trained_on_with_real_images_of_the_target(aligned, brains):
    models = aligned / "models"
    trained, other = (json.loads((folder / "model.json").read_text()) for folder in (models, models / "retrained"))
    assert trained["resample_to"] is None and other["resample_to"] == {"female": 0.5, "male": 0.5}
    assert other["init_from"] == str(models / "model.pt")
    weights = [load_tensors(folder / "model.pt") for folder in (models, models / "retrained")]
    for name, begun in weights[0].items():
        torch.testing.assert_close(weights[1][name], begun, atol=1e-7, rtol=0)
    # on another choice of images it would not be the same training
    options = {"cohort_dir": aligned / "cohort", "image_size": 16, **SMALL, **RETRAIN, "init_from": models / "model.pt"}
    options |= {"ckpt_dir": models / "retrained", "text_model_dir": models / "clip", "resume": True}
    options |= {"output_dir": aligned / "retraining"}
    for spec, told in ((None, "None now"), ({"female": 0.3, "male": 0.7}, "{'female': 0.3, 'male': 0.7} now")):
        error = brains.error_in_process("training", "train.json", **{**options, "resample_to": spec})
        assert "other settings (resample_to: {'female': 0.5, 'male': 0.5} in the checkpoint" in error and told in error
    # shares count, not the words that they are given in
    other_order = {**options, "resample_to": {"male": 0.5, "female": 0.5}}
    printed = brains.must_run("training", "train.json", **other_order, own_process=True)
    assert "at step 2; training is complete" in printed
    assert "did you mean 'female'" in brains.error_in_process(
        "training", "train.json", **{**options, "resample_to": {"femal": 0.5, "male": 0.5}}
    )


def test_images_are_kept_in_the_shares_that_were_asked_for(aligned):
    summary = json.loads((aligned / "resampled" / "summary.json").read_text())
    read = summary["figures"]["read"]
    assert summary["made"]["images"] == 2 * min(read.values()) > 0 and sum(read.values()) == 30
    tables = [pd.read_csv(aligned / name / "manifest.csv") for name in ("resampled", "to choose from")]
    assert set(tables[0]["image"]) < set(tables[1]["image"])


def test_there_has_to_be_something_to_choose_from(aligned, brains):
    models = aligned / "models"
    folders = {"ckpt_dir": models, "classifier_dir": models, "output_dir": aligned / "nothing"}
    error = brains.error_in_process("resampling", "resample.json", **folders, sampling_dir=aligned / "nowhere")
    assert "--sampling_dir" in error
    error = brains.error_in_process("resampling", "resample.json", **folders, target={"female": 1.5, "male": -0.5})
    assert "'male'" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": {"female": 0.7, "male": 0.7}}, "sums to 1.4"),
        ({"target": {"femal": 0.5, "male": 0.5}}, "did you mean 'female'"),
        ({"prompts": ["a slice of a man"]}, "neutral"),
        ({"subgroup_loss": "transprot"}, "did you mean 'transport'"),
        ({"objective": "epsilon"}, "was trained with 'v'"),
        ({"image_size": 32}, "was trained with 16"),
        ({"guide": 5}, "guide = 5"),
    ],
)
def test_mistakes_are_said_before_any_work(aligned, brains, options, message):
    paths = {"classifier_dir": aligned / "models", "ckpt_dir": aligned / "models", "cohort_dir": aligned / "cohort"}
    settings = {**paths, **ALIGN, "aligned_dir": aligned / "other", "output_dir": aligned / "other run", **options}
    if "prompts" in options:
        path = aligned / "prompts.txt"
        path.write_text("# only a remark\n\n")
        settings["prompts"], message = str(path), "no prompt"
    assert message in brains.error_in_process("aligning", "align.json", **settings)
    assert not (aligned / "other" / "model.pt").exists()


def test_captions_that_were_read_need_no_overlay_to_sample(brains, aligned, tmp_path):
    # as of a table whose captions are a column: what is read from where travels with the weights
    shutil.copytree(aligned / "models", tmp_path / "models")
    content = read_json(tmp_path / "models" / "model.json")
    assert content["columns"] == {"image": "{image}", "patient": "patient"}
    columns = {**content["columns"], "caption": "report"}
    write_json(tmp_path / "models" / "model.json", sealed({**content, "templates": None, "columns": columns}))
    settings = {"ckpt_dir": tmp_path / "models", "output_dir": tmp_path / "out", "num_images": 2, "num_steps": 2}
    brains.run_in_process("sampling", "inference.json", **settings, prompts=["FLAIR MR slice of the brain"])
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 2
    error = brains.error_in_process("sampling", "inference.json", **settings)
    assert "set --prompts" in error


def test_the_second_stage_of_a_cascade_enlarges_slices(aligned, brains, tmp_path):
    side = {"image_size": 32}
    options = {"dataset_dir": brains.data, "output_dir": tmp_path / "cohort"}
    brains.run_in_process("preparing", "prepare.json", **options, **side)
    brains.run_in_process(
        "training", "train.json", "super_resolution.json", **side, **SMALL,
        cohort_dir=tmp_path / "cohort", ckpt_dir=tmp_path / "second", text_model_dir=tmp_path / "clip",
        text_steps=3, small_size=16, max_steps=3, batch_size=4, warmup_steps=1, num_validation=8,
        objective="sample", output_dir=tmp_path / "training",
    )  # fmt: skip
    sampling = {"ckpt_dir": tmp_path / "second", "sampled_dir": aligned / "neutral before", "num_steps": 2}
    brains.run_in_process("sampling", "inference.json", "upsample.json", **sampling, output_dir=tmp_path / "images")
    small, large = (
        pd.read_csv(folder / "manifest.csv") for folder in (aligned / "neutral before", tmp_path / "images")
    )
    assert large["caption"].tolist() == small["caption"].tolist()
    assert all(Image.open(tmp_path / "images" / name).size == (32, 32) for name in large["image"])


def test_the_packed_bundle_has_its_text_model_and_draws_without_a_cohort(brains, aligned, tmp_path, monkeypatch):
    archive = pack_bundle(brains.root, tmp_path / "packed.zip", aligned / "models")
    shutil.unpack_archive(archive, tmp_path)
    root = tmp_path / brains.root.name
    schema = read_json(root / "models" / "schema.json")
    assert schema["text_model"] == schema["beside"] == "text_model"
    assert all(str(aligned) not in file.read_text() for file in root.rglob("*.json"))
    # nothing of the place where it was trained is read
    monkeypatch.setattr(brains, "root", root)
    brains.run_in_process(
        "sampling", "inference.json", prompts=["FLAIR MR slice of the brain of a woman"], num_images=2, num_steps=1,
        output_dir=tmp_path / "images",
    )  # fmt: skip
    assert len(pd.read_csv(tmp_path / "images" / "manifest.csv")) == 2 and not list(root.rglob("cohort.csv"))
    network = monai.bundle.load(root.name, bundle_dir=tmp_path, device="cpu")
    state = load_tensors(aligned / "models" / "model.pt")
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("bundle_name", ["brain_mri_fair_text_diffusion", "pathology_medi_diffusion"])
def test_the_network_has_the_shapes_of_the_metadata(bundle_name, tmp_path):
    configs = ROOT / "bundles" / bundle_name / "configs"
    monai.bundle.verify_net_in_out(
        "network_def", meta_file=str(configs / "metadata.json"), config_file=str(configs / "inference.json"),
        bundle_root=str(tmp_path), device="cpu",
    )  # fmt: skip


def test_a_text_model_that_is_not_there(brains, aligned):
    error = brains.error_in_process(
        "training", "train.json", cohort_dir=aligned / "cohort", image_size=16, text_model="./no/such/folder",
        ckpt_dir=aligned / "none", output_dir=aligned / "none run",
    )  # fmt: skip
    assert "no/such/folder" in error


def test_the_version_of_the_bundle_is_in_its_changelog():
    metadata = json.loads((ROOT / "bundles/brain_mri_fair_text_diffusion/configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]

"""The bundle of captioned brain MR by its real runs, on a small cohort drawn on the spot and on real slices."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("transformers")

from medi_monai.cohort.demo.brain_cohort import make_brain_cohort

ROOT = Path(__file__).parents[2]
SMALL = {"channels": [8, 16], "attention_levels": [False, True], "num_res_blocks": [1, 1]}
SMALL |= {"num_head_channels": 8, "norm_num_groups": 4}
CLASSIFIER = {"max_steps": 5, "batch_size": 16}
ALIGN = {"max_steps": 2, "batch_size": 4, "pool_size": 4, "num_validation": 4, "val_interval": 1, "num_steps": 2}
ALIGN |= {"anchor_batch_size": 2, "num_images": 8, "draws": 4}


@pytest.fixture(scope="module")
def brains(tmp_path_factory, bundle):
    """The bundle, a small data set, and a function that runs with the paths of both."""
    folder = tmp_path_factory.mktemp("brains")
    root = folder / "b"
    source = ROOT / "bundles" / "brain_mri_fair_text_diffusion"
    shutil.copytree(source, root, ignore=shutil.ignore_patterns("models", "output"))
    made = type(bundle)(root, folder / "cache")
    made.data = make_brain_cohort(folder / "data", num_patients=40, slices_per_patient=2, image_size=32)
    made.out = folder
    return made


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
        given = {} if role == "judge" else {"generated": out / "named before"}
        brains.run_in_process(
            "training", "classify.json", **cohort, **given, **CLASSIFIER,
            role=role, output_dir=out / "models" / role,
        )  # fmt: skip
    paths = {"classifier_dir": out / "models", "cohort_dir": out / "cohort", **models}
    brains.run_in_process(
        "aligning", "align.json", **paths, **ALIGN, aligned_dir=out / "aligned", output_dir=out / "aligning"
    )
    after = {**sampling, "ckpt_dir": out / "aligned"}
    for kind in ("neutral", "named"):
        brains.run_in_process("sampling", "inference.json", **after, prompts=kind, output_dir=out / f"{kind} after")
    both = {
        name: {when: str(out / f"{kind} {when}") for when in ("before", "after")}
        for name, kind in (("arms", "neutral"), ("named", "named"))
    }
    brains.run_in_process(
        "evaluation", "evaluate.json", **paths, **both, alignment=out / "aligning", output_dir=out / "evaluation",
        min_images=4, num_replicates=10, num_halves=1, neighbors=2,
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
    assert tables[0]["checkpoint"][0] != tables[1]["checkpoint"][0]
    record = json.loads((aligned / "aligning" / "alignment.json").read_text())
    assert record["untuned_sha256"] == tables[0]["checkpoint"][0]


def test_the_page_and_its_figures(aligned):
    content = json.loads((aligned / "evaluation" / "metrics.json").read_text())
    for when in ("before", "after"):
        shares = content["proportions"][when]["sex"]
        assert sum(one["value"] for one in shares.values()) == pytest.approx(1)
        assert all(one["n"] == 18 for one in shares.values())
    assert (aligned / "evaluation" / "report.html").stat().st_size > 20_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": {"female": 0.7, "male": 0.7}}, "sums to 1.4"),
        ({"target": {"femal": 0.5, "male": 0.5}}, "did you mean 'female'"),
        ({"prompts": ["a slice of a man"]}, "neutral"),
        ({"subgroup_loss": "transprot"}, "did you mean 'transport'"),
    ],
)
def test_mistakes_are_said_before_any_work(aligned, brains, options, message):
    paths = {"classifier_dir": aligned / "models", "ckpt_dir": aligned / "models", "cohort_dir": aligned / "cohort"}
    given = {**paths, **ALIGN, "aligned_dir": aligned / "other", "output_dir": aligned / "other run", **options}
    if "prompts" in options:
        path = aligned / "prompts.txt"
        path.write_text("# only a remark\n\n")
        given["prompts"], message = str(path), "no prompt"
    assert message in brains.error_in_process("aligning", "align.json", **given)
    assert not (aligned / "other" / "model.pt").exists()


def test_a_text_model_that_is_not_there(brains, aligned):
    error = brains.error_in_process(
        "training", "train.json", cohort_dir=aligned / "cohort", image_size=16, text_model="./no/such/folder",
        ckpt_dir=aligned / "none", output_dir=aligned / "none run",
    )  # fmt: skip
    assert "no/such/folder" in error


def test_the_version_of_the_bundle_is_in_its_changelog():
    metadata = json.loads((ROOT / "bundles/brain_mri_fair_text_diffusion/configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]

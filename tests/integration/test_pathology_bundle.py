"""The pathology bundle by its real command line, on the demo cohort and on real tiles."""

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medi_monai.cohort import Cohort

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "presets" / "smoke.yaml"
TILES = ROOT / "configs" / "cohorts" / "tiles.yaml"
FEW = {"num_steps": 2, "images_per_combination": 2}


def test_preparing_cuts_the_demo_slides(bundle, prepared):
    table = pd.read_csv(prepared, dtype=str, keep_default_na=False)
    expected = [
        "image",
        "slide",
        "patient",
        "x",
        "y",
        "mpp",
        "project_id",
        "center",
        "race",
        "gender",
        "age_at_index",
        "split",
    ]
    assert table.columns.tolist() == expected
    assert table["project_id"].nunique() == 4 and table["center"].nunique() == 8
    by_combination = table.groupby(["project_id", "center"])["split"].agg(set)
    held_out = by_combination.map(lambda splits: splits == {"holdout"})
    assert len(by_combination) == 32 and held_out.sum() == 10
    assert not any("holdout" in splits for splits in by_combination[~held_out])
    assert table.groupby("patient")["split"].nunique().max() == 1
    summary = json.loads((prepared.parent / "summary.json").read_text())
    assert summary["made"]["images"] == len(table)


def test_a_patch_is_what_openslide_reads_at_its_place(bundle, prepared):
    table = pd.read_csv(prepared, dtype=str, keep_default_na=False)
    (slides,) = Path(bundle.environment["MEDI_CACHE"]).glob("demo_v*_seed0/slides")
    for row in table.sample(5, random_state=0).itertuples():
        with openslide.OpenSlide(str(slides / f"{row.slide}.tiff")) as slide:
            side = 32 * 1.0 / float(slide.properties["openslide.mpp-x"])
            region = slide.read_region((int(row.x), int(row.y)), 0, (int(np.ceil(side)),) * 2).convert("RGB")
        expected = region.resize((32, 32), Image.Resampling.BOX, (0, 0, side, side))
        patch = np.asarray(Image.open(prepared.parent / row.image), float)
        # halved levels are JPEG of their own, hence not equal to the last digit
        assert np.abs(patch - np.asarray(expected, float)).mean() < 6


def test_training_leaves_all_that_it_promises(bundle, prepared, trained):
    for folder, arm in ((trained, "medi"), (trained / "cls", "cls")):
        schema = json.loads((folder / "schema.json").read_text())
        assert [column["name"] for column in schema["attributes"]] == (["center"] if arm == "medi" else [])
        assert all(value.isfinite().all() for value in torch.load(folder / "model.pt", weights_only=True).values())
        assert [path.name for path in sorted(folder.glob("checkpoint_*.pt"))] == [
            "checkpoint_00000002.pt",
            "checkpoint_00000004.pt",
        ]
        output = bundle.root / "output" / arm / "training"
        events = EventAccumulator(str(output)).Reload()
        assert {"train/loss", "train/learning_rate", "train/gradient_norm", "validation/loss"} <= set(
            events.Tags()["scalars"]
        )
        assert events.Tags()["images"] == ["samples"]
        assert [path.name for path in (output / "samples").iterdir()] == ["step_00000004.png"]
        summary = json.loads((output / "summary.json").read_text())
        assert summary["settings"]["arm"] == arm and summary["figures"]["validation_loss"] > 0
        # a class-only model is trained on images of centers, too, though it does not know them
        record, cohort = json.loads((folder / "model.json").read_text())["trained_on"], Cohort.read(prepared)
        counts = cohort.split("train").table.groupby(["project_id", "center"]).size()
        assert {tuple(key): count for key, count in record["combinations"]} == counts.to_dict()
        assert record["columns"] == ["project_id", "center"] and record["cohort"] == cohort.digest


def test_sampling_fills_the_combinations_that_training_lacks(bundle, prepared, trained):
    held_out = pd.read_csv(prepared, dtype=str, keep_default_na=False).query("split == 'holdout'")
    for arm, overlay in (("medi", []), ("cls", ["class_only.json"])):
        output = bundle.must_run("sampling", "inference.json", *overlay, **FEW, own_process=arm == "medi")
        folder = bundle.root / "output" / arm / "sampling"
        # the progress bar of a fork is part of the same output
        assert any(line.endswith(f"sampling: done. Results: {folder / 'grid.png'}") for line in output.splitlines())
        manifest = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)
        counts = manifest.groupby(["project_id", "center"]).size()
        assert set(counts.index) == set(zip(held_out["project_id"], held_out["center"])) and set(counts) == {2}
        assert all(Image.open(folder / name).size == (32, 32) for name in manifest["image"])
        assert (folder / "grid.png").is_file()
        model = bundle.root / "models" / ("" if arm == "medi" else arm) / "model.json"
        records = [json.loads(path.read_text())["trained_on"] for path in (model, folder / "sampling.json")]
        assert records[0] == records[1]


def test_images_of_a_model_that_saw_what_a_cohort_holds_out_are_refused(bundle, prepared, trained, tmp_path):
    cohort = Cohort.read(prepared)
    swapped = cohort.table["split"].map({"train": "holdout", "holdout": "train"})
    Cohort(cohort.table.assign(split=swapped.fillna("excluded"), image=str(cohort.root) + "/" + cohort.table["image"]),
           tmp_path).write()  # fmt: skip
    options = {"cohort_dir": tmp_path, "output_dir": tmp_path / "output"}
    message = bundle.error_in_process("sampling", "inference.json", **options, **FEW)
    assert "the model was trained on" in message and "--cohort_dir" in message
    assert not (tmp_path / "output" / "images").exists()


def test_a_plan_from_a_table_gives_the_images_of_a_larger_plan(bundle, trained, tmp_path):
    rows = [("DEMO-GLAND", "Birch", 3), ("DEMO-SMALL", "Fir", 2)]
    plan = pd.DataFrame(rows, columns=["project_id", "center", "count"])
    images = {}
    for name, drawn_plan, size in (("all", plan, 64), ("one", plan[::-1].head(1), 3)):
        drawn_plan.to_csv(tmp_path / f"{name}.csv", index=False)
        options = {"plan": tmp_path / f"{name}.csv", "output_dir": tmp_path / name, "batch_size": size, "num_steps": 2}
        bundle.must_run("sampling", "inference.json", **options)
        images[name] = {path.name: np.asarray(Image.open(path), float) for path in tmp_path.glob(f"{name}/*/*SMALL*/*")}
    assert images["all"].keys() == images["one"].keys() and len(images["one"]) == 2
    assert all(np.abs(images["all"][name] - images["one"][name]).mean() < 1 for name in images["one"])


def test_ctrl_c_then_resume_gives_the_weights_of_an_uninterrupted_run(bundle, cohorts, tmp_path):
    short = {"max_steps": 20, "warmup_steps": 5, "checkpoint_every": 5, "ckpt_dir": tmp_path / "stopped"}
    short |= {"cohort_dir": cohorts[32], "sample_every": 20, "val_interval": 10}
    files = ("train.json", SMOKE)
    command = bundle.command("training", *files, **short, output_dir=tmp_path / "output")
    process = subprocess.Popen(command, env=bundle.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while not list((tmp_path / "stopped").glob("checkpoint_*.pt")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0].decode()
    assert "Traceback" not in output and "--resume true" in output, output
    assert process.returncode == 1
    bundle.must_run("training", *files, **short, output_dir=tmp_path / "output", resume="true")
    whole = {**short, "ckpt_dir": tmp_path / "whole"}
    bundle.must_run("training", *files, **whole, output_dir=tmp_path / "output_whole")
    weights = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("stopped", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(
    "run_id, config, options, message",
    [
        ("training", "train.json", {"max_step": 5}, "'--max_step': did you mean '--max_steps'"),
        ("training", "train.json", {"attributes": ["centre"]}, "'centre': did you mean 'center'"),
        ("training", "train.json", {"resume": "perhaps"}, "resume = 'perhaps'"),
        ("training", "train.json", {"resume": "true", "ckpt_dir": "nowhere_yet"}, "no checkpoint to resume from"),
        ("sampling", "inference.json", {"plan": "unsen"}, "did you mean 'unseen'"),
        ("sampling", "inference.json", {"ckpt_dir": "nowhere_yet"}, "run `training` first"),
        ("preparing", "prepare.json", {"dataset_dir": "nowhere"}, "dataset_dir nowhere is not a folder"),
    ],
)
def test_a_mistake_ends_in_one_clear_line(bundle, trained, tmp_path, monkeypatch, run_id, config, options, message):
    monkeypatch.chdir(tmp_path)
    overlay = [SMOKE] if run_id == "training" else []
    # what is no option at all, the command line alone can tell
    error = bundle.error if "max_step" in options else bundle.error_in_process
    assert message in error(run_id, config, *overlay, **options)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([("DEMO-GLAND", "Birk", 1)], "'Birk': did you mean 'Birch'"),
        ([("DEMO-GLAND", "Birch", 0)], "count '0'"),
        ([("DEMO-GLAND", "Birch", -2)], "count '-2'"),
        ([], "has a header but no rows"),
    ],
)
def test_a_plan_with_a_mistake_is_refused_before_anything_is_drawn(bundle, trained, tmp_path, rows, message):
    pd.DataFrame(rows, columns=["project_id", "center", "count"]).to_csv(tmp_path / "plan.csv", index=False)
    options = {"plan": tmp_path / "plan.csv", "output_dir": tmp_path / "output"}
    assert message in bundle.error_in_process("sampling", "inference.json", **options)
    assert not list((tmp_path / "output").iterdir())


def test_the_metadata_is_valid_and_the_network_keeps_its_shapes(bundle, forks, tmp_path):
    def verify(command, *arguments):
        done = forks.run([command, *arguments], tmp_path, tmp_path / f"{command}.txt", 120.0)
        assert done["code"] == 0, done["output"]
        return done["output"]

    configs = bundle.root / "configs"
    files = ("--meta_file", str(configs / "metadata.json"))
    verified = verify(
        "verify_net_in_out", "network_def", *files, "--config_file", str(configs / "inference.json"),
        "--bundle_root", str(tmp_path),
    )  # fmt: skip
    assert "verified with no error" in verified
    zoo = ROOT.parent / "shared" / "zoo" / "meta_schema_20240725.json"
    if not zoo.is_file():
        pytest.skip(f"the Model Zoo's schema is not at {zoo}, and nothing is downloaded in a test")
    assert "verified with no error" in verify("verify_metadata", *files, "--filepath", str(zoo))


def test_the_version_of_the_bundle_is_in_its_changelog():
    metadata = json.loads((ROOT / "bundles/pathology_medi_diffusion/configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]


def test_real_tiles_run_through_the_same_bundle_with_the_overlay_alone(bundle, real_data, tmp_path):
    options = {"dataset_dir": real_data / "hne_tcga", "cohort_dir": tmp_path / "cohort"}
    bundle.must_run(
        "preparing", "prepare.json", TILES, output_dir=tmp_path / "cohort", dataset_dir=options["dataset_dir"]
    )
    table = pd.read_csv(tmp_path / "cohort" / "cohort.csv", dtype=str, keep_default_na=False)
    assert table["slide"].nunique() == 30 and table["center"].nunique() == 15 and table["project_id"].nunique() == 9
    options |= {"ckpt_dir": tmp_path / "models"}
    bundle.must_run("training", "train.json", TILES, SMOKE, output_dir=tmp_path / "training", **options)
    more = {"output_dir": tmp_path / "sampling", "plan": "observed", **FEW}
    bundle.must_run("sampling", "inference.json", TILES, **options, **more)
    manifest = pd.read_csv(tmp_path / "sampling" / "manifest.csv", dtype=str, keep_default_na=False)
    assert len(manifest) == 2 * len(table.query("split == 'train'").groupby(["project_id", "center"]))


@pytest.mark.parametrize("config, kind", [("train.json", "train"), ("inference.json", "infer")])
def test_monai_finds_the_properties_of_a_workflow(bundle, trained, config, kind, monkeypatch):
    monkeypatch.setenv("MEDI_CACHE", bundle.environment["MEDI_CACHE"])
    file = str(bundle.root / "configs" / config)
    workflow = ConfigWorkflow(config_file=file, workflow_type=kind, bundle_root=str(bundle.root), logging_file=False)
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.finalize()

"""From slides to a cohort by the real command line: bad input, interruptions, several processes, ways of reading."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.cohort.demo import CENTERS, TUMORS
from medi_monai.cohort.demo.cohort import write_pyramid
from medi_monai.cohort.demo.histology import draw_stains, scan

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "configs" / "presets" / "smoke.yaml"
GOOD = [f"good{number}" for number in range(8)]
OVERLAY = {
    "table": "slides.csv",
    "columns": {"image": "{file}", "slide": "slide", "patient": "patient", "mpp": "mpp"},
    "label": "tumor",
    "attributes": ["center"],
    "subpopulation_columns": ["tumor", "center"],
    "metadata_columns": ["center"],
    "image_size": 32,
    "mpp": 1.0,
    "holdout_fraction": 0.0,
    "val_fraction": 0.3,
    "max_patches_per_slide": None,
}
#: what is wrong with every other row or file, and the words for it
WRONG = {
    "../outside.tiff": "the path is outside the folder",
    "slides/absent.tiff": "file not found",
    "slides/coarse.tiff": "2 microns per pixel and cannot be cut at a finer 1$",
    "slides/d1/dup.tiff": "'dup' is the name of several images",
    "slides/d2/dup.tiff": "'dup' is the name of several images",
    "slides/folder.tiff": "a folder, not a file",
    "slides/glass.tiff": "^no tissue",
    "slides/link.tiff": "broken symbolic link",
    "slides/loop.tiff": "loop of symbolic links",
    "slides/loops": "loop of symbolic links",
    "slides/mpp.tiff": "has 0.5 microns per pixel, but the table has 0.25. Correct .*mpp_conflict",
    "slides/no_label.tiff": "^no tumor: .* means missing data",
    "slides/no_patient.tiff": "^no patient",
    "slides/png.svs": "it contains PNG, but its name ends in .svs. Rename the file.$",
    "slides/stray.tiff": "no row of the table names this file",
    "slides/text.tiff": "cannot read",
    "slides/tiny.tiff": "64 x 48 pixels is smaller than one patch",
    "slides/truncated0.tiff": "truncated|damaged",
    "slides/truncated1.tiff": "truncated",
    "slides/truncated2.tiff": "truncated",
    "slides/word.tiff": "'20x' microns per pixel is not a positive number, such as 0.25",
    "slides/zero.tiff": "is empty .0 bytes.",
}


def tissue(seed, side=512):
    rng = np.random.default_rng(seed)
    return scan(*draw_stains(TUMORS[seed % 4], side, 0.5, rng), CENTERS[seed % 8], 0.5, rng)


def write_slides(folder):
    """Eight good slides, and one of every kind that is not."""
    for number, name in enumerate(GOOD):
        write_pyramid(folder / f"{name}.tiff", tissue(number, 1024), 0.5)
    small = tissue(20, 256)
    for name in ("d1/dup", "d2/dup", "mpp", "no_label", "no_patient", "stray", "word", "../../outside"):
        (folder / name).parent.mkdir(exist_ok=True)
        write_pyramid(folder / f"{name}.tiff", small, 0.5)
    write_pyramid(folder / "coarse.tiff", small, 2.0)
    write_pyramid(folder / "tiny.tiff", small[:48, :64], 0.5)
    write_pyramid(folder / "glass.tiff", np.full((256, 256, 3), 245, np.uint8), 0.5)
    whole = (folder / "good0.tiff").read_bytes()
    for number, length in enumerate((100, len(whole) // 2, len(whole) - 1)):
        (folder / f"truncated{number}.tiff").write_bytes(whole[:length])
    Image.fromarray(small).save(folder / "png.svs", format="png")
    (folder / "zero.tiff").write_bytes(b"")
    (folder / "text.tiff").write_text("no slide\n" * 99)
    (folder / "folder.tiff").mkdir()
    (folder / "link.tiff").symlink_to("nowhere.tiff")
    (folder / "loop.tiff").symlink_to("loop.tiff")
    (folder / "loops").symlink_to(folder)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    root = tmp_path_factory.mktemp("parent") / "data"
    (root / "slides").mkdir(parents=True)
    write_slides(root / "slides")
    unnamed = ("slides/stray.tiff", "slides/loops")
    files = [f"slides/{name}.tiff" for name in GOOD] + [name for name in WRONG if name not in unnamed]
    rows = pd.DataFrame({"file": files, "slide": [Path(name).stem for name in files]})
    rows = rows.assign(patient="P" + rows["slide"], tumor="A", center="x", mpp="")
    rows["tumor"] = rows["tumor"].mask(rows.index % 2 == 1, "B").mask(rows["slide"] == "no_label", "'--")
    rows["center"] = rows["center"].mask(rows.index % 4 > 1, "y")
    rows["patient"] = rows["patient"].mask(rows["slide"] == "no_patient", "")
    rows["mpp"] = rows["mpp"].mask(rows["slide"] == "mpp", "0.25").mask(rows["slide"] == "word", "20x")
    rows.to_csv(root / "slides.csv", index=False)
    (root / "overlay.yaml").write_text(yaml.safe_dump(OVERLAY))
    return root


@pytest.fixture(scope="module")
def command(bundle, slides):
    def command(output, **options):
        files = ("prepare.json", slides / "overlay.yaml")
        return bundle.command("preparing", *files, dataset_dir=slides, output_dir=output, **options)

    return command


@pytest.fixture(scope="module")
def done(bundle, slides, tmp_path_factory):
    """The folder of a run that nothing disturbed, and what it printed."""
    output = tmp_path_factory.mktemp("done")
    files = ("prepare.json", slides / "overlay.yaml")
    return output, bundle.must_run("preparing", *files, dataset_dir=slides, output_dir=output)


def contents(root):
    """All that a run leaves, but for what says how it was done; arrays by value."""
    files = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_dir() or name == ".lock" or path.name.startswith("problems-"):
            continue
        if path.suffix == ".npz":
            files[name] = {key: value.tolist() for key, value in np.load(path).items()}
        else:
            files[name] = path.read_bytes().replace(str(root).encode(), b"ROOT")
    return files


def test_every_bad_row_and_file_is_one_clear_line_and_the_other_slides_are_done(done):
    output, printed = done
    rejected = pd.read_csv(output / "rejected.csv", dtype=str, keep_default_na=False).set_index("image")["reason"]
    assert rejected.index.is_unique and set(rejected.index) == set(WRONG)
    for name, words in WRONG.items():
        assert re.search(words, rejected[name]), f"{name}: {rejected[name]}"
        assert "\n" not in rejected[name] and 5 < len(rejected[name]) < 400
    cohort = Cohort.read(output)
    assert set(cohort.table["slide"]) == set(GOOD) and len(cohort) > 8 * 100
    assert "Traceback" not in printed
    assert (
        f"preparing: {len(WRONG)} rows or files were excluded; the reasons are in {output / 'rejected.csv'}" in printed
    )
    summary = json.loads((output / "summary.json").read_text())["made"]
    assert (summary["rejected"], summary["slides"]) == (len(WRONG), 8)
    page = (output / "quality.html").read_text()
    assert all(name in page for name in WRONG) and "symbolic links" in page
    assert "100%" in printed.rpartition("cutting patches")[2], "the bar goes to its end"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads what nobody may read")
def test_a_slide_that_may_not_be_read_is_one_clear_line(bundle, slides, tmp_path):
    shutil.copytree(slides, tmp_path / "data", symlinks=True)
    (tmp_path / "data" / "slides" / "good0.tiff").chmod(0)
    options = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out"}
    bundle.must_run("preparing", "prepare.json", slides / "overlay.yaml", **options)
    rejected = pd.read_csv(tmp_path / "out" / "rejected.csv", dtype=str).set_index("image")["reason"]
    assert re.search("[Pp]ermission", rejected["slides/good0.tiff"])


def test_where_nothing_may_be_skipped_the_first_mistake_ends_the_run_in_one_line(bundle, slides, tmp_path):
    options = {"dataset_dir": slides, "output_dir": tmp_path, "on_error": "stop"}
    error = bundle.error("preparing", "prepare.json", slides / "overlay.yaml", **options)
    assert re.search(r"slides.csv, row \d+ \(\S+\): .*\. To continue without such rows, use --on_error skip$", error)
    good_rows = pd.read_csv(slides / "slides.csv", dtype=str, keep_default_na=False)
    some_rows = good_rows[good_rows["slide"].isin([*GOOD, "truncated1"])]
    shutil.copytree(slides / "slides", tmp_path / "data" / "slides", symlinks=True)
    some_rows.to_csv(tmp_path / "data" / "slides.csv", index=False)
    options |= {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out", "num_workers": 1}
    error = bundle.error_in_process("preparing", "prepare.json", slides / "overlay.yaml", **options)
    assert re.search("truncated1.tiff: it is truncated.*To continue without such images, use --on_error skip$", error)
    assert not (tmp_path / "out" / "cohort.csv").exists()


def test_a_folder_is_not_mixed_with_other_settings(bundle, slides, done):
    before = contents(done[0])
    options = {"dataset_dir": slides, "output_dir": done[0], "mpp": 2.0}
    error = bundle.error_in_process("preparing", "prepare.json", slides / "overlay.yaml", **options)
    assert "prepared with different settings (cutting.grid.mpp: was 1.0, now 2.0); choose another --output_dir" in error
    assert contents(done[0]) == before


def interrupt(process, output, sent, num_slides):
    """Send a signal in the middle of a slide, when so many are done; returns what was printed."""
    while True:
        finished = len(list(output.glob("patches/*/good*/slide.json")))
        if finished >= num_slides and list(output.glob("patches/*/.*.part/*/*.png")):
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
    return process.communicate(timeout=60)[0].decode()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(bundle, slides, command, done, tmp_path):
    output, finished = tmp_path / "out", {}
    for sent, num_slides in ((signal.SIGKILL, 1), (signal.SIGINT, 3)):
        process = subprocess.Popen(
            command(output, num_workers=1),
            env=bundle.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        printed = interrupt(process, output, sent, num_slides)
        assert process.returncode != 0 and "Traceback" not in printed and not (output / "cohort.csv").exists()
        kept = {path: path.stat().st_mtime_ns for path in finished}
        assert kept == finished, "a finished slide is left alone"
        finished = {
            path: path.stat().st_mtime_ns
            for record in output.glob("patches/*/*/slide.json")
            for path in record.parent.rglob("*")
        }
        assert num_slides * 50 < len(finished) < len(contents(done[0]))
        if sent == signal.SIGINT:
            assert "medi_monai: interrupted. Finished files are complete; repeat the command to resume." in printed
    options = {"dataset_dir": slides, "output_dir": output, "num_workers": 1}
    bundle.must_run("preparing", "prepare.json", slides / "overlay.yaml", **options)
    assert contents(output) == contents(done[0])
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not list(output.rglob("*.part"))


def torchrun(bundle, command):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    start = command.index("-m")
    done = subprocess.run([*launcher, *command[start:]], env=bundle.environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_two_processes_of_torchrun_leave_what_one_leaves(bundle, command, done, tmp_path):
    code, printed = torchrun(bundle, command(tmp_path / "out", num_workers=1))
    assert code == 0, printed
    assert contents(tmp_path / "out") == contents(done[0])
    problems = [json.loads((tmp_path / "out" / "patches" / f"problems-{rank}.json").read_text()) for rank in (0, 1)]
    assert all(problems), "each of both met slides that cannot be read"
    assert printed.count("preparing: done. Results: ") == 1


@pytest.mark.slow
def test_a_slide_that_one_process_of_torchrun_cannot_read_stops_both(bundle, slides, tmp_path):
    shutil.copytree(slides / "slides", tmp_path / "data" / "slides", symlinks=True)
    rows = pd.read_csv(slides / "slides.csv", dtype=str, keep_default_na=False)
    # of two, the second falls to the second process
    rows[rows["slide"].isin(["good0", "truncated1"])].to_csv(tmp_path / "data" / "slides.csv", index=False)
    options = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out", "on_error": "stop"}
    command = bundle.command("preparing", "prepare.json", slides / "overlay.yaml", **options)
    code, printed = torchrun(bundle, command)
    errors = [line for line in printed.splitlines() if "medi_monai: error:" in line]
    assert code != 0 and any("truncated1.tiff" in line and "--on_error skip" in line for line in errors), printed
    assert all("truncated1.tiff" in line or "another process of this run has stopped" in line for line in errors)


def test_training_is_the_same_to_the_last_bit_however_patches_are_read(bundle, slides, done, tmp_path):
    regions = tmp_path / "regions"
    options = {"output_dir": regions, "patch_format": "none", "measure": "never", "num_workers": 1}
    bundle.run_in_process("preparing", "prepare.json", slides / "overlay.yaml", dataset_dir=slides, **options)
    assert not list(regions.rglob("*.png"))
    weights = {}
    for name, cohort, patch_cache in (
        ("files", done[0], "memory"),
        ("memory", regions, "memory"),
        ("disk", regions, "disk"),
    ):
        folders = {"ckpt_dir": tmp_path / name, "output_dir": tmp_path / name / "output", "cohort_dir": cohort}
        files = ("train.json", slides / "overlay.yaml", SMOKE)
        bundle.run_in_process("training", *files, dataset_dir=slides, patch_cache=patch_cache, **folders)
        weights[name] = torch.load(tmp_path / name / "model.pt", weights_only=True)
    for name in ("memory", "disk"):
        assert weights[name].keys() == weights["files"].keys()
        assert all(torch.equal(weights[name][key], weights["files"][key]) for key in weights["files"])


def test_leakage_in_a_table_made_by_hand_fails_the_audit_where_asked(bundle, slides, tmp_path):
    table = pd.DataFrame({"image": list("abcd"), "slide": list("abcd"), "patient": ["p", "q", "p", "r"]})
    Cohort(table.assign(tumor=list("ABAB"), center="x", split=["train", "train", "holdout", "val"]), tmp_path).write()
    files = ("audit.json", slides / "overlay.yaml")
    options = {"dataset_dir": slides, "cohort_dir": tmp_path, "output_dir": tmp_path / "audit"}
    bundle.run_in_process("auditing", *files, **options)
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert audit["leakage"]["patients"]["examples"][0]["patient"] == "p"
    error = bundle.error("auditing", *files, **options, fail_on_leakage="true", own_process=True)
    assert "the split leaks, and fail_on_leakage is set" in error and "audit.html" in error

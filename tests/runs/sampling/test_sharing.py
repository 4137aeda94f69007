"""One plan drawn at once, by jobs, by processes, in tar files and in parts gives the same files."""

import json
import os
import re
import socket
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch

from medi_monai.cohort.samples import read_arms
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.distributed import join_processes, leave_processes
from medi_monai.engines.generator import ImageGenerator
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.runs.sampling import images as images_module
from medi_monai.runs.sampling import sample_plan
from medi_monai.schema import MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json, save_tensors

COLUMNS = ["project_id", "center"]
PLAN = pd.DataFrame([("A", "South", 7), ("B", "NA", 5), ("C", "North", 11)], columns=[*COLUMNS, "count"])


def sample(root, folder, seed=0, plan=PLAN, **more):
    schema = MetadataSchema.load(root / "schema.json")
    network = MetadataDiffusionUNet(
        schema, spatial_dims=2, in_channels=3, out_channels=3, channels=(16, 32), attention_levels=(False, True),
        num_res_blocks=1, num_head_channels=16, norm_num_groups=8,
    )  # fmt: skip
    network.load_state_dict(torch.load(root / "model.pt", weights_only=True))
    generator = ImageGenerator(schema, NoiseSchedule("cosine", 100), "v", 16, num_steps=2, batch_size=4, seed=seed)
    return sample_plan(network.eval(), generator, plan, COLUMNS, root / folder, root / "model.pt", {}, **more)


@pytest.fixture
def root(tiny_schema, tiny_network, tmp_path):
    tiny_schema.save(tmp_path / "schema.json")
    save_tensors(tmp_path / "model.pt", tiny_network.state_dict())
    return tmp_path


@pytest.fixture
def whole(root):
    sample(root, "whole")
    return pngs(root / "whole")


def pngs(folder):
    """Content of each image by its combination and number."""
    return {"/".join(path.parts[-3:]): path.read_bytes() for path in folder.rglob("*.png") if path.name != "grid.png"}


def made(folder):
    return read_json(folder / "summary.json")["made"]


def as_webdataset_reads(path):
    """Samples of a tar file by WebDataset's rule: consecutive members with the same path up to the first dot."""
    samples = []
    with tarfile.open(path) as archive:
        for member in archive:
            key, ending = re.fullmatch(r"((?:.*/|)[^.]+)[.]([^/]*)", member.name).groups()
            if not samples or samples[-1]["__key__"] != key:
                samples.append({"__key__": key})
            samples[-1][ending] = archive.extractfile(member).read()
    return samples


def test_jobs_draw_their_shares_and_the_plan_puts_them_together(root, whole, capsys):
    for job in (1, 2, 3):
        sample(root, f"out/shard-{job}-of-3", shard=f"{job}/3")
    tables = [pd.read_csv(root / f"out/shard-{job}-of-3" / "manifest.csv") for job in (1, 2, 3)]
    assert (
        [len(table) for table in tables]
        == [8, 8, 7]
        == [made(root / f"out/shard-{job}-of-3")["images"] for job in (1, 2, 3)]
    )
    assert pngs(root / "out") == whole
    lost = root / "out" / "shard-2-of-3" / tables[1]["image"][3]
    lost.unlink()
    images = sample(root, "out")
    assert "22 of 23 images are there already; drawing 1" in capsys.readouterr().out
    assert made(root / "out")["drawn_now"] == 1 and pngs(root / "out") == whole
    manifest = pd.read_csv(root / "out" / "manifest.csv")
    assert all((root / "out" / name).is_file() for name in manifest["image"])
    alone = pd.read_csv(root / "whole" / "manifest.csv")
    assert manifest.drop(columns="image").equals(alone.drop(columns="image"))
    assert (root / "out" / "grid.png").read_bytes() == (root / "whole" / "grid.png").read_bytes()
    assert len(images) == 23 and len(read_arms({"medi": root / "out"}, COLUMNS)["medi"]) == 23


def test_jobs_with_other_settings_are_passed_over_and_changed_images_refused(root, whole, capsys):
    sample(root, "out/shard-1-of-2", seed=1, shard="1/2")
    sample(root, "out/shard-2-of-2", shard="2/2")
    sample(root, "out")
    assert "shard-1-of-2 has images of other settings, which are not used" in capsys.readouterr().out
    assert made(root / "out")["drawn_now"] == 12
    next((root / "out" / "shard-2-of-2" / "images").rglob("*.png")).write_bytes(b"changed")
    with pytest.raises(InputError, match="shard-2-of-2.* was changed after a run wrote it"):
        sample(root, "out")


def test_tar_files_hold_the_same_images_with_their_rows(root, whole):
    sample(root, "out", image_format="tar", images_per_tar=9)
    manifest = pd.read_csv(root / "out" / "manifest.csv", keep_default_na=False)
    samples = [entry for path in sorted((root / "out" / "tars").iterdir()) for entry in as_webdataset_reads(path)]
    assert [f"{entry['__key__']}.png" for entry in samples] == manifest["image"].tolist()
    assert {f"{entry['__key__']}.png": entry["png"] for entry in samples} == whole
    for entry, row in zip(samples, manifest.to_dict("records")):
        description = json.loads(entry["json"])
        assert all(description[name] == row[name] for name in (*COLUMNS, "number", "seed", "checkpoint"))
    assert manifest["tar"].value_counts(sort=False).tolist() == [9, 9, 5]
    assert (root / "out" / "grid.png").read_bytes() == (root / "whole" / "grid.png").read_bytes()


def test_a_tar_file_that_is_missing_is_drawn_again_alone(root, whole, capsys):
    sample(root, "out", image_format="tar", images_per_tar=9)
    tars = {path: path.read_bytes() for path in (root / "out" / "tars").iterdir()}
    lost = sorted(tars)[1]
    lost.unlink()
    sample(root, "out", image_format="tar", images_per_tar=9)
    assert "14 of 23 images are there already; drawing 9" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (root / "out" / "tars").iterdir()} == tars
    lost.write_bytes(lost.read_bytes()[:-1])
    with pytest.raises(InputError, match="was changed after a run wrote it"):
        sample(root, "out", image_format="tar", images_per_tar=9)


def test_tar_files_are_refused_by_evaluations_until_the_sampling_unpacks_them(root, whole, capsys):
    for job in (1, 2):
        sample(root, f"out/shard-{job}-of-2", shard=f"{job}/2", image_format="tar", images_per_tar=5)
    sample(root, "out", image_format="tar", images_per_tar=5)
    assert made(root / "out")["drawn_now"] == 0
    with pytest.raises(InputError, match="in tar files, .*repeat the sampling with --image_format png"):
        read_arms({"medi": root / "out"}, COLUMNS)
    sample(root, "out")
    assert "unpacked 23 images of tar files" in capsys.readouterr().out
    assert made(root / "out")["drawn_now"] == 0 and pngs(root / "out") == whole
    assert len(read_arms({"medi": root / "out"}, COLUMNS)["medi"]) == 23


def test_single_files_are_packed_without_drawing_them_again(root, whole, monkeypatch):
    def refuse(*_):
        raise AssertionError("drawn again")

    sample(root, "plain", image_format="tar", images_per_tar=9)
    monkeypatch.setattr(ImageGenerator, "draw", refuse)
    sample(root, "whole", image_format="tar", images_per_tar=9)
    tars = [{path.name: path.read_bytes() for path in (root / name / "tars").iterdir()} for name in ("plain", "whole")]
    assert tars[0] == tars[1]


def test_a_plan_in_many_blocks_is_the_same(root, whole, monkeypatch):
    monkeypatch.setattr(images_module, "BLOCK", 3)
    sample(root, "out")
    assert pngs(root / "out") == whole
    names = ("manifest.csv", "grid.png", "sampling.json")
    assert all((root / "out" / name).read_bytes() == (root / "whole" / name).read_bytes() for name in names)


def test_the_picture_of_many_combinations_shows_some(root, tiny_schema):
    plan = pd.DataFrame([(label, center, 1) for label in "ABC" for center in ("NA", "South")], columns=PLAN.columns)
    from medi_monai.runs.sampling import outputs

    before = outputs.MAX_GRID_CELLS
    try:
        outputs.MAX_GRID_CELLS = 2
        images = sample(root, "out", plan=plan)
    finally:
        outputs.MAX_GRID_CELLS = before
    assert images.grid_codes(COLUMNS, 2) == ([0, 1, 2, 3], 6) and (root / "out" / "grid.png").is_file()


def test_a_share_of_no_image_ends_with_a_line(root):
    with pytest.raises(InputError, match="shard = '9/9': the plan has 5 images, and this job none of them"):
        sample(root, "out/shard-9-of-9", shard="9/9", plan=PLAN.iloc[[1]])


def work(rank, root, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port), OMP_NUM_THREADS="1")  # fmt: skip
    torch.set_num_threads(1)
    join_processes()
    for folder, more in (("png", {}), ("tar", {"image_format": "tar", "images_per_tar": 5}), ("png", {})):
        sample(Path(root), folder, **more)
        if folder == "png" and rank == 0:
            # the second time, both draw what is missing
            for path in sorted((Path(root) / "png" / "images").rglob("*.png"))[3:10]:
                path.unlink(missing_ok=True)
    leave_processes()


def test_two_processes_make_what_one_makes(root, whole):
    sample(root, "alone", image_format="tar", images_per_tar=5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (str(root), port), 2)
    missing = set(whole) - set(pngs(root / "png"))
    assert len(missing) == 7 and pngs(root / "png").items() < whole.items()
    assert made(root / "png")["drawn_now"] == 7
    for name in ("png", "tar"):
        alone = root / ("whole" if name == "png" else "alone")
        same = ("manifest.csv", "grid.png", "sampling.json")
        assert all((root / name / each).read_bytes() == (alone / each).read_bytes() for each in same)
    tars = [{path.name: path.read_bytes() for path in (root / name / "tars").iterdir()} for name in ("tar", "alone")]
    assert tars[0] == tars[1]

import json
import subprocess
import zipfile
from itertools import product
from pathlib import Path

import monai.bundle
import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from medi_monai.__main__ import main
from medi_monai.cohort.demo import demo_schema
from medi_monai.engines.model_dir import save_model
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.results import plain
from medi_monai.results.training import RECORD, TrainingRecord
from medi_monai.runs.packing import LARGEST, pack_bundle, push_bundle
from medi_monai.runs.settings import load_train_config
from medi_monai.utils.errors import InputError

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_medi_diffusion"
SIZES = {"channels": [16, 32], "attention_levels": [False, True], "num_res_blocks": [1, 1], "num_head_channels": 16,
         "norm_num_groups": 8}  # fmt: skip
COLUMNS = ["project_id", "center"]


def unseen_pairs():
    """Two centers for each class, which have other classes in training."""
    label, center = demo_schema().columns
    return [(name, center.values[2 * number + more]) for number, name in enumerate(label.values) for more in (0, 1)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a model with random weights, other widths than the default, and a record of its training."""
    folder = tmp_path_factory.mktemp("work") / "models"
    schema = demo_schema()
    torch.manual_seed(0)
    network = MetadataDiffusionUNet(
        schema, spatial_dims=2, in_channels=3, out_channels=3, use_combined_linear=True, **SIZES
    )
    label, center = schema.columns
    pairs = [pair for pair in product(label.values, center.values) if pair not in unseen_pairs()]
    record = TrainingRecord.of(pd.DataFrame(pairs, columns=COLUMNS), COLUMNS, "0" * 64)
    settings = load_train_config(folder, "cohort", "conditions", "network", "training", "patch_space")
    settings |= SIZES | {
        "label": "project_id", "subpopulation_columns": COLUMNS, "attributes": ["center"], "continuous": [], "mpp": 1.0,
        "image_size": 32, "schema": schema.digest, "space": {"space": "pixels", "channels": 3}, "precision": "float32",
        "cohort": "0" * 64, "cohort_dir": str(folder.parent / "cohort"), RECORD: plain(record),
    }  # fmt: skip
    save_model(folder, network.state_dict(), settings)
    schema.save(folder / "schema.json")
    return folder


@pytest.fixture(scope="module")
def unpacked(trained, tmp_path_factory):
    """The bundle with the model as it comes out of the archive, in a folder of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    main(["pack", str(BUNDLE), "--ckpt_dir", str(trained), "--output", str(folder / "packed.zip")])
    with zipfile.ZipFile(folder / "packed.zip") as archive:
        archive.extractall(folder)
    return folder / BUNDLE.name


def test_the_archive_has_all_the_zoo_asks_for_and_no_path_of_this_machine(unpacked, trained):
    names = {"LICENSE", "configs/metadata.json", "configs/inference.json", "models/model.pt", "docs/README.md"}
    assert all((unpacked / name).is_file() for name in names)
    assert (unpacked / "models" / "model.pt").read_bytes() == (trained / "model.pt").read_bytes()
    for file in unpacked.rglob("*.json"):
        assert str(trained.parent) not in file.read_text()


def test_configs_are_in_the_format_of_the_zoo_with_the_same_content(unpacked):
    for file in (BUNDLE / "configs").glob("*.json"):
        packed = (unpacked / "configs" / file.name).read_text()
        assert json.loads(packed) == json.loads(file.read_text())
        assert packed == json.dumps(json.loads(packed), indent=4) + "\n"  # as pretty-format-json has it


def test_the_same_bundle_gives_the_same_archive(unpacked, trained, tmp_path):
    archive = pack_bundle(BUNDLE, tmp_path / "again.zip", trained)
    assert archive.read_bytes() == (unpacked.parent / "packed.zip").read_bytes()


@pytest.mark.parametrize("options", [{}, {"workflow_type": "inference"}, {"workflow_type": "train"}])
def test_monai_loads_the_trained_network_from_any_folder(unpacked, trained, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    network = monai.bundle.load(unpacked.name, bundle_dir=unpacked.parent, device="cpu", **options)
    state = torch.load(trained / "model.pt", weights_only=True)
    assert {name: torch.equal(value, state[name]) for name, value in network.state_dict().items()} == dict.fromkeys(
        state, True
    )
    assert list(tmp_path.iterdir()) == []


def test_monai_exports_a_network_that_hears_its_conditions(unpacked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monai.bundle.ckpt_export(
        "network_def", filepath="model.ts", bundle_root=str(unpacked),
        config_file=str(unpacked / "configs/inference.json"),
    )  # fmt: skip
    scripted = torch.jit.load("model.ts")
    network = monai.bundle.load(unpacked.name, bundle_dir=unpacked.parent, device="cpu").eval()
    image = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs = (image, torch.tensor([5.0, 300.0, 900.0]), torch.tensor([[0.0, 1.0], [3.0, -2.0], [1.0, 7.0]]))
    with torch.no_grad():
        torch.testing.assert_close(scripted(*inputs), network(*inputs), rtol=0, atol=1e-5)


def test_it_samples_unseen_combinations_without_the_cohort(unpacked, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDI_CACHE", str(tmp_path / "cache"))
    monai.bundle.run(
        "sampling", bundle_root=str(unpacked), config_file=str(unpacked / "configs/inference.json"), plan="unseen",
        output_dir=str(tmp_path / "images"), images_per_combination=1, num_steps=1,
    )  # fmt: skip
    drawn = pd.read_csv(tmp_path / "images" / "manifest.csv")
    assert sorted(drawn[COLUMNS].itertuples(index=False, name=None)) == sorted(unseen_pairs())
    # neither a cohort was prepared, nor the slides of the demo drawn for it
    assert not list(unpacked.rglob("cohort.csv")) and not list((tmp_path / "cache").rglob("*.tiff"))


def test_large_weights_are_named_and_left_out(trained, tmp_path):
    large = tmp_path / "models"
    large.mkdir()
    for file in trained.iterdir():
        (large / file.name).write_bytes(file.read_bytes())
    (large / "model.pt").write_bytes(np.random.default_rng(0).bytes(LARGEST + 1))
    with pytest.raises(InputError, match="models/model.pt has 25 MB, .* --weights_url"):
        pack_bundle(BUNDLE, tmp_path / "large.zip", large)
    assert not (tmp_path / "large.zip").exists()
    address = "https://example.org/model.pt"
    with zipfile.ZipFile(pack_bundle(BUNDLE, tmp_path / "small.zip", large, address)) as archive:
        assert f"{BUNDLE.name}/models/model.pt" not in archive.namelist()
        (listed,) = yaml.safe_load(archive.read(f"{BUNDLE.name}/large_files.yml"))["large_files"]
    digest = subprocess.run(["sha256sum", large / "model.pt"], capture_output=True, text=True).stdout.split()[0]
    assert listed == {"path": "models/model.pt", "url": address, "hash_val": digest, "hash_type": "sha256"}


def test_what_cannot_be_packed_is_refused(trained, tmp_path):
    with pytest.raises(InputError, match="there is no bundle in"):
        pack_bundle(tmp_path, tmp_path / "a.zip", trained)
    with pytest.raises(InputError, match=r"there is no trained model in .*: model.pt, model.json, schema.json missing"):
        pack_bundle(BUNDLE, tmp_path / "a.zip", tmp_path)
    (tmp_path / "there.zip").touch()
    with pytest.raises(InputError, match="there.zip exists and is not overwritten"):
        pack_bundle(BUNDLE, tmp_path / "there.zip", trained)


def test_the_hub_gets_the_content_of_the_archive(unpacked, monkeypatch):
    """Up to the call: no hub can be reached from a test."""
    pytest.importorskip("huggingface_hub")
    calls = []

    def create_repo(self, repository, **options):
        calls.append(repository)
        return f"https://huggingface.co/{repository}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        names = {path.relative_to(folder_path).as_posix() for path in folder_path.rglob("*") if path.is_file()}
        calls.append((repo_id, names, commit_message))

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", create_repo)
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    assert push_bundle(unpacked.parent / "packed.zip", "group/medi") == "https://huggingface.co/group/medi"
    created, (repository, names, message) = calls
    assert created == repository == "group/medi" and message == f"{BUNDLE.name} 0.1.0"
    assert {"models/model.pt", "configs/train.json", "docs/README.md"} <= names

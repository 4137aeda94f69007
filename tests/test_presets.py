"""Presets of `configs/` are read with the bundles' configs, and what they describe can be built and trained."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

from medi_monai.cohort.demo import demo_schema
from medi_monai.engines.cascade import UpsamplingPrepareBatch
from medi_monai.engines.prepare_batch import DiffusionPrepareBatch
from medi_monai.runs.workflow import read_configs

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "bundles" / "pathology_medi_diffusion" / "configs"


def read(config, *overlays, **options):
    files = [CONFIGS / config, *(ROOT / "configs" / overlay for overlay in overlays)]
    return ConfigParser({**read_configs(files, CONFIGS, options), "schema": demo_schema(), "device": "cpu"})


@pytest.mark.parametrize("order", [1, -1])
def test_the_scale_of_the_paper_is_what_the_published_code_does(order):
    parser = read("train.json", *["cohorts/tcga_ut.yaml", "presets/paper_128.yaml"][::order])
    # the patches of 256 px are resized whole
    assert parser["image_size"] * parser["mpp"] == 256 * parser["source_mpp"]
    assert parser["warmup_steps"] == 0.01 * parser["max_steps"] and parser["batch_size"] == 32
    assert parser["timestep_weights"] == "uniform"
    assert not parser["augment"] and not any(parser[f"{name}_dropout"] for name in ("label", "attribute", "joint"))
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert network.block_out_channels == [128, 256, 512, 512, 1024, 1024]
    # the betas of diffusers' DDPMScheduler
    schedule = parser.get_parsed_content("noise_schedule")
    betas = torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(schedule.alphas.square(), torch.cumprod(1 - betas, 0))
    sampling = read("inference.json", "presets/paper_128.yaml")
    assert [sampling[name] for name in ("solver", "num_steps", "guidance_scale")] == ["dpm", 100, 1.0]
    assert sampling["label_guidance"] == sampling["attribute_guidance"] == 1.0


def test_a_step_at_the_scale_of_the_paper_with_a_sixteenth_of_its_channels():
    parser = read("train.json", "presets/paper_128.yaml", channels=[32, 32, 32, 32, 64, 64])
    network, optimizer = parser.get_parsed_content("network_def"), parser.get_parsed_content("optimizer")
    assert type(optimizer) is torch.optim.AdamW and optimizer.defaults["lr"] == 1e-4
    assert optimizer.defaults["betas"] == (0.95, 0.999) and optimizer.defaults["weight_decay"] == 1e-6
    names = ("objective", "label_dropout", "attribute_dropout", "joint_dropout", "augment", "timestep_weights")
    prepare = DiffusionPrepareBatch(
        parser.get_parsed_content("noise_schedule"), **{name: parser[name] for name in names}
    )
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    codes = parser["schema"].null_codes(2)
    before = network.out[2].conv.weight.detach().clone()
    noisy, noise, _, conditions = prepare({"image": images, "conditions": codes}, step=1)
    loss = torch.nn.functional.mse_loss(network(noisy, **conditions), noise)
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and not torch.equal(network.out[2].conv.weight, before)


@pytest.mark.parametrize(("bundle", "network"), [
    ("pathology_medi_diffusion", "UpsamplingUNet"), ("brain_mri_fair_text_diffusion", "TextUpsamplingUNet"),
])  # fmt: skip
def test_the_overlays_of_a_cascade_replace_network_batches_and_generator(bundle, network):
    folder = ROOT / "bundles" / bundle / "configs"
    training = read_configs([folder / "train.json", folder / "super_resolution.json"], folder, {"max_level": 200})
    assert training["network_def"]["_target_"].endswith(f".{network}")
    assert (training["small_size"], training["max_level"]) == (32, 200) and "cascade" in training["settings"]
    batches = training["train"]["prepare_batch"]
    assert batches["_target_"].endswith(".UpsamplingPrepareBatch") and batches["max_level"] == "@max_level"
    hidden = [handler for handler in training["train"]["handlers"] if handler.get("_disabled_")]
    assert [handler["_target_"].split(".")[-1] for handler in hidden] == ["SampleGridHandler"]
    sampling = read_configs([folder / "inference.json", folder / "upsample.json"], folder, {"level": 50})
    assert sampling["network_def"]["_target_"].endswith(f".{network}") and sampling["level"] == 50
    assert sampling["generator"]["_target_"].endswith(".UpsamplingGenerator")


def test_the_second_stage_of_the_preset_takes_a_step():
    parser = read("train.json", "presets/cascade_128.yaml", channels=[32, 32, 32])
    overlay = read_configs([CONFIGS / "train.json", CONFIGS / "super_resolution.json"], CONFIGS)
    parser["network_def"] = overlay["network_def"]
    network, space = parser.get_parsed_content("network_def"), parser.get_parsed_content("space")
    prepare = UpsamplingPrepareBatch(
        schedule=parser.get_parsed_content("noise_schedule"), space=space, small_size=32, max_level=300
    )
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    noisy, target, _, arguments = prepare({"image": images, "conditions": parser["schema"].null_codes(2)}, step=1)
    assert noisy.shape == arguments["small"].shape == (2, 48, 32, 32)
    assert network(noisy, **arguments).shape == target.shape

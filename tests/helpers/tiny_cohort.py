"""A cohort of 3 labels x 3 centers that is made in a blink, and a network that trains on it in a second."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.schema import MetadataSchema

LABELS, CENTERS, SIZE = ("A", "B", "C"), ("NA", "North", "South"), 16


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory):
    root = tmp_path_factory.mktemp("cohort")
    rng = np.random.default_rng(0)
    rows = []
    for label_index, label in enumerate(LABELS):
        for center_index, center in enumerate(CENTERS):
            held_out = label == "A" and center == "South"
            for number in range(6):
                pixels = rng.integers(60 * center_index, 60 * center_index + 60 + 40 * label_index, (SIZE, SIZE, 3))
                name = f"{label}_{center}_{number}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(root / name)
                split = "holdout" if held_out else "val" if number == 5 else "train"
                patient = f"{label}{center}{number // 2 if number < 4 else number}"
                rows.append((name, patient, patient, "0", "0", "1.0", label, center, split))
    columns = ["image", "slide", "patient", "x", "y", "mpp", "project_id", "center", "split"]
    cohort = Cohort(pd.DataFrame(rows, columns=columns), root)
    cohort.write()
    return cohort


@pytest.fixture(scope="session")
def tiny_schema(tiny_cohort):
    return MetadataSchema.from_table(tiny_cohort.split("train").table, "project_id", ["center"])


@pytest.fixture
def tiny_network(tiny_schema):
    torch.manual_seed(0)
    network = MetadataDiffusionUNet(
        tiny_schema,
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        channels=(16, 32),
        attention_levels=(False, True),
        num_res_blocks=1,
        num_head_channels=16,
        norm_num_groups=8,
    )
    # the last layer of every block starts at zero: without this, an untrained network would not hear its conditions
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return network.eval()

"""What the tests of an alignment share: a network and a generator of a blink, and a classifier that reads levels."""

import pandas as pd
import torch
from torch.nn import functional

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.pool import ReferencePool, SubgroupPredictor
from medi_monai.alignment.settings import AlignmentLosses
from medi_monai.alignment.step import AlignmentStep
from medi_monai.diffusion import NoiseSchedule
from medi_monai.engines.generator import ImageGenerator
from medi_monai.networks import MetadataDiffusionUNet
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.networks.spaces import PixelSpace
from medi_monai.schema import MetadataSchema

VALUES = ("dark", "bright")
SCHEMA = MetadataSchema.from_table(pd.DataFrame({"kind": ["a", "b"]}), "kind", [])
PLAN = pd.DataFrame({"kind": ["a", "b"], "count": [6, 2]})
TARGET = make_target({"dark": 0.3, "bright": 0.7}, {"shade": VALUES})
SCHEDULE = NoiseSchedule("cosine", 100)


class Levels(AttributeClassifier):
    """Reads the mean of an image and, as a second attribute, its power."""

    def __init__(self, attributes=None, gain=6.0):
        super().__init__(attributes or {"shade": VALUES, "power": ("low", "high")}, None)
        self.gain = torch.nn.Parameter(torch.tensor(gain), requires_grad=False)

    def logits(self, images):
        levels = {"shade": images.mean((1, 2, 3)), "power": images.square().mean((1, 2, 3)) - 0.4}
        signs = {"dark": -1, "bright": 1, "low": -1, "high": 1}
        logits = [signs[value] * levels[name] for name, values in self.attributes.items() for value in values]
        return self.gain * torch.stack(logits, 1)


def features(images):
    return functional.avg_pool2d(images, 4).flatten(1) + 0.5


def network_of(channels=1, seed=0, widths=(4, 8)):
    torch.manual_seed(seed)
    network = MetadataDiffusionUNet(
        SCHEMA,
        spatial_dims=2,
        in_channels=channels,
        out_channels=channels,
        channels=widths,
        attention_levels=(*(False for _ in widths[1:]), len(widths) > 1),
        num_res_blocks=1,
        num_head_channels=widths[-1],
        norm_num_groups=4,
    )
    # the last layers start at zero, where nothing could be heard
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


def generator_of(batch_size=6, num_steps=3, space=None, guidance_scale=1.0, image_size=16):
    return ImageGenerator(
        SCHEMA, SCHEDULE, "v", image_size, "ddim", num_steps, guidance_scale, batch_size, space=space or PixelSpace(1)
    )


def pool_of(generator, network=None, target=TARGET, guide=None, size=8, prompts=PLAN, together=1):
    untuned = (network or network_of()).requires_grad_(False)
    reader = SubgroupPredictor("guide", guide or Levels(), target, generator.batch_size)
    return ReferencePool(untuned, generator, prompts, size, reader, features, 3, together)


def step_of(pool, network, batch_size=6, losses=None, **options):
    network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.0)
    return AlignmentStep(
        network,
        optimizer,
        pool,
        losses or AlignmentLosses(subgroup_loss="matching", min_confidence=0.8),
        batch_size,
        **options,
    )

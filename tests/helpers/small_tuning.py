"""What the tests of a tuning share: classifiers, a tuning with folders of its own, and anchors that interrupt it."""

import json
import signal
from types import SimpleNamespace

import pandas as pd
import torch
from small_alignment import PLAN, SCHEMA, VALUES, generator_of, network_of

from medi_monai.alignment.functional import make_target
from medi_monai.alignment.settings import AlignmentLosses, AlignmentSettings
from medi_monai.alignment.tuning import AlignmentGoal, TrainedModel, align
from medi_monai.networks.classifier import AttributeClassifier
from medi_monai.utils.files import save_tensors


class Weighted(AttributeClassifier):
    """Bright where the weighted mean of the pixels is above a threshold."""

    def __init__(self, weight, threshold=0.0, gain=6.0):
        super().__init__({"shade": VALUES}, None)
        self.weight = torch.nn.Parameter(weight / weight.sum(), requires_grad=False)
        self.threshold, self.gain = threshold, gain

    def logits(self, images):
        level = self.gain * ((images * self.weight).sum((1, 2, 3)) - self.threshold)
        return torch.stack([-level, level], 1)


def pixel(row, column):
    weight = torch.zeros(3, 8, 8)
    weight[:, row, column] = 1
    return weight


WHOLE, CORNER = torch.ones(3, 8, 8), pixel(1, 1)


class Tuning:
    """All that a tuning needs, with folders of its own."""

    def __init__(self, root, name="one"):
        self.source, self.folder, self.output = root / "original" / "model.pt", root / name / "m", root / name / "o"
        self.untuned = network_of()
        if not self.source.is_file():
            self.source.parent.mkdir(parents=True)
            save_tensors(self.source, self.untuned.state_dict())
        self.network = network_of()

    def run(self, resume=False, losses=None, plan=PLAN, folder=None, guide=None, others=None, target=None, **changes):
        self.output.mkdir(parents=True, exist_ok=True)
        options = {name: changes.pop(name) for name in ("anchor", "features") if name in changes}
        writer = changes.pop("writer", None)
        settings = {"max_steps": 8, "batch_size": 4, "pool_size": 8, "val_interval": 3, "num_validation": 6,
                    "checkpoint_every": 4, "patience": 9, "learning_rate": 1e-2, "harden_guide": False}  # fmt: skip
        others = {"validation": Weighted(WHOLE, 0.02)} if others is None else others
        goal = AlignmentGoal(
            target or make_target({"dark": 0.2, "bright": 0.8}, {"shade": VALUES}),
            {"guide": guide or Weighted(WHOLE), **others},
            losses or AlignmentLosses(subgroup_loss="matching", min_confidence=0.8),
            **options,
        )
        return align(
            TrainedModel(self.network, generator_of(4, 2, image_size=8), {"objective": "v"}, self.source),
            plan,
            goal,
            AlignmentSettings(**{**settings, "resume": resume, **changes}),
            self.output,
            folder or self.folder,
            writer,
        )

    @property
    def record(self):
        return json.loads((self.output / "alignment.json").read_text())


class Stopping:
    """An anchor that weighs nothing and is interrupted, or fails, at one update."""

    sampler = SimpleNamespace(batch_size=0)

    def __init__(self, step=None, signal_number=None):
        self.step, self.signal_number, self.steps = step, signal_number, []

    def __call__(self, network, untuned, step, distilled):
        self.steps.append(step)
        if step == self.step and self.signal_number is None:
            raise ZeroDivisionError
        if step == self.step:
            signal.raise_signal(self.signal_number)
        return {"anchor": sum(0 * parameter.sum() for parameter in network.parameters() if parameter.requires_grad)}


class Distilling(Stopping):
    """As an anchor on real images that are noise, drawn anew at each update."""

    sampler = SimpleNamespace(batch_size=3)

    def __call__(self, network, untuned, step, distilled):
        super().__call__(network, untuned, step, distilled)
        images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(step))
        inputs = images, torch.tensor([3, 40, 90]), SCHEMA.encode(pd.DataFrame({"kind": ["a", "b", "a"]}))
        predicted = network(*inputs)
        with torch.no_grad():
            before = untuned(*inputs)
        return {"anchor": predicted.square().mean(), "distillation": (predicted - before).square().mean()}


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second

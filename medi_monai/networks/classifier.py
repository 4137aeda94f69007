"""Classifiers of attributes in images: the guide of an alignment, who validates it, and who judges it.

All of them take images ``(N, 3, H, W)`` in [-1, 1], of any size, and give logits by attribute; gradients flow to the
images. What is used for an alignment is frozen: in evaluation mode for ever, and without gradients of its own weights.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.networks.blocks import Convolution, ResidualUnit
from torch import nn
from torch.nn import functional

from medi_monai.networks.classifier_base import AttributeClassifier
from medi_monai.networks.encoders.pretrained import load_weights
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import file_digest, load_tensors, read_json, save_tensors, write_json

__all__ = [
    "AttributeClassifier",
    "ClassifierEnsemble",
    "OffTheShelfClassifier",
    "SubgroupClassifier",
    "load_classifier",
    "save_classifier",
]

WEIGHTS, RECORD = "classifier.pt", "classifier.json"
#: settings of :class:`OffTheShelfClassifier`; what else a mapping holds goes to its ``_target_``
WRAPPING = ("attributes", "image_size", "mean", "std", "channels")


class SubgroupClassifier(AttributeClassifier):
    """A small CNN: a stem, three stages that halve the image, global mean pooling, one linear layer.

    Group norm: an image is read alike alone and in any batch, in training and afterwards.

    Args:
        attributes: as for :class:`AttributeClassifier`.
        image_size: images are resized to it; from 64 on, the stem halves as well.
        width: channels of the stem, a multiple of 8; the stages have 2, 4 and 8 times as many.
        depth: convolutions of a stage.
        residual: stages are residual units; classifiers that should not share their mistakes differ in it, in width
            and in seed.
    """

    def __init__(
        self,
        attributes: Mapping[str, Sequence[str]],
        image_size: int = 32,
        width: int = 16,
        depth: int = 1,
        residual: bool = False,
    ) -> None:
        super().__init__(attributes, image_size)
        if width < 8 or width % 8 or depth < 1:
            raise InputError(f"width {width} has to be a multiple of 8, and depth {depth} 1 or more")
        self.architecture = {"image_size": image_size, "width": width, "depth": depth, "residual": residual}
        stages = [_convolution(3, width, 1 if image_size < 64 else 2)]
        for channels in (width, 2 * width, 4 * width):
            stages += _stage(channels, 2 * channels, depth, residual)
        self.features = nn.Sequential(*stages)
        self.head = nn.Linear(8 * width, sum(map(len, self.attributes.values())))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images).mean((2, 3)))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), **self.architecture}


class OffTheShelfClassifier(AttributeClassifier):
    """Any trained module that gives logits, with its own resize and normalization; frozen.

    Args:
        module: takes ``(N, channels, image_size, image_size)`` normalized images and gives ``(N, sum of G)`` logits, a
            mapping of attribute to ``(N, G)``, or an object that has one of them as ``logits``. ``(N, 1)`` for one
            attribute of two values is the log-odds of the second.
        attributes: as for :class:`AttributeClassifier`, in the order of the logits.
        image_size: side that the module takes.
        mean: of each channel, of values in [0, 1].
        std: as ``mean``.
        channels: 3, or 1 for a module that takes gray images; colors are averaged for it.

    Raises:
        InputError: where the module does not give logits, or no gradient to the images; found by a dry run.
    """

    def __init__(
        self,
        module: nn.Module,
        attributes: Mapping[str, Sequence[str]],
        image_size: int | None = 224,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        channels: int = 3,
    ) -> None:
        super().__init__(attributes, image_size)
        if channels not in (1, 3):
            raise InputError(f"channels = {channels}: the classifier takes 1 (gray) or 3")
        if not all(len(values) in (1, channels) for values in (mean, std)) or min(std) <= 0:
            raise InputError(
                f"mean {list(mean)} and std {list(std)}: one number for each of {channels} channels, std above 0"
            )
        self.module, self.channels = module.float(), channels
        for name, values in (("_mean", mean), ("_std", std)):
            self.register_buffer(name, torch.tensor(list(map(float, values)))[:, None, None], persistent=False)
        self.freeze()
        self._dry_run()

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        if self.channels == 1:
            images = images.mean(1, keepdim=True)
        output = self.module(((images + 1) / 2 - self.get_buffer("_mean")) / self.get_buffer("_std"))
        if not isinstance(output, Mapping) or "logits" in output:
            output = output["logits"] if isinstance(output, Mapping) else getattr(output, "logits", output)
        if isinstance(output, Mapping):
            for name in self.columns:
                if name not in output:
                    raise unknown_value("attribute of the module", name, output)
            output = torch.cat([output[name] for name in self.columns], 1)
        return self._checked(output, len(images))

    def _checked(self, output: Any, count: int) -> torch.Tensor:
        sizes = {name: len(values) for name, values in self.attributes.items()}
        if list(sizes.values()) == [2] and isinstance(output, torch.Tensor) and output.numel() == count:
            output = functional.pad(output.reshape(count, 1), (1, 0))
        if not isinstance(output, torch.Tensor) or tuple(output.shape) != (count, sum(sizes.values())):
            given = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise InputError(
                f"the module {type(self.module).__name__} gives {given} for {count} images; {sizes} need logits "
                f"({count}, {sum(sizes.values())}). Name the attributes and values of its training, in its order."
            )
        return output

    def _dry_run(self) -> None:
        side, name = self.image_size or 64, type(self.module).__name__
        device = next((tensor.device for tensor in self.state_dict().values()), torch.device("cpu"))
        images = torch.zeros(2, 3, side, side, device=device, requires_grad=True)
        try:
            total = torch.cat(list(self.to(device)(images).values()), 1).sum()
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise InputError(f"the module {name} cannot read images of {side} x {side} pixels: {reason}") from error
        if not torch.isfinite(total):
            raise InputError(
                f"the module {name} gives logits that are not finite for a gray image: are its weights whole?"
            )
        if not total.requires_grad or torch.autograd.grad(total, images, allow_unused=True)[0] is None:
            raise InputError(f"the module {name} passes no gradient to the images, so it cannot guide an alignment")

    def describe(self) -> dict[str, Any]:
        own = {"mean": self.get_buffer("_mean").flatten().tolist(), "std": self.get_buffer("_std").flatten().tolist()}
        return {**super().describe(), "module": type(self.module).__name__, "channels": self.channels, **own}


class ClassifierEnsemble(AttributeClassifier):
    """The mean of the probabilities of several classifiers; its logits are logarithms of probabilities.

    Args:
        members: classifiers, frozen here; the attributes that all of them read, with the same values, are read.

    Raises:
        InputError: for no member, or no attribute that all of them read.
    """

    def __init__(self, members: Sequence[AttributeClassifier]) -> None:
        if not members:
            raise InputError("an ensemble needs one classifier or more")
        first = members[0].attributes
        common = {
            name: values
            for name, values in first.items()
            if all(set(member.attributes.get(name, ())) == set(values) for member in members)
        }
        if not common:
            raise InputError(
                f"the classifiers of an ensemble read no attribute in common: {[m.attributes for m in members]}"
            )
        super().__init__(common, None)
        self.members = nn.ModuleList(members)
        for member in members:
            member.freeze()
        self.freeze()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        read = [(member, member.log_probabilities(images)) for member in self._members()]
        result = {}
        for name, values in self.attributes.items():
            # members may have the values in another order
            parts = [found[name][:, [member.attributes[name].index(v) for v in values]] for member, found in read]
            result[name] = torch.stack(parts).logsumexp(0) - math.log(len(parts))
        return result

    def _members(self) -> list[AttributeClassifier]:
        return [member for member in self.members if isinstance(member, AttributeClassifier)]

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "members": [member.describe() for member in self._members()]}


def save_classifier(
    folder: str | os.PathLike,
    classifier: SubgroupClassifier,
    training: Mapping[str, Any] | None = None,
    digests: Mapping[str, str] | None = None,
) -> Path:
    """Write ``classifier.pt`` (weights) and ``classifier.json`` (all else); returns the path of the weights.

    Args:
        folder: where to.
        classifier: its ``held_out`` is written as well.
        training: settings of the training.
        digests: of what it was trained on.
    """
    weights = Path(folder) / WEIGHTS
    save_tensors(weights, {name: value.cpu() for name, value in classifier.state_dict().items()})
    content = {
        "format": 1,
        "architecture": classifier.architecture,
        "attributes": classifier.attributes,
        "held_out": classifier.held_out,
        "training": dict(training or {}),
        "digests": {**(digests or {}), WEIGHTS: file_digest(weights)},
    }
    write_json(Path(folder) / RECORD, content)
    return weights


def load_classifier(
    spec: str | os.PathLike | Mapping[str, Any] | Sequence | AttributeClassifier, device: str | torch.device = "cpu"
) -> AttributeClassifier:
    """A frozen classifier.

    Args:
        spec: the folder of :func:`save_classifier`; a mapping with ``_target_``, the arguments of the target,
            ``weights`` (a path; needless where the target loads its own) and the settings of
            :class:`OffTheShelfClassifier`, or with ``module`` in place of the target; the path of such a mapping as a
            JSON file; a list of these, for an ensemble; or a classifier.
        device: where it is to run.

    Raises:
        InputError: for what is not there, does not fit or does not run, each by its name.
    """
    if isinstance(spec, AttributeClassifier):
        return spec.freeze().to(device)
    if isinstance(spec, Mapping):
        return _off_the_shelf(spec, Path()).to(device)
    if not isinstance(spec, (str, os.PathLike)):
        return ClassifierEnsemble([load_classifier(part, device) for part in spec]).to(device)
    path = Path(spec)
    if path.suffix == ".json" and path.name != RECORD:
        return _off_the_shelf(read_json(path), path.parent).to(device)
    # the record or the weights are given, or their folder, which may not be there
    return _from_folder(path.parent if path.suffix else path).to(device)


def _from_folder(folder: Path) -> SubgroupClassifier:
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"there is no classifier in {folder}: {name} is missing. Train one, or give its folder")
    content = read_json(folder / RECORD)
    try:
        if content["format"] != 1:
            raise InputError(f"this version reads classifiers of format 1, not {content['format']}")
        classifier = SubgroupClassifier(content["attributes"], **content["architecture"])
        classifier.held_out = dict(content["held_out"])
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / RECORD} is not the record of a classifier: {error} is wrong or missing") from error
    _load_state(classifier, load_tensors(folder / WEIGHTS), folder / WEIGHTS)
    return classifier.freeze()


def _off_the_shelf(spec: Mapping[str, Any], folder: Path) -> OffTheShelfClassifier:
    settings = dict(spec)
    wrapping = {name: settings.pop(name) for name in WRAPPING if name in settings}
    weights = settings.pop("weights", None)
    module = settings.pop("module", None)
    if (module is None) == ("_target_" not in settings) or (module is not None and settings):
        raise InputError(
            f"a classifier by config has `_target_` with its arguments, or `module`, besides {list(WRAPPING)} and "
            f"`weights`; given: {sorted(map(str, spec))}"
        )
    if "attributes" not in wrapping:
        raise InputError("a classifier by config needs `attributes`, as {'sex': ['female', 'male']}, in its order")
    module = _built(settings if module is None else module)
    if weights is not None:
        path = folder / weights
        _load_state(module, load_weights(path), path)
    return OffTheShelfClassifier(module, **wrapping)


def _built(config: Any) -> nn.Module:
    if isinstance(config, Mapping):
        try:
            config = ConfigParser(dict(config)).get_parsed_content()
        except Exception as error:
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise InputError(f"the classifier {config['_target_']!r} cannot be made: {reason}") from error
    if not isinstance(config, nn.Module):
        raise InputError(f"the classifier by config is a {type(config).__name__}, and has to be a torch.nn.Module")
    return config


def _load_state(module: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    try:
        module.load_state_dict(dict(state))
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {path} do not fit the classifier: {reason}") from error


def _convolution(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    # channels of a group: 8, so that a group sees enough values where the maps are small
    norm = ("group", {"num_groups": out_channels // 8})
    return Convolution(2, in_channels, out_channels, stride, act="gelu", norm=norm)


def _stage(in_channels: int, out_channels: int, depth: int, residual: bool) -> list[nn.Module]:
    if residual:
        norm = ("group", {"num_groups": out_channels // 8})
        return [ResidualUnit(2, in_channels, out_channels, 2, subunits=depth, act="gelu", norm=norm)]
    further = [_convolution(out_channels, out_channels, 1) for _ in range(depth - 1)]
    return [_convolution(in_channels, out_channels, 2), *further]

"""The settings of evaluations: what is compared, and how."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from medi_monai.evaluation.probing.arms import BASELINES
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import (
    Component,
    Count,
    Counts,
    Fraction,
    Fractions,
    MappingOf,
    OneOf,
    Paths,
    PathText,
    Rate,
    Rates,
    Seed,
    Settings,
    Text,
    Texts,
    Words,
    setting,
)
from medi_monai.wsi.normalization import NORMALIZATIONS

__all__ = [
    "AlignmentEvaluationSettings",
    "ArmSettings",
    "BrainFidelitySettings",
    "EncoderSettings",
    "FidelitySettings",
    "PenaltySettings",
    "ProbeSettings",
]

Baselines = Annotated[
    list[Annotated[str, OneOf("baseline", BASELINES)]],
    Words("a list, as \"['reweighted', 'oversampled']\", of " + ", ".join(BASELINES)),
]


class ArmSettings(Settings):
    """The sets of images that are compared."""

    arms: Paths = setting(help="names of the arms, and the folders of their sampling")


class EncoderSettings(Settings):
    """The frozen features that images are compared by."""

    encoder: Component = setting("embedded", "encoder by name, or a mapping with its settings")
    encoder_batch_size: Count = setting(256, "images embedded at once")


class PenaltySettings(Settings):
    """The penalties that linear probes choose from."""

    c_values: Rates = setting([0.001, 0.01, 0.1, 1.0, 10.0, 100.0], "values of C of a linear probe")


class FidelitySettings(Settings):
    """How sets of images are compared."""

    max_images: Count = setting(512, "images of a combination at most")
    min_images: Count = setting(16, "images below which a combination has no figure")
    num_halves: Count = setting(4, "random halves of the real patients that figures are averaged over")
    num_replicates: Count = setting(100, "bootstrap samples behind an interval")
    neighbors: Count = setting(5, "neighbors of precision, recall, density and coverage")
    seed: Seed = setting(0, "seed of all draws")

    @model_validator(mode="after")
    def _enough_images_for_neighbors(self) -> FidelitySettings:
        if self.min_images <= self.neighbors:
            raise InputError(
                f"min_images = {self.min_images} has to be more than neighbors = {self.neighbors}, which are looked at"
            )
        return self


class BrainFidelitySettings(FidelitySettings, defaults={"num_replicates": 200}):
    """How sets of brain MR images are compared."""


class ProbeSettings(PenaltySettings):
    """How arms are compared by linear probes."""

    num_repeats: Count = setting(12, "draws of training patients; each is a paired comparison of all arms")
    probe_replicates: Count = setting(200, "bootstrap samples of the test patients within each draw")
    ratio: Rate = setting(0.5, "synthetic images for each real one")
    real_per_class: Count | None = setting(None, "real training images of a class at most; null: all")
    sweep_repeats: Seed = setting(3, "draws at each point of a sweep; 0: no sweeps")
    sweep_ratios: Rates = setting([0.125, 0.25, 0.5], "sweep over the ratio")
    sweep_real_per_class: Counts = setting([25, 100, 400, 1600], "sweep over the number of real images")
    sweep_num_centers: Counts = setting([2, 4, 6], "sweep over the number of centers in training")
    sweep_correlations: Fractions = setting(
        [0.0, 0.25, 0.5, 0.75, 1.0], "sweep over the correlation of class and center"
    )
    min_count: Count = setting(10, "images that a group needs to be the worst")
    num_augmented: Count = setting(2, "stain-augmented copies of every training image")
    stain_jitter: Fraction = setting(0.2, "strength of the stain augmentation")
    normalization: Annotated[str, OneOf("stain normalization", tuple(NORMALIZATIONS))] = setting(
        "macenko", "method of the stain-normalized baseline"
    )
    seed: Seed = setting(0, "seed of all draws")


class ComparisonSettings(Settings):
    """What probes are compared with, and by whom they are grouped."""

    baselines: Baselines = setting([name for name in BASELINES if name != "real"], "baselines to compare with")
    demographics: Texts = setting(["race", "gender"], "columns whose groups are reported")


class FocusSettings(Settings):
    """The arm that the answer is about."""

    focus: Text = setting("medi", "the arm that the answer is about")


class AlignmentEvaluationSettings(Settings):
    """How an aligned model is judged."""

    alignment: Component | None = setting(
        None, "folder of the aligning, for its curves", expression="$@bundle_root + '/output/aligning'"
    )
    named: Paths | None = setting(None, "arms drawn from prompts that name the attribute, before and after")
    tolerance: Fraction = setting(0.05, "distance from the target that counts as met")


class ReferenceSettings(Settings):
    """Real images of the target, and what arms cost."""

    at_start = False

    reference_dir: PathText = setting(help="cohort with the target's shares", expression="@cohort_dir")
    costs: MappingOf | None = setting(None, "seconds and images that each arm took")

"""Settings of evaluations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from medi_monai.evaluation.compression import AUTO_QUALITY
from medi_monai.evaluation.probing.arms import BASELINES, DEFAULT_BASELINES, SWEEPS, VARIANTS
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import (
    Component,
    Count,
    Counts,
    Flag,
    Fraction,
    Fractions,
    MappingOf,
    OneOf,
    Paths,
    PathText,
    Rate,
    Rates,
    Repeats,
    Seed,
    Settings,
    Text,
    Texts,
    Whole,
    Words,
    setting,
)
from medi_monai.wsi.normalization import NORMALIZATIONS

__all__ = [
    "AlignmentEvaluationSettings",
    "ArmSettings",
    "BrainFidelitySettings",
    "CompressionSettings",
    "EncoderSettings",
    "FidelitySettings",
    "PenaltySettings",
    "PixelFigureSettings",
    "ProbeSettings",
    "SweepSettings",
]

Baselines = Annotated[
    list[Annotated[str, OneOf("baseline", BASELINES)]],
    Field(strict=True, max_length=100, fail_fast=True),
    Words("a list, such as \"['reweighted', 'oversampled']\", of " + ", ".join(BASELINES)),
]

VariantKinds = Annotated[
    list[Annotated[str, OneOf("variant", VARIANTS)]],
    Field(strict=True, max_length=len(VARIANTS), fail_fast=True),
    Words("a list, such as \"['filtered']\", of " + ", ".join(VARIANTS)),
]


Sweeps = Annotated[
    list[Annotated[str, OneOf("sweep", SWEEPS)]],
    Field(strict=True, max_length=len(SWEEPS), fail_fast=True),
    Words("a list, such as \"['correlation']\", of " + ", ".join(SWEEPS)),
]


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Compression = Annotated[
    Annotated[int, Field(strict=True, ge=1, le=100)] | Literal["auto", "none"],
    BeforeValidator(_lower),
    Words("auto, none, or a JPEG quality from 1 to 100"),
]


class ArmSettings(Settings):
    """Arms."""

    arms: Paths = setting(help="names of the arms and folders of their sampled images")


class EncoderSettings(Settings):
    """Feature encoder."""

    encoder: Component = setting("embedded", "name of the frozen encoder, or a mapping with its settings")
    encoder_batch_size: Count = setting(256, "images per embedding batch")
    features_dir: PathText | None = setting(
        None, "folder for the features of all images; null: `features` in the folder of the images"
    )


class CompressionSettings(Settings):
    """Compression before embedding."""

    compression: Compression = setting(
        "auto",
        "compression of all images, real and generated, before they are embedded: none, a JPEG quality from 1 to 100, "
        f"or auto ({AUTO_QUALITY} if real images come from lossy files and generated ones do not, otherwise none)",
    )


class PenaltySettings(Settings):
    """Regularization of linear probes."""

    c_values: Rates = setting(
        [0.001, 0.01, 0.1, 1.0, 10.0, 100.0], "candidate values of C, the inverse regularization strength"
    )


class FidelitySettings(Settings):
    """Fidelity."""

    max_images: Count = setting(512, "maximum number of images per combination")
    min_images: Count = setting(16, "minimum number of images; combinations with fewer are not evaluated")
    num_halves: Repeats = setting(4, "number of random splits of the real patients to average over")
    num_replicates: Repeats = setting(100, "bootstrap samples per confidence interval")
    neighbors: Repeats = setting(5, "number of nearest neighbors for precision, recall, density and coverage")
    seed: Seed = setting(0, "random seed")

    @model_validator(mode="after")
    def _enough_images_for_neighbors(self) -> FidelitySettings:
        if self.min_images <= self.neighbors:
            raise InputError(f"min_images = {self.min_images} has to be more than neighbors = {self.neighbors}")
        return self


class PixelFigureSettings(Settings):
    """Figures of pixels."""

    pixel_figures: Flag = setting(
        True,
        "whether to compute the figures that do not depend on the encoder: copies of training images, diversity and "
        "pixel variance",
    )


# with 4 draws, the ratio of distances of one and the same arm varies by 13 %, more than the allowed loss of 10 %; with
# 48, by 4 % (docs/results/alignment.md)
class BrainFidelitySettings(FidelitySettings, defaults={"num_halves": 48, "num_replicates": 200}):
    """Fidelity of brain MR images."""


class ProbeSettings(PenaltySettings):
    """Probing."""

    num_repeats: Repeats = setting(12, "number of draws of training patients; all arms use the same draws")
    probe_replicates: Repeats = setting(200, "bootstrap samples of the test combinations or patients")
    margin: Fraction = setting(0.05, "difference in balanced accuracy up to which arms count as equivalent")
    ratio: Rate = setting(0.5, "synthetic images per real image")
    real_per_class: Count | None = setting(None, "maximum number of real training images per class; null: all")
    sweep_repeats: Whole = setting(3, "draws per point of a sweep; 0: no sweeps")
    sweep_ratios: Rates = setting([0.125, 0.25, 0.5], "sweep: synthetic images per real image")
    sweep_real_per_class: Counts = setting([25, 100, 400, 1600], "sweep: real images per class")
    sweep_num_centers: Counts = setting([2, 4, 6], "sweep: number of centers in training")
    sweep_correlations: Fractions = setting([0.0, 0.25, 0.5, 0.75, 1.0], "sweep: correlation of class and center")
    min_count: Count = setting(10, "minimum number of images for a group to count in worst-group accuracy")
    num_augmented: Repeats = setting(2, "stain-augmented copies per training image")
    stain_jitter: Fraction = setting(0.2, "strength of the stain augmentation")
    normalization: Annotated[str, OneOf("stain normalization", tuple(NORMALIZATIONS))] = setting(
        "macenko", "stain normalization of the stain-normalized baseline"
    )
    variants: VariantKinds = setting(
        [],
        "further arms with the generated images of the main arm: normalized (real and generated images are "
        "stain-normalized), filtered (only images whose class is predicted as requested by a probe trained on real "
        "images), seen (only images of combinations in training)",
    )
    seed: Seed = setting(0, "random seed")


class SweepSettings(Settings):
    """Sweeps."""

    sweeps: Sweeps = setting(list(SWEEPS), "sweeps to perform, each with `sweep_repeats` draws per point")


class ComparisonSettings(Settings):
    """Baselines and demographic groups."""

    baselines: Baselines = setting(list(DEFAULT_BASELINES), "baselines to include")
    demographics: Texts | None = setting(
        None, "columns of demographic groups; null: race, ethnicity, sex and gender if the cohort has them"
    )


class FocusSettings(Settings):
    """Main arm."""

    focus: Text = setting("medi", "arm that is compared with each other arm")


class AlignmentEvaluationSettings(Settings):
    """Evaluation of an aligned model."""

    alignment: Component | None = setting(
        None, "output folder of the run `aligning`, for its curves", expression="$@bundle_root + '/output/aligning'"
    )
    named: Paths | None = setting(None, "arms sampled with prompts that name the attribute, before and after")
    tolerance: Fraction = setting(0.05, "maximum distance at which the target counts as met")


class ReferenceSettings(Settings):
    """Reference images and costs."""

    at_start = False

    reference_dir: PathText = setting(help="cohort of real images with the target shares", expression="@cohort_dir")
    costs: MappingOf | None = setting(None, "run time in seconds and number of images of each arm")

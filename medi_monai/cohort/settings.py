"""Settings of cohorts: where the data are, what the columns mean, how patches are cut, and how patients are split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import model_validator

from medi_monai.cohort.captions import CaptionPreparation, CaptionTable, PatientSplit, SquareFit
from medi_monai.cohort.captions.images import FITS, PADS
from medi_monai.cohort.extraction import FORMATS, MEASURE, Cutting
from medi_monai.cohort.features import POOLINGS
from medi_monai.cohort.patches import Preparation
from medi_monai.cohort.source import UNITS, ImageTable
from medi_monai.cohort.splits.scheme import SCHEMES, SplitScheme
from medi_monai.cohort.tables import TableSpec
from medi_monai.cohort.volumes import PLANES, VolumeRules
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import (
    Bounds,
    Count,
    Few,
    Fraction,
    Fractions,
    Indices,
    MappingOf,
    OneOf,
    PathText,
    Pixels,
    Rate,
    Repeats,
    Seed,
    Settings,
    Text,
    Texts,
    Whole,
    Width,
    setting,
)
from medi_monai.wsi import PatchGrid
from medi_monai.wsi.readers import PixelRules
from medi_monai.wsi.readers.resolution import ON_CONFLICT
from medi_monai.wsi.readers.rules import MAX_PIXELS

__all__ = [
    "CaptionSettings",
    "CohortSettings",
    "FeatureCohortSettings",
    "FeatureSettings",
    "ReadingSettings",
    "caption_preparation",
    "patch_preparation",
]

DEMO_COLUMNS = {
    "image": "slides/{slide_submitter_id}.tiff",
    "slide": "slide_submitter_id",
    "patient": "case_submitter_id",
    "mpp": None,
}
BRAIN_TEMPLATES = {
    "templates": [
        {"text": "FLAIR MR slice of the brain of a {age} {sex} with {lesion}", "weight": 0.5},
        {"text": "FLAIR MR slice of the brain of a {age} patient with {lesion}", "weight": 0.5},
    ],
    "words": {
        "sex": {"female": "woman", "male": "man"},
        "age": {"bins": [45, 65], "words": ["young", "middle-aged", "old"]},
        "lesion": {
            "absent": "no lesion",
            "left": "a lesion in the left hemisphere",
            "right": "a lesion in the right hemisphere",
        },
    },
}


class SourceSettings(Settings):
    """Settings shared by the cohorts of both bundles."""

    dataset_dir: PathText | None = setting(
        None,
        "folder of the data set, or a demo cohort (docs/evidence.md); null: the demo cohort",
    )
    table: PathText | MappingOf = setting(
        "slides.csv", "table of the images in this folder, or a layout and its tables"
    )
    columns: MappingOf = setting(DEMO_COLUMNS, "columns that contain image, slide, patient and mpp")
    mapping: MappingOf | None = setting(None, "new columns derived from columns of the table, such as bins or merges")
    missing: Texts | None = setting(
        None, "words that mean missing data, after values are renamed; null: the usual ones"
    )
    intensity_range: Bounds | None = setting(
        None, "values shown as black and white in images with more than 8 bits; null: only where they are unambiguous"
    )
    page: Whole | None = setting(None, "index of the page, frame, slice or channel to read from files with several")
    max_pixels: Pixels = setting(MAX_PIXELS, "maximum number of pixels of image files, which are read whole")
    image_size: Width = setting(32, "width and height of the images in pixels", recorded=True)
    holdout_fraction: Fraction = setting(0.3, "fraction of the patients or combinations that is held out")
    val_fraction: Fraction | None = setting(
        None, "fraction of the remaining patients used for validation; null: default of the split scheme"
    )
    split_seed: Seed = setting(0, "random seed of the split")


class CohortSettings(SourceSettings):
    """Cohort of patches."""

    label: Text = setting("project_id", "column of the class", recorded=True)
    subpopulation_columns: Texts = setting(
        ["project_id", "center"],
        "columns whose combinations define subpopulations: the label, then attributes",
        recorded=True,
    )
    metadata_columns: Texts = setting(
        ["center", "race", "gender", "age_at_index"], "columns that are copied to the cohort"
    )
    unit: Annotated[str, OneOf("unit of the table's rows", UNITS)] = setting(
        "slides", "what a row of the table represents"
    )
    source_mpp: Rate | None = setting(None, "microns per pixel of the images, if neither file nor table contains it")
    mpp_conflict: Annotated[str, OneOf("choice of `mpp_conflict`", ON_CONFLICT)] = setting(
        "error", "what to do if table and file disagree on microns per pixel"
    )
    mpp: Rate = setting(1.0, "microns per pixel of the patches", recorded=True)
    stride: Count | None = setting(None, "distance between neighboring patches in patch pixels; null: no overlap")
    min_tissue: Fraction = setting(0.5, "minimum fraction of tissue in a patch")
    max_patches_per_slide: Count | None = setting(128, "maximum number of patches per slide; null: all")
    patch_format: Annotated[str, OneOf("patch format", FORMATS)] = setting(
        "png", "file format of the patches; none: no files, patches are read from the slides"
    )
    measure: Annotated[str, OneOf("choice of `measure`", MEASURE)] = setting(
        "auto", "whether to measure stain, sharpness and perceptual hashes of the patches"
    )
    split_scheme: Annotated[str, OneOf("split scheme", tuple(SCHEMES))] = setting(
        "auto", "what is held out; auto: the first of three schemes that the cohort allows"
    )
    split_columns: Texts | None = setting(
        None, "label and attributes that define the split", expression="@subpopulation_columns"
    )
    holdout_values: Texts = setting([], "centers to hold out, for `site_holdout`")
    num_folds: Repeats = setting(5, "number of folds, for `patient_kfold`")
    fold: Whole = setting(0, "index of the held-out fold, for `patient_kfold`")

    @model_validator(mode="after")
    def _columns_agree(self) -> CohortSettings:
        check_named_once("metadata_columns", self.metadata_columns, self.label)
        if self.subpopulation_columns[:1] != [self.label]:
            raise InputError(
                f"subpopulation_columns = {self.subpopulation_columns}: the label, {self.label!r}, has to be first"
            )
        return self


class CaptionSettings(
    SourceSettings,
    defaults={
        "table": "slices.csv",
        "columns": {"image": "{image}", "patient": "patient"},
        "holdout_fraction": 0.1,
        "val_fraction": 0.1,
    },
):
    """Cohort of captioned images."""

    attribute: Text | None = setting("sex", "sensitive attribute; join several as sex|age", recorded=True)
    attributes: Texts = setting(["sex", "age", "lesion"], "columns to keep; templates may use them", recorded=True)
    templates: MappingOf | None = setting(
        BRAIN_TEMPLATES, "templates of the captions, and words for the values of columns", recorded=True
    )
    fit: Annotated[str, OneOf("choice of `fit`", FITS)] = setting("pad", "how images are made square")
    pad: Annotated[str, OneOf("choice of `pad`", PADS)] = setting(
        "border", "color of the padding, and of the background behind transparent pixels"
    )
    intensity_percentiles: Bounds = setting(
        [0.5, 99.5], "percentiles of the values that are shown as black and white, if intensity_range is not set"
    )
    plane: Annotated[str, OneOf("plane", PLANES)] = setting("axial", "plane of the slices of volumes")
    slices: Few | Indices = setting(1, "number of slices per volume, or indices of slices, counted from 0")
    slice_range: Fractions = setting(
        [0.3, 0.7],
        "two fractions of the extent of the tissue, between which the slices of volumes are taken; tissue is "
        "everything above Otsu's threshold: the head with its skull, not the brain alone",
    )
    spacing: Rate | None = setting(None, "millimeters per pixel of the images; null: images cover the whole slice")

    @model_validator(mode="after")
    def _columns_agree(self) -> CaptionSettings:
        check_named_once("attributes", self.attributes, None)
        return self


class FeatureSettings(Settings):
    """Features computed elsewhere."""

    feature_source: PathText | None = setting(
        None, "folder with an .h5 or .npz file of features for each slide, or a Parquet table with columns of features"
    )
    feature_columns: Text | None = setting(
        None,
        "column of lists in a Parquet table, or the beginning of the names of numbered columns; null: the only ones",
    )
    pooling: Annotated[str, OneOf("pooling", POOLINGS)] = setting(
        "none", "whether each slide or patient is represented by the mean of its patches: none, slides, patients"
    )


class FeatureCohortSettings(
    CohortSettings,
    defaults={
        "dataset_dir": ".",
        "columns": {"slide": "slide", "patient": "patient"},
        "label": "label",
        "metadata_columns": ["center"],
        "max_patches_per_slide": 64,
    },
):
    """Table of metadata for features."""


class ReadingSettings(Settings):
    """Preparing the cohort on first use."""

    on_error: Annotated[str, OneOf("choice of `on_error`", ("stop", "skip"))] = setting(
        "stop", "what to do with a row or file that cannot be used"
    )
    num_workers: Few | None = setting(None, "number of worker processes; null: one per core")


def check_named_once(name: str, columns: Sequence[str], label: str | None) -> None:
    """Check that no column is listed twice, and that the label is not an attribute.

    Raises:
        InputError: if a column is listed twice or is the label.
    """
    twice = sorted({column for column in columns if [label, *columns].count(column) > 1})
    if twice:
        reason = "the label cannot also be an attribute" if label in twice else "name each column once"
        raise InputError(f"{name} = {list(columns)}: {', '.join(map(repr, twice))} is named twice; {reason}")


def patch_preparation(settings: CohortSettings) -> Preparation:
    """Build the preparation of a cohort of patches from its settings."""
    return Preparation(
        source=ImageTable(
            root=settings.dataset_dir,
            label=settings.label,
            attributes=settings.metadata_columns,
            columns=_columns(settings),
            **_values(settings, "table source_mpp mapping missing unit"),
        ),
        cutting=Cutting(
            grid=PatchGrid(**_values(settings, "image_size mpp stride min_tissue")),
            pixels=PixelRules(**_values(settings, "intensity_range page max_pixels")),
            **_values(settings, "patch_format max_patches_per_slide mpp_conflict measure"),
        ),
        splits=SplitScheme(
            columns=settings.split_columns or settings.subpopulation_columns,
            name=settings.split_scheme,
            fraction=settings.holdout_fraction,
            values=settings.holdout_values,
            seed=settings.split_seed,
            **_values(settings, "num_folds fold val_fraction"),
        ),
        given=settings.given,
    )


def _columns(settings: CohortSettings) -> dict[str, Any]:
    # the default columns are those of the demo table; the layout `folders` has different columns
    spec = TableSpec.from_setting(settings.table)
    return {} if spec.layout == "folders" and settings.columns == DEMO_COLUMNS else settings.columns


def caption_preparation(settings: CaptionSettings, columns: Sequence[str] | None) -> CaptionPreparation:
    """Build the preparation of a cohort of captioned images from its settings.

    Args:
        settings: settings of the cohort.
        columns: attributes to stratify the splits by, or None.
    """
    return CaptionPreparation(
        source=CaptionTable(
            root=settings.dataset_dir,
            volumes=VolumeRules(**_values(settings, "plane slices slice_range")),
            **_values(settings, "table attributes columns templates mapping missing"),
        ),
        square=SquareFit(**_values(settings, "image_size fit pad spacing")),
        pixels=PixelRules(
            percentiles=settings.intensity_percentiles,
            background=settings.pad,
            **_values(settings, "intensity_range page max_pixels"),
        ),
        splits=PatientSplit(
            columns=columns, seed=settings.split_seed, **_values(settings, "val_fraction holdout_fraction")
        ),
        given=settings.given,
    )


def _values(settings: Settings, names: str) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names.split()}

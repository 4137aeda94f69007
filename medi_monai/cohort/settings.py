"""The settings of cohorts: where the data are, what its columns mean, how patches are cut and patients split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import model_validator

from medi_monai.cohort.captions import CaptionPreparation, CaptionTable, PatientSplit, SquareFit
from medi_monai.cohort.captions.images import FITS, PADS
from medi_monai.cohort.extraction import FORMATS, MEASURE, Cutting
from medi_monai.cohort.patches import Preparation
from medi_monai.cohort.source import UNITS, ImageTable
from medi_monai.cohort.splits.scheme import SCHEMES, SplitScheme
from medi_monai.utils.errors import InputError
from medi_monai.utils.settings import (
    Count,
    Fraction,
    MappingOf,
    OneOf,
    PathText,
    Rate,
    Seed,
    Settings,
    Text,
    Texts,
    setting,
)
from medi_monai.wsi import PatchGrid
from medi_monai.wsi.readers.resolution import ON_CONFLICT

__all__ = ["CaptionSettings", "CohortSettings", "ReadingSettings", "caption_preparation", "patch_preparation"]

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
    """What the cohorts of both bundles have in common."""

    dataset_dir: PathText | None = setting(None, "folder of the data set; without one, the demo cohort is drawn")
    table: PathText | MappingOf = setting("slides.csv", "table of the images in it, or a layout with its tables")
    columns: MappingOf = setting(DEMO_COLUMNS, "which columns hold image, slide, patient and mpp")
    mapping: MappingOf | None = setting(None, "label and attributes made from columns of the table")
    missing: Texts | None = setting(None, "further strings that mean missing")
    image_size: Count = setting(32, "side of the images in pixels", recorded=True)
    holdout_fraction: Fraction = setting(0.3, "share of the patients or combinations held out")
    val_fraction: Fraction | None = setting(None, "share of the training patients for validation; null: as the scheme")
    split_seed: Seed = setting(0, "seed of the split")


class CohortSettings(SourceSettings):
    """A cohort of patches from slides, tiles or patches."""

    label: Text = setting("project_id", "column of the class", recorded=True)
    subpopulation_columns: Texts = setting(
        ["project_id", "center"], "label and attributes whose combinations count; the label first", recorded=True
    )
    metadata_columns: Texts = setting(
        ["center", "race", "gender", "age_at_index"], "columns that are carried into the cohort"
    )
    unit: Annotated[str, OneOf("unit of the table's rows", UNITS)] = setting("slides", "what a row of the table is")
    source_mpp: Rate | None = setting(None, "microns per pixel of files that do not say")
    mpp_conflict: Annotated[str, OneOf("choice of `mpp_conflict`", ON_CONFLICT)] = setting(
        "error", "where table and file disagree on microns per pixel"
    )
    mpp: Rate = setting(1.0, "microns per pixel of the patches", recorded=True)
    stride: Count | None = setting(None, "step of the grid in pixels of the patch; null: no overlap")
    min_tissue: Fraction = setting(0.5, "share of tissue that a patch needs")
    max_patches_per_slide: Count | None = setting(128, "patches of a slide at most; null: all")
    patch_format: Annotated[str, OneOf("patch format", FORMATS)] = setting(
        "png", "how patches are written; none: read on the fly"
    )
    measure: Annotated[str, OneOf("choice of `measure`", MEASURE)] = setting(
        "auto", "whether stain and sharpness are measured"
    )
    split_scheme: Annotated[str, OneOf("split scheme", tuple(SCHEMES))] = setting(
        "combination_holdout", "what is held out"
    )
    split_columns: Texts | None = setting(None, "columns that the scheme works on", expression="@subpopulation_columns")
    holdout_values: Texts = setting([], "values that the scheme holds out")
    num_folds: Count = setting(5, "folds, of schemes that have some")
    fold: Seed = setting(0, "the fold that is held out")

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
    """A cohort of captioned images."""

    attribute: Text | None = setting("sex", "the sensitive attribute; several are joined as sex|age", recorded=True)
    attributes: Texts = setting(["sex", "age", "lesion"], "columns that captions are made of", recorded=True)
    templates: MappingOf | None = setting(BRAIN_TEMPLATES, "templates of the captions and their words", recorded=True)
    fit: Annotated[str, OneOf("choice of `fit`", FITS)] = setting("pad", "how pictures become squares")
    pad: Annotated[str, OneOf("choice of `pad`", PADS)] = setting("border", "what pads them")

    @model_validator(mode="after")
    def _columns_agree(self) -> CaptionSettings:
        check_named_once("attributes", self.attributes, None)
        return self


class ReadingSettings(Settings):
    """How a run reads its cohort, which it prepares where it is not there."""

    on_error: Annotated[str, OneOf("choice of `on_error`", ("stop", "skip"))] = setting(
        "stop", "what happens at a row or file that cannot be read"
    )
    num_workers: Count | None = setting(None, "processes that prepare; null: one for each core")


def check_named_once(name: str, columns: Sequence[str], label: str | None) -> None:
    """Refuse a column that is named twice, or is the label and an attribute.

    Raises:
        InputError: naming it.
    """
    twice = sorted({column for column in columns if [label, *columns].count(column) > 1})
    if twice:
        reason = "the label is no attribute of its own" if label in twice else "name each column once"
        raise InputError(f"{name} = {list(columns)}: {', '.join(map(repr, twice))} is named twice; {reason}")


def patch_preparation(settings: CohortSettings) -> Preparation:
    """How a cohort of patches is prepared."""
    return Preparation(
        source=ImageTable(
            root=settings.dataset_dir,
            label=settings.label,
            attributes=settings.metadata_columns,
            **_values(settings, "table columns source_mpp mapping missing unit"),
        ),
        cutting=Cutting(
            grid=PatchGrid(**_values(settings, "image_size mpp stride min_tissue")),
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
    )


def caption_preparation(settings: CaptionSettings, columns: Sequence[str] | None) -> CaptionPreparation:
    """How a cohort of captioned images is prepared.

    Args:
        settings: of the cohort.
        columns: attributes whose values every split has, where captions name them.
    """
    return CaptionPreparation(
        source=CaptionTable(
            root=settings.dataset_dir, **_values(settings, "table attributes columns templates mapping missing")
        ),
        square=SquareFit(**_values(settings, "image_size fit pad")),
        splits=PatientSplit(
            columns=columns, seed=settings.split_seed, **_values(settings, "val_fraction holdout_fraction")
        ),
    )


def _values(settings: Settings, names: str) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in names.split()}

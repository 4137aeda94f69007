"""Prompts of text-to-image runs, and the words that name the sensitive attribute in captions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import pandas as pd

from medi_monai.alignment.functional.targets import joint_attributes
from medi_monai.cohort import Cohort
from medi_monai.cohort.captions import CaptionTemplates, named_subgroups, neutral_prompts, read_prompts
from medi_monai.cohort.captions.prompts import NEUTRAL
from medi_monai.cohort.samples import read_arms
from medi_monai.cohort.table import require_columns
from medi_monai.schema import missing_cells
from medi_monai.utils.errors import InputError

__all__ = ["caption_words", "composes_captions", "generated_cohort", "named_prompts", "naming_cohort", "prompt_plan"]

#: value of the setting `prompts` for training captions that name the attribute
NAMED = "named"

#: for each attribute, its values and the words that name them
Words = Mapping[str, Mapping[str, Sequence[str]]]


def prompt_plan(
    prompts: str | Sequence[str],
    num_images: int,
    training: Callable[[], Cohort],
    templates: Any,
    attribute: str | None,
    neutral: bool = False,
) -> pd.DataFrame:
    """Return the prompts to sample, with the number of images of each.

    Args:
        prompts: a file or list, as for :func:`medi_monai.cohort.captions.read_prompts`; ``neutral``, for prompts from
            the templates that do not name the attribute; or ``named``, for the training captions that do.
        num_images: total number of images.
        training: function that returns the training rows; called only if they are needed.
        templates: caption templates; None, or only words, if captions were read rather than composed.
        attribute: sensitive attribute, or several as ``sex|age``; None if there is none.
        neutral: whether to leave out prompts that name the attribute.

    Returns:
        A table with ``caption`` and ``count``.

    Raises:
        InputError: as for :func:`medi_monai.cohort.captions.read_prompts` and :func:`named_prompts`; also for
            ``neutral`` without templates, if neutral prompts are needed and all name the attribute, and for ``named``
            or ``neutral`` without an attribute.
    """
    composed = CaptionTemplates.from_setting(templates) if composes_captions(templates) else None
    needed = prompts == NAMED or neutral
    attributes = joint_attributes(attribute) if needed or attribute is not None else []
    if prompts == NAMED:
        cohort = training()
        plan = named_prompts(cohort, caption_words(cohort, templates, attribute), num_images)
    else:
        table = training().table if prompts == NEUTRAL else None
        plan = read_prompts(prompts, num_images=num_images, table=table, templates=composed, attributes=attributes)
    return neutral_prompts(plan, caption_words(training(), templates, attribute)) if neutral else plan


def composes_captions(templates: Any) -> bool:
    """Return whether the setting contains templates, rather than only words."""
    return templates is not None and CaptionTemplates.from_setting(templates).composes


def caption_words(cohort: Cohort, templates: Any, attribute: str | None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return, for each value of each attribute, the words that name it in captions.

    These are the words of the templates, if there are any, and the value itself.

    Args:
        cohort: rows with the attributes.
        templates: templates with words, only words, or None.
        attribute: sensitive attribute, or several as ``sex|age``.

    Raises:
        InputError: without an attribute, or if the cohort lacks it.
    """
    names = joint_attributes(attribute)
    require_columns(cohort.table, names, cohort.root)
    words: dict[str, dict[str, tuple[str, ...]]] = {}
    for name in names:
        column = cohort.table[name]
        values = [str(value) for value in sorted(set(column[~missing_cells(column)]))]
        if templates is None:
            words[name] = {value: (value,) for value in values}
        else:
            words[name] = CaptionTemplates.from_setting(templates).names_of(name, values)
    return words


def named_prompts(cohort: Cohort, words: Words, num_images: int) -> pd.DataFrame:
    """Return training captions that name a subgroup as prompts, with the same number of images for each subgroup.

    Args:
        cohort: training rows.
        words: words from :func:`caption_words`; with several attributes, a caption has to name a value of each.
        num_images: total number of images.

    Returns:
        A table with ``caption`` and ``count``.

    Raises:
        InputError: if no caption names one of the subgroups, or there are more subgroups than images.
    """
    groups = list(product(*words.values()))
    share = num_images // max(len(groups), 1)
    if share < 1:
        raise InputError(
            f"num_images = {num_images}: each of {len(groups)} subgroups needs an image: "
            f"{', '.join(map(_shown, groups))}"
        )
    captions = cohort.table["caption"].drop_duplicates().sort_values()
    named = _named(captions, words)
    plan = []
    for group in groups:
        chosen = captions[(named == list(group)).all(axis=1)].tolist()
        if not chosen:
            by = [list(words[name][value]) for name, value in zip(words, group)]
            raise InputError(
                f"no caption in training names {_shown(group)} (by {' and '.join(map(str, by))}): nothing to prompt for"
            )
        # with fewer images than captions, the captions used are spread over all of them
        ends = [index * share // len(chosen) for index in range(len(chosen) + 1)]
        plan += [(caption, end - start) for caption, start, end in zip(chosen, ends, ends[1:]) if end > start]
    return pd.DataFrame(plan, columns=["caption", "count"])


def naming_cohort(cohort: Cohort, templates: Any, attribute: str) -> Cohort | None:
    """Return the training rows whose caption names a value of the attribute (of each, for ``sex|age``); None if none.

    Args:
        cohort: training rows.
        templates: caption templates, only words, or None, as for :func:`caption_words`.
        attribute: sensitive attribute, or several as ``sex|age``.
    """
    words = caption_words(cohort, templates, attribute)
    named = (_named(cohort.table["caption"], words) != "").all(axis=1)
    for name in words:
        named &= ~missing_cells(cohort.table[name])
    if not named.any():
        print(
            f"no caption in training names {attribute!r}: the anchor uses all images, and so keeps their shares, and "
            "there is nothing to distill"
        )
        return None
    return Cohort(cohort.table[named].reset_index(drop=True), cohort.root)


def generated_cohort(folder: str | os.PathLike, cohort: Cohort, templates: Any, attribute: str) -> Cohort:
    """Return images generated for prompts that name the attribute (each, for ``sex|age``), labeled as requested.

    Args:
        folder: ``output_dir`` of a sampling run.
        cohort: training rows.
        templates: caption templates.
        attribute: sensitive attribute, or several as ``sex|age``.

    Raises:
        InputError: if no prompt names it.
    """
    generated = read_arms({"generated": folder}, ["caption"])["generated"]
    named = _named(generated.table["caption"], caption_words(cohort, templates, attribute))
    table = generated.table.assign(**named)[(named != "").all(axis=1).to_numpy()]
    if table.empty:
        raise InputError(f"no prompt of the images in {folder} names {attribute!r}; sample with --prompts named")
    return Cohort(table.reset_index(drop=True), generated.root)


def _named(captions: pd.Series, words: Words) -> pd.DataFrame:
    """Return, for each attribute, the value that each caption names, or the empty string."""
    return pd.DataFrame({name: named_subgroups(captions, of_value) for name, of_value in words.items()})


def _shown(group: Sequence[str]) -> str:
    return " and ".join(map(repr, group))

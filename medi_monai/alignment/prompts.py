"""Prompts of the runs of a text-to-image bundle, and what captions say of a sensitive attribute."""

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

#: prompts of the training captions that name the attribute
NAMED = "named"

#: of each attribute, its values and the words that name them
Words = Mapping[str, Mapping[str, Sequence[str]]]


def prompt_plan(
    prompts: str | Sequence[str],
    num_images: int,
    training: Callable[[], Cohort],
    templates: Any,
    attribute: str | None,
    neutral: bool = False,
) -> pd.DataFrame:
    """The prompts to sample.

    Args:
        prompts: a file or a list, as for :func:`medi_monai.cohort.captions.read_prompts`; ``neutral``, made by the
            templates that do not name the attribute; or ``named``, the captions in training that do.
        num_images: of all prompts together.
        training: returns the rows in training; called where they are needed.
        templates: of the captions; None, or words alone, where captions were read, not composed.
        attribute: the sensitive one, or several as ``sex|age``; None where there is none.
        neutral: whether prompts that name the attribute are left out.

    Returns:
        ``caption`` and ``count``.

    Raises:
        InputError: as :func:`medi_monai.cohort.captions.read_prompts` and :func:`named_prompts`; also for ``neutral``
            without templates, where all prompts name the attribute and neutral ones are needed, and for ``named`` or
            ``neutral`` ones without an attribute.
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
    """Whether a setting of templates holds any, and not only words."""
    return templates is not None and CaptionTemplates.from_setting(templates).composes


def caption_words(cohort: Cohort, templates: Any, attribute: str | None) -> dict[str, dict[str, tuple[str, ...]]]:
    """Of each attribute, its values and the words that name them in captions: those of the setting, and the value.

    Args:
        cohort: rows with the attributes.
        templates: templates with words, words alone, or None.
        attribute: the sensitive one, or several as ``sex|age``.

    Raises:
        InputError: without an attribute, or where the cohort lacks it.
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
    """Prompts of the training captions that name a subgroup, with the same count for each.

    Args:
        cohort: rows in training.
        words: as of :func:`caption_words`; of several attributes, a caption has to name a value of each.
        num_images: of all prompts together.

    Returns:
        ``caption`` and ``count``.

    Raises:
        InputError: where a subgroup is named by no caption, or there are more of them than images.
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
        # where there are fewer images than captions, those that get one are spread over all
        ends = [index * share // len(chosen) for index in range(len(chosen) + 1)]
        plan += [(caption, end - start) for caption, start, end in zip(chosen, ends, ends[1:]) if end > start]
    return pd.DataFrame(plan, columns=["caption", "count"])


def naming_cohort(cohort: Cohort, templates: Any, attribute: str) -> Cohort | None:
    """The rows in training with a value of the attribute that the caption names (all of ``sex|age``); None without."""
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
    """Images sampled for prompts that name the attribute (all of ``sex|age``), labeled by what was asked for.

    Args:
        folder: the ``output_dir`` of a sampling.
        cohort: rows in training.
        templates: of the captions.
        attribute: the sensitive one, or several.

    Raises:
        InputError: where no prompt names it.
    """
    generated = read_arms({"generated": folder}, ["caption"])["generated"]
    named = _named(generated.table["caption"], caption_words(cohort, templates, attribute))
    table = generated.table.assign(**named)[(named != "").all(axis=1).to_numpy()]
    if table.empty:
        raise InputError(f"no prompt of the images in {folder} names {attribute!r}; sample with --prompts named")
    return Cohort(table.reset_index(drop=True), generated.root)


def _named(captions: pd.Series, words: Words) -> pd.DataFrame:
    """Of each attribute, the value that each caption names, or the empty string."""
    return pd.DataFrame({name: named_subgroups(captions, of_value) for name, of_value in words.items()})


def _shown(group: Sequence[str]) -> str:
    return " and ".join(map(repr, group))

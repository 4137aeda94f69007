"""Read or compose the prompts to sample, with the number of images for each."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medi_monai.cohort.captions.templates import CaptionTemplates
from medi_monai.cohort.captions.words import named_values
from medi_monai.cohort.table import require_columns
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.files import check_regular
from medi_monai.utils.tables import read_table

__all__ = ["NEUTRAL", "make_prompts", "named_subgroups", "neutral_prompts", "read_prompts"]

#: value used in place of a path, to compose prompts from templates that do not name the attributes
NEUTRAL = "neutral"
TABLES = (".csv", ".tsv", ".parquet")

#: for each attribute, the words that name each of its values
Words = Mapping[str, Mapping[str, str | Sequence[str]]]


def read_prompts(
    prompts: str | os.PathLike | Sequence[str],
    count: int = 1,
    num_images: int | None = None,
    table: pd.DataFrame | None = None,
    templates: CaptionTemplates | None = None,
    attributes: Sequence[str] = (),
) -> pd.DataFrame:
    """Read a plan of prompts from a file, a list, or templates.

    Args:
        prompts: path of a text file with one prompt per line (blank lines and lines that begin with ``#`` are ignored)
            or of a table with ``caption`` and optionally ``count``; a list of prompts; or ``neutral``, which calls
            :func:`make_prompts` with the other arguments.
        count: images per prompt, unless the file specifies it.
        num_images: total number of images instead of ``count``, distributed evenly.
        table: training rows, for ``neutral``.
        templates: templates, for ``neutral``.
        attributes: attributes that neutral prompts must not name.

    Returns:
        ``caption`` (string) and ``count`` (integer), in the order of the file; counts of repeated prompts are added up
        in one row.

    Raises:
        InputError: for prompts that are neither a path nor a list, a file that is missing, unreadable, empty or has
            only comments, a prompt that is empty or not a text, a count that is not a whole number of 1 or more, or
            fewer images than prompts.
    """
    _check_whole("count", count)
    if num_images is not None:
        _check_whole("num_images", num_images)
    if isinstance(prompts, str) and prompts == NEUTRAL:
        if table is None or templates is None:
            raise InputError(
                "neutral prompts need templates, but the captions come from a table: "
                "set --prompts to a file with one prompt per line, or to a list"
            )
        return make_prompts(table, templates, attributes, num_images)
    if not isinstance(prompts, (str, os.PathLike, list, tuple)):
        raise InputError(
            f"prompts = {prompts!r}: give {NEUTRAL!r}, a file with one prompt per line, or a list of prompts, such as "
            "['a brain', 'MR slice of a brain']"
        )
    where = f"{prompts}" if isinstance(prompts, (str, os.PathLike)) else "the list of prompts"
    if isinstance(prompts, (str, os.PathLike)) and Path(prompts).suffix.lower() in TABLES:
        plan = _from_table(Path(prompts))
    else:
        lines = _lines(Path(prompts)) if isinstance(prompts, (str, os.PathLike)) else list(prompts)
        plan = pd.DataFrame({"caption": _checked(lines, where)}, dtype="str")
    if "count" in plan:
        if num_images not in (None, plan["count"].sum()):
            print(f"{where} specifies the number of images: {plan['count'].sum():,}, not {num_images:,}", flush=True)
    else:
        plan["count"] = count if num_images is None else _shares(np.ones(len(plan)), num_images, where)
    return plan.groupby("caption", sort=False, as_index=False)["count"].sum()


def make_prompts(
    table: pd.DataFrame,
    templates: CaptionTemplates,
    attributes: Sequence[str],
    num_images: int | None = None,
    num_prompts: int | None = None,
) -> pd.DataFrame:
    """Compose prompts that do not name the attributes, with the frequencies of the training rows.

    Args:
        table: training rows, with ``image`` and the columns of the templates.
        templates: only templates without the attributes are filled; rows that fit none are ignored.
        attributes: columns of ``table`` that prompts must not name; prompts that still name one of their values are
            dropped.
        num_images: total number of images, by default one per row; very rare prompts (below half an image) may get
            none.
        num_prompts: use only this many of the most frequent prompts; all by default.

    Returns:
        ``caption`` and ``count``, most frequent first.

    Raises:
        InputError: if all templates name the attributes, columns are missing, or no prompt is left.
    """
    require_columns(table, ["image", *attributes], "the training table")
    for name, value in (("num_images", num_images), ("num_prompts", num_prompts)):
        if value is not None:
            _check_whole(name, value)
    neutral = templates.without(attributes)
    captions, problems = neutral.fill(table)
    counts = captions[problems == ""].value_counts()
    if not len(counts):
        raise InputError(f"no neutral prompt: no row fits a template without {list(attributes)}; {problems.iloc[0]}")
    plan = pd.DataFrame({"caption": counts.index.astype("str"), "count": counts.to_numpy()})
    plan = plan.sort_values(["count", "caption"], ascending=[False, True], ignore_index=True)
    words = {name: templates.names_of(name, table[name].unique()) for name in attributes}
    plan = neutral_prompts(plan, words).head(num_prompts)
    if num_images is not None:
        plan["count"] = _shares(plan["count"].to_numpy(float), num_images, "")
    return plan[plan["count"] > 0].reset_index(drop=True)


def neutral_prompts(plan: pd.DataFrame, words: Words) -> pd.DataFrame:
    """Return the prompts of a plan that name no subgroup, and print how many are dropped.

    Args:
        plan: plan with ``caption``.
        words: for each attribute, the result of :meth:`CaptionTemplates.names_of`.

    Raises:
        InputError: if every prompt names a subgroup.
    """
    named = pd.DataFrame({name: named_subgroups(plan["caption"], of_value) for name, of_value in words.items()})
    taken = (named != "").any(axis=1).reindex(plan.index, fill_value=False)
    if not taken.any():
        return plan.reset_index(drop=True)
    first = plan.loc[taken, "caption"].iloc[0]
    which = ", ".join(f"{name} {value!r}" for name, value in named[taken].iloc[0].items() if value)
    if taken.all():
        raise InputError(
            f"all {len(plan)} prompts name {' or '.join(words)}, the first one, {first!r}, {which}; neutral prompts, "
            "which do not name it, are needed"
        )
    print(f"prompts: {int(taken.sum())} of {len(plan)} are dropped because they name {which}: {first!r}", flush=True)
    return plan[~taken].reset_index(drop=True)


def named_subgroups(captions: pd.Series, words: Mapping[str, str | Sequence[str]]) -> pd.Series:
    """Return the value that each caption names; the empty string if it names none, or several (which is printed)."""
    named = {caption: named_values(caption, words) for caption in captions.unique()}
    several = {caption: values for caption, values in named.items() if len(values) > 1}
    if several:
        first, values = next(iter(several.items()))
        print(
            f"captions: {len(several):,} name several of {', '.join(map(repr, words))} and count as naming none, for "
            f"example {first!r} ({' and '.join(map(repr, values))})",
            flush=True,
        )
    return captions.map(lambda caption: named[caption][0] if len(named[caption]) == 1 else "").astype("str")


def _lines(path: Path) -> list[str]:
    check_regular(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(
            f"prompt file not found: {path}. Use a list for a prompt itself, or {NEUTRAL!r} to compose prompts."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it as UTF-8 ({error})") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _checked(lines: Sequence[object], where: str) -> list[str]:
    if not lines:
        raise InputError(f"{where} contains no prompt. Write one per line; blank lines and comments (#) are ignored.")
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, str) or not line.strip():
            raise InputError(
                f"{where}: prompt {number} is {line!r}; it must be a text that is not empty: write the prompt (in "
                "YAML, quote numbers and `no`), or remove it"
            )
    return [" ".join(str(line).split()) for line in lines]


def _from_table(path: Path) -> pd.DataFrame:
    table = read_table(path)
    if "caption" not in table:
        raise unknown_value("column", "caption", table.columns, f"It is expected in {path}, with the prompts.")
    plan = pd.DataFrame({"caption": _checked(table["caption"].tolist(), str(path))}, dtype="str")
    if "count" in table:
        for row, count in enumerate(table["count"], start=1):
            if not re.fullmatch(r"\s*[0-9]{1,9}\s*", count) or int(count) < 1:
                raise InputError(f"{path}, row {row}: count {count!r} must be a whole number of 1 or more")
        plan["count"] = table["count"].astype(int).to_numpy()
    return plan


def _check_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name} = {value!r}: it must be a whole number of 1 or more")


def _shares(weights: np.ndarray, total: int, where: str) -> np.ndarray:
    """Divide ``total`` in proportion to ``weights``; the rest goes to the largest remainders, then to the first."""
    if where and total < len(weights):
        raise InputError(
            f"num_images = {total}: {where} contains {len(weights)} prompts, and each needs at least one image"
        )
    exact = weights / weights.sum() * total
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts

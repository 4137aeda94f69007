"""Compose captions from the columns of a table with templates.

.. code-block:: yaml

    templates:
      - "FLAIR MR slice of the brain of a {age:.0f}-year-old {sex}"
      - {text: "Axial FLAIR slice of a brain", weight: 0.5}
    words:
      sex: {male: man, female: woman}
      age: {bins: [40, 60], words: [young, middle-aged, old]}

``{age:.0f}`` is replaced by the number itself, ``{age}`` by the word for its range. A template that does not name the
sex is neutral in it. If captions are read rather than composed, words alone are given; they are used to recognize
values in captions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.cohort.captions.words import WordRule, indefinite_article, parse_words
from medi_monai.cohort.tables.cells import clean_cells
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.seeding import seed_from
from medi_monai.utils.text import number_in, plural

__all__ = ["CaptionTemplates", "Template"]

KEYS = ("text", "weight")
WHOLE_NUMBER, NUMBER = "bcdoxX", "eEfFgGn%"
#: an article directly before a field; capitalized at the start of a sentence
ARTICLE = re.compile(r"(?:(?<![\w'-])(a)n?|(?:^|(?<=[.!?]\s))(A)n?)(\s+)$")


@dataclass(frozen=True)
class Field:
    """A field of a template: its column, and the format of the number or text."""

    column: str
    spec: str = ""

    @property
    def numeric(self) -> bool:
        return self.spec[-1:] in (*WHOLE_NUMBER, *NUMBER)

    def spell(self, value: str) -> str | None:
        """Return the formatted value; ``None`` if a number is required and the value is not one."""
        if not self.numeric:
            return format(value, self.spec)
        number = number_in(value)
        if number is None:
            return None
        return format(int(number) if self.spec[-1] in WHOLE_NUMBER else number, self.spec)


@dataclass(frozen=True)
class Template:
    """A caption with columns in braces.

    Args:
        text: caption, such as ``"MR slice of a {age:.0f}-year-old {sex}"``; a doubled brace is a literal brace.
        weight: relative frequency among the templates that a row can fill.

    Raises:
        InputError: for a text that is not a valid format string, or a weight that is not above 0.
    """

    text: str
    weight: float = 1.0
    pieces: tuple[tuple[str, Field | None], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InputError(f"template {self.text!r}: it must be a string")
        weight = self.weight
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
            raise InputError(f"template {self.text!r}: weight {weight!r} must be a number above 0")
        object.__setattr__(self, "pieces", _pieces(self.text))

    @classmethod
    def from_setting(cls, setting: Any) -> Template:
        """Create a template from a string, or ``{text: …, weight: …}``."""
        if isinstance(setting, cls):
            return setting
        if isinstance(setting, str):
            return cls(setting)
        if not isinstance(setting, Mapping) or "text" not in setting:
            raise InputError(f"template {setting!r}: use a string, or {{text: …, weight: …}}")
        for key in setting:
            if key not in KEYS:
                raise unknown_value(f"key of the template {setting['text']!r}", key, KEYS)
        return cls(**setting)

    @property
    def fields(self) -> tuple[Field, ...]:
        """Distinct fields, in the order in which they occur."""
        return tuple(dict.fromkeys(slot for _, slot in self.pieces if slot is not None))

    @property
    def columns(self) -> tuple[str, ...]:
        """Distinct columns of the fields, in the order in which they occur."""
        return tuple(dict.fromkeys(slot.column for slot in self.fields))


def _pieces(text: str) -> tuple[tuple[str, Field | None], ...]:
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise InputError(
            f"template {text!r} is not a valid format string ({error}); write a literal brace twice"
        ) from None
    pieces: list[tuple[str, Field | None]] = []
    for literal, name, spec, conversion in parsed:
        pieces.append((literal, None if name is None else _field(text, name, spec or "", conversion)))
    return tuple(pieces)


def _field(text: str, name: str, spec: str, conversion: str | None) -> Field:
    if not name.strip() or name.isdigit() or conversion or "{" in spec:
        shown = "{" + name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
        raise InputError(f"template {text!r}: {shown} must be the name of a column, such as {{sex}} or {{age:.0f}}")
    slot = Field(name.strip(), spec)
    try:
        format((1 if spec[-1:] in WHOLE_NUMBER else 1.0) if slot.numeric else "a", spec)
    except ValueError as error:
        raise InputError(f"template {text!r}: {spec!r} is not a valid format for {name!r} ({error})") from None
    return slot


@dataclass(frozen=True)
class CaptionTemplates:
    """Templates, and the words that they use for the values of columns.

    Args:
        templates: strings, or ``{text: …, weight: …}``; for each row, one is drawn among those whose columns are all
            filled in this row. Empty if captions are read and only words are given.
        words: words for the values of each column; see :meth:`medi_monai.cohort.captions.words.WordRule.from_setting`.
            Fields with a number format, such as ``{age:.0f}``, are always filled with the number.
        seed: random seed; each draw depends only on the seed and the row's name, not on other rows.

    Raises:
        InputError: if there are neither templates nor words, or for an invalid template or rule of words.
    """

    templates: Sequence[Any]
    words: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.templates, (str, Mapping)) or not (self.templates or self.words):
            raise InputError(f"templates = {self.templates!r}: give a list of one or more")
        object.__setattr__(self, "templates", tuple(Template.from_setting(item) for item in self.templates))
        object.__setattr__(self, "words", parse_words(self.words))

    @classmethod
    def from_setting(cls, setting: Any) -> CaptionTemplates:
        """Create templates from a list, or ``{templates: …, words: …, seed: …}``, which may contain only words."""
        if isinstance(setting, cls):
            return setting
        if not isinstance(setting, Mapping):
            return cls(setting)
        for key in setting:
            if key not in ("templates", "words", "seed"):
                raise unknown_value("key of `templates`", key, ("templates", "words", "seed"))
        return cls(**{"templates": (), **setting})

    @property
    def composes(self) -> bool:
        """Whether there are templates, rather than only words."""
        return bool(self.templates)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of all templates."""
        return tuple(dict.fromkeys(column for template in self.templates for column in template.columns))

    def settings(self) -> dict:
        """Return everything that determines a caption, JSON-compatible."""
        templates = [{"text": template.text, "weight": template.weight} for template in self.templates]
        return {
            "templates": templates,
            "words": {column: rule.settings() for column, rule in self.words.items()},
            "seed": self.seed,
        }

    def without(self, attributes: Iterable[str]) -> CaptionTemplates:
        """Return only the templates that are neutral in ``attributes``, which use none of these columns.

        Raises:
            InputError: if every template uses one of them.
        """
        named = set(attributes)
        neutral = [template for template in self.templates if not named & set(template.columns)]
        if not neutral:
            raise InputError(
                f"all {len(self.templates)} templates name {' or '.join(sorted(named & set(self.columns)))}, and "
                "neutral ones are needed: add a template without it"
            )
        return replace(self, templates=neutral)

    def names_of(self, attribute: str, values: Iterable[str] = ()) -> dict[str, tuple[str, ...]]:
        """Return the words for each value of an attribute, for :func:`medi_monai.cohort.captions.names_attribute`.

        Args:
            attribute: column of the attribute.
            values: additional values of the column; numbers among them are not recognized in captions.

        Returns:
            ``{male: ("man", "male"), …}``: the word of the rule, followed by the value itself; for ranges, the word is
            the value.
        """
        rule: WordRule | None = self.words.get(attribute)
        if rule is not None and rule.ranges:
            return {word: (word,) for word in rule.ranges}
        rule = rule or WordRule(attribute)
        known = dict.fromkeys(rule.words)
        for value in clean_cells(pd.Series(list(values), dtype="str"), ()).unique():
            if value and pd.isna(pd.to_numeric(value, errors="coerce")):
                known[str(value)] = None
        return {value: rule.names(value) for value in known}

    def notes(self, table: pd.DataFrame) -> list[str]:
        """Return a note for each word whose value does not occur in a table."""
        rules = [rule for column, rule in self.words.items() if column in table]
        notes = [rule.unused(set(clean_cells(table[rule.column], ()).unique())) for rule in rules]
        return [note for note in notes if note]

    def check_columns(self, columns: Iterable[str], where: object) -> None:
        """Raise an :class:`InputError` for the first column of a template or rule that is not in ``columns``."""
        known = list(columns)
        for template in self.templates:
            for column in template.columns:
                if column not in known:
                    raise unknown_value(f"column in the template {template.text!r}", column, known, f"See {where}.")
        for column in self.words:
            if column not in known and column not in self.columns:
                raise unknown_value("column in `words`", column, known, f"See {where}.")

    def compose(self, table: pd.DataFrame, name: str = "image", missing: Sequence[str] = ()) -> pd.Series:
        """Compose the caption of every row.

        Args:
            table: table with the columns of the templates; cells are strings.
            name: column of row names; the seed and this name determine which template is drawn.
            missing: words for missing data, in addition to empty cells.

        Raises:
            InputError: for a missing column, or rows without a suitable template or value, with the reasons and counts.
        """
        captions, problems = self.fill(table, name, missing)
        counts = problems[problems != ""].value_counts()
        if len(counts):
            shown = "; ".join(f"{reason} ({plural(count, 'row')})" for reason, count in sorted(counts.items())[:8])
            raise InputError(
                f"{counts.sum()} of {len(table)} rows get no caption: {shown}. Add a template without such columns, "
                "or remove the rows"
            )
        return captions

    def fill(
        self, table: pd.DataFrame, name: str = "image", missing: Sequence[str] = ()
    ) -> tuple[pd.Series, pd.Series]:
        """Compose captions like :meth:`compose`, and return the problem of each row instead of raising an error."""
        self.check_columns(table.columns, "the columns of the table")
        if name not in table.columns:
            raise unknown_value("column", name, table.columns, "It contains the names of the rows.")
        cells = {column: clean_cells(table[column], missing) for column in self.columns}
        problem = pd.Series("", index=table.index, dtype="str")
        values: dict[Field, tuple[pd.Series, pd.Series]] = {}
        for slot in dict.fromkeys(slot for template in self.templates for slot in template.fields):
            filled, articles, wrong = self._filled(slot, cells[slot.column])
            values[slot] = filled, articles
            problem = problem.mask((problem == "") & (wrong != ""), wrong)
        choice = self._choice(table[name], cells)
        none = (choice < 0) & (problem == "").to_numpy()
        problem[none] = _lacking({column: values[none] for column, values in cells.items()})
        captions = pd.Series("", index=table.index, dtype="str")
        for number, template in enumerate(self.templates):
            rows = (choice == number) & (problem == "")
            captions[rows] = _composed(template, values, rows)
        return captions, problem

    def _filled(self, slot: Field, cells: pd.Series) -> tuple[pd.Series, pd.Series, pd.Series]:
        # format each distinct value once, because columns have few of them
        codes, distinct = pd.factorize(cells)
        values = pd.Series(distinct, dtype="str")
        wrong = pd.Series("", index=values.index, dtype="str")
        words, rule = values, self.words.get(slot.column)
        if rule is not None and not slot.numeric:
            words, wrong = rule.apply(values)
        spelled = [slot.spell(word) if word else "" for word in words.tolist()]
        no_number = pd.Series([text is None for text in spelled], index=values.index, dtype=bool)
        wrong = wrong.mask(no_number, f"is not a number, as {slot.spec!r} requires")
        wrong = wrong.mask(wrong != "", f"{slot.column} " + values.map(repr) + " " + wrong)
        texts = pd.Series([text or "" for text in spelled], dtype="str")
        articles = texts.map(indefinite_article).astype("str")
        taken = [column.take(codes).set_axis(cells.index) for column in (texts, articles, wrong)]
        return taken[0], taken[1], taken[2]

    def _choice(self, names: pd.Series, cells: Mapping[str, pd.Series]) -> np.ndarray:
        """Draw a template for every row; return ``(N,)`` template indices, -1 if none fits."""
        weights = np.zeros((len(names), len(self.templates)))
        for number, template in enumerate(self.templates):
            fits = np.ones(len(names), bool)
            for column in template.columns:
                fits &= (cells[column] != "").to_numpy()
            weights[fits, number] = template.weight
        sums = weights.cumsum(axis=1)
        # below the last sum even after rounding; a template of weight zero adds nothing and is never selected
        drawn = np.nextafter(_uniform(names, self.seed) * sums[:, -1], 0)
        return np.where(sums[:, -1] > 0, (sums > drawn[:, None]).argmax(axis=1), -1)


def _uniform(names: pd.Series, seed: int) -> np.ndarray:
    """Return ``(N,)`` values in [0, 1), each a keyed hash (SipHash) of a name; a million names take a second."""
    key = f"{seed_from('caption templates', seed):016x}"
    hashes = pd.util.hash_array(names.astype(object).to_numpy(), hash_key=key)
    return (hashes >> np.uint64(11)) * 2.0**-53


def _lacking(cells: Mapping[str, pd.Series]) -> np.ndarray:
    """Describe, for every row, the columns that templates need and the row lacks."""
    lacks = pd.DataFrame({column: values == "" for column, values in cells.items()})
    text = pd.Series("", index=lacks.index, dtype="str")
    for column in lacks:
        text = text.mask(lacks[column], text + ", " + str(column))
    return ("no template fits a row without " + text.str.removeprefix(", ")).to_numpy()


def _composed(template: Template, values: Mapping[Field, tuple[pd.Series, pd.Series]], rows: pd.Series) -> pd.Series:
    text = pd.Series("", index=rows.index[rows], dtype="str")
    for literal, slot in template.pieces:
        article = ARTICLE.search(literal) if slot is not None else None
        if slot is None:
            text = text + literal
            continue
        filled, articles = values[slot]
        if article is not None:
            chosen = articles[rows]
            # "a" and "an" differ only after their first letter, which keeps its case
            text = text + (literal[: article.start()] + (article.group(1) or article.group(2)))
            text = text + chosen.str.slice(1) + article.group(3) + filled[rows]
        else:
            text = text + literal + filled[rows]
    return text

"""Words that stand for the values of a column in captions, and the articles before them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from medi_monai.utils.errors import InputError, nearest, unknown_value

__all__ = ["WordRule", "indefinite_article", "is_code", "named_values", "names_attribute", "parse_words"]

BIN_KEYS = ("bins", "words")

#: letters that take "an" when an abbreviation is spelled out, as in "an MR image"
SPELLED_WITH_VOWEL = "AEFHILMNORSX"
#: words in capitals with at most this many letters are spelled out; longer ones only if they have no vowel
MAX_SPELLED = 3
SILENT_H = re.compile(r"h(?:ou?r|onest|onou?r|eir)", re.IGNORECASE)
#: initial vowels that sound like "you" or "one"
CONSONANT_SOUND = re.compile(r"(?:u(?:ni(?!n|m)|s[aeiu]|ter|re)|eu|ew|one\b|once)", re.IGNORECASE)

#: terms of radiology, a gene and a gas, in which a color or pronoun does not refer to a person
NO_PERSON = re.compile(
    r"\b(?:white|gr[ae]y)[ -]matter\b|\bblack[ -](?:blood|holes?)\b|\bher[ -]?2\b|(?:polari[sz]ed|\b3) ?he\b",
    re.IGNORECASE,
)

#: nouns for people, and the pronouns that stand for them
PRONOUNS = (
    (frozenset({"woman", "female", "girl", "lady"}), ("she", "her", "hers", "herself")),
    (frozenset({"man", "male", "boy", "gentleman"}), ("he", "him", "his", "himself")),
)
#: words whose plural ends in "men"
PERSON = re.compile(r"\b(?:wo|gentle)?man$", re.IGNORECASE)
#: length of the longest code, such as ``F``, ``2`` or ``II``
MAX_CODE = 2


@dataclass(frozen=True)
class WordRule:
    """Words for the values of a column.

    Args:
        column: name of the column.
        words: word for each value; values without a word are used unchanged.
        synonyms: additional words for a value, to be recognized in captions.
        edges: increasing edges of numeric ranges ``[low, high)``.
        ranges: words for the ranges, one more than there are edges.
    """

    column: str
    words: Mapping[str, str] = field(default_factory=dict)
    edges: tuple[float, ...] = ()
    ranges: tuple[str, ...] = ()
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def from_setting(cls, column: str, content: Any) -> WordRule:
        """Create a rule from ``{male: man, female: woman}`` or ``{bins: [40, 60], words: [young, middle-aged, old]}``.

        The first word of a list, as in ``{male: [man, gentleman]}``, is used to compose captions; the others are only
        recognized in captions.

        Raises:
            InputError: for any other form, edges that do not increase, or a number of words that differs from that of
                ranges.
        """
        where = f"words of {column!r}"
        if not isinstance(content, Mapping) or not content:
            raise InputError(
                f"{where} = {content!r}: use one word per value, such as {{male: man, female: woman}}, or per "
                "range, such as {bins: [40, 60], words: [young, middle-aged, old]}"
            )
        if "bins" not in content:
            words = {_text(value, where): _words(setting, where) for value, setting in content.items()}
            first = {value: terms[0] for value, terms in words.items()}
            return cls(column, first, synonyms={value: terms[1:] for value, terms in words.items() if terms[1:]})
        for key in content:
            if key not in BIN_KEYS:
                raise unknown_value(f"key in {where}", key, BIN_KEYS)
        return cls(column, {}, _edges(content["bins"], where), _range_words(content, where))

    def settings(self) -> dict:
        """Return the rule in the form that :meth:`from_setting` accepts."""
        if self.ranges:
            return {"bins": list(self.edges), "words": list(self.ranges)}
        return {**self.words, **{value: [self.words[value], *others] for value, others in self.synonyms.items()}}

    def names(self, value: str) -> tuple[str, ...]:
        """Return the words by which captions name a value: its words and the value itself, unless that is a code."""
        given = [self.words[value], *self.synonyms.get(value, ())] if value in self.words else []
        return tuple(dict.fromkeys(given if given and is_code(value) else [*given, value]))

    def apply(self, values: pd.Series) -> tuple[pd.Series, pd.Series]:
        """Return the word for each value, and its problem or the empty string; missing values remain empty."""
        wrong = pd.Series("", index=values.index, dtype="str")
        if not self.ranges:
            return values.map(lambda value: self.words.get(value, value)).astype("str"), wrong
        numbers = pd.to_numeric(values, errors="coerce").replace([math.inf, -math.inf], math.nan)
        bins = np.searchsorted(np.array(self.edges), numbers.to_numpy(np.float64), side="right")
        words = pd.Series(np.array(self.ranges)[np.minimum(bins, len(self.edges))], index=values.index, dtype="str")
        no_number = numbers.isna()
        wrong = wrong.mask(no_number & (values != ""), "is not a number, but its words are defined for ranges")
        return words.mask(no_number, ""), wrong

    def unused(self, values: set[str]) -> str:
        """Return a note about values that have words but do not occur in the column; empty if there are none."""
        unused = [value for value in self.words if value not in values]
        if not unused:
            return ""
        close = nearest(unused[0], sorted(values - {""}), 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"{self.column!r} has no value {', '.join(map(repr, unused))}{hint}, for which words are defined"


def parse_words(words: Mapping[str, Any] | None) -> dict[str, WordRule]:
    """Parse the rules of all columns, ``{sex: {male: man, female: woman}, age: {bins: …, words: …}}``."""
    if words is not None and not isinstance(words, Mapping):
        raise InputError(
            f"words = {words!r}: it must be a mapping of rules, such as {{sex: {{male: man, female: woman}}}}"
        )
    rules = {str(column): content for column, content in (words or {}).items()}
    return {
        column: content if isinstance(content, WordRule) else WordRule.from_setting(column, content)
        for column, content in rules.items()
    }


def _text(value: Any, where: str) -> str:
    if isinstance(value, bool) or value is None:
        raise InputError(
            f"{where}: {value!r} is not a string: YAML converts yes, no, on, off and null; put it in quotes"
        )
    return str(value).strip()


def _word(value: Any, where: str) -> str:
    word = _text(value, where)
    if not word:
        raise InputError(f"{where}: a word is empty; to omit it, use a template without {{column}}")
    return word


def _words(content: Any, where: str) -> tuple[str, ...]:
    if not isinstance(content, (list, tuple)):
        return (_word(content, where),)
    if not content:
        raise InputError(f"{where}: a list of words is empty")
    return tuple(_word(word, where) for word in content)


def _edges(bins: Any, where: str) -> tuple[float, ...]:
    if not isinstance(bins, (list, tuple)) or not bins:
        raise InputError(f"{where}: bins = {bins!r} must be a list of edges, such as [40, 60]")
    for edge in bins:
        if isinstance(edge, bool) or not isinstance(edge, (int, float)) or not math.isfinite(edge):
            raise InputError(f"{where}: bins = {list(bins)} contains {edge!r}, which is not a number")
    for low, high in pairwise(bins):
        if not low < high:
            raise InputError(f"{where}: edges must increase, but {high:g} follows {low:g}")
    return tuple(float(edge) for edge in bins)


def _range_words(content: Mapping[str, Any], where: str) -> tuple[str, ...]:
    words, count = content.get("words"), len(content["bins"]) + 1
    if not isinstance(words, (list, tuple)) or len(words) != count:
        raise InputError(f"{where}: {count - 1} edges make {count} ranges; words = {words!r} must name each of them")
    return tuple(_word(word, where) for word in words)


def indefinite_article(text: str) -> str:
    """Return ``a`` or ``an`` by the sound of ``text``: "an 80-year-old", "an MR image", "a FLAIR slice"."""
    token = re.match(r"[^\w]*(\d+|[^\W\d_]+)", text)
    if token is None:
        return "a"
    word = token.group(1)
    if word.isdigit():
        return "an" if word.startswith("8") or word in ("11", "18") else "a"
    spelled = word.isupper() and (len(word) <= MAX_SPELLED or not set(word) & set("AEIOUY"))
    if spelled:
        return "an" if word[0] in SPELLED_WITH_VOWEL else "a"
    if SILENT_H.match(word):
        return "an"
    return "an" if word[0].lower() in "aeiou" and not CONSONANT_SOUND.match(word) else "a"


def names_attribute(caption: str, words: Mapping[str, str | Sequence[str]]) -> str | None:
    """Return the value of an attribute that a caption names; see :func:`named_values`.

    Args:
        caption: caption or prompt.
        words: word or words for each value of the attribute, from
            :meth:`medi_monai.cohort.captions.CaptionTemplates.names_of`.

    Returns:
        The value; ``None`` if the caption names no value, or several, as in "a man or a woman".
    """
    values = named_values(caption, words)
    return values[0] if len(values) == 1 else None


def named_values(caption: str, words: Mapping[str, str | Sequence[str]]) -> list[str]:
    """Return the values of an attribute that a caption names, sorted.

    Whole words and their plurals are matched regardless of case; codes, such as ``F`` or ``2``, are matched exactly.
    Pronouns count as words for values whose words refer to women or men. "man" does not match in "woman", nor "old" in
    "40-year-old". Longer words are matched first, so that "african american" does not also count as "american". Terms
    such as "white matter" or "HER2" are ignored.
    """
    text = NO_PERSON.sub(" ", caption)
    named: set[str] = set()
    for pattern, values in _patterns(tuple((value, _tuple(given)) for value, given in words.items())):
        text, times = pattern.subn(" ", text)
        if times:
            named.update(values)
    return sorted(named)


def _tuple(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


@lru_cache(maxsize=64)
def _patterns(words: tuple[tuple[str, tuple[str, ...]], ...]) -> list[tuple[re.Pattern[str], frozenset[str]]]:
    values_of: dict[str, set[str]] = {}
    for value, given in words:
        lower = {word.lower() for word in given}
        pronouns = [word for nouns, others in PRONOUNS if lower & nouns for word in others]
        plurals = [plural for word in given for plural in _plurals(word)]
        for name in filter(None, [*given, *plurals, *pronouns]):
            values_of.setdefault(name, set()).add(value)
    return [
        (re.compile(rf"(?<![\w-]){re.escape(word)}(?![\w-])", 0 if is_code(word) else re.IGNORECASE), frozenset(values))
        for word, values in sorted(values_of.items(), key=lambda item: (-len(item[0]), item[0]))
    ]


def _plurals(word: str) -> list[str]:
    if is_code(word) or not word[-1].isalpha():
        return []
    if PERSON.search(word):
        return [word[:-2] + "en"]
    if re.search("[^aeiou]y$", word, re.IGNORECASE):
        return [word[:-1] + "ies"]
    return [word + ("es" if re.search("(?:s|x|z|ch|sh)$", word, re.IGNORECASE) else "s")]


def is_code(value: str) -> bool:
    """Return whether a value is a code rather than a word: at most two characters, or no letters."""
    return len(value) <= MAX_CODE or not any(character.isalpha() for character in value)

"""Mixtures of values of a categorical column, written ``Ash:30+Birch:70``, and paths from one value to another.

A value of the vocabulary is always read as that value, even if it is spelled like a mixture.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from medi_monai.schema.columns import CategoricalColumn, ContinuousColumn
from medi_monai.schema.metadata_schema import MetadataSchema
from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["Mixture", "ValuePath", "parse_mixture", "parse_path"]

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
#: matches ``:30``, followed by the plus sign before the next value or by the end
SHARE = re.compile(rf":\s*({NUMBER})\s*(?:(\+)\s*|$)")
LOOKS_MIXED = re.compile(rf".*:\s*{NUMBER}\s*\+.*:\s*{NUMBER}\s*", re.DOTALL)
BETWEEN = ".."
#: number of decimals of a share in percent; shares are rounded before use, so that the text describes a mixture exactly
DECIMALS = 4


@dataclass(frozen=True)
class Mixture:
    """A weighted combination of values; its embedding is the weighted combination of their embeddings.

    Args:
        column: name of the column.
        shares: values with their rounded shares in percent, in the order of the vocabulary.
    """

    column: str
    shares: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, column: CategoricalColumn, weights: Sequence[tuple[str, float]]) -> Mixture:
        """Create a mixture from values of ``column`` with weights in any unit; values with the weight 0 are omitted.

        Raises:
            InputError: for a value that is unknown or repeated, a negative or infinite weight, or no weight above 0.
        """
        order = {value: code for code, value in enumerate(column.values)}
        for value, weight in weights:
            if value not in order:
                raise unknown_value(f"value of {column.name!r}", value, column.values)
            if not 0 <= weight < float("inf"):
                raise InputError(f"{column.name} = {value}: the weight {weight} has to be 0 or more")
        if len({value for value, _ in weights}) != len(weights):
            raise InputError(f"a mixture of {column.name!r} names a value twice: {[value for value, _ in weights]}")
        total = sum(weight for _, weight in weights)
        if not total > 0:
            raise InputError(f"a mixture of {column.name!r} needs a weight above 0")
        percent = [(value, round(100 * weight / total, DECIMALS)) for value, weight in weights]
        shares = sorted(((value, share) for value, share in percent if share > 0), key=lambda item: order[item[0]])
        return cls(column.name, tuple(shares))

    @cached_property
    def text(self) -> str:
        """Canonical text, such as ``Ash:30+Birch:70``; a mixture of a single value is this value."""
        if len(self.shares) == 1:
            return self.shares[0][0]
        return "+".join(f"{value}:{_plain(share)}" for value, share in self.shares)

    @property
    def weights(self) -> tuple[tuple[str, float], ...]:
        """Values with weights that sum to 1."""
        total = sum(share for _, share in self.shares)
        return tuple((value, share / total) for value, share in self.shares)


def parse_mixture(column: CategoricalColumn, text: str) -> Mixture | None:
    """Parse a cell of a plan as a mixture; None if it is not spelled like one, or is a value of the vocabulary.

    Raises:
        InputError: for an unknown value, a single value, a weight that is not a number, or a text with several possible
            meanings, because values of the vocabulary contain ``:`` or ``+``.
    """
    if text in column.values:
        return None
    readings = _readings(column.values, text)
    if len(readings) > 1:
        first, second = ([value for value, _ in reading] for reading in readings[:2])
        raise InputError(
            f"{column.name} = {text!r} is ambiguous: a mixture of {first} or of {second}. Rename a value that contains "
            "`:` or `+` in the cohort"
        )
    if not readings:
        _refuse_misspelled(column, text)
        return None
    if len(readings[0]) < 2:
        raise InputError(f"{column.name} = {text!r}: a mixture needs two or more values, such as {_example(column)}")
    return Mixture.of(column, readings[0])


@dataclass(frozen=True)
class ValuePath:
    """Values of one column from a start to an end, in equal steps.

    Args:
        column: name of the column.
        values: cells of a plan for each step: values, mixtures, or numbers.
        titles: short titles of these cells, for the columns of a picture.
    """

    column: str
    values: tuple[str, ...]
    titles: tuple[str, ...]


def parse_path(text: str, num_steps: int, schema: MetadataSchema) -> ValuePath:
    """Parse a path, such as ``center=Ash..Fir`` or ``age=40..70``.

    Args:
        text: column, start and end of the path.
        num_steps: number of values, including start and end.
        schema: schema of the model, which has the column.

    Raises:
        InputError: for an unknown column, unknown or equal values, a number outside the range of the training data, a
            text with several possible meanings, or fewer than 2 steps.
    """
    columns = [column for column in schema.columns if text.startswith(f"{column.name}=")]
    if not columns or BETWEEN not in text:
        name = text.partition("=")[0].strip()
        if BETWEEN in text and "=" in text:
            raise unknown_value("column of the path", name, schema.names, "Write column=start..end.")
        raise InputError(f"path = {text!r}: write column=start..end, such as {_path_example(schema)}")
    if num_steps < 2:
        raise InputError(f"path_steps = {num_steps}: a path needs 2 steps or more")
    column = max(columns, key=lambda candidate: len(candidate.name))
    start, end = _ends(column, text[len(column.name) + 1 :])
    if start == end:
        raise InputError(f"path = {text!r}: start and end are the same")
    fractions = [step / (num_steps - 1) for step in range(num_steps)]
    if isinstance(column, ContinuousColumn):
        low, high = (column.decode(column.encode(value)) for value in (start, end))
        numbers = tuple(_plain(low + fraction * (high - low)) for fraction in fractions)  # type: ignore[operator]
        return ValuePath(column.name, numbers, numbers)
    steps = [Mixture.of(column, [(start, 1 - fraction), (end, fraction)]) for fraction in fractions]
    inner = tuple(f"{fraction:.0%} {end}" for fraction in fractions[1:-1])
    return ValuePath(column.name, tuple(step.text for step in steps), (start, *inner, end))


def _ends(column: CategoricalColumn | ContinuousColumn, text: str) -> tuple[str, str]:
    positions = [position for position in range(len(text)) if text.startswith(BETWEEN, position)]
    pairs = [(text[:position].strip(), text[position + len(BETWEEN) :].strip()) for position in positions]
    if isinstance(column, ContinuousColumn):
        start, end = pairs[0] if pairs else (text, "")
        for value in (start, end):
            if not value:
                raise InputError(f"path = {column.name}={text}: write {column.name}={column.low:g}..{column.high:g}")
            column.encode(value)
        return start, end
    known = [pair for pair in pairs if pair[0] in column.values and pair[1] in column.values]
    if len(known) > 1:
        raise InputError(f"path = {column.name}={text} is ambiguous: {known[0]} or {known[1]}")
    if not known:
        wrong = next((value for pair in pairs for value in pair if value not in column.values), text)
        raise unknown_value(f"value of {column.name!r} in the path", wrong, column.values)
    return known[0]


def _readings(values: Sequence[str], text: str) -> list[list[tuple[str, float]]]:
    """Return the ways to read a text as values of a vocabulary with weights, at most two."""
    readings: list[list[tuple[str, float]]] = []
    pending: list[tuple[int, list[tuple[str, float]]]] = [(0, [])]
    while pending and len(readings) < 2:
        position, taken = pending.pop()
        for value in values:
            match = SHARE.match(text, position + len(value)) if value and text.startswith(value, position) else None
            if match is None:
                continue
            reading = [*taken, (value, float(match[1]))]
            if match[2] is None:
                readings.append(reading)
            elif match.end() < len(text):
                pending.append((match.end(), reading))
    return readings


def _refuse_misspelled(column: CategoricalColumn, text: str) -> None:
    if not LOOKS_MIXED.fullmatch(text):
        return
    for item in text.split("+"):
        value, colon, _ = item.strip().rpartition(":")
        if not colon or value not in column.values:
            raise unknown_value(
                f"value of {column.name!r} in a mixture", value or item.strip(), column.values,
                f"A mixture is written {_example(column)}.",
            )  # fmt: skip
    raise InputError(f"{column.name} = {text!r} is no mixture: write {_example(column)}")


def _example(column: CategoricalColumn) -> str:
    first, second = (*column.values, "A", "B")[:2]
    return f"{first}:30+{second}:70"


def _path_example(schema: MetadataSchema) -> str:
    column = schema.columns[-1]
    if isinstance(column, ContinuousColumn):
        return f"{column.name}={column.low:g}..{column.high:g}"
    first, second = (*column.values, "A", "B")[:2]
    return f"{column.name}={first}..{second}"


def _plain(number: float) -> str:
    text = f"{number:.{DECIMALS}f}"
    return text.rstrip("0").rstrip(".")

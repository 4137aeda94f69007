"""Target distributions of subgroups among generated images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd
import torch

from medi_monai.schema import MISSING_WORDS, CategoricalColumn, missing_cells
from medi_monai.utils.errors import InputError, unknown_value

__all__ = [
    "Part",
    "SEPARATOR",
    "SubgroupTarget",
    "check_shares",
    "joint_attributes",
    "make_target",
    "parts_of",
]

#: separator between the values in the name of a joint subgroup: ``female|young``
SEPARATOR = "|"
#: tolerance of the sum of shares, which has to be 1
TOLERANCE = 1e-6


@dataclass(frozen=True)
class SubgroupTarget:
    """Target shares of the subgroups of one attribute, or of the joint distribution of several.

    Args:
        attributes: names of the attributes.
        groups: all combinations of their values, with the last attribute varying fastest; this is the order of every
            ``(N, G)`` or ``(G,)`` tensor.
        probabilities: share of each group; they sum to 1.
    """

    attributes: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    probabilities: tuple[float, ...]

    @property
    def names(self) -> list[str]:
        """Names of the groups: ``female``, or ``female|young`` for a joint distribution."""
        return [SEPARATOR.join(group) for group in self.groups]

    def tensor(self, like: torch.Tensor | None = None) -> torch.Tensor:
        """Return the ``(G,)`` shares, with the type and device of ``like`` or as float32 on the CPU."""
        if like is None:
            return torch.tensor(self.probabilities, dtype=torch.float32)
        return torch.tensor(self.probabilities, dtype=like.dtype, device=like.device)

    def log_probabilities(self, logits: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return ``(N, G)`` log-probabilities of the groups from a classifier's ``(N, V)`` logits of each attribute.

        Attributes are assumed independent given the image. Probabilities are never formed, so that a very confident
        classifier still has a gradient.

        Raises:
            InputError: for an attribute that the classifier does not have.
        """
        for name in self.attributes:
            if name not in logits:
                raise unknown_value("attribute", name, logits, "The classifier predicts only these.")
        by_attribute = [logits[name].float().log_softmax(1) for name in self.attributes]
        return reduce(lambda joint, logs: (joint[:, :, None] + logs[:, None, :]).flatten(1), by_attribute)

    def to_dict(self) -> dict[str, Any]:
        """Return the target as JSON: attributes, and the share of each group."""
        return {"attributes": list(self.attributes), "target": dict(zip(self.names, self.probabilities))}


def make_target(
    spec: str | Mapping[Any, Any],
    attributes: Mapping[str, Sequence[str]],
    table: pd.DataFrame | None = None,
    names: Sequence[str] | None = None,
) -> SubgroupTarget:
    """Create a target from the user's specification.

    Args:
        spec: ``uniform``; ``table``, for the shares in ``table``; or a mapping to shares that sum to 1: of one
            attribute, ``{female: 0.5, male: 0.5}``; of a joint distribution, ``{female|young: 0.25, …}`` or
            ``{female: {young: 0.25, …}, …}``; or by attribute, ``{sex: {female: 0.5, male: 0.5}, age: {…}}``, in which
            case the attributes are treated as independent. Every subgroup needs a share, 0 for unwanted ones.
        attributes: attributes of the classifier, with their values in its order.
        table: reference table, one row per image or patient, with a column per attribute; rows with a missing cell are
            ignored. A column ``count`` or ``share`` weights the rows.
        names: attributes to align; by default those that ``spec`` names, or all.

    Raises:
        InputError: for shares that are negative or do not sum to 1, an attribute or value unknown to the classifier, a
            subgroup without a share, or a table that ``spec`` does not use.
    """
    _check_unused(spec, table)
    by_attribute = _is_by_attribute(spec, attributes)
    chosen = tuple(names if names is not None else spec if by_attribute else attributes)
    for name in chosen:
        if name not in attributes:
            raise unknown_value("attribute", name, attributes, "The classifier predicts only these.")
    values = [tuple(map(str, attributes[name])) for name in chosen]
    groups = tuple(itertools.product(*values))
    if not 2 <= len(groups) == len(set(groups)) or len(set(chosen)) != len(chosen):
        raise InputError(f"a target needs two or more different subgroups, not {list(groups)}")
    if isinstance(spec, str):
        shares = _named_shares(spec, chosen, groups, table)
    elif by_attribute:
        shares = _independent_shares(spec, chosen, values)
    else:
        shares = _checked_shares(_flat(spec), groups, "target")
    return SubgroupTarget(chosen, groups, shares)


def check_shares(spec: Any, names: Sequence[str], table: Any = None) -> None:
    """Check a target as far as possible before the values of its attributes are known.

    Args:
        spec: specification of the target, as for :func:`make_target`.
        names: names of the attributes.
        table: reference table or its path, whose contents are not checked.

    Raises:
        InputError: for an unknown keyword, ``table`` without a table, a table that ``spec`` does not use, and shares
            that are negative or do not sum to 1.
    """
    _check_unused(spec, table)
    if isinstance(spec, str):
        _check_word(spec, table)
    elif set(_mapping(spec)) <= set(names) and all(isinstance(shares, Mapping) for shares in spec.values()):
        for name, shares in spec.items():
            _total(_flat(shares), f"target of {name!r}")
    else:
        _total(_flat(spec), "target")


def _check_unused(spec: Any, table: Any) -> None:
    if table is not None and spec != "table":
        raise InputError(
            f"a reference table is given, but the target is {spec!r}: set it to 'table', or leave the table out"
        )


def _mapping(spec: Any) -> Mapping[Any, Any]:
    if not isinstance(spec, Mapping) or not spec:
        raise InputError(f"a target is 'uniform', 'table' or a mapping of values to shares, not {spec!r}")
    return spec


def _check_word(spec: str, table: Any) -> None:
    if spec not in ("uniform", "table"):
        raise unknown_value("target", spec, ("uniform", "table"), "Or give a mapping of values to shares.")
    if spec == "table" and table is None:
        raise InputError("the target is 'table', and no reference table is given: set its path, target_table")


def _is_by_attribute(spec: str | Mapping[Any, Any], attributes: Mapping[str, Sequence[str]]) -> bool:
    if isinstance(spec, str):
        return False
    if not all(isinstance(share, Mapping) for share in _mapping(spec).values()):
        return False
    values = [str(value) for known in attributes.values() for value in known]
    for key in spec:
        if key not in attributes and str(key) not in values:
            raise unknown_value("attribute", key, [*attributes, *values], "The classifier predicts only these.")
    return all(key in attributes for key in spec)


def _named_shares(
    spec: str, names: tuple[str, ...], groups: tuple[tuple[str, ...], ...], table: pd.DataFrame | None
) -> tuple[float, ...]:
    _check_word(spec, table)
    return (1 / len(groups),) * len(groups) if table is None or spec == "uniform" else _counted(names, groups, table)


def _counted(names: tuple[str, ...], groups: tuple[tuple[str, ...], ...], table: pd.DataFrame) -> tuple[float, ...]:
    """Return the share of each group among the rows of a table that have all attributes."""
    for name in names:
        if name not in table.columns:
            raise unknown_value("column", name, table.columns, "The reference table needs a column per attribute.")
    codes = pd.DataFrame(
        {
            name: _codes(table[name], tuple(dict.fromkeys(group[axis] for group in groups)))
            for axis, name in enumerate(names)
        }
    )
    known = (codes >= 0).all(axis=1)
    if not known.any():
        raise InputError(f"none of the {len(table)} rows of the reference table has {' and '.join(names)}")
    weights = _weights(table)[known]
    if not weights.sum() > 0:
        raise InputError(f"the rows of the reference table with {' and '.join(names)} have a total weight of 0")
    sums = weights.groupby([codes.loc[known, name] for name in names]).sum() / weights.sum()
    shares = {key if isinstance(key, tuple) else (key,): share for key, share in sums.items()}
    cells = itertools.product(*(range(int(size)) for size in _sizes(groups)))
    return tuple(float(shares.get(cell, 0.0)) for cell in cells)


def _weights(table: pd.DataFrame) -> pd.Series:
    """Return the weight of each row: its ``count`` or ``share``, or 1."""
    name = next((name for name in ("count", "share") if name in table.columns), None)
    if name is None:
        return pd.Series(1.0, index=table.index)
    weights = pd.to_numeric(table[name], errors="coerce")
    wrong = ~(weights >= 0) | np.isinf(weights)
    if wrong.any():
        raise InputError(f"{name} = {table.loc[wrong, name].iloc[0]!r} in the reference table: it has to be 0 or more")
    return weights


def _sizes(groups: tuple[tuple[str, ...], ...]) -> list[int]:
    return [len(set(values)) for values in zip(*groups)]


def _codes(cells: pd.Series, values: tuple[str, ...]) -> pd.Series:
    """Return indices into ``values``, -1 if missing; a reference table may have many rows and few distinct values."""
    column = CategoricalColumn(str(cells.name), values)
    # a reference table may be an export with its own words for missing cells; words that are values are kept
    cells = cells.mask(missing_cells(cells, set(MISSING_WORDS) - {value.strip().lower() for value in values}))
    return cells.map({value: int(column.encode(value)) for value in cells.dropna().unique()}).fillna(-1).astype(int)


def _independent_shares(
    spec: Mapping[Any, Mapping[Any, Any]], names: tuple[str, ...], values: list[tuple[str, ...]]
) -> tuple[float, ...]:
    if set(spec) != set(names):
        raise InputError(f"the target gives shares of {list(spec)}, but the attributes to align are {list(names)}")
    by_attribute = [
        _checked_shares(_flat(spec[name]), tuple((value,) for value in known), f"target of {name!r}")
        for name, known in zip(names, values)
    ]
    return tuple(math.prod(shares) for shares in itertools.product(*by_attribute))


def _flat(spec: Mapping[Any, Any]) -> dict[str, Any]:
    """Flatten nested mappings, joining their keys."""
    flat: dict[str, Any] = {}
    for key, share in spec.items():
        name = SEPARATOR.join(map(str, key)) if isinstance(key, tuple) else str(key)
        inner = (
            {f"{name}{SEPARATOR}{suffix}": number for suffix, number in _flat(share).items()}
            if isinstance(share, Mapping)
            else {}
        )
        flat.update(inner or {name: share})
    return flat


def _checked_shares(spec: Mapping[str, Any], groups: tuple[tuple[str, ...], ...], source: str) -> tuple[float, ...]:
    names = [SEPARATOR.join(group) for group in groups]
    for name in spec:
        if name not in names:
            raise unknown_value(f"subgroup in the {source}", name, names)
    lacking = [name for name in names if name not in spec]
    total = _total(spec, source, bool(lacking))
    if lacking:
        raise InputError(f"the {source} leaves out {', '.join(map(repr, lacking))}: give 0 for unwanted subgroups")
    return tuple(float(spec[name]) / total for name in names)


#: largest share accepted as a number, well above any percentage; prevents the sum from overflowing
MOST = 1e6


def _total(spec: Mapping[str, Any], source: str, open_end: bool = False) -> float:
    """Return the sum of the shares, after checking that they are numbers and sum to 1 (or less if some are missing)."""
    for name, share in spec.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= MOST:
            raise InputError(f"the {source} gives {name!r} the share {share!r}: shares are numbers from 0 to 1")
    total = math.fsum(spec.values())
    if abs(total - 1) > TOLERANCE and not open_end:
        hint = "give shares such as 0.5, not percent" if total > 1.5 else "shares have to sum to 1"
        raise InputError(f"the {source} sums to {total:.8g}, not to 1: {hint}")
    return total


@dataclass(frozen=True)
class Part:
    """Target of a single attribute, or the joint target of all.

    Args:
        name: name of the attribute, or the joined names for a joint target.
        vocabulary: values of each attribute, with the last attribute varying fastest in ``values``.
        values: names of the subgroups.
        target: ``(G,)`` target shares.
    """

    name: str
    vocabulary: Mapping[str, tuple[str, ...]]
    values: tuple[str, ...]
    target: np.ndarray

    def join(self, codes: Mapping[str, np.ndarray]) -> np.ndarray:
        """Combine the ``(N,)`` codes of each attribute to ``(N,)`` subgroup codes; -1 if any of them is -1."""
        columns = [np.asarray(codes[name]) for name in self.vocabulary]
        joint = np.zeros(len(columns[0]), np.int64)
        for column, values in zip(columns, self.vocabulary.values()):
            joint = joint * len(values) + column
        return np.where(np.any([column < 0 for column in columns], axis=0), -1, joint)

    def codes(self, table: pd.DataFrame) -> np.ndarray:
        """Return the ``(N,)`` subgroup of every row of a table; -1 if an attribute is missing or has another value."""
        code_of = {name: {value: code for code, value in enumerate(values)} for name, values in self.vocabulary.items()}
        return self.join(
            {name: table[name].map(codes).fillna(-1).to_numpy(np.int64) for name, codes in code_of.items()}
        )


def parts_of(target: SubgroupTarget) -> list[Part]:
    """Split a target into the targets of its attributes, followed by the joint target if there are several."""
    vocabulary = {
        name: tuple(dict.fromkeys(group[axis] for group in target.groups))
        for axis, name in enumerate(target.attributes)
    }
    shares = np.array(target.probabilities).reshape([len(values) for values in vocabulary.values()])
    parts = []
    for axis, (name, values) in enumerate(vocabulary.items()):
        others = tuple(other for other in range(shares.ndim) if other != axis)
        parts.append(Part(name, {name: values}, values, shares.sum(others)))
    if len(parts) > 1:
        parts.append(Part(SEPARATOR.join(vocabulary), vocabulary, tuple(target.names), shares.ravel()))
    return parts


def joint_attributes(attribute: str | None) -> list[str]:
    """Split the setting of an attribute into columns: ``center`` is one, ``project_id|center`` a joint of two.

    Raises:
        InputError: for no attribute, or a name that is empty or repeated.
    """
    if attribute is None:
        raise InputError("an attribute is needed here: name a column of the cohort with --attribute")
    names = [name.strip() for name in attribute.split(SEPARATOR)]
    if not all(names) or len(set(names)) != len(names):
        raise InputError(f"attribute = {attribute!r}: give a column, or several as 'project_id|center', each once")
    return names

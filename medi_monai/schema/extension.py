"""Extend a schema with values that were added after training: learned values, and mixtures of values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from medi_monai.schema.columns import CategoricalColumn, ContinuousColumn
from medi_monai.schema.metadata_schema import MetadataSchema
from medi_monai.schema.mixtures import Mixture
from medi_monai.utils.errors import InputError

__all__ = ["AddedValue", "ExtendedSchema"]


@dataclass(frozen=True)
class AddedValue:
    """A value that was learned for a trained model.

    Args:
        column: label or attribute to which the value belongs.
        value: name of the value, which is not in the vocabulary of the training.
        source: SHA-256 of its embedding.
    """

    column: str
    value: str
    source: str


@dataclass(frozen=True)
class ExtendedSchema(MetadataSchema):
    """The schema of a training with additional values at the end of its vocabularies; codes of the training are kept.

    If only mixtures were added, the digest is that of the training's schema, because the name of a mixture describes it
    completely. Learned values change the digest.

    Args:
        base: schema of the training.
        added: learned values.
        mixtures: mixtures of values of ``base`` and ``added``.
    """

    base: MetadataSchema | None = None
    added: tuple[AddedValue, ...] = ()
    mixtures: tuple[Mixture, ...] = ()

    @classmethod
    def of(
        cls, base: MetadataSchema, added: Iterable[AddedValue] = (), mixtures: Iterable[Mixture] = ()
    ) -> ExtendedSchema:
        """Extend a schema.

        Raises:
            InputError: for a column that is unknown or continuous, or a value that the schema already has.
        """
        added, mixtures = tuple(added), tuple(mixtures)
        names = [(value.column, value.value) for value in added] + [(mix.column, mix.text) for mix in mixtures]
        columns = {column.name: column for column in base.columns}
        for name, value in names:
            column = columns.get(name)
            if not isinstance(column, CategoricalColumn):
                kind = "continuous" if isinstance(column, ContinuousColumn) else f"not one of {list(columns)}"
                raise InputError(f"the value {value!r} cannot be added to {name!r}, which is {kind}")
            if value in column.values:
                raise InputError(f"{name} = {value!r} cannot be added, because the model has this value already")
            columns[name] = replace(column, values=(*column.values, value))
        label, *attributes = columns.values()
        return cls(label, tuple(attributes), base, added, mixtures)  # type: ignore[arg-type]

    def to_dict(self) -> dict:
        """Return the JSON form of the schema of the training, with its learned values."""
        base = super().to_dict() if self.base is None else self.base.to_dict()
        if not self.added:
            return base
        added = [{"column": value.column, "value": value.value, "source": value.source} for value in self.added]
        return {**base, "added": added}

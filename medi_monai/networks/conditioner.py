"""Embed class and metadata in one vector, ``z_cond`` of MeDi (arXiv 2506.17140)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy

import torch
from torch import nn

from medi_monai.schema import NULL, CategoricalColumn, ExtendedSchema, MetadataSchema
from medi_monai.utils.errors import InputError, unknown_value

__all__ = ["MODES", "MetadataConditioner", "drop_to_null"]

#: ``concat`` is the paper's mode; ``additive`` and ``linear`` are from its published code
MODES = ("concat", "additive", "linear")


class MetadataConditioner(nn.Module):
    """Embeds label and attributes: ``z_cond = concat(z_class, z_meta,1 … z_meta,k) ∈ R^{d_t}`` in the default mode.

    A categorical column has a table of learned embeddings with one row for null, one for unknown, and one per value. A
    continuous column has sinusoidal features and a two-layer projection, with its own null and unknown embeddings.

    Args:
        schema: label and attributes; its digest is saved with the weights, and weights with a different digest are
            refused.
        embed_dim: ``d_t``, the width of the timestep embedding.
        mode: ``concat`` splits ``d_t`` among the columns; ``additive`` sums embeddings of the full width; ``linear``
            concatenates embeddings of the full width and projects them to ``d_t``.
        num_frequencies: number of pairs of sine and cosine features of a continuous column.
    """

    def __init__(self, schema: MetadataSchema, embed_dim: int, mode: str = "concat", num_frequencies: int = 16) -> None:
        super().__init__()
        if mode not in MODES:
            raise unknown_value("mode of conditioning", mode, MODES)
        widths = _widths(len(schema.columns), embed_dim, mode)
        self.schema = schema
        self.mode = mode
        self.embed_dim = embed_dim
        self.embeddings = nn.ModuleList(
            _CategoricalEmbedding(len(column.values), width)
            if isinstance(column, CategoricalColumn)
            else _ContinuousEmbedding(width, num_frequencies)
            for column, width in zip(schema.columns, widths)
        )
        self.project = nn.Linear(sum(widths), embed_dim) if mode == "linear" else nn.Identity()
        self.schema_digest: torch.Tensor
        self.register_buffer("schema_digest", torch.tensor(list(bytes.fromhex(schema.digest)), dtype=torch.uint8))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Return ``z_cond``, shape ``(N, embed_dim)``, for ``(N, 1 + k)`` codes from :meth:`MetadataSchema.encode`."""
        if codes.ndim != 2 or codes.shape[1] != len(self.embeddings):
            raise InputError(
                f"conditions of shape {tuple(codes.shape)} do not fit the schema's {len(self.embeddings)} columns "
                f"{list(self.schema.names)}: expected (N, {len(self.embeddings)})"
            )
        embedded = [embedding(codes[:, column]) for column, embedding in enumerate(self.embeddings)]
        z_cond = torch.stack(embedded).sum(0) if self.mode == "additive" else self.project(torch.cat(embedded, dim=1))
        for column, embedding in enumerate(self.embeddings):
            if isinstance(embedding, _ExtendedEmbedding):
                z_cond = z_cond + embedding.offset(codes[:, column])
        return z_cond

    def extended(
        self, schema: ExtendedSchema, learned: Mapping[tuple[str, str], torch.Tensor] | None = None
    ) -> MetadataConditioner:
        """Return a conditioner with additional values, which shares everything else with this one.

        If this one has been extended before, only its embeddings from training are kept. The embedding of a mixture is
        the weighted combination of the embeddings of its values, and so is its ``z_cond``, in every mode: embeddings
        are concatenated, added or mapped linearly, and the weights sum to 1.

        Args:
            schema: extension of the schema of this conditioner.
            learned: embedding of each learned value, by column and value: ``(D,)``, like the embeddings of the column,
                or ``(D + embed_dim,)`` with an additional offset that is added to ``z_cond``.
        """
        other = copy(self)
        other._modules, other._buffers = dict(self._modules), dict(self._buffers)
        tables = list(self.embeddings)
        of_training = schema if schema.base is None else schema.base
        for index, (column, base) in enumerate(zip(schema.columns, of_training.columns)):
            if not isinstance(column, CategoricalColumn) or not isinstance(base, CategoricalColumn):
                continue
            if len(column.values) > len(base.values):
                tables[index] = _extended_table(tables[index], schema, base, learned or {}, self.embed_dim)
        other.embeddings, other.schema = nn.ModuleList(tables), schema
        digest = torch.tensor(list(bytes.fromhex(schema.digest)), dtype=torch.uint8)
        other.register_buffer("schema_digest", digest.to(self.schema_digest.device))
        return other

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:  # type: ignore[no-untyped-def]
        stored = state_dict.get(prefix + "schema_digest")
        if stored is not None and not torch.equal(stored.cpu(), self.schema_digest.cpu()):
            raise InputError(
                "these weights were trained with a different schema (label, attributes or vocabularies differ): "
                f"their schema.json has the digest {bytes(stored.tolist()).hex()[:12]}, the given one "
                f"{self.schema.digest[:12]}. Use the schema.json next to the checkpoint."
            )
        super()._load_from_state_dict(state_dict, prefix, *args)


class _CategoricalEmbedding(nn.Module):
    def __init__(self, num_values: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_values - NULL, width)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.table(codes.long() - NULL)


class _ExtendedEmbedding(nn.Module):
    """Embeddings from training and additional ones, each with an offset of ``z_cond``, which is zero for the former.

    Args:
        rows: ``(2 + values, width + embed_dim)`` embeddings with their offsets, beginning with null and unknown.
        width: width of an embedding of the column.
    """

    def __init__(self, rows: torch.Tensor, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(rows)
        self.width = width

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.table(codes.long() - NULL)[:, : self.width]

    def offset(self, codes: torch.Tensor) -> torch.Tensor:
        return self.table(codes.long() - NULL)[:, self.width :]


def _extended_table(
    embedding: nn.Module,
    schema: ExtendedSchema,
    column: CategoricalColumn,
    learned: Mapping[tuple[str, str], torch.Tensor],
    embed_dim: int,
) -> _ExtendedEmbedding:
    weight = embedding.get_submodule("table").get_parameter("weight").detach()
    width = getattr(embedding, "width", weight.shape[1])
    of_training = nn.functional.pad(weight[: len(column.values) - NULL, :width], (0, embed_dim))
    rows = {value: of_training[code - NULL] for code, value in enumerate(column.values)}
    for added in schema.added:
        if added.column == column.name:
            row = learned[added.column, added.value].to(weight)
            rows[added.value] = nn.functional.pad(row, (0, width + embed_dim - len(row)))
    for mixture in schema.mixtures:
        if mixture.column == column.name:
            terms = [share * rows[value].double() for value, share in mixture.weights]
            rows[mixture.text] = torch.stack(terms).sum(0).to(weight)
    return _ExtendedEmbedding(torch.cat([of_training[:-NULL], torch.stack(list(rows.values()))]), width)


class _ContinuousEmbedding(nn.Module):
    def __init__(self, width: int, num_frequencies: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(-NULL, width)
        self.project = nn.Sequential(nn.Linear(2 * num_frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.frequencies: torch.Tensor
        # half a period to 32 periods over the range of the training data
        self.register_buffer("frequencies", math.pi * torch.logspace(0, 6, num_frequencies, base=2), persistent=False)

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        phase = codes.clamp(min=0)[:, None] * self.frequencies
        value = self.project(torch.cat([phase.sin(), phase.cos()], dim=1))
        token = self.tokens((codes.long() - NULL).clamp(max=-NULL - 1))
        return torch.where(codes[:, None] < 0, token.to(value.dtype), value)


def drop_to_null(
    codes: torch.Tensor,
    label_dropout: float,
    attribute_dropout: float,
    generator: torch.Generator | None = None,
    joint_dropout: float = 0.0,
) -> torch.Tensor:
    """Drop label and attributes to null at random, so that classifier-free guidance has a trained null condition.

    Args:
        codes: ``(N, 1 + k)`` codes on any device.
        label_dropout: probability in [0, 1] that a row loses its label.
        attribute_dropout: probability in [0, 1] that a row loses an attribute, drawn independently for each attribute.
        generator: random generator on the CPU.
        joint_dropout: probability in [0, 1] that a row loses its label and all attributes; this is the null condition
            of guidance, which independent dropout of many columns would rarely produce.
    """
    probability = torch.full((codes.shape[1],), attribute_dropout)
    probability[0] = label_dropout
    dropped = torch.rand(codes.shape, generator=generator) < probability
    dropped |= torch.rand(len(codes), 1, generator=generator) < joint_dropout
    return codes.masked_fill(dropped.to(codes.device), NULL)


def _widths(num_columns: int, embed_dim: int, mode: str) -> list[int]:
    if mode != "concat":
        return [embed_dim] * num_columns
    if num_columns > embed_dim:
        raise InputError(f"{num_columns} columns do not fit into an embedding of {embed_dim} in mode 'concat'")
    base, wider = divmod(embed_dim, num_columns)
    return [base + (column < wider) for column in range(num_columns)]

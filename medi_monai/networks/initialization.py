"""Initialize a network from weights of this package (also with another schema) or of other libraries."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medi_monai.networks.conditioner import MetadataConditioner
from medi_monai.networks.encoders.pretrained import load_weights
from medi_monai.networks.layouts import CONDITIONS, layout_of, monai_state
from medi_monai.networks.unet import MetadataDiffusionUNet
from medi_monai.schema import NULL, CategoricalColumn, MetadataSchema
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import all_finite, read_json
from medi_monai.utils.text import listed, plural

__all__ = ["initialize_network", "load_initial_weights", "origin_of"]

COUNTER = "n_averaged"
#: names of the weights file in a folder saved by diffusers
OF_DIFFUSERS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
#: settings in ``model.json`` of this package's models that cannot be inferred from the shapes of weights
OWN_SETTINGS = ("num_head_channels", "norm_num_groups", "conditioning")
#: files next to the weights of published MeDi models, with the codes of classes and of attributes
CLASS_CODES, DOMAIN_CODES = "cancer_type_mapping.json", "domain_value_mapping.json"
PUBLISHED_UNKNOWN = "Unknown"
#: required values of settings in diffusers' ``config.json``, because MONAI's network supports no others
DIFFUSERS_FIXED: dict[str, Any] = {
    "center_input_sample": False, "time_embedding_type": "positional", "freq_shift": 0, "flip_sin_to_cos": True,
    "mid_block_scale_factor": 1, "downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv",
    "act_fn": "silu", "resnet_time_scale_shift": "default", "add_attention": True,
}  # fmt: skip


@dataclass(frozen=True)
class SourceTable:
    """Embeddings of a column in a weights file.

    Args:
        weight: ``(R, D)`` embeddings.
        codes: row of each value.
        null, unknown: rows of the null and unknown embeddings; None if the file does not have them.
        start: position of the column in ``z_cond``, if columns are concatenated.
    """

    weight: torch.Tensor
    codes: Mapping[str, int]
    null: int | None
    unknown: int | None
    start: int


def initialize_network(network: MetadataDiffusionUNet, init_from: str | os.PathLike | None) -> MetadataDiffusionUNet:
    """Load initial weights into a network with :func:`load_initial_weights`, unless the path is None; return it."""
    if init_from is not None:
        network.origin = load_initial_weights(network, init_from)
    return network


def origin_of(network: nn.Module) -> dict[str, Any]:
    """Return ``initialized``, what a network was initialized from, for ``model.json``; empty for random weights."""
    origin = getattr(network, "origin", None)
    return {} if origin is None else {"initialized": origin}


def load_initial_weights(network: MetadataDiffusionUNet, path: str | os.PathLike) -> dict[str, Any]:
    """Load the weights from which a training starts, and print one line on what was loaded.

    All weights except those of class and metadata have to fit. Embeddings are matched by the names of columns and
    values; embeddings that the file does not have keep their random weights.

    Args:
        network: network to load into.
        path: ``model.pt`` or a training checkpoint of this package, with ``schema.json`` in the same folder; or weights
            or a folder of MONAI's or monai-generative's ``DiffusionModelUNet``, or of diffusers' ``UNet2DModel``, as
            published with MeDi, whose codes are read from JSON files in the same folder.

    Returns:
        ``path``, ``layout``, the number of loaded ``parameters``, and the values by column whose embeddings were loaded
        (``carried``) or keep their random weights (``fresh``).

    Raises:
        InputError: for weights that do not fit the network; the network is then unchanged.
    """
    file = next((Path(path) / name for name in OF_DIFFUSERS if (Path(path) / name).is_file()), path)
    state = {name.removeprefix("module."): value for name, value in load_weights(file).items() if name != COUNTER}
    spoiled = next((name for name, value in state.items() if not all_finite(value)), None)
    if spoiled is not None:
        raise InputError(f"{path} is damaged: the weights {spoiled} are not finite (NaN or infinity)")
    layout, own = layout_of(state), network.state_dict()
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    unchecked = _check_settings(network, folder, layout, path)
    trunk = {name: value for name, value in own.items() if not name.startswith(CONDITIONS)}
    loaded = monai_state(state, layout, trunk)
    _check_trunk(trunk, loaded, layout, path)
    conditioner: Any = network.class_embedding
    tables, whole = _source_tables(state, layout, folder, conditioner, path)
    carried, fresh = {}, {}
    embeddings: dict[str, torch.Tensor] = dict(whole)
    for index, column in enumerate(network.schema.columns):
        name = f"{CONDITIONS}embeddings.{index}.table.weight"
        if any(key.startswith(f"{CONDITIONS}embeddings.{index}.") for key in whole):
            carried[column.name] = ["all"]
        elif isinstance(column, CategoricalColumn) and column.name in tables:
            embeddings[name], carried[column.name] = _matched(own[name], column, tables[column.name])
            fresh[column.name] = [value for value in column.values if value not in carried[column.name]]
        else:
            fresh[column.name] = list(column.values) if isinstance(column, CategoricalColumn) else ["all"]
    network.load_state_dict({**own, **loaded, **embeddings})
    count = sum(value.numel() for value in loaded.values())
    fresh = {name: values for name, values in fresh.items() if values}
    known = [f"{name}: {_number(values, network.schema, name)} carried over" for name, values in carried.items()]
    parts = [f"{count:,} parameters", *known]
    parts += [f"fresh embeddings of {name}: {listed(values)}" for name, values in fresh.items()]
    parts += [f"not checked: {', '.join(unchecked)}"] if unchecked else []
    if os.environ.get("RANK", "0") == "0":
        print(f"initial weights from {path} ({layout}): {'; '.join(parts)}", flush=True)
    return {"path": os.fspath(path), "layout": layout, "parameters": count, "carried": carried, "fresh": fresh}


def _number(values: Sequence[str], schema: MetadataSchema, name: str) -> str:
    column = next(column for column in schema.columns if column.name == name)
    return "all" if not isinstance(column, CategoricalColumn) else f"{len(values)} of {len(column.values)} values"


def _check_trunk(
    expected: Mapping[str, torch.Tensor], loaded: Mapping[str, torch.Tensor], layout: str, path: str | os.PathLike
) -> None:
    lacking, unknown = sorted(expected.keys() - loaded.keys()), sorted(loaded.keys() - expected.keys())
    other = sorted(name for name in expected.keys() & loaded.keys() if expected[name].shape != loaded[name].shape)
    if not (lacking or unknown or other):
        return
    reasons = []
    if lacking:
        reasons.append(f"{plural(len(lacking), 'tensor')} of the network are missing, such as {lacking[0]}")
    if unknown:
        reasons.append(f"{plural(len(unknown), 'tensor')} do not belong to it, such as {unknown[0]}")
    if other:
        shapes = f"{tuple(loaded[other[0]].shape)}, not {tuple(expected[other[0]].shape)}"
        reasons.append(f"{plural(len(other), 'tensor')} have another shape, such as {other[0]}: {shapes}")
    raise InputError(
        f"the weights in {path} ({layout}) do not fit the network: {'; '.join(reasons)}. Use their channels, "
        "num_res_blocks and attention_levels"
    )


def _check_settings(network: MetadataDiffusionUNet, folder: Path, layout: str, path: str | os.PathLike) -> list[str]:
    """Check settings that cannot be inferred from shapes against the records next to the weights.

    Returns:
        The settings that could not be checked, because no record has them.

    Raises:
        InputError: for a setting that differs.
    """
    attention = network.middle_block.attention
    heads, norm = attention.attn.num_heads, attention.norm  # type: ignore[union-attr]
    width = norm.num_channels // heads  # type: ignore[union-attr, operator]
    if layout == "medi_monai":
        record = read_json(folder / "model.json") if (folder / "model.json").is_file() else {}
        found = {"norm_num_groups": norm.num_groups, "conditioning": network.class_embedding.mode}  # type: ignore[union-attr]
        given = record.get("num_head_channels")
        record["num_head_channels"] = given[-1] if isinstance(given, list) else given
        found["num_head_channels"] = width
        for name, value in found.items():
            if record.get(name, value) not in (value, None):
                raise InputError(f"{name} = {value!r}: the model in {path} was trained with {record[name]!r}")
        return [name for name in OWN_SETTINGS if record.get(name) is None]
    config = folder / "config.json"
    if layout != "diffusers" or not config.is_file():
        return ["num_head_channels", "norm_num_groups", *(["norm_eps"] if layout == "diffusers" else [])]
    record = read_json(config)
    for name, value in DIFFUSERS_FIXED.items():
        if record.get(name, value) != value:
            raise InputError(f"{config} has {name} = {record[name]!r}, and MONAI's network is as with {value!r}")
    head = record.get("attention_head_dim", 8)
    expected = {"num_head_channels": norm.num_channels if head is None else head}  # type: ignore[union-attr]
    expected["norm_num_groups"] = record.get("norm_num_groups", 32)
    found = {"num_head_channels": width, "norm_num_groups": norm.num_groups}  # type: ignore[union-attr]
    for name, value in expected.items():
        if found[name] != value:
            raise InputError(f"{name} = {found[name]}: the weights in {path} need {value}, by {config}")
    eps = record.get("norm_eps", 1e-5)
    return [] if eps == norm.eps else [f"norm_eps {eps:g} (here {norm.eps:g}: network_def#norm_eps)"]  # type: ignore[union-attr]


def _source_tables(
    state: Mapping[str, torch.Tensor],
    layout: str,
    folder: Path,
    conditioner: MetadataConditioner,
    path: str | os.PathLike,
) -> tuple[dict[str, SourceTable], dict[str, torch.Tensor]]:
    """Return the embeddings in a file by column; and tensors to load unchanged (continuous columns, projection)."""
    if layout == "medi_monai":
        return _own_tables(state, folder, conditioner, path)
    if layout == "diffusers":
        return _published_tables(state, folder, conditioner)
    return {}, {}


def _own_tables(
    state: Mapping[str, torch.Tensor], folder: Path, conditioner: MetadataConditioner, path: str | os.PathLike
) -> tuple[dict[str, SourceTable], dict[str, torch.Tensor]]:
    if not (folder / "schema.json").is_file():
        raise InputError(
            f"there is no schema.json beside {path}, which names the values of its embeddings: copy it too"
        )
    schema = MetadataSchema.load(folder / "schema.json")
    stored = bytes(state[f"{CONDITIONS}schema_digest"].tolist()).hex()
    if stored != schema.digest:
        raise InputError(f"the schema.json beside {path} belongs to another model: copy the one of its training")
    tables, whole, start = {}, {}, 0
    names = [column.name for column in conditioner.schema.columns]
    places = _places(conditioner)
    for index, column in enumerate(schema.columns):
        prefix = f"{CONDITIONS}embeddings.{index}."
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        width = next(iter(own.values())).shape[1]
        if places.get(column.name) == (start, width):
            if isinstance(column, CategoricalColumn):
                codes = {value: code - NULL for code, value in enumerate(column.values)}
                tables[column.name] = SourceTable(own["table.weight"], codes, 0, 1, start)
            elif column == conditioner.schema.columns[names.index(column.name)]:
                target = f"{CONDITIONS}embeddings.{names.index(column.name)}."
                whole.update({target + name: value for name, value in own.items()})
        start += width if conditioner.mode != "additive" else 0
    if conditioner.mode == "linear" and list(schema.names) == names:
        whole.update({name: value for name, value in state.items() if name.startswith(f"{CONDITIONS}project.")})
    elif conditioner.mode == "linear":
        # embeddings that were trained with a projection of other columns are of no use
        return {}, {}
    return tables, whole


def _places(conditioner: MetadataConditioner) -> dict[str, tuple[int, int]]:
    """Return the position and width of each column's embedding in ``z_cond``; in mode ``additive``, all are at 0."""
    places, start = {}, 0
    for column, embedding in zip(conditioner.schema.columns, conditioner.embeddings):
        table = getattr(embedding, "table", getattr(embedding, "tokens", None))
        places[column.name] = (start, table.weight.shape[1])  # type: ignore[union-attr]
        start += table.weight.shape[1] if conditioner.mode != "additive" else 0  # type: ignore[union-attr]
    return places


def _published_tables(
    state: Mapping[str, torch.Tensor], folder: Path, conditioner: MetadataConditioner
) -> tuple[dict[str, SourceTable], dict[str, torch.Tensor]]:
    """Return the embeddings of a published MeDi model by column: classes, then attributes in the order of its codes."""
    classes = read_json(folder / CLASS_CODES) if (folder / CLASS_CODES).is_file() else {}
    domains = read_json(folder / DOMAIN_CODES) if (folder / DOMAIN_CODES).is_file() else {}
    tables, start = {}, 0
    places, names = _places(conditioner), list(conditioner.schema.names)
    sources = [(names[0], f"{CONDITIONS}weight", classes)]
    sources += [(name, f"domain_embeddings.{name}.weight", codes) for name, codes in domains.items()]
    for name, key, codes in sources:
        weight = state.get(key)
        if weight is None:
            continue
        if places.get(name) == (start, weight.shape[1]) and codes:
            codes = {value: code for value, code in codes.items() if 0 <= code < len(weight)}
            tables[name] = SourceTable(weight, codes, None, codes.get(PUBLISHED_UNKNOWN), start)
        start += weight.shape[1] if conditioner.mode != "additive" else 0
    whole: dict[str, torch.Tensor] = {}
    if conditioner.mode == "concat" and start != conditioner.embed_dim:
        # the model has additional columns, such as an age, whose position among these is not recorded
        return {name: table for name, table in tables.items() if name == names[0]}, {}
    if conditioner.mode == "linear":
        if list(tables) != names or len(names) == 1:
            return {}, {}
        renamed = {
            name: f"{CONDITIONS}project.{name.partition('.')[2]}" for name in state if name.startswith("linear_")
        }
        whole = {new: state[name] for name, new in renamed.items()}
    return tables, whole


def _matched(own: torch.Tensor, column: CategoricalColumn, table: SourceTable) -> tuple[torch.Tensor, list[str]]:
    """Return a column's embeddings with the rows that the file has, and the values of these rows."""
    rows = own.clone()
    for code, source in ((0, table.null), (1, table.unknown)):
        if source is not None:
            rows[code] = table.weight[source]
    carried = [value for value in column.values if value in table.codes]
    for code, value in enumerate(column.values):
        if value in table.codes:
            rows[code - NULL] = table.weight[table.codes[value]]
    return rows, carried

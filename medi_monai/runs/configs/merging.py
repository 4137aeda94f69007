"""Merging of config files and options, with the checks of their ids and values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

from monai.bundle.config_parser import ConfigParser
from monai.bundle.utils import merge_kv
from pydantic_core import PydanticUndefined

from medi_monai.runs.configs.checks import (
    check_components,
    check_expressions,
    check_kind,
    check_path,
    imported_names,
    split_id,
)
from medi_monai.runs.configs.files import is_syntax, kept
from medi_monai.runs.configs.typed import check_typed, read_typed
from medi_monai.runs.settings import GROUPS
from medi_monai.utils.errors import InputError, unknown_value
from medi_monai.utils.settings import Settings, Verbatim, check_setting, config_default, verbatim

__all__ = [
    "ABOUT",
    "FROM_TRAINING",
    "SETTINGS",
    "ConfigEntry",
    "check_ids",
    "check_values",
    "entries_of",
    "merged",
    "top_level",
]

#: id under which a config lists its groups of settings
SETTINGS = "settings"
#: id of the sentence that says what a config does; not an option
ABOUT = "about"
#: id under which a config lists the settings whose values are those of the training
FROM_TRAINING = "from_training"


@dataclass(frozen=True)
class ConfigEntry:
    """An id with its value.

    Args:
        name: id, which may refer to a part of a section (``train#trainer``) or begin with ``+``.
        value: its value.
        is_own: whether it is from a config of the bundle, not from the user.
        file: file that it is from; None for an option.
    """

    name: str
    value: Any
    is_own: bool
    file: str | None

    @property
    def label(self) -> str:
        return f"id in {self.file}:" if self.file else "option"


def entries_of(content: Mapping[str, Any], is_own: bool, file: str) -> Iterator[ConfigEntry]:
    """Yield the ids of a config file with their values; a config of the bundle may take settings from the training.

    ``from_training: [objective]`` stands for ``objective: $@train_config['objective']``. As any other value of the
    bundle's configs, an overlay or an option can replace it.

    Args:
        content: content of the file.
        is_own: whether the file is a config of the bundle, not an overlay of the user.
        file: path of the file.
    """
    for name, value in content.items():
        if is_own and name == FROM_TRAINING:
            yield from (ConfigEntry(taken, f"$@train_config[{taken!r}]", is_own, file) for taken in value)
        else:
            yield ConfigEntry(name, value, is_own, file)


def check_ids(given: Sequence[ConfigEntry], known: set[str]) -> None:
    """Refuse ids of the user that no config has.

    Args:
        given: ids from files and options.
        known: ids of the configs, and declared settings.

    Raises:
        InputError: for the first unknown id, with the nearest known one.
    """
    # ids that an overlay defines and that some value refers to
    used = set(re.findall(r"@(\w+)", json.dumps([item.value for item in given], default=str)))
    brought = {top_level(item.name) for item in given if item.file and not item.is_own} & used - {SETTINGS}
    everywhere = {"imports", *(name for group in GROUPS.values() for name in group.model_fields)}
    for item in given:
        top = top_level(item.name)
        if item.is_own or top in known | brought or (item.file and (top in everywhere or top.startswith("_"))):
            continue
        last = split_id(item.name)[-1]
        hint = f"--{last}" if not item.file else last
        remedy = f"The setting is {hint}. " if last != item.name and last in known else ""
        if item.file:
            raise unknown_value(
                item.label, item.name, sorted(known), remedy + "An overlay contains ids of the configs."
            )
        options = [f"--{name}" for name in sorted(known)]
        raise unknown_value(
            item.label, f"--{item.name}", options, remedy + "Options are settings and the ids in the config files."
        )


def merged(given: Iterable[ConfigEntry], fields: Mapping[str, type[Settings]], known: set[str]) -> dict[str, Any]:
    """Merge ids in their order; later ones replace earlier ones, or are merged into them.

    Args:
        given: ids from files and options.
        fields: declared settings, each with the class that declares it.
        known: ids of the configs, and declared settings.

    Raises:
        InputError: for a part of a section that does not exist, or a value of another kind than the config has.
    """
    parser = ConfigParser(config={})
    for item in given:
        top, value = top_level(item.name), item.value
        default = config_default(fields[top].model_fields[top]) if top in fields else PydanticUndefined
        if item.name != top and top not in parser and default is not PydanticUndefined:
            # a value merged into a setting is merged into its default
            parser[top] = deepcopy(default)
        if not item.is_own and top in parser:
            # for values merged into a section, the nested ids are checked
            below = item.value if item.name.startswith("+") and isinstance(item.value, Mapping) else {}
            for name in [item.name, *(f"{item.name}::{key}" for key in below)]:
                check_path(item.label, name, parser, free=top in fields, known=known)
        if top not in fields or item.name != top:
            value = read_typed(value)
            if not item.is_own and item.name == top and top in parser:
                check_kind(item.label, top, value, parser[top])
        _merge(parser, item.name, value)
    config: dict[str, Any] = parser.get()
    return config


def check_values(
    config: dict[str, Any], fields: Mapping[str, type[Settings]], known: set[str], of_user: set[str]
) -> None:
    """Check a merged config in place: add defaults of settings, and protect text from MONAI's syntax.

    Args:
        config: from :func:`merged`.
        fields: declared settings, each with the class that declares it.
        known: ids of the configs, and declared settings.
        of_user: top-level ids that the user gave.

    Raises:
        InputError: for a value that its declaration does not allow, or an expression or component that cannot work.
    """
    names = imported_names(config.get("imports", []))
    for name in of_user & set(config):
        how = verbatim(fields[name].model_fields[name]) if name in fields else Verbatim(component=True)
        if how is None:
            check_expressions(name, read_typed(config[name]), names, config)
    for name, kind in fields.items():
        default = config_default(kind.model_fields[name])
        if name in config:
            config[name] = _checked(name, config[name], kind, known, name not in of_user)
        elif default is not PydanticUndefined:
            config[name] = _checked(name, default, kind, known, True)
    for name in of_user - set(fields) & set(config):
        config[name] = kept(name, config[name], Verbatim(component=True), known, True)
        check_components(name, config[name])


def _checked(name: str, value: Any, kind: type[Settings], ids: set[str], is_own: bool) -> Any:
    how = verbatim(kind.model_fields[name])
    if isinstance(value, str) and read_typed(value) == "$None":
        value = None
    if is_syntax(read_typed(value), ids, is_own or how is None):
        return read_typed(value)
    value = check_typed(value, partial(check_setting, kind, name))
    return kept(name, value, how, ids, is_own) if how else value


def _merge(parser: ConfigParser, name: str, value: Any) -> None:
    try:
        merge_kv(parser, name, value)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"{name!r} of a config refers to something that does not exist: {error}") from None


def top_level(name: str) -> str:
    """Return the top-level id of an id: ``train`` for ``+train#trainer``."""
    return split_id(name)[0]

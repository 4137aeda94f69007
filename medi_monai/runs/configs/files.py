"""Read config files and overlays, and protect text in them from MONAI's syntax."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Hashable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from medi_monai.runs.configs.typed import read_typed
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import check_path_length, check_regular
from medi_monai.utils.settings import Verbatim

__all__ = ["as_files", "configs_of", "expanded", "is_syntax", "kept", "read_config_file"]

SUFFIXES = (".json", ".yaml", ".yml")
#: syntax that MONAI's parser interprets
SPECIAL = "#$@%"
#: key of a mapping that describes a component
TARGET = "_target_"
#: maximum number of values in a config; values repeated by YAML aliases count each time
MOST_VALUES = 1_000_000
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))(?=/|\\|$)")


def as_files(config_file: Any) -> list[Path]:
    """Return the config files given in any form of ``--config_file``: one file, a list, or ``a.json,b.yaml``."""
    config_file = read_typed(config_file)
    if config_file is None:
        return []
    if isinstance(config_file, str) and not Path(config_file).is_file():
        inner = config_file.strip()
        if inner.startswith("[") and inner.endswith("]"):
            inner = inner[1:-1]
        config_file = [part.strip().strip("'\"") for part in inner.split(",")]
    files = config_file if isinstance(config_file, (list, tuple)) else [config_file]
    return [Path(file) for file in files if str(file)]


def configs_of(given: Mapping[str, Any]) -> Path | None:
    """Return the folder of the bundle's configs, or None if its metadata do not mention this package.

    Args:
        given: MONAI's options; ``config_file``, ``bundle_root`` and ``args_file`` identify the bundle.
    """
    given = {name: value for name, value in given.items() if value is not None}
    args_file = read_typed(given.get("args_file"))
    folders = []
    if args_file is not None and not {"config_file", "bundle_root"} <= set(given):
        try:
            defaults = args_file if isinstance(args_file, Mapping) else read_config_file(Path(str(args_file)))
        except InputError:
            # the file is read again, and errors are raised, once it is known that the bundle is one of this package
            defaults = {}
            folders = [Path(str(args_file)).parent, Path(str(args_file)).parent / "configs"]
        given = {**defaults, **given}
    root = given.get("bundle_root")
    folders = [file.parent for file in as_files(given.get("config_file"))] + folders
    if root is not None:
        # this error is raised later, when the options are checked
        with suppress(InputError):
            folders.append(Path(expanded("bundle_root", str(read_typed(root)))) / "configs")
    for folder in folders:
        metadata = folder / "metadata.json"
        if metadata.is_file() and "medi_monai" in metadata.read_text(encoding="utf-8", errors="replace"):
            return folder
    return None


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys, and reads ``1e-3`` as a number, as in YAML 1.2 and JSON."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        _check_once([self.construct_object(key, deep=True) for key, _ in node.value])
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _check_once(names: list[Any]) -> None:
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise ValueError(f"duplicate key {twice!r}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once([name for name, _ in pairs])
    return dict(pairs)


def _check_size(content: Any) -> None:
    """Raise a ``ValueError`` for YAML aliases that contain themselves, or that expand to too many values for memory."""
    sizes: dict[int, int] = {}

    def size(value: Any, above: tuple[int, ...]) -> int:
        if not isinstance(value, (Mapping, list)):
            return 1
        if id(value) in above:
            raise ValueError("an alias refers to a value that contains it")
        if id(value) not in sizes:
            items = value.values() if isinstance(value, Mapping) else value
            sizes[id(value)] = 1 + sum(size(item, (*above, id(value))) for item in items)
        return sizes[id(value)]

    if size(content, ()) > MOST_VALUES:
        raise ValueError(f"its aliases expand to {size(content, ()):,} values; a config has at most {MOST_VALUES:,}")


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the content of a JSON or YAML config file.

    Raises:
        InputError: for a file that is missing, of another type, not UTF-8, empty, not a mapping, or invalid.
    """
    check_path_length(str(path))
    check_regular(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder and not a config file: name the file in it")
    if not path.is_file():
        raise InputError(f"there is no config file {path} (current folder: {Path.cwd()})")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path} is not a config file: its name has to end with {', '.join(SUFFIXES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    try:
        # duplicate keys are an error here, while MONAI only warns about them
        if path.suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=_unique) if text.strip() else None
        else:
            content = yaml.load(text, _Loader)
        _check_size(content)
    except json.JSONDecodeError as error:
        hint = ", or a comma before a closing bracket" if "Expecting property name" in error.msg else ""
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: invalid JSON: {error.msg}{hint}"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        why = getattr(error, "problem", None) or " ".join(str(error).split())
        tab = "; indent with spaces, not with tabs" if "\\t" in why else ""
        raise InputError(f"{path}{where}: invalid YAML: {why}{tab}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None
    if content is None:
        raise InputError(f"{path} is empty: it has to contain ids and values, such as `max_steps: 200`")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} is not a mapping: it has to contain ids and values, such as `max_steps: 200`")
    return content


def is_syntax(value: Any, ids: Container[str], own: bool) -> bool:
    """Return whether a string is MONAI syntax rather than text.

    Args:
        value: value of a setting.
        ids: ids of the config.
        own: whether the value is from a config of the bundle, which may contain any expression; in values given by the
            user, only ``$None``, an id (``@label``), and an expression that begins with one (``$@bundle_root +
            '/models'``) are syntax.
    """
    if not isinstance(value, str) or value[:1] not in ("$", "@", "%"):
        return False
    if own:
        return True
    if value == "$None":
        return True
    reference = re.match(r"\$?@(\w+)", value)
    return reference is not None and reference.group(1) in ids and (value[0] == "$" or value == reference.group(0))


def kept(name: str, value: Any, how: Verbatim, ids: Container[str], own: bool) -> Any:
    """Protect the text in a value, so that MONAI's parser passes it on unchanged.

    Text with characters that the parser would rewrite or evaluate becomes an expression with the same text.

    Args:
        name: id of the setting.
        value: checked value.
        how: marker that says how to treat the text of this setting (path, component or other text).
        ids: ids of the config.
        own: whether the value is from a config of the bundle rather than from the user.

    Raises:
        InputError: see :func:`expanded`, for paths.
    """
    if isinstance(value, Mapping) and how.component and TARGET in value:
        return {key: kept(name, item, Verbatim(component=True), ids, own=True) for key, item in value.items()}
    if isinstance(value, str) and not is_syntax(value, ids, own) and how.path:
        value = expanded(name, value)
    if ((how.path or how.component) and not isinstance(value, str)) or _any(
        value, lambda text: is_syntax(text, ids, own)
    ):
        if isinstance(value, Mapping):
            return {key: kept(name, item, how, ids, own) for key, item in value.items()}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return [kept(name, item, how, ids, own) for item in value]
        return value
    if not _any(value, lambda text: any(character in text for character in SPECIAL), keys=True):
        return value
    literal = ascii(value)
    for character in SPECIAL:
        literal = literal.replace(character, f"\\x{ord(character):02x}")
    return "$" + literal


def expanded(name: str, value: str) -> str:
    """Expand ``~`` or an environment variable at the start of a path, as a shell does.

    Args:
        name: id of the setting, for error messages.
        value: path.

    Raises:
        InputError: if the variable is not set, no variable follows a leading ``$``, or there is no home folder.
    """
    if value == "~" or value.startswith(("~/", "~\\")):
        home = os.path.expanduser("~")
        if home == "~":
            raise InputError(f"{name} = {value!r}: this user has no home folder; set $HOME, or write the whole path")
        return home + value[1:]
    if not value.startswith("$"):
        return value
    variable = VARIABLE.match(value)
    if not variable:
        raise InputError(
            f"{name} = {value!r}: $ at the start of a path has to be followed by an environment variable, as in "
            "$HOME/data; "
            "if the name of the folder begins with $, write ./ before it"
        )
    known = os.environ.get(variable.group(1) or variable.group(2))
    if known is None:
        raise InputError(f"{name} = {value!r}: the environment variable {variable.group(0)} is not set")
    return known + value[variable.end() :]


def _any(value: Any, test: Any, keys: bool = False) -> bool:
    if isinstance(value, Mapping):
        return any(
            _any(item, test, keys) or (keys and isinstance(key, str) and test(key)) for key, item in value.items()
        )
    if isinstance(value, (list, tuple)):
        return any(_any(item, test, keys) for item in value)
    return isinstance(value, str) and test(value)

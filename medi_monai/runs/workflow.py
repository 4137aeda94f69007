"""How a run of one of our bundles begins: options and overlays are checked, and settings get their declarations.

:mod:`medi_monai.bundle_hook` calls :func:`begin` in place of the constructor of MONAI's ``ConfigWorkflow``.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import logging
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from monai.bundle.config_parser import ConfigParser
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS, merge_kv
from pydantic_core import PydanticUndefined

from medi_monai.runs.config_files import as_files, is_syntax, kept, read_config_file
from medi_monai.runs.settings import GROUPS
from medi_monai.utils.errors import InputError, report_user_errors, unknown_value
from medi_monai.utils.run_dir import is_command_line
from medi_monai.utils.settings import Settings, check_setting, config_default, verbatim

__all__ = ["begin", "check_export", "declared", "read_configs", "run_ids"]

SETTINGS = "settings"
LOGGERS = ("monai.bundle.workflows", "monai.bundle.scripts", "monai.bundle.config_parser")


def begin(workflow: Any, plain: Callable[..., None], config_file: Any, options: dict[str, Any]) -> bool:
    """Construct the workflow, where the bundle is one of ours.

    Args:
        workflow: a ``ConfigWorkflow`` that is being constructed.
        plain: its own constructor.
        config_file: as it was given.
        options: of the constructor, and ids with values that replace those of the configs.

    Returns:
        Whether the bundle is one of ours; if not, nothing was done.

    Raises:
        InputError: for configs, options or values that cannot be.
    """
    files = as_files(config_file)
    folder = _configs_of(files, options.get("bundle_root"))
    if folder is None:
        return False
    _speak_plainly()
    if not files:
        runs = "; ".join(f"{run} is in {folder / name}" for run, name in run_ids(folder).items())
        raise InputError(f"no config file is given: add --config_file. {runs}")
    own = {name: options.pop(name) for name in _parameters(plain) if name in options}
    tracking = own.pop("tracking", None)
    config = read_configs(files, folder, _as_typed(options))
    _check_run_id(own.get("run_id") or "run", config, folder, files)
    settings = _tracking(tracking)
    plain(workflow, str(next((file for file in files if _is_own(file, folder)), files[0])), **own)
    meta = workflow.parser.get(ConfigParser.meta_key)
    workflow.parser.set({ConfigParser.meta_key: meta, **config})
    if settings is not None:
        workflow.patch_bundle_tracking(parser=workflow.parser, settings=settings)
    return True


def check_export(options: Mapping[str, Any]) -> None:
    """Refuse an export of one of our bundles that has no checkpoint or no config.

    Args:
        options: of ``monai.bundle.ckpt_export`` and its like.

    Raises:
        InputError: naming the file that is missing.
    """
    root, files = options.get("bundle_root"), as_files(options.get("config_file"))
    folder = _configs_of(files, root)
    if folder is None:
        return
    _speak_plainly()
    if not files:
        raise InputError(f"no config file is given: add --config_file {folder / 'inference.json'}")
    for file in files:
        read_config_file(file)
    checkpoint = Path(str(options.get("ckpt_file") or folder.parent / "models" / "model.pt"))
    if not checkpoint.is_file():
        raise InputError(f"there is no checkpoint {checkpoint}: run `training` first, or give --ckpt_file")


def _speak_plainly() -> None:
    if is_command_line(sys.argv):
        report_user_errors()
        # a terminal of ASCII shows a note about Köln as K\xf6ln, and goes on
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def read_configs(files: Iterable[Path], folder: Path, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Config files and options as one config, checked, with the groups of settings that it names.

    Args:
        files: later ones replace what earlier ones hold.
        folder: the configs of the bundle; other files are overlays of the user.
        options: ids with values.

    Raises:
        InputError: for an id that no config knows, or a value that its declaration does not allow.
    """
    parser, given = ConfigParser(config={}), []
    for file in files:
        content = read_config_file(file)
        given += [(name, value, _is_own(file, folder), str(file)) for name, value in content.items()]
    ids = {_top(name) for name, _, is_own, _ in given if is_own}
    # what an overlay brings of its own, and uses
    used = set(re.findall(r"@(\w+)", json.dumps([value for _, value, _, _ in given], default=str)))
    brought = {_top(name) for name, _, _, _ in given} & used
    groups = declared(next((value for name, value, _, _ in reversed(given) if name == SETTINGS), []))
    fields = {name: kind for group in groups.values() for name, kind in group.items()}
    known = {*ids, *fields}
    everywhere = {*known, *brought, "imports", *(name for group in GROUPS.values() for name in group.model_fields)}
    of_user = set()
    for name, value, is_own, where in given:
        if not is_own and _top(name) not in everywhere and not name.startswith("_"):
            raise unknown_value(f"id in {where}:", name, sorted(known), "An overlay contains ids of the configs.")
        _merge(parser, name, value)
        of_user |= set() if is_own else {_top(name)}
    for name, value in (options or {}).items():
        if _top(name) not in known | brought:
            options_known = [f"--{known_name}" for known_name in sorted(known)]
            raise unknown_value("option", f"--{name}", options_known, "Options are the ids in the config files.")
        _merge(parser, name, value)
        of_user.add(_top(name))
    config = parser.get()
    for name, kind in fields.items():
        default = config_default(kind.model_fields[name])
        if name in config:
            config[name] = _checked(name, config[name], kind, known, name not in of_user)
        elif default is not PydanticUndefined:
            config[name] = _checked(name, default, kind, known, True)
    config[SETTINGS] = {
        name: _component(group) for name, group in groups.items() if next(iter(group.values())).at_start
    }
    return config


def declared(names: Any) -> dict[str, dict[str, type[Settings]]]:
    """The declarations behind what a config has under ``settings``.

    Args:
        names: names of groups; ``"training: max_steps amp"`` takes two settings of one.

    Returns:
        Group to setting to the class that declares it.
    """
    groups: dict[str, dict[str, type[Settings]]] = {}
    for entry in names:
        name, _, chosen = entry.partition(":")
        if name not in GROUPS:
            raise unknown_value("group of settings", name, GROUPS)
        fields = chosen.split() or list(GROUPS[name].model_fields)
        groups[name] = dict.fromkeys(fields, GROUPS[name])
    return groups


def run_ids(folder: Path) -> dict[str, str]:
    """The runs of a bundle, each with its config file."""
    runs: dict[str, str] = {}
    for file in sorted(folder.glob("*.json")):
        run = json.loads(file.read_text(encoding="utf-8")).get("run")
        if isinstance(run, str) and run.startswith("%"):
            runs.setdefault(run[1:], file.name)
    return runs


def _component(group: Mapping[str, type[Settings]]) -> dict[str, Any]:
    values: dict[str, Any] = {name: f"@{name}" for name in group}
    kind = next(iter(group.values()))
    if set(group) == set(kind.model_fields):
        values["_target_"] = f"{kind.__module__}.{kind.__qualname__}"
    return values


def _checked(name: str, value: Any, kind: type[Settings], ids: set[str], is_own: bool) -> Any:
    how = verbatim(kind.model_fields[name])
    if is_syntax(value, ids, is_own or how is None):
        return value
    value = check_setting(kind, name, value)
    return kept(name, value, how, ids, is_own) if how else value


def _merge(parser: ConfigParser, name: str, value: Any) -> None:
    try:
        merge_kv(parser, name, value)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"{name!r} of a config refers to something that does not exist: {error}") from None


def _top(name: str) -> str:
    return name.lstrip("+").replace("::", "#").split("#")[0]


def _configs_of(files: list[Path], bundle_root: Any) -> Path | None:
    """The folder of configs where the bundle is one of ours: its metadata asks for this package."""
    folders = [file.parent for file in files] + ([Path(str(bundle_root)) / "configs"] if bundle_root else [])
    for folder in folders:
        metadata = folder / "metadata.json"
        if metadata.is_file() and "medi_monai" in metadata.read_text(encoding="utf-8", errors="replace"):
            return folder
    return None


def _is_own(file: Path, folder: Path) -> bool:
    return file.resolve().parent == folder.resolve()


def _parameters(plain: Callable[..., None]) -> list[str]:
    code = plain.__code__
    return [name for name in code.co_varnames[: code.co_argcount] if name not in ("self", "config_file")]


def _as_typed(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the command line as they were typed, where Fire would read ``run #2`` as ``run``."""
    if not is_command_line(sys.argv):
        return options
    typed, arguments = {}, sys.argv[1:]
    for place, argument in enumerate(arguments):
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            typed[name] = value if equals else (arguments[place + 1] if place + 1 < len(arguments) else "")
    return {name: _reconciled(value, typed.get(name)) for name, value in options.items()}


def _reconciled(value: Any, typed: str | None) -> Any:
    if not isinstance(value, str) or typed is None or typed == value:
        return value
    try:
        # quoted, as "'2024'"
        return value if ast.literal_eval(typed) == value else typed
    except (ValueError, SyntaxError):
        return typed


def _check_run_id(run_id: str, config: Mapping[str, Any], folder: Path, files: list[Path]) -> None:
    main = config.get("run")
    here = main[1:] if isinstance(main, str) and main.startswith("%") else None
    if run_id in ("run", here):
        return
    runs = run_ids(folder)
    if run_id in runs:
        raise InputError(
            f"the run {run_id!r} is in {folder / runs[run_id]}, but {files[0]} has the run {here!r}: give the other "
            "config file"
        )
    raise unknown_value("run id", run_id, runs, f"{files[0]} has the run {here!r}.")


def _tracking(tracking: Any) -> Any:
    if tracking is None:
        return None
    if isinstance(tracking, str) and tracking in DEFAULT_EXP_MGMT_SETTINGS:
        if importlib.util.find_spec(tracking) is None:
            raise InputError(
                f'--tracking {tracking} needs the package {tracking}: pip install "medi_monai[{tracking}]"'
            )
        return DEFAULT_EXP_MGMT_SETTINGS[tracking]
    if isinstance(tracking, dict):
        return tracking
    return read_config_file(Path(str(tracking)))

"""Start a run of one of this package's bundles: check options and overlays, and insert the declared settings.

:mod:`medi_monai.bundle_hook` calls :func:`begin` in place of the constructor of MONAI's ``ConfigWorkflow``.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from monai.bundle.config_parser import ConfigParser

from medi_monai.report.version import code_version
from medi_monai.runs.configs.checks import check_references
from medi_monai.runs.configs.files import as_files, configs_of, expanded, read_config_file
from medi_monai.runs.configs.merging import (
    ABOUT,
    FROM_TRAINING,
    SETTINGS,
    ConfigEntry,
    check_ids,
    check_values,
    entries_of,
    merged,
    top_level,
)
from medi_monai.runs.configs.read_only import own_root, redirected
from medi_monai.runs.configs.replaced import replaced_values
from medi_monai.runs.configs.tracking import check_tracking, track
from medi_monai.runs.configs.typed import read_typed
from medi_monai.runs.settings import GROUPS, BundleSettings
from medi_monai.utils.console import keep_console, stop_like_ctrl_c
from medi_monai.utils.errors import InputError, report_user_errors, unknown_value
from medi_monai.utils.files import check_path_length, check_regular
from medi_monai.utils.run_dir import is_command_line
from medi_monai.utils.settings import Settings
from medi_monai.utils.sizes import check_addresses

__all__ = ["begin", "checked_options", "declared", "read_configs", "run_ids"]

#: parameters of MONAI's functions that create a workflow, which are not ids of configs
_PARAMETERS = {
    "args_file", "config_file", "final_id", "init_id", "logging_file", "meta_file", "properties_path", "run_id",
    "tracking", "workflow_name", "workflow_type",
}  # fmt: skip
LOGGERS = ("monai.bundle.workflows", "monai.bundle.scripts", "monai.bundle.config_parser")


def begin(workflow: Any, plain: Callable[..., None], options: dict[str, Any]) -> None:
    """Construct the workflow of one of this package's bundles.

    Args:
        workflow: instance of ``ConfigWorkflow`` that is being constructed.
        plain: MONAI's constructor.
        options: arguments of the constructor, and ids with values that replace those of the configs.

    Raises:
        InputError: for invalid configs, options or values.
    """
    folder = configs_of(options)
    assert folder is not None
    _speak_plainly()
    check_addresses()
    own = {name: read_typed(options.pop(name)) for name in _parameters(plain) if name in options}
    for name in {"logging_file", "properties_path"} & set(own):
        if isinstance(own[name], (str, os.PathLike)):
            check_path_length(os.fspath(own[name]))
            check_regular(own[name])
    files = as_files(own.pop("config_file", None))
    if not files:
        runs = "; ".join(f"{run} is in {folder / name}" for run, name in run_ids(folder).items())
        raise InputError(f"no config file is given: add --config_file. {runs}")
    tracking = own.pop("tracking", None)
    config, replaced = _read(files, folder, options)
    if "bundle_root" not in options and config["bundle_root"] == "." and not Path("configs", "metadata.json").is_file():
        # started from another folder: the bundle is that of the configs
        config["bundle_root"] = str(folder.parent)
    # MONAI's `__setattr__` needs `properties`, which do not exist yet
    vars(workflow)["replaced"] = replaced
    root = Path(ConfigParser({"bundle_root": config["bundle_root"]}).get_parsed_content("bundle_root"))
    _check_same_bundle(root, folder)
    _check_run_id(own.get("run_id") or "run", config, folder, files)
    _check_other_ids(own, config)
    _check_metadata(own.get("meta_file"))
    run_id = own.get("run_id") or _run_of(config) or "run"
    settings = check_tracking(tracking, config, run_id)
    users_root = own_root(root, root.resolve().name)
    if users_root is not None:
        print(f"the bundle in {root.resolve()} cannot be written: models and output are in {users_root}", flush=True)
        config = redirected(config, root, users_root, _run_of(config))
    with _as_input_error():
        plain(workflow, str(next((file for file in files if _is_own(file, folder)), files[0])), **own)
        meta = workflow.parser.get(ConfigParser.meta_key)
        workflow.parser.set({ConfigParser.meta_key: meta, **config})
        workflow.parser.resolve_macro_and_relative_ids()
    track(workflow, settings, run_id, root.resolve().name, code_version())


def checked_options(entry: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the options of ``monai.bundle.run`` and similar functions with those of ``args_file``.

    Args:
        entry: function of MONAI that takes a config file.
        options: options by name; a parameter of the function that is not given is None.

    Raises:
        InputError: for an unreadable ``args_file``; for exports, also for an invalid config, option or checkpoint.
    """
    _speak_plainly()
    parameters = {*_PARAMETERS, *inspect.signature(entry).parameters}
    args_file = read_typed(options.get("args_file"))
    defaults = args_file if isinstance(args_file, Mapping) or args_file is None else read_config_file(Path(args_file))
    given = {**(defaults or {}), **{name: value for name, value in options.items() if name != "args_file"}}
    for name in parameters & set(given):
        # a parameter that is None gets the value in the file, or its default
        value = given.pop(name) if options.get(name) is not None else (given.pop(name), (defaults or {}).get(name))[1]
        if read_typed(value) is not None:
            given[name] = read_typed(value)
    return _checked_export(given, parameters) if "net_id" in parameters else given


def _checked_export(given: dict[str, Any], parameters: Container[str]) -> dict[str, Any]:
    folder, files = configs_of(given), as_files(given.get("config_file"))
    assert folder is not None
    if not files:
        raise InputError(f"no config file is given: add --config_file {folder / 'inference.json'}")
    more = {name: value for name, value in given.items() if name not in parameters}
    more = {name: value for name, value in more.items() if top_level(name) != ConfigParser.meta_key}
    config = read_configs(files, folder, more)
    root = Path(expanded("bundle_root", str(read_typed(given["bundle_root"])))) if "bundle_root" in given else Path()
    paths = {"ckpt_file": "models/model.pt", "filepath": "models/model.ts", "meta_file": "configs/metadata.json"}
    paths = {name: str(given.get(name) or root / path) for name, path in paths.items()}
    if not Path(paths["ckpt_file"]).is_file():
        raise InputError(f"there is no checkpoint {paths['ckpt_file']}: run `training` first, or give --ckpt_file")
    # MONAI reads the files themselves, which do not have the ids of `from_training`
    taken = {name for file in files for name in read_config_file(file).get(FROM_TRAINING, ())}
    changed = {name: config[name] for name in (*taken, *map(top_level, more))}
    rest = {name: read_typed(value) for name, value in given.items() if name not in more}
    return {**rest, **paths, "config_file": [str(file) for file in files], **changed}


def _speak_plainly() -> None:
    if is_command_line(sys.argv):
        report_user_errors()
        stop_like_ctrl_c()
        # MONAI warns that configs can run code, which is meant for third-party configs
        warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)
        # on an ASCII terminal, print Köln as K\xf6ln instead of failing
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        keep_console()
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def read_configs(files: Iterable[Path], folder: Path, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Merge and check config files and options, and add the declarations of the groups of settings.

    Args:
        files: config files; later ones override earlier ones.
        folder: folder of the bundle's configs; other files are overlays of the user.
        options: values by id, which override those of the files.

    Raises:
        InputError: for an unknown id, or a value that its declaration does not allow.
    """
    return _read(files, folder, options or {})[0]


def _read(files: Iterable[Path], folder: Path, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the merged config, and the components and expressions that the user replaced in it."""
    given = [entry for file in files for entry in entries_of(read_config_file(file), _is_own(file, folder), str(file))]
    given += [ConfigEntry(name, value, False, None) for name, value in options.items()]
    own = [item for item in given if item.is_own]
    listed_groups: list[str] = next((item.value for item in reversed(own) if item.name == SETTINGS), [])
    # overlays of the bundle may add groups
    groups = declared([*listed_groups, *(name for item in own if item.name == f"+{SETTINGS}" for name in item.value)])
    fields = {name: kind for group in groups.values() for name, kind in group.items()}
    fields.update(dict.fromkeys(BundleSettings.model_fields, BundleSettings))
    known = {top_level(item.name) for item in own} - {ABOUT, SETTINGS} | set(fields)
    check_ids(given, known)
    config = merged(given, fields, known)
    of_user = {top_level(item.name) for item in given if not item.is_own}
    check_values(config, fields, known, of_user)
    config[SETTINGS] = {
        name: _component(group, of_user) for name, group in groups.items() if next(iter(group.values())).at_start
    }
    check_references(config, of_user)
    return config, replaced_values(config, of_user, set(fields))


def declared(names: Any) -> dict[str, dict[str, type[Settings]]]:
    """Return the declarations of the groups that a config lists under ``settings``.

    Args:
        names: names of groups; ``"training: max_steps amp"`` selects two settings of a group.

    Returns:
        For each group and setting, the class that declares it.
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
    """Return the ids of a bundle's runs, each with the name of its config file."""
    runs: dict[str, str] = {}
    for file in sorted(folder.glob("*.json")):
        run = json.loads(file.read_text(encoding="utf-8")).get("run")
        if isinstance(run, str) and run.startswith("%"):
            runs.setdefault(run[1:], file.name)
    return runs


def _component(group: Mapping[str, type[Settings]], of_user: Iterable[str]) -> dict[str, Any]:
    values: dict[str, Any] = {name: f"@{name}" for name in group}
    kind = next(iter(group.values()))
    if set(group) == set(kind.model_fields):
        values["_target_"] = f"{kind.__module__}.{kind.__qualname__}"
        values["given"] = sorted(set(group).intersection(of_user))
    return values


def _is_own(file: Path, folder: Path) -> bool:
    return file.resolve().parent == folder.resolve() and file.suffix == ".json"


def _parameters(plain: Callable[..., None]) -> list[str]:
    code = plain.__code__
    return [name for name in code.co_varnames[: code.co_argcount] if name != "self"]


def _check_same_bundle(root: Path, folder: Path) -> None:
    metadata = root / "configs" / "metadata.json"
    if not metadata.is_file():
        return
    names = [read_config_file(file).get("name") for file in (metadata, folder / "metadata.json")]
    if names[0] != names[1]:
        raise InputError(
            f"bundle_root = {str(root)!r} is the bundle {names[0]!r}, and the config file is of {names[1]!r}"
        )


def _check_other_ids(own: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for name in ("init_id", "final_id"):
        if own.get(name) is not None and own[name] not in config:
            raise InputError(
                f"unknown {name} {own[name]!r}. If it is a value of another option: write options with their names, as "
                '--max_steps 3, and several config files as one list, --config_file "[a.json, b.yaml]"'
            )


def _check_metadata(meta_file: Any) -> None:
    for file in as_files(meta_file):
        if "version" not in read_config_file(file):
            raise InputError(f"{file} is not the metadata of a bundle: it has no `version`")


@contextmanager
def _as_input_error() -> Iterator[None]:
    """Convert errors that MONAI raises for its options (a logging file, a macro) to one-line input errors."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        said = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise InputError(" ".join(str(said).split())) from None


def _run_of(config: Mapping[str, Any]) -> str | None:
    main = config.get("run")
    return main[1:] if isinstance(main, str) and main.startswith("%") else None


def _check_run_id(run_id: str, config: Mapping[str, Any], folder: Path, files: list[Path]) -> None:
    here = _run_of(config)
    if run_id in ("run", here):
        return
    runs = run_ids(folder)
    if run_id in runs:
        raise InputError(
            f"the run {run_id!r} is in {folder / runs[run_id]}, but {files[0]} has the run {here!r}: give the other "
            "config file"
        )
    raise unknown_value("run id", run_id, runs, f"{files[0]} has the run {here!r}.")

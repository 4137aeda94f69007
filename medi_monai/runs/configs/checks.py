"""Check the consistency of a merged config: nested ids, arguments of components, expressions and references."""

from __future__ import annotations

import ast
import builtins
import inspect
from collections.abc import Collection, Iterator, Mapping
from pydoc import ErrorDuringImport, locate
from typing import Any

from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.config_parser import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from medi_monai.runs.configs.files import TARGET
from medi_monai.utils.errors import InputError, unknown_value

__all__ = [
    "check_components",
    "check_expressions",
    "check_kind",
    "check_path",
    "check_references",
    "imported_names",
    "split_id",
]


def split_id(name: str) -> list[str]:
    """Return the levels of an id such as ``train#trainer#max_steps``, without the leading ``+`` of ids to merge."""
    return ReferenceResolver.split_id(name.removeprefix("+"))


def check_path(label: str, name: str, parser: ConfigParser, free: bool, known: Collection[str]) -> None:
    """Refuse a nested id that does not exist.

    Args:
        label: description of the id, for error messages.
        name: id to check, whose first level exists.
        parser: parser with the config merged so far.
        free: whether the last level may be any name, because the declaration of the setting checks it.
        known: ids of the config.

    Raises:
        InputError: if a level does not exist; the message lists the known names.
    """
    levels = split_id(name)
    for depth in range(1, len(levels)):
        parent, level, is_last = parser["::".join(levels[:depth])], levels[depth], depth == len(levels) - 1
        children = list(parent) if isinstance(parent, Mapping) else []
        if isinstance(parent, list):
            children = [str(number) for number in range(len(parent))]
        # new arguments of a component are checked together with the component
        if level in children or (is_last and isinstance(parent, Mapping) and (free or TARGET in parent)):
            continue
        remedy = f"The setting is {levels[-1]!r}." if levels[-1] in known else ""
        raise unknown_value(f"{label} {name!r}: there is no", level, children, remedy)


def check_components(name: str, value: Any) -> None:
    """Refuse components given by the user whose class does not exist or does not take one of their arguments.

    Args:
        name: id of the value, for error messages.
        value: value given by the user; components nested in it are also checked.

    Raises:
        InputError: if the class cannot be found or imported, or an argument is unknown.
    """
    for path, component in _walk(name, value):
        if not isinstance(component, Mapping) or not isinstance(component.get(TARGET), str):
            continue
        if component[TARGET][:1] in ("$", "@", "%"):
            continue
        parameters = _parameters_of(path, component)
        for argument in component:
            if parameters and argument not in ConfigComponent.non_arg_keys and argument not in parameters:
                raise unknown_value(f"argument of {path}, a {component[TARGET]}:", argument, parameters)


def _parameters_of(path: str, component: Mapping[str, Any]) -> list[str]:
    """Return the names of a component's arguments; an empty list if it takes arguments of any name."""
    target = ConfigComponent(component, path, ComponentLocator()).resolve_module_name()
    try:
        function = locate(target)
    except ErrorDuringImport as error:
        raise InputError(f"{path}: {component[TARGET]!r} cannot be imported: {error.value}") from None
    if function is None:
        raise InputError(f"{path}: there is no {component[TARGET]!r}; give the full name of a class or function")
    names: list[str] = []
    # **kwargs of a constructor are passed to the parent class
    callees: list[Any] = (
        [vars(kind).get("__init__") for kind in function.__mro__] if inspect.isclass(function) else [function]
    )
    for callee in filter(None, callees):
        try:
            parameters = inspect.signature(callee).parameters
        except (TypeError, ValueError):
            return []
        kinds = {parameter.kind for parameter in parameters.values()}
        names += [name for name in parameters if name not in names]
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return [name for name in names if name not in ("self", "args", "kwargs")]
    return []


def check_kind(label: str, name: str, value: Any, own: Any) -> None:
    """Refuse a value given by the user that would replace a section or a list of the config by something else.

    Args:
        label: description of the id, for error messages.
        name: id of the value.
        value: value given by the user; expressions and references are accepted, as they may have any result.
        own: value of the config that it replaces.

    Raises:
        InputError: if the config has a section and the value is not one, or a list and the value is not one.
    """
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return
    for kind, called in ((Mapping, "a section with ids of its own"), (list, "a list")):
        if isinstance(own, kind) and not isinstance(value, kind) and value is not None:
            raise InputError(f"{label} {name} = {value!r}: the config has {called} here; set single ids, as {name}#…")


def imported_names(imports: Any) -> set[str]:
    """Return the names that the ``imports`` of a config define.

    Raises:
        InputError: if ``imports`` is not an import statement or a list of these; a statement may begin with ``$``.
    """
    statements = imports if isinstance(imports, list) else [imports]
    names: set[str] = set()
    for statement in statements:
        try:
            (node,) = ast.parse(statement.removeprefix("$")).body
        except (AttributeError, SyntaxError, ValueError):
            node = ast.Pass()
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            raise InputError(f"imports: {statement!r} is no import statement, such as '$import numpy as np'")
        names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return names


def check_expressions(name: str, value: Any, names: Collection[str], ids: Collection[str]) -> None:
    """Refuse expressions given by the user that are not valid Python, use unknown names, or refer to themselves.

    Args:
        name: id of the value.
        value: value given by the user; nested values are also checked.
        names: names that the imports of the config define.
        ids: ids of the config.

    Raises:
        InputError: for the first such expression.
    """
    for path, text in _walk(name, value):
        if not isinstance(text, str) or text[:1] not in ("$", "@", "%"):
            continue
        shown = f"{path.replace('::', '#')} = {text!r}"
        readable = ReferenceResolver.normalize_id(text.replace("%", "@", 1) if text[0] == "%" else text)
        references = ReferenceResolver.match_refs_pattern(readable)
        if path in references:
            raise InputError(f"{shown}: it refers to itself")
        if "" in references:
            raise InputError(f"{shown}: an id has to follow every @, as in '@seed' (for a product, numpy.matmul)")
        tops = {reference.split("::")[0] for reference in references}
        # with a dot, a macro may refer to another file
        if text[0] == "%" and "." not in text and not tops <= set(ids):
            raise unknown_value(f"reference in {path.replace('::', '#')}:", text, [f"%{top}" for top in ids])
        if text[0] != "$":
            continue
        for reference in sorted(references, key=len, reverse=True):
            readable = readable.replace(f"@{reference}", "None")
        try:
            tree = ast.parse(readable[1:].strip())
            if not tree.body:
                raise SyntaxError("nothing follows")
        except (SyntaxError, ValueError) as error:
            raise InputError(f"{shown}: it begins with $ but is no Python expression ({error})") from None
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        bound = {node.id for node in nodes if not isinstance(node.ctx, ast.Load)}
        bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        if isinstance(tree.body[0], (ast.Import, ast.ImportFrom)):
            continue
        for node in nodes:
            if node.id not in bound and node.id not in names and not hasattr(builtins, node.id):
                raise InputError(
                    f"{shown}: it begins with $, so it is a Python expression, and {node.id!r} is not defined in it"
                )


def check_references(config: Mapping[str, Any], of_user: Collection[str]) -> None:
    """Refuse references that are misspelled, or whose target the user has replaced.

    Args:
        config: merged config.
        of_user: ids given by the user.

    Raises:
        InputError: for the first such reference; the message names the id that contains it.
    """
    parser = ConfigParser({})
    parser.set(dict(config))
    for path, value in _walk("", config):
        for reference in ReferenceResolver.match_refs_pattern(value) if isinstance(value, str) else ():
            if reference.startswith("::") or not reference or reference in parser:
                continue
            top, shown = reference.split("::")[0], "@" + reference.replace("::", "#")
            if top in of_user and top in config:
                raise InputError(
                    f"{path.replace('::', '#')} refers to {shown}, which no longer exists: {top} was replaced as a "
                    f"whole. Set only the value, as {top}#…, or merge with +{top}"
                )
            raise unknown_value(f"reference in {path.replace('::', '#')}:", shown, [f"@{name}" for name in config])


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    yield path, value
    if isinstance(value, (Mapping, list)):
        for _, below, item in ReferenceResolver.iter_subconfigs(path, value):
            yield from _walk(below, item)

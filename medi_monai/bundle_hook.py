"""Check a bundle's configs before MONAI reads them, with the usual command ``python -m monai.bundle run …``.

MONAI parses configs and rewrites text in them before any code named in a config can run, so errors in them would end in
a traceback, and ``#N/A`` would become ``::N/A``. MONAI has no hook for such checks, so ``ConfigWorkflow`` and the
functions that take a config file are extended for the bundles of this package. PyTorch calls :func:`install` when it is
imported, through the entry point ``torch.backends`` of this package; this module imports only the standard library.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["install"]

PACKAGE = "monai.bundle"
WORKFLOWS, SCRIPTS = "monai.bundle.workflows", "monai.bundle.scripts"
#: packages whose native code reports missing libraries on standard error if the machine has no CUDA
LOUD = ("cucim.clara", "nvidia.nvimgcodec")
#: functions that take a config file; ``create_workflow`` is for Python only
ENTRIES = ("run", "run_workflow", "create_workflow", "ckpt_export", "onnx_export", "trt_export")


#: whether `monai.bundle.load` is being executed
_loading: ContextVar[bool] = ContextVar("loading", default=False)


def install() -> None:
    """Extend ``monai.bundle`` as soon as it is imported, or now if it already is."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    calls: dict[str, Callable[[ModuleType], None]] = {
        WORKFLOWS: _extend,
        SCRIPTS: _extend_entries,
        **dict.fromkeys(LOUD, _nothing),
    }
    for name in set(calls) & set(sys.modules):
        calls.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _Finder(calls))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules as usual, and calls a given function after a particular module has been executed."""

    def __init__(self, calls: dict[str, Callable[[ModuleType], None]]) -> None:
        self._calls = calls

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        call = self._calls.pop(name, None)
        spec = importlib.util.find_spec(name) if call else None
        if spec is None or spec.loader is None or call is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with _quiet(name in LOUD):
                execute(module)
            call(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _nothing(module: ModuleType) -> None:
    pass


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Silence native code on standard error if ``wanted``; nvImageCodec reports libraries that no slide needs."""
    if not wanted:
        yield
        return
    sys.stderr.flush()
    stderr_copy = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)


def _extend(module: ModuleType) -> None:
    workflow = module.ConfigWorkflow
    plain = workflow.__init__
    signature = inspect.signature(plain)

    @functools.wraps(plain)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        arguments = _named(signature, (self, *args), options)
        arguments.pop("self")
        if _is_ours(arguments):
            from medi_monai.runs.workflow import begin

            begin(self, plain, _of_trained(arguments) if _loading.get() else arguments)
        else:
            plain(self, *args, **options)

    workflow.__init__ = __init__
    for name in ("initialize", "run", "finalize"):
        setattr(workflow, name, _with_plain_errors(getattr(workflow, name)))


def _extend_entries(module: ModuleType) -> None:
    package = sys.modules[PACKAGE]
    extended = {name: _checked_before(getattr(module, name)) for name in ENTRIES}
    for name, function in {**extended, "load": _with_mark(module.load)}.items():
        setattr(module, name, function)
        if hasattr(package, name):
            # `monai.bundle` was imported before and has copied the function
            setattr(package, name, function)


def _with_mark(load: Callable) -> Callable:
    @functools.wraps(load)
    def call(*args: Any, **options: Any) -> Any:
        token = _loading.set(True)
        try:
            return load(*args, **options)
        finally:
            _loading.reset(token)

    return call


def _of_trained(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a workflow with ``inference.json`` in place of ``train.json``.

    `monai.bundle.load` takes the network from the latter by default, which builds it for a cohort that it prepares
    first; the former builds it for the weights that are loaded.
    """
    file = Path(arguments["config_file"])
    if file.name != "train.json":
        return arguments
    return {**arguments, "config_file": str(file.with_name("inference.json")), "workflow_type": "inference"}


def _checked_before(entry: Callable) -> Callable:
    from medi_monai.runs.configs.typed import Typed, as_fire_reads

    signature = inspect.signature(entry)

    @functools.wraps(entry)
    def call(*args: Any, **options: Any) -> Any:
        arguments = _named(signature, args, options)
        if not _is_ours(arguments):
            return entry(*map(as_fire_reads, args), **{name: as_fire_reads(value) for name, value in options.items()})
        from medi_monai.runs.workflow import checked_options

        # pass the options as one mapping, which reaches MONAI's parser unchanged; of separate arguments, None would be
        # dropped and `+` would replace instead of merge
        return entry(args_file=checked_options(entry, arguments))

    if "monai.bundle" in sys.orig_argv:
        from fire.decorators import SetParseFn

        SetParseFn(Typed)(call)
    return call


def _named(signature: inspect.Signature, args: tuple, options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments by name, whether they were given by position or by keyword."""
    arguments = signature.bind_partial(*args, **options).arguments
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments.update(arguments.pop(name, {}))
    return arguments


def _is_ours(arguments: dict[str, Any]) -> bool:
    from medi_monai.runs.configs.files import configs_of

    return configs_of(arguments) is not None


def _with_plain_errors(method: Callable) -> Callable:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except Exception as error:
            from medi_monai.runs.configs.replaced import error_of_replaced
            from medi_monai.utils.errors import user_error_in

            # workflows of other bundles have no attribute `replaced`
            meant = user_error_in(error) or error_of_replaced(error, vars(self).get("replaced", {}))
            if meant is None:
                raise
        raise meant.with_traceback(None) from None

    return call

"""Lets this package read a bundle's configs before MONAI does: ``python -m monai.bundle run …`` stays as it is.

MONAI parses the configs, and rewrites the text in them, before anything that a config names can run: what is wrong in
them would end in a traceback, and ``#N/A`` would become ``::N/A``. It has no place to register a check, so
``ConfigWorkflow`` is extended where the bundle is one of ours. PyTorch calls :func:`install` when it is imported, by
the entry point ``torch.backends`` of this package; it imports nothing but the standard library.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ["install"]

WORKFLOWS, SCRIPTS = "monai.bundle.workflows", "monai.bundle.scripts"
#: their native code prints on standard error what it lacks on a machine without CUDA
LOUD = ("cucim.clara", "nvidia.nvimgcodec")
EXPORTS = ("ckpt_export", "onnx_export", "trt_export")


def install() -> None:
    """Extend ``monai.bundle`` once it is imported, and say nothing in its name on the command line."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(
            0, _Finder({WORKFLOWS: _extend, SCRIPTS: _extend_exports, **dict.fromkeys(LOUD, _nothing)})
        )
    if "monai.bundle" in sys.orig_argv:
        # "this config can run code" is for configs of strangers
        warnings.filterwarnings("ignore", message="parsing config_file", category=UserWarning)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules as usual, and has a call ready for when one of them has been executed."""

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
    """Without what native code prints on standard error: nvImageCodec, of libraries that no slide needs."""
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

    @functools.wraps(plain)
    def __init__(self: Any, config_file: Any = None, *args: Any, **options: Any) -> None:
        from medi_monai.runs.workflow import begin

        if args or not begin(self, plain, config_file, options):
            plain(self, config_file, *args, **options)

    workflow.__init__ = __init__
    for name in ("initialize", "run", "finalize"):
        setattr(workflow, name, _with_plain_errors(getattr(workflow, name)))


def _extend_exports(module: ModuleType) -> None:
    for name in EXPORTS:
        setattr(module, name, _checked_before(getattr(module, name)))


def _checked_before(export: Callable) -> Callable:
    @functools.wraps(export)
    def call(*args: Any, **options: Any) -> Any:
        from medi_monai.runs.workflow import check_export

        # Fire hands options over by position
        arguments = inspect.signature(export).bind_partial(*args, **options).arguments
        check_export({**arguments, **arguments.get("override", {})})
        return export(*args, **options)

    return call


def _with_plain_errors(method: Callable) -> Callable:
    @functools.wraps(method)
    def call(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except Exception as error:
            from medi_monai.utils.errors import user_error_in

            meant = user_error_in(error)
            if meant is None:
                raise
        raise meant.with_traceback(None) from None

    return call

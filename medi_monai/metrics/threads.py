"""Threads of BLAS, which wait for each other longer than small matrices take."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["threads_for"]

#: dimensions up to which one thread is faster than several
SMALL = 256


def threads_for(dim: int) -> AbstractContextManager[Any]:
    """Within it, BLAS takes one thread for matrices of up to 256 dimensions, and all for larger ones."""
    return _controller().limit(limits=1, user_api="blas") if dim <= SMALL else nullcontext()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()

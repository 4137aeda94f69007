"""Number of BLAS threads, whose synchronization takes longer than the computation for small matrices."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["threads_for"]

#: number of dimensions up to which one thread is faster than several
SMALL = 256


def threads_for(dim: int) -> AbstractContextManager[Any]:
    """Return a context in which BLAS uses one thread for matrices of up to 256 dimensions, and all for larger ones."""
    return _controller().limit(limits=1, user_api="blas") if dim <= SMALL else nullcontext()


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()

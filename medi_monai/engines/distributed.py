"""Training by several processes of ``torchrun``: who this process is, and a network that shares its gradient."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medi_monai.cohort import (
    Shard,
)
from medi_monai.utils.errors import InputError, RunStopped

__all__ = [
    "LONGEST_WAIT",
    "is_main_process",
    "join_processes",
    "leave_processes",
    "local_device",
    "main_process_first",
    "refuse_processes",
    "shared_gradient",
    "started_together",
]

#: the first process validates and draws samples while the others wait
LONGEST_WAIT = timedelta(hours=2)


def local_device() -> torch.device:
    """The GPU of this process by ``LOCAL_RANK``, or the CPU where there is none.

    Raises:
        InputError: for more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if place >= torch.cuda.device_count():
        raise InputError(
            f"process {place} of this machine has no GPU: there are {torch.cuda.device_count()}. Start at most as many "
            "with torchrun --nproc_per_node"
        )
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def refuse_processes(run: str) -> None:
    """Stop a run that is for one process alone where ``torchrun`` started several.

    Args:
        run: the run id.

    Raises:
        InputError: for more than one process.
    """
    if _num_processes() > 1:
        raise InputError(
            f"{run} runs in one process, and torchrun started {_num_processes()}: each would do all of it, into the "
            "same folders. Give the same command without torchrun"
        )


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> tuple[int, int]:
    """Meet the processes that ``torchrun`` started, once; returns ``(rank, world size)``, ``(0, 1)`` without it."""
    if _num_processes() > 1 and not torch.distributed.is_initialized():
        idist.initialize("nccl" if torch.cuda.is_available() else "gloo", timeout=LONGEST_WAIT)
    return idist.get_rank(), idist.get_world_size()


def is_main_process() -> bool:
    """Whether this process writes what the run leaves."""
    return idist.get_rank() == 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the first process go through a block before the others, which then find what it made."""
    rank, _ = join_processes()
    if rank > 0:
        idist.barrier()
    yield
    if rank == 0:
        idist.barrier()


def shared_gradient(network: nn.Module) -> nn.Module:
    """The network, wrapped so that its gradient is the mean over all processes; itself where there is one process."""
    rank, world_size = join_processes()
    if world_size == 1:
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)


def leave_processes() -> None:
    """Part from the other processes at the end of a run."""
    if torch.distributed.is_initialized():
        idist.finalize()


#: a rank may cut slides for longer than the half hour after which a barrier gives up
LONGEST_WAIT = timedelta(days=30)


@contextmanager
def started_together() -> Iterator[Shard]:
    """The shard of this process of those that ``torchrun`` started; the whole where it did not."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Shard()
        return
    idist.initialize("gloo", timeout=LONGEST_WAIT)
    try:
        yield Shard(idist.get_rank(), idist.get_world_size(), _wait_for_all)
    finally:
        idist.finalize()


def _wait_for_all() -> None:
    try:
        idist.barrier()
    except RuntimeError as error:
        raise RunStopped("another process of this run has ended; its own message says why") from error

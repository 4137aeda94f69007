"""Sessions of the processes that ``torchrun`` started: the share of each, and a network that shares its gradient."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medi_monai.cohort import Shard
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
    "torchrun_session",
]

#: a process may cut slides, or validate and draw samples, for days while the others wait; one that fails ends them all,
#: by torchrun and by its closed connection, so that none waits for a process that has died
LONGEST_WAIT = timedelta(days=30)


def local_device() -> torch.device:
    """The GPU of this process by ``LOCAL_RANK``, or the CPU where there is none.

    Raises:
        InputError: for more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    if rank >= torch.cuda.device_count():
        raise InputError(
            f"process {rank} of this machine has no GPU: there are {torch.cuda.device_count()}. Start at most as many "
            "with torchrun --nproc_per_node"
        )
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def refuse_processes(run: str) -> None:
    """Stop a run that is for one process alone where ``torchrun`` started several.

    Args:
        run: the run id.

    Raises:
        InputError: for more than one process.
    """
    if _num_processes() > 1:
        raise InputError(
            f"{run} runs in one process, and torchrun started {_num_processes()}: each would repeat the whole "
            "run in the same folders. Start it without torchrun"
        )


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> Shard:
    """Join the session of the processes that ``torchrun`` started, once; the whole work where it did not.

    For a run that shares gradients and ends with :func:`leave_processes`.
    """
    return _join("nccl" if torch.cuda.is_available() else "gloo")


def leave_processes() -> None:
    """Leave the session at the end of a run."""
    if torch.distributed.is_initialized():
        idist.finalize()


@contextmanager
def torchrun_session() -> Iterator[Shard]:
    """The share of this process of the work that all of a session do; of one that was joined before, or of its own."""
    joined = torch.distributed.is_initialized()
    # more processes than GPUs may share such work, and none of it needs more than to wait for each other
    shard = _join("gloo")
    try:
        yield shard
    finally:
        if not joined:
            leave_processes()


def _join(backend: str) -> Shard:
    if _num_processes() == 1:
        return Shard()
    if not torch.distributed.is_initialized():
        idist.initialize(backend, timeout=LONGEST_WAIT)
    return Shard(idist.get_rank(), idist.get_world_size(), _wait_for_all)


def _wait_for_all() -> None:
    try:
        idist.barrier()
    except RuntimeError as error:
        raise RunStopped("another process of this run has stopped; see its own message") from error


def is_main_process() -> bool:
    """Whether this process writes the results of the run."""
    return idist.get_rank() == 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """Let the first process go through a block before the others, which then find what it made."""
    shard = join_processes()
    if not shard.is_main:
        shard.wait()
    yield
    if shard.is_main:
        shard.wait()


def shared_gradient(network: nn.Module) -> nn.Module:
    """The network, wrapped so that its gradient is the mean over all processes; itself where there is one process."""
    if join_processes().world_size == 1:
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)

"""Processes started by ``torchrun``: the share of work of each, and averaging of gradients."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from medi_monai.cohort import Shard
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.run_dir import undivided

__all__ = [
    "LONGEST_WAIT",
    "is_main_process",
    "join_processes",
    "leave_processes",
    "local_device",
    "explain_lost_connections",
    "main_process_first",
    "require_joined_processes",
    "refuse_processes",
    "shared_gradient",
    "torchrun_session",
    "watch_processes",
]

#: a process may cut slides, validate or sample for days while the others wait; if one fails, torchrun and the closed
#: connection end the others, so none waits for a dead process
LONGEST_WAIT = timedelta(days=30)
#: in seconds, between two signs of life of processes that do not exchange anything else
BEAT = 5.0
#: after which a process that gives none counts as dead
LONGEST_SILENCE = timedelta(seconds=50)
ENDED, FAILED = "ended", "failed"
ANOTHER_STOPPED = "another process of this run has stopped; see its own message"


def local_device() -> torch.device:
    """The GPU of this process according to ``LOCAL_RANK``, or the CPU if there is none.

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
    """Refuse several processes of ``torchrun`` for a run that works in a single process.

    Args:
        run: the run id.

    Raises:
        InputError: for more than one process.
    """
    if _num_processes() > 1:
        raise undivided(run, _num_processes())


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> Shard:
    """Join the process group of ``torchrun``; returns the share of this process, or of a single process without it.

    For runs that share gradients and end with :func:`leave_processes`.
    """
    return _join("nccl" if torch.cuda.is_available() else "gloo")


def leave_processes() -> None:
    """Leave the process group at the end of a run."""
    if torch.distributed.is_initialized():
        idist.finalize()


def require_joined_processes() -> None:
    """Refuse a training of several processes of ``torchrun`` that have not joined to share gradients.

    Raises:
        InputError: with the config that joins them.
    """
    if _num_processes() > 1 and idist.get_world_size() == 1:
        raise InputError(
            f"torchrun started {_num_processes()} processes, and each would train a model of its own in the same "
            "folders: add multi_gpu_train.json behind train.json in --config_file, or start it without torchrun"
        )


@contextmanager
def torchrun_session() -> Iterator[Shard]:
    """The share of this process in work that is divided, in a group that was joined before or is joined here."""
    joined = torch.distributed.is_initialized()
    # there may be more processes than GPUs here, because processes only wait for each other
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
    with explain_lost_connections():
        idist.barrier()


@contextmanager
def explain_lost_connections() -> Iterator[None]:
    """Say in one line that another process of ``torchrun`` has died, where the connection to it is lost.

    Raises:
        RunStopped: in place of the error of the connection.
    """
    try:
        yield
    except RuntimeError as error:
        is_lost = any(sign in str(error) for sign in ("gloo", "Connection", "NCCL"))
        if isinstance(error, RunStopped) or _num_processes() == 1 or not is_lost:
            raise
        raise RunStopped(ANOTHER_STOPPED) from error


@contextmanager
def watch_processes(shard: Shard) -> Iterator[None]:
    """Do divided work in which processes of ``torchrun`` do not exchange anything, and end it where one of them dies.

    Each sends a beat to the others every few seconds. Where one has died, or does not answer for a minute, each of the
    others prints one line and ends at once, as if it was killed. The block ends when it has in every process.

    Args:
        shard: share of this process, from :func:`torchrun_session`.

    Raises:
        RunStopped: if another process has raised an error.
    """
    if shard.world_size == 1:
        yield
        return
    group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_SILENCE)
    beats = _Beats(group, shard.world_size)
    beats.start()
    try:
        yield
        beats.outcome = ENDED
    finally:
        beats.outcome = beats.outcome or FAILED
        beats.ending.set()
        beats.join()
    if beats.others_failed:
        raise RunStopped(ANOTHER_STOPPED)


class _Beats(threading.Thread):
    """Sums the outcomes of all processes again and again: (how many have ended, how many have failed)."""

    def __init__(self, group: torch.distributed.ProcessGroup, world_size: int) -> None:
        super().__init__(daemon=True)
        self.group, self.world_size = group, world_size
        self.ending, self.outcome, self.others_failed = threading.Event(), "", False

    def run(self) -> None:
        while True:
            self.ending.wait(BEAT)
            own = [self.outcome == ENDED, self.outcome == FAILED]
            try:
                sums = torch.tensor(own, dtype=torch.int64)
                torch.distributed.all_reduce(sums, group=self.group)
            except RuntimeError:
                if own[1]:
                    return
                _end_now()
            if sums[1]:
                if not any(own):
                    _end_now()
                self.others_failed = not own[1]
                return
            if sums[0] == self.world_size:
                return


def _end_now() -> None:
    with suppress(OSError, ValueError):
        print(f"medi_monai: error: {ANOTHER_STOPPED}", file=sys.stderr, flush=True)
    os._exit(1)


def is_main_process() -> bool:
    """Whether this process writes the results of the run."""
    return idist.get_rank() == 0


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run a block in the first process before the others, which can then use what it created."""
    shard = join_processes()
    if not shard.is_main:
        shard.wait()
    yield
    if shard.is_main:
        shard.wait()


def shared_gradient(network: nn.Module) -> nn.Module:
    """Wrap a network to average its gradient over all processes; returns it unchanged for a single process."""
    if join_processes().world_size == 1:
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)

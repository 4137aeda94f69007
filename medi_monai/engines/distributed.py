"""Processes started by ``torchrun``: each one's share of the work, and averaging of gradients."""

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
    "explain_lost_connections",
    "is_main_process",
    "join_processes",
    "leave_processes",
    "local_device",
    "main_process_first",
    "refuse_processes",
    "require_joined_processes",
    "shared_gradient",
    "torchrun_session",
    "watch_processes",
]

#: how long a process waits for another, which may cut slides, validate or sample for days; if one fails, torchrun and
#: the closed connection end the others, so none waits for a dead process
LONGEST_WAIT = timedelta(days=30)
#: seconds between two heartbeats of processes that exchange nothing else
BEAT = 5.0
#: time without a heartbeat after which a process counts as dead
LONGEST_SILENCE = timedelta(seconds=50)
ENDED, FAILED = "ended", "failed"
ANOTHER_STOPPED = "another process of this run has stopped; see its own message"


def local_device() -> torch.device:
    """Return the GPU of this process according to ``LOCAL_RANK``, or the CPU if there is no GPU.

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
        run: id of the run.

    Raises:
        InputError: for more than one process.
    """
    if _num_processes() > 1:
        raise undivided(run, _num_processes())


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def join_processes() -> Shard:
    """Join the process group of ``torchrun``, if there is one, and return this process's share of the work.

    This is for runs that share gradients; they end with :func:`leave_processes`.
    """
    return _join("nccl" if torch.cuda.is_available() else "gloo")


def leave_processes() -> None:
    """Leave the process group at the end of a run."""
    if torch.distributed.is_initialized():
        idist.finalize()


def require_joined_processes() -> None:
    """Refuse training by several processes of ``torchrun`` that have not joined to share gradients.

    Raises:
        InputError: if they have not; the message names the config that joins them.
    """
    if _num_processes() > 1 and idist.get_world_size() == 1:
        raise InputError(
            f"torchrun started {_num_processes()} processes, and each would train a model of its own in the same "
            "folders: add multi_gpu_train.json behind train.json in --config_file, or start it without torchrun"
        )


@contextmanager
def torchrun_session() -> Iterator[Shard]:
    """Yield this process's share of divided work.

    The process group of ``torchrun`` is joined and left here, unless it was joined before.
    """
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
    """Replace the error of a lost connection by one line: that another process of ``torchrun`` has stopped.

    Raises:
        RunStopped: if the connection to another process is lost.
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
    """Run divided work in which the processes of ``torchrun`` exchange nothing, and end all if one of them dies.

    Every few seconds, the processes exchange a heartbeat. If one has died, has failed, or does not answer for about a
    minute, each process that is still working prints one line and exits immediately. The block ends only when it has
    ended in all processes.

    Args:
        shard: share of this process, from :func:`torchrun_session`.

    Raises:
        RunStopped: if another process has failed after this one finished its work.
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
    """Thread that repeatedly sums the outcomes of all processes: (number that ended, number that failed)."""

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
    """Return whether this process is the first, which writes the results of the run."""
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
    """Wrap a network so that its gradient is averaged over all processes; return it unchanged for a single process."""
    if join_processes().world_size == 1:
        return network
    device = next(network.parameters()).device
    return DistributedDataParallel(network, device_ids=[device.index] if device.type == "cuda" else None)

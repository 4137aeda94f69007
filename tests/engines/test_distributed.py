"""Two processes as torchrun starts them: they are spawned once, and take all tests of one after another."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medi_monai.engines.distributed import explain_lost_connections
from medi_monai.utils.errors import RunStopped

ROOT = Path(__file__).parents[2]
WORLD, STEPS, STOP = 2, 6, 3
TINY = {
    "max_steps": STEPS,
    "warmup_steps": 2,
    "batch_size": 4,
    "channels": [8],
    "attention_levels": [False],
    "num_res_blocks": 1,
    "num_head_channels": 8,
    "norm_num_groups": 4,
    "image_size": 16,
    "val_interval": 50,
    "checkpoint_every": 50,
    "sample_every": 50,
    "num_validation": 4,
    "log_every": 1,
    "patch_cache": "memory",
    "amp": False,
    # the processes part at the end of all tests
    "finalize": ["$@writer.close() if @writer else None"],
}


def train(root, name, cohort, rank, stop=None, **more):
    """The bundle's own training by its command, in this process."""
    import monai.bundle
    from ignite.engine import Events

    from medi_monai.engines.trainer import DiffusionTrainer
    from medi_monai.utils.errors import RunStopped, user_error_in

    built, prepare = [], DiffusionTrainer.__init__

    def remember(self, **kwargs):
        prepare(self, **kwargs)
        built.append(self)
        # one process alone is asked to stop
        if stop is not None and rank == 1:
            self.add_event_handler(Events.ITERATION_STARTED(once=stop), lambda _: signal.raise_signal(signal.SIGTERM))

    DiffusionTrainer.__init__ = remember
    files = [str(root / "bundle" / "configs" / each) for each in ("train.json", "multi_gpu_train.json")]
    try:
        monai.bundle.run("training", config_file=files, bundle_root=str(root / "bundle"), cohort_dir=cohort,
                         ckpt_dir=str(root / name), output_dir=str(root / name / "out"), **TINY, **more)  # fmt: skip
        error = None
    except RuntimeError as wrapped:
        error = user_error_in(wrapped)
        if not isinstance(error, RunStopped):
            raise
    finally:
        DiffusionTrainer.__init__ = prepare
    network = built[0].network
    # without the wrapper of the network
    state = {key.removeprefix("module."): value.clone() for key, value in network.state_dict().items()}
    return {"state": state, "step": built[0].state.iteration, "error": str(error), "wrapper": type(network).__name__}


def mean_gradient(rank):
    from medi_monai.engines.distributed import join_processes, shared_gradient

    shard = join_processes()
    assert (shard.rank, shard.world_size) == (rank, WORLD)
    torch.manual_seed(rank)
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    shared = shared_gradient(network)
    begun = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(rank))
    shared(inputs).square().mean().backward()
    return {"begun": begun, "inputs": inputs, "gradient": {n: p.grad.clone() for n, p in network.named_parameters()}}


def first_then_others(rank, root):
    from medi_monai.engines.distributed import main_process_first

    file = root / "made"
    with main_process_first():
        was_there = file.is_file()
        if rank == 0:
            file.write_text("by the first")
    return was_there


def draw_pictures(folder):
    folder.mkdir()
    for number in range(40):
        Image.fromarray(np.full((16, 16), 5 * number, np.uint8)).save(folder / f"{number}.png")
    rows = "".join(f"{number}.png,P{number},slice {number}\n" for number in range(40))
    (folder / "t.csv").write_text("image,patient,caption\n" + rows)


def prepared_together(root):
    """Both begin without a cohort at the same moment; whether its files are still those that this process got."""
    import ignite.distributed as idist

    from medi_monai.cohort import load_or_prepare
    from medi_monai.cohort.captions import CaptionPreparation, CaptionTable, SquareFit

    def files():
        names = ("cohort.csv", "quality.parquet", "rejected.csv")
        return [(root / "captions" / name).stat().st_ino for name in names]

    source = CaptionTable(root / "pictures", "t.csv", columns={"caption": "caption", "patient": "patient"})
    idist.barrier()
    cohort = load_or_prepare(CaptionPreparation(source, SquareFit(16)), root / "captions", num_workers=1)
    before = files()
    idist.barrier()
    return {"digest": cohort.digest, "rows": len(cohort), "kept": files() == before}


def process(rank, root, cohort, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD), MASTER_ADDR="127.0.0.1",
                      MASTER_PORT=str(port), OMP_NUM_THREADS="1", MEDI_CACHE=str(root / "cache"))  # fmt: skip
    torch.set_num_threads(1)
    root = Path(root)
    try:
        from medi_monai.engines.distributed import is_main_process, leave_processes

        outcome = {
            "gradient": mean_gradient(rank),
            "main": is_main_process(),
            "file_was_there": first_then_others(rank, root),
        }
        outcome["prepared"] = prepared_together(root)
        for name, options in (("whole", {}), ("parts", {"stop": STOP}), ("parts", {"resume": True})):
            outcome[name, bool(options.get("resume"))] = train(root, name, cohort, rank, **options)
        leave_processes()
    except BaseException:
        outcome = {"failed": traceback.format_exc()}
    torch.save(outcome, root / f"outcome_{rank}.pt")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, tiny_cohort):
    root = tmp_path_factory.mktemp("processes")
    ignored = shutil.ignore_patterns("models", "output")
    draw_pictures(root / "pictures")
    shutil.copytree(ROOT / "bundles" / "pathology_medi_diffusion", root / "bundle", ignore=ignored)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(process, (root, str(tiny_cohort.root), port), WORLD)
    results = [torch.load(root / f"outcome_{rank}.pt", weights_only=False) for rank in range(WORLD)]
    for outcome in results:
        assert "failed" not in outcome, outcome["failed"]
    return root, results


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_gradient_is_the_mean_over_the_processes(outcomes):
    _, (first, second) = outcomes
    assert same(first["gradient"]["begun"], second["gradient"]["begun"])
    assert same(first["gradient"]["gradient"], second["gradient"]["gradient"])
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    network.load_state_dict(first["gradient"]["begun"])
    inputs = torch.cat([outcome["gradient"]["inputs"] for outcome in (first, second)])
    network(inputs).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert torch.allclose(first["gradient"]["gradient"][name], parameter.grad, atol=1e-6), name


def test_the_first_process_goes_first(outcomes):
    _, (first, second) = outcomes
    assert (first["file_was_there"], second["file_was_there"]) == (False, True) and (first["main"], second["main"]) == (
        True,
        False,
    )


def test_a_cohort_that_both_lack_is_prepared_by_one(outcomes):
    _, (first, second) = outcomes
    assert first["prepared"] == second["prepared"] == {"digest": first["prepared"]["digest"], "rows": 40, "kept": True}


def test_both_processes_end_with_the_same_weights(outcomes):
    root, (first, second) = outcomes
    first_run, second_run = first["whole", False], second["whole", False]
    assert first_run["wrapper"] == "DistributedDataParallel" and first_run["step"] == second_run["step"] == STEPS
    assert same(first_run["state"], second_run["state"])
    begun = torch.load(root / "whole" / "model.pt", weights_only=True)
    assert begun.keys() == first_run["state"].keys()


def test_the_first_process_alone_writes(outcomes):
    root, _ = outcomes
    names = sorted(path.name for path in (root / "whole").iterdir() if path.name[0] != ".")
    assert names == [f"checkpoint_{STEPS:08d}.pt", "checkpoints.json", "model.json", "model.pt", "out", "schema.json"]
    events = list((root / "whole" / "out").glob("events.out.tfevents.*"))
    assert len(events) == 1 and len(list((root / "whole" / "out" / "samples").iterdir())) == 1
    summary = json.loads((root / "whole" / "out" / "summary.json").read_text())
    assert summary["made"]["steps"] == STEPS
    assert not list(root.rglob("earlier-*"))


def test_the_speed_counts_the_images_of_all_processes(outcomes):
    root, _ = outcomes
    events = EventAccumulator(str(root / "whole" / "out")).Reload().Scalars("train/images_per_second")
    assert [event.step for event in events] == list(range(1, STEPS + 1))
    # the time between two events is that of the images of a step at the speed of the second
    seconds_per_image = sum(1 / event.value for event in events[1:])
    assert (events[-1].wall_time - events[0].wall_time) / seconds_per_image == pytest.approx(
        WORLD * TINY["batch_size"], rel=0.1
    )


def test_an_interrupt_of_one_stops_both_and_they_go_on_to_the_same_weights(outcomes):
    root, results = outcomes
    for outcome in results:
        stopped, resumed = outcome["parts", False], outcome["parts", True]
        assert stopped["step"] == STOP and f"after step {STOP} of {STEPS}" in stopped["error"]
        assert resumed["step"] == STEPS and same(resumed["state"], outcome["whole", False]["state"])
        assert not same(stopped["state"], resumed["state"])
    models = [torch.load(root / name / "model.pt", weights_only=True) for name in ("whole", "parts")]
    assert same(*models)


def test_alone_nothing_is_shared(monkeypatch):
    from medi_monai.engines.distributed import is_main_process, join_processes, main_process_first, shared_gradient

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    network = torch.nn.Linear(2, 2)
    assert join_processes().world_size == 1 and is_main_process() and shared_gradient(network) is network
    with main_process_first():
        assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("processes", [None, "1", "2"])
def test_a_run_for_one_process_refuses_several(monkeypatch, processes):
    from medi_monai.engines.distributed import refuse_processes
    from medi_monai.utils.errors import InputError

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("WORLD_SIZE", processes)
    if processes != "2":
        return refuse_processes("aligning")
    with pytest.raises(InputError, match="aligning runs in one process, and torchrun started 2: .* without torchrun"):
        refuse_processes("aligning")


def test_processes_that_share_no_gradients_are_not_trained(monkeypatch):
    from medi_monai.engines.distributed import require_joined_processes
    from medi_monai.utils.errors import InputError

    monkeypatch.setenv("WORLD_SIZE", "1")
    require_joined_processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="torchrun started 2 processes, .*: add multi_gpu_train.json"):
        require_joined_processes()


@pytest.mark.parametrize("run", ["auditing", "classifying", "aligning", "resampling", "experiment"])
def test_a_run_that_is_not_divided_refuses_several_processes_before_anything_is_written(monkeypatch, tmp_path, run):
    from medi_monai.utils.errors import InputError
    from medi_monai.utils.run_dir import begin_run

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=f"{run} runs in one process, and torchrun started 2: .* without torchrun"):
        begin_run(tmp_path / "out", run=run)
    assert not list(tmp_path.iterdir())
    begin_run(tmp_path / "out", run="preparing")


DYING = """
import os, signal, time
from medi_monai.engines.distributed import join_processes
from medi_monai.utils.errors import report_user_errors

report_user_errors()
shard = join_processes()
shard.wait()
if not shard.is_main:
    os.kill(os.getpid(), signal.SIGKILL)
shard.wait()
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_process_that_is_killed_ends_its_group_within_a_minute(tmp_path):
    (tmp_path / "dying.py").write_text(DYING)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "dying.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    done = subprocess.run(launch, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and time.monotonic() - start < 60
    said = [line for line in done.stderr.splitlines() if line.startswith("medi_monai: error:")]
    # torchrun may end it before it sees that the connection is lost
    assert said in (["medi_monai: error: another process of this run has stopped; see its own message"], [])
    assert "SIGKILL" in done.stderr


WATCHED = """
import os, signal, sys, time
from medi_monai.engines.distributed import torchrun_session, watch_processes
from medi_monai.utils.errors import InputError, report_user_errors

report_user_errors()
with torchrun_session() as shard, watch_processes(shard):
    print(time.time(), flush=True)
    if sys.argv[1] == "together":
        time.sleep(3 * shard.rank)
    elif not shard.is_main and sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif not shard.is_main:
        raise InputError("a mistake")
    else:
        time.sleep(600)
print("done")
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("how", ["killed", "failed", "together"])
def test_work_without_exchange_ends_in_all_processes_where_it_ends_in_one(tmp_path, how):
    """Without torchrun, which would end the others itself: as between machines."""
    (tmp_path / "watched.py").write_text(WATCHED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **address}
    processes = [
        subprocess.Popen(
            [sys.executable, "watched.py", how], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    printed = [processes[0].communicate(timeout=250)]
    end = time.time()
    printed.append(processes[1].communicate(timeout=60))
    begun = float(printed[1][0].split()[0])
    assert end - begun < 60
    # PyTorch puts the rank in front
    said = [re.findall(r"^(?:\[rank\d\]: )?(medi_monai.*)$", errors, re.MULTILINE) for _, errors in printed]
    other = ["medi_monai: error: another process of this run has stopped; see its own message"]
    if how == "together":
        assert [process.returncode for process in processes] == [0, 0] and said == [[], []]
    else:
        assert processes[0].returncode == 1 and said[0] == other and "done" not in printed[0][0]
        assert said[1] == ([] if how == "killed" else ["medi_monai: error: a mistake"])


def test_more_processes_than_gpus(monkeypatch):
    from medi_monai.engines.distributed import local_device
    from medi_monai.utils.errors import InputError

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert local_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="process 1 of this machine has no GPU: there are 1"):
        local_device()


def test_a_lost_connection_to_another_process_is_one_line_and_other_errors_stay(monkeypatch):

    for count, message, kind in (
        ("2", "gloo: Connection reset", RunStopped),
        ("1", "gloo", RuntimeError),
        ("2", "x", RuntimeError),
    ):
        monkeypatch.setenv("WORLD_SIZE", count)
        with pytest.raises(kind) as caught, explain_lost_connections():
            raise RuntimeError(message)
        assert type(caught.value) is kind

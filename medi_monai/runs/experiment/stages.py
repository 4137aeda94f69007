"""Stages of an experiment: each is a run of the bundle in a separate process, and is run only once."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medi_monai.cohort.demo import DemoCohort
from medi_monai.engines.handlers import saved_checkpoints
from medi_monai.runs.experiment.process import interrupt, start_bundle
from medi_monai.runs.experiment.resolved import ResolvedStage
from medi_monai.runs.workflow import read_configs
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import json_digest, read_json, write_json
from medi_monai.utils.records import check_unchanged
from medi_monai.utils.records.fingerprints import fingerprints
from medi_monai.utils.text import plural

__all__ = ["StageRun"]


class StageRun:
    """A stage of an experiment with its options, its process, and the record of whether it is done.

    Args:
        bundle: folder of the bundle.
        output: folder of the experiment.
        stage: stage to run.

    Attributes:
        log: file of its output; None if it prints to the terminal.
        ended: whether :meth:`end` was called.
    """

    def __init__(self, bundle: Path, output: Path, stage: ResolvedStage) -> None:
        self.stage = stage
        self.log: Path | None = None
        self.ended = False
        self._bundle, self._output = bundle, output
        self._record = output / "stages" / f"{stage.file_name}.json"
        self._known: dict[str, Any] = read_json(self._record) if self._record.is_file() else {}
        check_unchanged(self._record)
        self._source: str | None = None

    @property
    def seconds(self) -> float | None:
        """Run time so far in seconds; None if the stage never ran."""
        return self._known.get("seconds")

    @property
    def sentinel(self) -> int:
        """Handle of the process to wait for; it becomes ready once the process has ended."""
        return self._process.sentinel

    def is_alive(self) -> bool:
        """Return whether the process is still running."""
        return self._process.is_alive()

    @property
    def recorded(self) -> bool:
        """Whether the result exists and was made with the same options and preceding stages."""
        return Path(self.stage.result).is_file() and self._known.get("digest") == self.stage.digest

    def done(self) -> bool:
        """Return :attr:`recorded`, after checking that the images from which a cohort was prepared are the same.

        Raises:
            InputError: if the cohort is prepared, but its table or images have changed since.
        """
        done = self.recorded
        if self.stage.run_id == "preparing":
            self._source = _source(self.stage, self._known)
            if done and self._known.get("source") not in (None, self._source):
                root = self.stage.settings["dataset_dir"]
                raise InputError(
                    f"the table or the images in {root} have changed since {self._output} was created; choose another "
                    "--output_dir"
                )
        return done

    def start(self, threads: int | None = None, to_log: bool = False, idle: bool = False) -> None:
        """Start the process; call :meth:`done` first.

        Args:
            threads: number of threads; None for the default.
            to_log: whether to write the output to a file, :attr:`log`.
            idle: whether it gets a processor only while no other process needs it.
        """
        overlay = self._record.with_suffix(".options.json")
        resumed = {"resume": True} if self.stage.run_id in ("training", "aligning") and self._can_resume() else {}
        write_json(overlay, {**self.stage.settings, **resumed})
        configs = [str(file) for file in (*self.stage.configs, overlay)]
        arguments = ["run", self.stage.run_id, "--bundle_root", str(self._bundle), "--config_file", str(configs)]
        # the time of an interrupted run with the same options is added to that of this one
        resumes = self._known.get("begun") == self.stage.digest and not self._known.get("digest")
        self._spent: float = (self.seconds or 0.0) if resumes else 0.0
        self._known = {"digest": "", "begun": self.stage.digest, "source": self._source, "seconds": self._spent}
        write_json(self._record, self._known)
        if to_log:
            self.log = self._record.with_suffix(".log")
            self.log.write_text("")
        processes = self.stage.processes
        launcher = f"torchrun --nproc_per_node {processes}" if processes > 1 else "python -W ignore"
        command = f"{launcher} -m monai.bundle {_shown(arguments)}"
        self._say(f"\n{self.stage.name}\n$ {command if threads is None else f'OMP_NUM_THREADS={threads} {command}'}")
        self._process = start_bundle(arguments, threads, self.log, idle=idle, processes=processes)
        # measured from here, because the first run has to wait until MONAI is imported
        self._began = time.perf_counter()

    def interrupt(self) -> None:
        """Stop the process as Ctrl-C does."""
        interrupt(self._process)

    def end(self) -> None:
        """Wait for the process to end, and record its run time and whether the stage is done.

        Raises:
            RunStopped: if the stage failed.
        """
        self._process.join()
        code, self.ended = self._process.exitcode, True
        self._known["seconds"] = round(self._spent + time.perf_counter() - self._began, 1)
        if code == 0 and Path(self.stage.result).is_file():
            self._known["digest"] = self.stage.digest
        write_json(self._record, self._known)
        if not self._known["digest"]:
            raise RunStopped(f"the stage {self.stage.name!r} {_end_of(code)}; the same command resumes there")
        self._say(f"{self.stage.name}: took {self.seconds:.0f} s")

    def _say(self, text: str) -> None:
        if self.log is not None:
            with open(self.log, "a", encoding="utf-8") as file:
                print(text, file=file)
        else:
            print(text, flush=True)

    def _can_resume(self) -> bool:
        # only if the training was started with the same options and has saved a checkpoint
        begun = self._known.get("begun") == self.stage.digest
        return begun and bool(saved_checkpoints(Path(self.stage.result).parent))


def _end_of(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with {code}"
    killed = " (probably out of memory)" if -code == getattr(signal, "SIGKILL", None) else ""
    return f"was ended by {signal.Signals(-code).name}{killed}"


def _source(stage: ResolvedStage, known: Mapping[str, Any]) -> str | None:
    """Return a digest of the source's settings, table and images; None for the demo cohorts, which are generated."""
    root, files = stage.settings["dataset_dir"], [Path(file) for file in stage.configs]
    if DemoCohort.selected_by(root) is not None:
        return None
    if known.get("digest") and not Path(root).is_dir():
        print(f"preparing: {root} is not available, and assumed unchanged", flush=True)
        return known.get("source")
    parser = ConfigParser(read_configs(files, files[0].parent, stage.settings))
    preparation: Any = parser.get_parsed_content("preparation")
    with redirect_stdout(StringIO()):
        rows = preparation.source.rows()
    images = rows.loc[rows["problem"] == "", "image"]
    print(f"preparing: checking {plural(len(images), 'file')} in {root}", flush=True)
    contents = fingerprints([Path(root) / image for image in images])
    return json_digest({"source": preparation.source.settings(), "images": images.tolist(), "files": contents})


def _shown(arguments: Sequence[str]) -> str:
    return " ".join(f'"{argument}"' if " " in argument else argument for argument in arguments)

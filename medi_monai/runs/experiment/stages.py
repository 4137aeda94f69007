"""Stages of an experiment: each is a run of the bundle in a separate process, and is run only once."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from medi_monai.cohort.demo import DemoCohort
from medi_monai.engines.handlers import saved_checkpoints
from medi_monai.runs.configs.files import read_config_file
from medi_monai.runs.experiment.process import interrupt, start_bundle
from medi_monai.runs.workflow import read_configs
from medi_monai.utils.errors import InputError, RunStopped
from medi_monai.utils.files import json_digest, read_json, write_json
from medi_monai.utils.records import check_unchanged
from medi_monai.utils.records.fingerprints import fingerprints
from medi_monai.utils.text import plural

__all__ = ["Stage", "StageRun"]


@dataclass(frozen=True)
class Stage:
    """One run of the bundle.

    Attributes:
        name: name of the stage.
        run_id: id of the run, such as ``training``.
        configs: names of its config files.
        result: last file that it writes.
        options: options of this stage only.
        needs: names of the stages whose results it reads.
        kind: kind of stage for ``stage_options``; by default the run id.
        idle_until: names of the stages that do what this stage would do, unless it is already done; not empty for a
            stage that only uses idle time.
    """

    name: str
    run_id: str
    configs: Sequence[str]
    result: Path
    options: Mapping[str, Any]
    needs: Sequence[str] = ()
    kind: str = ""
    idle_until: Sequence[str] = ()


class StageRun:
    """A stage of an experiment with its options, its process, and the record of whether it is done.

    Args:
        bundle: folder of the bundle.
        output: folder of the experiment.
        stage: stage to run.
        options: options by id; the stage gets those that are ids of its config.
        stage_options: options by kind of stage.
        before: digests of the stages that it needs.

    Attributes:
        digest: digest of everything that the stage depends on.
        log: file of its output; None if it prints to the terminal.
        ended: whether :meth:`end` was called.
    """

    def __init__(
        self,
        bundle: Path,
        output: Path,
        stage: Stage,
        options: Mapping[str, Any],
        stage_options: Mapping[str, Mapping[str, Any]],
        before: Sequence[str] = (),
    ) -> None:
        self.stage = stage
        self.log: Path | None = None
        self.ended = False
        self._bundle, self._output = bundle, output
        self._files = [bundle / "configs" / name for name in stage.configs]
        known = read_configs(self._files, bundle / "configs")
        # options do not override settings in the overlay of an arm
        fixed = {name for file in self._files[1:] for name in read_config_file(file)}
        given = {name: value for name, value in options.items() if name in known and name not in fixed}
        own = {name: str(value) if isinstance(value, Path) else value for name, value in stage.options.items()}
        self._settings = {**given, **stage_options.get(stage.kind or stage.run_id, {}), **own}
        # the digest does not depend on where the folder of the experiment is
        self.digest = json_digest({"settings": _seen_from(output, self._settings), "before": list(before)})
        self._record = output / "stages" / f"{stage.name.replace(' ', '_')}.json"
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

    def done(self) -> bool:
        """Return whether the result exists and was made with the same options and preceding stages.

        Raises:
            InputError: if the cohort is prepared, but its table or images have changed since.
        """
        done = self.stage.result.is_file() and self._known.get("digest") == self.digest
        if self.stage.run_id == "preparing":
            self._source = _source(self._files, self._settings, self._known)
            if done and self._known.get("source") not in (None, self._source):
                raise InputError(
                    f"the table or the images in {self._settings['dataset_dir']} have changed since {self._output} was "
                    "created; choose another --output_dir"
                )
        return done

    def start(self, threads: int | None = None, to_log: bool = False) -> None:
        """Start the process; call :meth:`done` first.

        Args:
            threads: number of threads; None for the default.
            to_log: whether to write the output to a file, :attr:`log`.
        """
        overlay = self._record.with_suffix(".options.json")
        resumed = {"resume": True} if self.stage.run_id in ("training", "aligning") and self._can_resume() else {}
        write_json(overlay, {**self._settings, **resumed})
        configs = [str(file) for file in (*self._files, overlay)]
        arguments = ["run", self.stage.run_id, "--bundle_root", str(self._bundle), "--config_file", str(configs)]
        # the time of an interrupted run with the same options is added to that of this one
        resumes = self._known.get("begun") == self.digest and not self._known.get("digest")
        self._spent: float = (self.seconds or 0.0) if resumes else 0.0
        self._known = {"digest": "", "begun": self.digest, "source": self._source, "seconds": self._spent}
        write_json(self._record, self._known)
        if to_log:
            self.log = self._record.with_suffix(".log")
            self.log.write_text("")
        command = f"python -W ignore -m monai.bundle {_shown(arguments)}"
        self._say(f"\n{self.stage.name}\n$ {command if threads is None else f'OMP_NUM_THREADS={threads} {command}'}")
        self._process = start_bundle(arguments, threads, self.log, idle=bool(self.stage.idle_until))
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
        if code == 0 and self.stage.result.is_file():
            self._known["digest"] = self.digest
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
        begun = self._known.get("begun") == self.digest
        return begun and bool(saved_checkpoints(self.stage.result.parent))


def _seen_from(output: Path, value: Any) -> Any:
    """Return settings in which paths inside the folder of the experiment are made relative to it."""
    if isinstance(value, Mapping):
        return {name: _seen_from(output, option) for name, option in value.items()}
    if isinstance(value, (list, tuple)):
        return [_seen_from(output, item) for item in value]
    inside = isinstance(value, str) and Path(value).is_relative_to(output)
    return f"output:{Path(value).relative_to(output)}" if inside else value


def _end_of(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with {code}"
    killed = " (probably out of memory)" if -code == getattr(signal, "SIGKILL", None) else ""
    return f"was ended by {signal.Signals(-code).name}{killed}"


def _source(files: Sequence[Path], settings: Mapping[str, Any], known: Mapping[str, Any]) -> str | None:
    """Return a digest of the source's settings, table and images; None for the demo cohorts, which are generated."""
    root = settings["dataset_dir"]
    if DemoCohort.selected_by(root) is not None:
        return None
    if known.get("digest") and not Path(root).is_dir():
        print(f"preparing: {root} is not available, and assumed unchanged", flush=True)
        return known.get("source")
    parser = ConfigParser(read_configs(files, files[0].parent, settings))
    preparation: Any = parser.get_parsed_content("preparation")
    with redirect_stdout(StringIO()):
        rows = preparation.source.rows()
    images = rows.loc[rows["problem"] == "", "image"]
    print(f"preparing: checking {plural(len(images), 'file')} in {root}", flush=True)
    contents = fingerprints([Path(root) / image for image in images])
    return json_digest({"source": preparation.source.settings(), "images": images.tolist(), "files": contents})


def _shown(arguments: Sequence[str]) -> str:
    return " ".join(f'"{argument}"' if " " in argument else argument for argument in arguments)

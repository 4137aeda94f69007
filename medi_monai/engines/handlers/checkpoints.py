"""Atomic checkpoints, from which a run resumes identically to an uninterrupted run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, file_digest, json_digest, load_tensors, write_tensors
from medi_monai.utils.records import FileIndex
from medi_monai.utils.run_dir import set_aside

__all__ = ["CHECKPOINT_INDEX", "TrainingCheckpoint", "saved_checkpoints"]

#: index, in the checkpoints' folder, of the checkpoints written by a training, with their steps and digests
CHECKPOINT_INDEX = "checkpoints.json"
NAME = re.compile(r"checkpoint_(\d{8,})\.pt")


def saved_checkpoints(ckpt_dir: str | os.PathLike) -> list[Path]:
    """Return the checkpoints in a folder that were written by a training, oldest first.

    These are the checkpoints in the index or, without an index (earlier versions), files with the exact name of a
    checkpoint. Files with similar names, such as ``checkpoint_00000002_best.pt``, belong to the user.
    """
    index = FileIndex(ckpt_dir, CHECKPOINT_INDEX)
    named = _named_files(index.folder)
    if index.exists():
        entries = index.read()
        named = {step: path for step, path in named.items() if path.name in entries}
    return [path for _, path in sorted(named.items())]


def _named_files(folder: Path) -> dict[int, Path]:
    files = {}
    for path in folder.glob("checkpoint_*.pt"):
        match = NAME.fullmatch(path.name)
        if match and path.name == _name(int(match[1])) and path.is_file():
            files[int(match[1])] = path
    return files


def _name(step: int) -> str:
    return f"checkpoint_{step:08d}.pt"


class TrainingCheckpoint:
    """Saves the complete state of a training at regular intervals, and loads the newest intact checkpoint.

    Batches, noise and dropout depend only on ``(seed, step)``, so the complete state consists of weights, optimizer,
    learning rate, weight average and step. A checkpoint is added to the index before it gets its final name, and
    removed from it after it was deleted, so that a run that follows a killed one recognizes its files. Nothing else is
    deleted.

    Args:
        ckpt_dir: output folder for ``checkpoint_<step>.pt`` and ``checkpoints.json``.
        components: objects with ``state_dict`` and ``load_state_dict``, by name.
        settings: settings that must be the same for a run to resume (seed, batch size, schedule, …).
        every: number of steps between checkpoints; the last step is saved by the code that runs the engine.
        keep: number of newest checkpoints to keep.
    """

    def __init__(
        self,
        ckpt_dir: str | os.PathLike,
        components: Mapping[str, Any],
        settings: Mapping[str, Any],
        every: int = 500,
        keep: int = 2,
    ) -> None:
        if every < 1 or keep < 1:
            raise InputError(f"checkpoint_every = {every} and keep = {keep}: both must be 1 or more")
        self.ckpt_dir, self.components, self.every, self.keep = Path(ckpt_dir), dict(components), every, keep
        self.settings = dict(settings)
        self.index = FileIndex(ckpt_dir, CHECKPOINT_INDEX)
        #: names of checkpoints written or loaded by this object, which are therefore intact
        self._known_whole: set[str] = set()

    def attach(self, engine: Engine) -> None:
        """Save after every ``every``-th step of a trainer, only in the first of several processes."""
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.save)

    def paths(self) -> list[Path]:
        """Return the checkpoints in the folder that were written by a training, oldest first."""
        return saved_checkpoints(self.ckpt_dir)

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        return self.paths()[-1] if self.paths() else None

    def check_free(self, first_step: int, last_step: int | None) -> None:
        """Refuse a folder in which a foreign file has the name of a checkpoint that may be written.

        Args:
            first_step: first step of the training.
            last_step: last step of the training; None if it is unknown.

        Raises:
            InputError: for such a file; the message names it.
        """
        own = self.paths()
        known = set(own if self.index.exists() else [path for path in own if not self._read(path)[1]])
        for step, path in sorted(_named_files(self.ckpt_dir).items()):
            if path not in known and first_step <= step <= (step if last_step is None else last_step):
                raise InputError(
                    f"{path} is not listed as written by a training in this folder, but has the name of a "
                    "future checkpoint: move or rename it, or choose another ckpt_dir"
                )

    def set_aside(self, others: tuple[Path, ...] = ()) -> None:
        """Move the checkpoints and other files of an earlier training into ``earlier-<n>``."""
        # the index is moved last, so that a run after a killed one still recognizes the remaining files
        set_aside(self.ckpt_dir, [*self.paths(), *others, self.index.path])

    def save(self, engine: Engine) -> None:
        """Write a checkpoint of the current step, then delete those beyond ``keep``."""
        step = engine.state.iteration
        target = self.ckpt_dir / _name(step)
        if target.name not in self._known_whole or not target.is_file():
            content = {name: component.state_dict() for name, component in self.components.items()}
            # a foreign file that appeared since the start of the training is moved, not overwritten
            set_aside(self.ckpt_dir, [target])
            with atomic_path(target) as path:
                digest = write_tensors(path, {**content, "step": step, "settings": self.settings})
                self.index.add(target.name, path, digest, step)
            self._known_whole.add(target.name)
        self._delete_old()

    def _delete_old(self) -> None:
        for path in self.paths()[: -self.keep]:
            # a checkpoint that was replaced by another file is not deleted
            if self.index.is_unchanged(path.name):
                path.unlink()
        kept = {path.name for path in self.paths()[-self.keep :]}
        self.index.forget(self.index.read().keys() - kept)

    def resume(self, engine: Engine) -> int:
        """Load the newest intact checkpoint into the components and the engine, and print which ones were skipped.

        Damaged checkpoints that were written by a training in this folder are moved into ``earlier-<n>``.

        Returns:
            The step of the checkpoint; 0 if there is no checkpoint.

        Raises:
            InputError: if the checkpoint was written with other settings, or none is intact.
        """
        passed: dict[Path, str] = {}
        for path in reversed(self.paths()):
            content, problem = self._read(path)
            if not problem:
                self._check_settings(path, content["settings"])
                self._adopt(path, passed)
                self._load(path, content)
                engine.state.iteration = content["step"]
                return content["step"]
            passed[path] = problem
        if passed:
            reasons = "; ".join(f"{path.name} {problem}" for path, problem in passed.items())
            raise InputError(
                f"no checkpoint in {self.ckpt_dir} is intact: {reasons}. Start again with --resume false: they are "
                "then moved aside"
            )
        return 0

    def _read(self, path: Path) -> tuple[dict[str, Any], str]:
        if self.index.exists() and not self.index.is_whole(path.name):
            return {}, "is damaged (not the bytes that were written)"
        try:
            content = load_tensors(path)
        except InputError:
            return {}, "is damaged (it cannot be read)"
        if not isinstance(content, dict):
            return {}, "is not a checkpoint"
        lacking = {"step", "settings", *self.components} - content.keys()
        if lacking:
            return {}, f"is not a checkpoint of this training: {sorted(lacking)} are missing"
        if not isinstance(content["step"], int) or path.name != _name(content["step"]):
            return {}, f"is the checkpoint of step {content['step']}"
        return content, ""

    def _check_settings(self, path: Path, recorded: Mapping[str, Any]) -> None:
        changed = [
            f"{name}: {recorded.get(name)} in the checkpoint, {value} now"
            for name, value in {**dict.fromkeys(recorded), **self.settings}.items()
            if json_digest(recorded.get(name)) != json_digest(value)
        ]
        if changed:
            amp = any(entry.startswith("precision: ") for entry in changed)
            remedy = "--amp true computes in bfloat16, --amp false in float32; " if amp else ""
            raise InputError(
                f"{path} is from a training with other settings ({'; '.join(changed)}). Resume with the same "
                f"settings ({remedy}decay_steps follows max_steps unless it is given), or start again with "
                "--resume false: earlier checkpoints are then moved aside."
            )

    def _load(self, path: Path, content: Mapping[str, Any]) -> None:
        for name, component in self.components.items():
            try:
                component.load_state_dict(content[name])
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                reason = " ".join(str(error).split())[:300]
                raise InputError(f"{path} does not match this training ({name}: {reason}). Start again") from error

    def _adopt(self, path: Path, passed: Mapping[Path, str]) -> None:
        """Add checkpoints of versions without an index to the index, and move skipped checkpoints aside."""
        if idist.get_rank() != 0:
            return
        beyond = self._beyond(path)
        for other, problem in {**beyond, **passed}.items():
            print(f"skipped {other}: it {problem}", flush=True)
        if not self.index.exists():
            for older in self.paths():
                if older == path or (older not in passed and not self._read(older)[1]):
                    step = int(NAME.fullmatch(older.name)[1])  # type: ignore[index]
                    self.index.add(older.name, older, file_digest(older), step)
        else:
            self.index.forget([other.name for other in passed])
        set_aside(self.ckpt_dir, passed)
        self._known_whole.add(path.name)
        self._delete_old()

    def _beyond(self, path: Path) -> dict[Path, str]:
        """Return files that a user may take for the newest checkpoint, each with the reason why it was skipped.

        These are foreign files, and checkpoints that are in the index but missing.
        """
        own, step = set(self.paths()), int(NAME.fullmatch(path.name)[1])  # type: ignore[index]
        beyond = {
            other: f"was not written by a training in this folder ({CHECKPOINT_INDEX} does not name it)"
            for other in sorted(self.ckpt_dir.glob("checkpoint_*.pt"))
            if other not in own
        }
        lost = [name for name, entry in self.index.read().items() if (entry["step"] or 0) > step]
        for name in lost:
            if not (self.ckpt_dir / name).exists():
                beyond[self.ckpt_dir / name] = "is missing (it was not completely written, or was removed)"
        return beyond

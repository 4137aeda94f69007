"""Checkpoints that are whole or absent, and from which a run goes on as if it had not stopped."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from ignite.engine import Engine, Events

from medi_monai.utils.errors import InputError
from medi_monai.utils.files import json_digest, load_tensors, save_tensors

__all__ = ["TrainingCheckpoint"]


class TrainingCheckpoint:
    """Saves all that a training is made of every so many steps, and loads the newest.

    Batches, noise and dropout depend on ``(seed, step)`` alone, so weights, optimizer, learning rate, average and
    step are the whole state.

    Args:
        ckpt_dir: gets ``checkpoint_<step>.pt``.
        components: name to object with ``state_dict`` and ``load_state_dict``.
        settings: what has to be alike for the run to go on as it was (seed, batch size, schedule, …).
        every: steps between checkpoints; whoever runs the engine saves the last step.
        keep: number of checkpoints kept, newest first.
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
            raise InputError(f"checkpoint_every {every} and the number kept {keep} have to be 1 or more")
        self.ckpt_dir, self.components, self.every, self.keep = Path(ckpt_dir), dict(components), every, keep
        self.settings = dict(settings)
        self._engine: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Save on every ``every``-th step of a trainer; of several processes, the first alone does."""
        self._engine = engine
        if idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.save)

    def paths(self) -> list[Path]:
        """The checkpoints in the folder, oldest first."""
        return sorted(self.ckpt_dir.glob("checkpoint_*.pt"))

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint, if there is one."""
        return self.paths()[-1] if self.paths() else None

    def save(self, engine: Engine) -> None:
        """Write a checkpoint of the current step, then delete those beyond ``keep``."""
        step = engine.state.iteration
        target = self.ckpt_dir / f"checkpoint_{step:08d}.pt"
        if not target.is_file():
            content = {name: component.state_dict() for name, component in self.components.items()}
            save_tensors(target, {**content, "step": step, "settings": self.settings})
        for path in self.paths()[: -self.keep]:
            path.unlink()

    def resume(self, engine: Engine) -> int:
        """Load the newest checkpoint into the parts and the engine's step; returns the step, 0 where there is none.

        Raises:
            InputError: if the checkpoint was made with other settings, or is damaged.
        """
        path = self.newest
        if path is None:
            return 0
        content = load_tensors(path)
        lacking = {"step", "settings", *self.components} - content.keys()
        if lacking:
            raise InputError(f"{path} is not a training checkpoint: it lacks {sorted(lacking)}")
        changed = [
            f"{name}: {content['settings'].get(name)} in the checkpoint, {value} now"
            for name, value in {**dict.fromkeys(content["settings"]), **self.settings}.items()
            if json_digest(content["settings"].get(name)) != json_digest(value)
        ]
        if changed:
            raise InputError(
                f"{path} is from a training with other settings ({'; '.join(changed)}). Resume with the same "
                "settings (decay_steps follows max_steps unless it is given), or start again with --resume false: "
                "earlier checkpoints are then moved aside."
            )
        for name, component in self.components.items():
            component.load_state_dict(content[name])
        engine.state.iteration = content["step"]
        return content["step"]

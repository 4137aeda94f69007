"""Experiment tracking: scalars and pictures of a training go to MLflow as well, by MONAI's ``MLFlowHandler``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.handlers import MLFlowHandler
from monai.utils import path_to_sqlite_uri

from medi_monai.engines.events import EventWriter
from medi_monai.utils.errors import InputError, one_line
from medi_monai.utils.optional import require

__all__ = ["DATABASE", "TrackedWriter", "tracked_writer"]

#: name of the local store in the output folder of a run
DATABASE = "mlruns.db"


class TrackedWriter(EventWriter):
    """Writer of TensorBoard events that sends scalars and pictures to a run of MLflow, too.

    The run begins with the training, and is finished with it. If the training is resumed, it goes on; if another one is
    started in its place, it is marked as killed. A store that fails does not end the training.

    Args:
        log_dir: folder of the TensorBoard events.
        handler: MONAI's handler, which creates the run and finishes it.
        params: settings to record.
        tags: tags to record.
    """

    def __init__(
        self, log_dir: str | Path, handler: MLFlowHandler, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> None:
        super().__init__(log_dir)
        self.handler, self.params, self.tags = handler, dict(params), dict(tags)
        self._store_failed = self._completed = False

    def follow(self, engine: Engine) -> None:
        """Begin the run with the training, and note when it is complete."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED, self._note_completion)

    def add_scalar(self, tag: str, value: Any, step: int) -> None:
        """Add a point to the curve ``tag``."""
        super().add_scalar(tag, value, step)
        self._send(lambda run: self.handler.client.log_metric(run, tag, float(value), step=step))

    def add_image(self, tag: str, image: np.ndarray, step: int, dataformats: str = "HWC") -> None:
        """Add a uint8 image, with its axes in the order of ``dataformats``."""
        super().add_image(tag, image, step, dataformats)
        pixels = np.moveaxis(image, [dataformats.index(axis) for axis in "HWC"], [0, 1, 2])
        self._send(lambda run: self.handler.client.log_image(run, pixels, f"{tag}/step_{step:08d}.png"))

    def close(self) -> None:
        """Close the file of events, and finish the run if the training is complete."""
        super().close()
        if self._completed:
            self._send(lambda run: self.handler.close())

    def _begin(self, engine: Engine) -> None:
        try:
            self._choose_run(resumed=engine.state.iteration > 0)
            self.handler.start(engine)
        except Exception as error:
            raise _unusable(error) from None
        client = self.handler.client

        def describe(run: str) -> None:
            known = client.get_run(run).data.params
            for name, value in self.params.items():
                if name not in known:
                    client.log_param(run, name, value)
            for name, value in self.tags.items():
                client.set_tag(run, name, value)

        self._send(describe)

    def _choose_run(self, resumed: bool) -> None:
        # MONAI's handler would go on with the oldest run that is not finished, also with a killed one
        client, name = self.handler.client, str(self.handler.run_name)
        experiment = client.get_experiment_by_name(self.handler.experiment_name)
        if experiment is None:
            return
        quoted = name.replace("'", "''")
        running = f"attributes.status = 'RUNNING' and attributes.run_name = '{quoted}'"
        unfinished = client.search_runs(experiment.experiment_id, running, order_by=["attributes.start_time DESC"])
        if resumed and unfinished:
            self.handler.cur_run = unfinished[0]
            return
        for run in unfinished:
            client.set_terminated(run.info.run_id, "KILLED")
        self.handler.cur_run = client.create_run(experiment.experiment_id, run_name=name)

    def _note_completion(self) -> None:
        self._completed = True

    def _send(self, send: Callable[[str], object]) -> None:
        run = self.handler.cur_run
        if run is None or self._store_failed:
            return
        try:
            send(run.info.run_id)
        except Exception as error:  # of the store or the network, which MLflow raises as many types
            self._store_failed = True
            print(f"warning: the MLflow store fails ({one_line(error)}): the run goes on without it", flush=True)


def _unusable(error: Exception) -> InputError:
    return InputError(f"the MLflow store cannot be used, which MLFLOW_TRACKING_URI may name: {one_line(error)}")


def tracked_writer(
    writer: EventWriter | None, experiment_name: str, run_name: str, params: Mapping[str, Any], tags: Mapping[str, str]
) -> EventWriter | None:
    """Return a writer that sends to MLflow as well.

    The store is that of the environment variable ``MLFLOW_TRACKING_URI`` or, without it, :data:`DATABASE` in the folder
    of the TensorBoard events.

    Args:
        writer: writer of TensorBoard events; None in all but the first process, which stays None.
        experiment_name: name of the experiment in MLflow.
        run_name: name of the run in MLflow.
        params: settings to record.
        tags: tags to record.

    Raises:
        InputError: if MLflow is not installed, or its store cannot be used.
    """
    require("mlflow", "for --tracking mlflow")
    if writer is None:
        return None
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    writer.log_dir.mkdir(parents=True, exist_ok=True)
    try:
        handler = MLFlowHandler(
            tracking_uri=path_to_sqlite_uri(writer.log_dir / DATABASE),
            iteration_log=False,
            epoch_log=False,
            experiment_name=experiment_name,
            run_name=run_name,
            close_on_complete=False,
        )
    except Exception as error:  # of the store or the network, which MLflow raises as many types
        raise _unusable(error) from None
    return TrackedWriter(writer.log_dir, handler, params, tags)

"""The option ``--tracking`` of MONAI: a run that is recorded by MLflow, or by handlers of the user's own settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from medi_monai.runs.configs.files import read_config_file
from medi_monai.utils.errors import InputError
from medi_monai.utils.optional import install_command, is_installed

__all__ = ["check_tracking", "track"]

MLFLOW = "mlflow"
WRITER, UNTRACKED = "writer", "untracked_writer"
#: ids that are no settings
NO_SETTINGS = ("about", "imports", "settings", "run")
#: what a file of settings holds, as MONAI's ``DEFAULT_MLFLOW_SETTINGS`` does
PARTS = ("handlers_id", "configs")


def check_tracking(tracking: Any, config: Mapping[str, Any], run_id: str) -> Any:
    """Return MONAI's settings for ``--tracking``, or ``mlflow`` for those of this package; None for no tracking.

    Args:
        tracking: value of the option: ``mlflow``, settings, or the path of a file with settings.
        config: merged config of the run.
        run_id: id of the run.

    Raises:
        InputError: if MLflow is not installed, the run has nothing to track, or these are no settings.
    """
    if tracking is None:
        return None
    if isinstance(tracking, str) and tracking in DEFAULT_EXP_MGMT_SETTINGS:
        if not is_installed(tracking):
            raise InputError(f"--tracking {tracking} needs the package {tracking}: {install_command(tracking)}")
        if WRITER not in config:
            raise InputError(
                f"--tracking {tracking}: the run {run_id!r} has no curves to record; it is for runs that train, such "
                "as training, classifying and aligning. The figures of other runs are in their summary.json"
            )
        return MLFLOW
    settings = tracking if isinstance(tracking, dict) else read_config_file(Path(str(tracking)))
    lacking = [name for name in PARTS if not isinstance(settings.get(name), Mapping)]
    if lacking:
        raise InputError(
            f"--tracking: the settings have no section {lacking[0]!r}; give the value {MLFLOW}, or settings as MONAI "
            f"has them, with {' and '.join(PARTS)}"
        )
    return settings


def track(workflow: Any, settings: Any, run_id: str, bundle: str, version: str) -> None:
    """Change the config of a workflow so that its run is tracked.

    Args:
        workflow: workflow with its config.
        settings: result of :func:`check_tracking`; None to change nothing.
        run_id: id of the run, the name of the run in MLflow.
        bundle: name of the bundle, the name of the experiment in MLflow.
        version: version of the code, a tag of the run.
    """
    if settings is None:
        return
    if settings != MLFLOW:
        workflow.patch_bundle_tracking(parser=workflow.parser, settings=settings)
        return
    config = workflow.parser.get()
    workflow.parser[UNTRACKED] = config[WRITER]
    workflow.parser[WRITER] = {
        "_target_": "medi_monai.engines.handlers.tracking.tracked_writer",
        "writer": f"@{UNTRACKED}",
        "experiment_name": bundle,
        "run_name": run_id,
        "params": _literals(config),
        "tags": {"medi_monai": version},
    }


def _literals(config: Mapping[str, Any]) -> dict[str, str]:
    # settings with values of their own; as texts, so that the parser takes them as they are
    return {name: str(value) for name, value in config.items() if name not in NO_SETTINGS and _is_literal(value)}


def _is_literal(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(item, (bool, int, float)) for item in value)
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and not value.startswith(("$", "@", "%")))

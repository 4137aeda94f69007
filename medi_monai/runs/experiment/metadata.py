"""The metadata experiment: compare MeDi and CLS on a cohort, with equal training and sampling budgets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.diffusion import SOLVERS
from medi_monai.engines.sampling_settings import GuidanceSettings
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.evaluation.probing import BASELINES
from medi_monai.evaluation.verdicts.metadata import verdict
from medi_monai.networks import build_encoder
from medi_monai.report import write_experiment_page
from medi_monai.results import plain, print_findings, read_results, write_results
from medi_monai.results.experiment import ExperimentResults
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults
from medi_monai.runs.experiment.cohort_summary import summarize_cohort
from medi_monai.runs.experiment.pictures import sample_grid
from medi_monai.runs.experiment.run import Outcome, RunContext, run_experiment
from medi_monai.runs.experiment.stages import Stage
from medi_monai.utils.errors import unknown_value
from medi_monai.utils.files import atomic_path, read_json
from medi_monai.wsi.transforms import patch_transforms

__all__ = ["ARMS", "MetadataExperiment", "metadata_experiment_run", "metadata_stages"]

#: arms of the experiment, each with the overlays of its configs
ARMS: dict[str, list[str]] = {"cls": ["class_only.json"], "medi": []}


def metadata_experiment_run(
    bundle_root: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
    max_parallel_stages: int | None = None,
) -> ExperimentResults:
    """Prepare, train and sample both arms, evaluate and probe; write ``experiment.json`` and ``report.html``.

    Args:
        bundle_root: folder of the bundle.
        output_dir: folder of the experiment.
        options: options by id; see :func:`run_experiment`.
        stage_options: options by kind of stage: ``preparing``, ``training``, ``sampling``, ``probing``; see
            :func:`run_experiment`.
        max_parallel_stages: maximum number of parallel stages; see :func:`run_experiment`.

    Returns:
        The content of ``experiment.json``.

    Raises:
        InputError: see :func:`run_experiment`.
        RunStopped: see :func:`run_experiment`.
    """
    return run_experiment(MetadataExperiment(), bundle_root, output_dir, options, stage_options, max_parallel_stages)


class MetadataExperiment:
    """Stages and page of the metadata experiment; see :class:`medi_monai.runs.experiment.run.Experiment`."""

    config = "class_only.json"

    def check(self, output: Path, options: Mapping[str, Any], stage_options: Mapping[str, Mapping[str, Any]]) -> dict:
        """Refuse options that a later stage would refuse only after hours of training."""
        for name in options["baselines"]:
            if name not in BASELINES:
                raise unknown_value("baseline", name, BASELINES)
        sampling = stage_options["sampling"]
        if sampling["solver"] not in SOLVERS:
            raise unknown_value("solver", sampling["solver"], SOLVERS)
        guidance = {name: sampling[name] for name in GuidanceSettings.model_fields if name in sampling}
        GuidanceSettings(**guidance).of([options["label"], *options["attributes"]])
        FidelitySettings(
            max_images=options["max_images"], min_images=options["min_images"], neighbors=options["neighbors"]
        )
        patch_transforms(geometry=False, normalize=options["normalization"])
        build_encoder(options["encoder"])
        return dict(options)

    def stages(self, run: RunContext) -> Iterator[Sequence[Stage]]:
        """Yield one list with all stages, as none of them depends on results of others."""
        yield metadata_stages(run.output, run.options["class_only_guidance"])

    def finish(self, run: RunContext) -> Outcome[ExperimentResults]:
        """Write ``samples.png``, ``experiment.json`` and ``report.html``."""
        output = run.output
        cohort = Cohort.read(output / "cohort")
        fidelity = read_results(output / "evaluation" / "metrics.json", ArmsMetrics)
        probe = read_results(output / "probing" / "probe.json", ProbeResults)
        columns = fidelity.columns
        sampling_dirs = {arm: output / arm / "sampling" for arm in ARMS}
        samples = sample_grid(cohort, sampling_dirs, columns, run.options["image_size"])
        with atomic_path(output / "samples.png") as path:
            Image.fromarray(samples).save(path, format="png")
        results = ExperimentResults(
            question=(
                f"Do generated images improve a classifier of {columns[0]}, tested on {probe.test.what}, and "
                f"does it help to generate them with {' and '.join(columns[1:])}?"
            ),
            cohort=summarize_cohort(cohort, columns, "cohort"),
            verdict=tuple(verdict(fidelity, probe)),
            fidelity=fidelity,
            probe=probe,
            links={
                "audit": "cohort/audit.html",
                "evaluation": "evaluation/report.html",
                "probing": "probing/report.html",
            },
            settings=run.settings,
            seconds=run.seconds,
        )
        results = write_results(output / "experiment.json", results)
        audit = read_json(output / "cohort" / "audit.json")
        write_experiment_page(results, output / "report.html", audit, samples)
        print_findings(results.verdict)
        figures = {
            "frechet_distance": {arm: of_arm.frechet_distance.mean for arm, of_arm in fidelity.arms.items()},
            "balanced_accuracy": {arm: of_arm.balanced_accuracy for arm, of_arm in probe.arms.items()},
        }
        return Outcome(results, plain(figures), {"cohort": cohort.digest}, output / "report.html")


def metadata_stages(output: Path, class_only_guidance: float) -> list[Stage]:
    """Return the stages: preparing, training and sampling of each arm, evaluation and probing.

    Args:
        output: folder of the experiment.
        class_only_guidance: scale of the guidance by the label in the class-only arm; that of the other arm is a
            setting of sampling.
    """
    cohort = output / "cohort"
    # not the cohort table, which may be CSV or Parquet: the summary is always written, and last
    prepared = cohort / "summary.json"
    stages = [Stage("preparing", "preparing", ["prepare.json"], prepared, {"output_dir": cohort})]
    for arm, overlay in ARMS.items():
        models = {"cohort_dir": cohort, "ckpt_dir": output / "models" / arm}
        own = {**models, "output_dir": output / arm / "training"}
        model = output / "models" / arm / "model.pt"
        stages.append(Stage(f"training {arm}", "training", ["train.json", *overlay], model, own, ["preparing"]))
    for arm, overlay in ARMS.items():
        models = {"cohort_dir": cohort, "ckpt_dir": output / "models" / arm}
        drawn: dict[str, Any] = {**models, "output_dir": output / arm / "sampling"}
        if arm == "cls":
            drawn["label_guidance"] = class_only_guidance
        done = output / arm / "sampling" / "summary.json"
        needs = ["preparing", f"training {arm}"]
        stages.append(Stage(f"sampling {arm}", "sampling", ["inference.json", *overlay], done, drawn, needs))
    arms = {arm: str(output / arm / "sampling") for arm in ARMS}
    for run_id, config, result in (
        ("evaluation", "evaluate.json", "metrics.json"),
        ("probing", "probe.json", "probe.json"),
    ):
        measured: dict[str, Any] = {"cohort_dir": cohort, "arms": arms, "output_dir": output / run_id}
        needs = ["preparing", *(f"sampling {arm}" for arm in ARMS)]
        stages.append(Stage(run_id, run_id, [config], output / run_id / result, measured, needs))
    return stages

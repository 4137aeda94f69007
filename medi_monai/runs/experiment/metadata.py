"""The metadata experiment: compare MeDi and CLS on a cohort, with equal training and sampling budgets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from medi_monai.cohort import Cohort
from medi_monai.cohort.samples import read_arms
from medi_monai.diffusion import SOLVERS
from medi_monai.engines.sampling_settings import GuidanceSettings
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.evaluation.gallery import sample_gallery
from medi_monai.evaluation.probing import BASELINES
from medi_monai.evaluation.probing.arms import RESERVED_NAMES
from medi_monai.evaluation.verdicts.metadata import trainings_findings, verdict
from medi_monai.evaluation.verdicts.second_encoder import second_findings
from medi_monai.networks import build_encoder
from medi_monai.report import write_experiment_page
from medi_monai.report.words import class_text
from medi_monai.results import Finding, plain, print_findings, read_results, write_results
from medi_monai.results.experiment import ExperimentResults, TrainedArm, TrainingSummary
from medi_monai.results.metrics import ArmsMetrics
from medi_monai.results.probing import ProbeResults
from medi_monai.runs.experiment.cohort_summary import summarize_cohort
from medi_monai.runs.experiment.pictures import sample_grid
from medi_monai.runs.experiment.resolved import Stage
from medi_monai.runs.experiment.run import Outcome, RunContext
from medi_monai.runs.experiment.second_encoder import (
    SecondEncoder,
    choose_second_encoder,
    embedding_stages,
    read_second,
    second_stages,
)
from medi_monai.utils.errors import unknown_value
from medi_monai.utils.files import atomic_path, read_json
from medi_monai.wsi.transforms import patch_transforms

__all__ = ["ARMS", "MetadataExperiment", "metadata_stages"]

#: arms of the experiment, each with the overlays of its configs
ARMS: dict[str, list[str]] = {"cls": ["class_only.json"], "medi": []}
#: further arm on request: MeDi trained on permuted metadata, whose images should not help
CONTROL = "medi_permuted"


class MetadataExperiment:
    """Stages and page of the metadata experiment; see :class:`medi_monai.runs.experiment.run.Experiment`.

    Prepares, trains and samples both arms, evaluates and probes; writes ``experiment.json`` and ``report.html``. Kinds
    of stages for ``stage_options`` are ``preparing``, ``training``, ``sampling`` and ``probing``.
    """

    config = "class_only.json"

    def __init__(self) -> None:
        self._second = SecondEncoder(None)

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
        self._second = choose_second_encoder(options, build_encoder(options["encoder"]))
        return dict(options)

    def stages(self, run: RunContext) -> Iterator[Sequence[Stage]]:
        """Yield one list with all stages, as none of them depends on results of others."""
        options = run.options
        numbers = options["seed"], options["num_trainings"]
        stages = metadata_stages(run.output, options["class_only_guidance"], *numbers, options["permuted_control"])
        stages += second_stages(stages, self._second, options)
        yield [*stages, *embedding_stages(stages, self._second, run.output)]

    def finish(self, run: RunContext) -> Outcome[ExperimentResults]:
        """Write ``samples.png``, ``experiment.json`` and ``report.html``."""
        output = run.output
        cohort = Cohort.read(output / "cohort")
        fidelity = read_results(output / "evaluation" / "metrics.json", ArmsMetrics)
        probe = read_results(output / "probing" / "probe.json", ProbeResults)
        numbers = range(run.options["num_trainings"])
        trainings = tuple(_summarize_training(run, number, probe) for number in numbers)
        evaluations = [_Training.of(output, number, 0).evaluation for number in numbers]
        second = read_second(self._second, output, evaluations, fidelity, probe)
        columns = fidelity.columns
        sampling_dirs = {arm: output / arm / "sampling" for arm in arms_of(run.options["permuted_control"])}
        samples = sample_grid(cohort, sampling_dirs, columns, run.options["image_size"])
        with atomic_path(output / "samples.png") as path:
            Image.fromarray(samples).save(path, format="png")
        results = ExperimentResults(
            question=(
                f"Does a classifier of {class_text(columns[0])} become more accurate on {probe.test.what} if generated "
                f"images are added to its training data? Does it help if the generator knows not only the class, but "
                f"also {' and '.join(columns[1:])}?"
            ),
            cohort=summarize_cohort(cohort, columns, "cohort"),
            verdict=(
                *verdict(fidelity, probe),
                *(second_findings(second, probe) if second else [Finding("note", self._second.why_none)]),
                *trainings_findings(trainings),
            ),
            fidelity=fidelity,
            probe=probe,
            trainings=trainings,
            links={
                "audit": "cohort/audit.html",
                "evaluation": "evaluation/report.html",
                "probing": "probing/report.html",
            },
            settings=run.settings,
            seconds=run.seconds,
            second=second,
        )
        results = write_results(output / "experiment.json", results)
        audit = read_json(output / "cohort" / "audit.json")
        arms = read_arms(sampling_dirs, columns, RESERVED_NAMES)
        transfer_seed = run.options["seed"] if "stain_transfer" in probe.arms else None
        gallery = sample_gallery(cohort, arms, columns, run.options["image_size"], transfer_seed=transfer_seed)
        write_experiment_page(results, output / "report.html", audit, gallery)
        print_findings(results.verdict)
        figures = {
            "frechet_distance": {arm: of_arm.frechet_distance.mean for arm, of_arm in fidelity.arms.items()},
            "balanced_accuracy": {arm: of_arm.balanced_accuracy for arm, of_arm in probe.arms.items()},
        }
        return Outcome(results, plain(figures), {"cohort": cohort.digest}, output / "report.html")


def arms_of(permuted_control: bool) -> dict[str, list[str]]:
    """Return the arms, each with the overlays of its configs: :data:`ARMS` and, on request, :data:`CONTROL`."""
    return {**ARMS, CONTROL: []} if permuted_control else ARMS


def metadata_stages(
    output: Path, class_only_guidance: float, seed: int = 0, num_trainings: int = 1, permuted_control: bool = False
) -> list[Stage]:
    """Return the stages: preparing, training and sampling of each arm, evaluation and probing.

    Each training has its own seed and evaluation; a single probing compares all of them.

    Args:
        output: folder of the experiment.
        class_only_guidance: scale of the guidance by the label in the class-only arm; that of the other arm is a
            setting of sampling.
        seed: seed of the first training; that of each further one is larger by 1.
        num_trainings: number of trainings of each arm.
        permuted_control: whether there is an arm trained on permuted metadata.
    """
    names = arms_of(permuted_control)
    cohort = output / "cohort"
    # not the cohort table, which may be CSV or Parquet: the summary is always written, and last
    prepared = cohort / "summary.json"
    stages = [Stage("preparing", "preparing", ["prepare.json"], prepared, {"output_dir": cohort})]
    trainings = [_Training.of(output, number, seed) for number in range(num_trainings)]
    for training in trainings:
        stages += _stages_of_training(training, cohort, class_only_guidance, names)
    arms = {arm: [str(training.sampling(arm)) for training in trainings] for arm in names}
    given = {arm: of_arm[0] if num_trainings == 1 else of_arm for arm, of_arm in arms.items()}
    compared = {"cohort_dir": cohort, "arms": given, "output_dir": output / "probing"}
    needs = ["preparing", *(f"sampling {arm}{training.suffix}" for training in trainings for arm in names)]
    return [
        *stages,
        Stage("probing", "probing", ["probe.json"], output / "probing" / "probe.json", compared, needs),
    ]


@dataclass(frozen=True)
class _Training:
    """A training of each arm: its folder, its seed, and what the names of its stages end in."""

    folder: Path
    seed: int
    suffix: str

    @classmethod
    def of(cls, output: Path, number: int, seed: int) -> _Training:
        """Return the training of a number, from 0; the first one lies in the folder of the experiment itself."""
        if number == 0:
            return cls(output, seed, "")
        return cls(output / f"training_{number + 1}", seed + number, f" {number + 1}")

    @property
    def evaluation(self) -> Path:
        """Folder of its evaluation."""
        return self.folder / "evaluation"

    def sampling(self, arm: str) -> Path:
        """Folder of the images of an arm."""
        return self.folder / arm / "sampling"


def _stages_of_training(
    training: _Training, cohort: Path, class_only_guidance: float, names: Mapping[str, list[str]]
) -> list[Stage]:
    stages, folder, end = [], training.folder, training.suffix
    for arm, overlay in names.items():
        models = {"cohort_dir": cohort, "ckpt_dir": folder / "models" / arm, "seed": training.seed}
        own: dict[str, Any] = {**models, "output_dir": folder / arm / "training"}
        if arm == CONTROL:
            own["permute_metadata"] = True
        model = folder / "models" / arm / "model.pt"
        stages.append(Stage(f"training {arm}{end}", "training", ["train.json", *overlay], model, own, ["preparing"]))
    for arm, overlay in names.items():
        models = {"cohort_dir": cohort, "ckpt_dir": folder / "models" / arm, "seed": training.seed}
        drawn: dict[str, Any] = {**models, "output_dir": training.sampling(arm)}
        if arm == "cls":
            drawn["label_guidance"] = class_only_guidance
        done = training.sampling(arm) / "summary.json"
        needs = ["preparing", f"training {arm}{end}"]
        stages.append(Stage(f"sampling {arm}{end}", "sampling", ["inference.json", *overlay], done, drawn, needs))
    arms = {arm: str(training.sampling(arm)) for arm in names}
    measured = {"cohort_dir": cohort, "arms": arms, "output_dir": training.evaluation}
    needs = ["preparing", *(f"sampling {arm}{end}" for arm in names)]
    result = training.evaluation / "metrics.json"
    return [*stages, Stage(f"evaluation{end}", "evaluation", ["evaluate.json"], result, measured, needs)]


def _summarize_training(run: RunContext, number: int, probe: ProbeResults) -> TrainingSummary:
    training = _Training.of(run.output, number, run.options["seed"])
    fidelity = read_results(training.evaluation / "metrics.json", ArmsMetrics)
    arms = {}
    for arm, measured in fidelity.arms.items():
        distance = measured.frechet_distance
        arms[arm] = TrainedArm(
            balanced_accuracy=probe.arms[arm].balanced_accuracy.trainings[number],
            frechet_distance=distance.mean.value,
            frechet_distance_unseen=distance.unseen.value,
            label_fidelity=measured.label_fidelity.value if measured.label_fidelity else None,
            attribute_fidelity={name: share.value for name, share in measured.attribute_fidelity.items() if share},
        )
    page = training.evaluation / "report.html"
    return TrainingSummary(training.seed, arms, str(page.relative_to(run.output)))

"""The experiment with alignment: from captioned images to an aligned model, beside two alternatives."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medi_monai.alignment.functional import SEPARATOR, check_shares
from medi_monai.alignment.prompts import NAMED, composes_captions, prompt_plan
from medi_monai.alignment.resampling import cohort_target, gradient_images
from medi_monai.cohort import Cohort
from medi_monai.cohort.captions import read_prompts
from medi_monai.cohort.captions.prompts import NEUTRAL
from medi_monai.cohort.selection import captioned_cohort
from medi_monai.networks import build_encoder
from medi_monai.results import plain, read_results
from medi_monai.results.alignment import AlignmentMetrics
from medi_monai.runs.experiment.run import Outcome, RunContext, run_experiment
from medi_monai.runs.experiment.stages import Stage
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, file_digest, read_json

__all__ = ["AlignmentExperiment", "fair_experiment_run"]

ROLES = ("guide", "validation", "judge")
TO_CHOOSE_FROM = "to choose from"
#: of arms that are no sampling of neutral prompts
FOLDERS = {"resampled": "resampled"}
#: what an arm costs: the stages that it needs and ``before`` does not, and its own sampling
STAGES_OF = {
    "before": ("sampling neutral before",),
    "after": (
        "sampling named before",
        "classifying guide",
        "classifying validation",
        "aligning",
        "sampling neutral after",
    ),
    "retrained": ("retraining", "sampling neutral retrained"),
    "resampled": ("sampling named before", "classifying guide", f"sampling neutral {TO_CHOOSE_FROM}", "resampling"),
}


def fair_experiment_run(
    bundle_root: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
    reference_dir: str | None,
    num_images: int,
    alternatives: bool = True,
    num_candidates: int = 1800,
    max_parallel_stages: int | None = None,
) -> AlignmentMetrics:
    """Prepare, train a model and classifiers, align, sample before and after with the same noise, evaluate.

    Args:
        bundle_root: as for :func:`run_experiment`.
        output_dir: as for :func:`run_experiment`.
        options: as for :func:`run_experiment`.
        stage_options: as for :func:`run_experiment`; of ``training``, ``classifying``, ``sampling``, ``aligning``,
            ``retraining``, ``resampling``, ``evaluation``.
        reference_dir: ``dataset_dir`` of the real images that the target describes; None compares with the cohort.
        num_images: generated before and after, of neutral prompts and of those that name the attribute.
        alternatives: whether two other ways to the target stand beside: ``retrained``, the model trained on with real
            images resampled to it, and ``resampled``, images of the untuned model chosen by the guide.
        num_candidates: images that ``resampled`` is chosen from, drawn with noise of their own.
        max_parallel_stages: as for :func:`run_experiment`.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        InputError: as :func:`run_experiment`; also for no templates and no prompts, and an impossible target: of wrong
            shares before any stage, of unknown values once the cohort is prepared, as prompts that are not neutral.
        RunStopped: as :func:`run_experiment`.
    """
    experiment = AlignmentExperiment(reference_dir, num_images, num_candidates if alternatives else None)
    return run_experiment(experiment, bundle_root, output_dir, options, stage_options, max_parallel_stages)


@dataclass(frozen=True)
class AlignmentExperiment:
    """Stages and page of the experiment with alignment; see :class:`medi_monai.runs.experiment.run.Experiment`.

    Args:
        reference_dir: as for :func:`fair_experiment_run`.
        num_images: as for :func:`fair_experiment_run`.
        num_candidates: as for :func:`fair_experiment_run`; None for no alternatives.
    """

    reference_dir: str | None
    num_images: int
    num_candidates: int | None
    config = "align.json"

    def check(self, output: Path, options: Mapping[str, Any], stage_options: Mapping[str, Mapping[str, Any]]) -> dict:
        """Refuse what late stages would refuse; a file of prompts is copied into the folder."""
        if options["prompts"] == NEUTRAL and not composes_captions(options["templates"]):
            raise InputError(
                "the experiment samples prompts that leave the attribute open, which `templates` make, and there are "
                "none: give --prompts, a file with a prompt on each line or a list, or compose captions by templates"
            )
        _check_late_options(options, stage_options)
        return {**options, "prompts": _kept_prompts(options["prompts"], output)}

    def stages(self, run: RunContext) -> Iterator[Sequence[Stage]]:
        """Preparing; then, with targets and prompts checked against the cohort, up to the images; the evaluation."""
        output, options, aligning = run.output, run.options, run.stage_options["aligning"]
        yield _preparation(output, self.reference_dir)
        training = captioned_cohort(Cohort.read(output / "cohort"))
        cohort_target(aligning["target"], training, options["attribute"], aligning.get("target_table"))
        named = _check_prompts(training, options, self.num_images)
        stages = _stages(output, self.num_images, self.num_candidates, options["seed"], named)
        yield stages
        evaluation = _evaluation(output, stages, self.num_candidates is not None, named, bool(self.reference_dir))
        yield [_with_costs(evaluation, run)]

    def finish(self, run: RunContext) -> Outcome[AlignmentMetrics]:
        """Results and page are those of the evaluation."""
        folder = run.output / "evaluation"
        metrics = read_results(folder / "metrics.json", AlignmentMetrics)
        return Outcome(metrics, {"verdict": plain(metrics.verdict)}, {}, folder / "report.html")


def _check_late_options(options: Mapping[str, Any], stage_options: Mapping[str, Mapping[str, Any]]) -> None:
    # what later stages would refuse is said before hours of training
    if options["attribute"] is None:
        raise InputError("the experiment aligns an attribute: name it by --attribute")
    aligning = stage_options["aligning"]
    check_shares(aligning["target"], options["attribute"].split(SEPARATOR), aligning.get("target_table"))
    last, steps = aligning["last_steps"], options["num_steps"]
    if last is not None and last > steps:
        raise InputError(f"last_steps = {last}: the gradient goes through 1 to {steps} (num_steps) steps")
    encoder = stage_options["evaluation"]["encoder"]
    if (encoder.get("name") if isinstance(encoder, Mapping) else encoder) != "clip":
        build_encoder(encoder)


def _kept_prompts(prompts: Any, output: Path) -> Any:
    """A file of prompts as a copy that is named by its content: with other prompts, stages have other options."""
    if not isinstance(prompts, str) or prompts == NEUTRAL:
        return prompts
    # says what is wrong with it
    read_prompts(prompts)
    copy = output / f"prompts-{file_digest(prompts)[:8]}{Path(prompts).suffix}"
    with atomic_path(copy) as path:
        path.write_bytes(Path(prompts).read_bytes())
    return str(copy)


def _check_prompts(training: Cohort, options: Mapping[str, Any], num_images: int) -> bool:
    """Refuse prompts that are not neutral, hours before `aligning` would; whether captions name all subgroups."""
    wanted = num_images, lambda: training, options["templates"], options["attribute"]
    given, neutral = (len(prompt_plan(options["prompts"], *wanted, neutral=only)) for only in (False, True))
    if neutral < given:
        raise InputError(
            f"{given - neutral} of the {given} prompts name {options['attribute']}, and images of neutral ones are "
            "compared: take them out"
        )
    try:
        prompt_plan(NAMED, *wanted)
    except InputError as error:
        print(
            f"warning: {error}. The experiment goes without images of prompts that name the subgroup, which would "
            "help the classifiers, and show whether the tuned model still follows such prompts",
            flush=True,
        )
        return False
    return True


def _with_costs(stage: Stage, run: RunContext) -> Stage:
    """The evaluation with what each arm cost, and without the arm that nothing could be chosen for."""
    output, seconds = run.output, run.seconds
    arms = dict(stage.options["arms"])
    costs: dict[str, dict[str, Any]] = {
        arm: {"stages": {name: seconds[name] for name in STAGES_OF[arm] if seconds.get(name) is not None}}
        for arm in arms
    }
    costs["after"] |= _passes_of(read_json(output / "aligning" / "alignment.json"))
    if "retrained" in arms:
        retraining = run.stage_options["retraining"]
        costs["retrained"]["gradient_images"] = retraining["max_steps"] * retraining["batch_size"]
    if "resampled" in arms:
        why = read_json(output / FOLDERS["resampled"] / "summary.json")["figures"]["why_none"]
        if why:
            costs["resampled"]["left_out"] = why
            del arms["resampled"]
    return replace(stage, options={**stage.options, "arms": arms, "costs": costs})


def _passes_of(record: Mapping[str, Any]) -> dict[str, int]:
    sampling, settings = record["sampling"], record["settings"]
    steps = record["losses"]["last_steps"] or sampling["num_steps"]
    updates = {"gradient_images": record["curve"][-1]["step"], "gradient_images_allowed": settings["max_steps"]}
    return {
        name: gradient_images(count, settings["batch_size"], steps, sampling["guidance_scale"], record["real_images"])
        for name, count in updates.items()
    }


def _preparation(output: Path, reference_dir: str | None) -> list[Stage]:
    stages: dict[str, tuple[str, dict[str, Any]]] = {"preparing": ("cohort", {})}
    if reference_dir:
        stages["preparing the reference"] = ("reference", {"dataset_dir": reference_dir})
    return [
        Stage(
            name,
            "preparing",
            ["prepare.json"],
            output / folder / "summary.json",
            {"output_dir": output / folder, **own},
        )
        for name, (folder, own) in stages.items()
    ]


def _stages(output: Path, num_images: int, num_candidates: int | None, seed: int, named: bool) -> list[Stage]:
    """From the training to the last images, first those that most others wait for; with None, no alternatives."""
    models, aligned = output / "models", output / "models" / "aligned"
    before, after = ("training",), ("aligning",)
    others = [] if num_candidates is None else _alternatives(output, num_images, num_candidates, seed)
    return [
        Stage(
            "training", "training", ["train.json"], models / "model.pt", {
                "cohort_dir": output / "cohort", "ckpt_dir": models, "text_model_dir": models / "clip",
                "output_dir": output / "training",
            }, ("preparing",),
        ),
        *([_sampling(output, "named before", models, num_images, before)] if named else []),
        *(_classifying(output, role, named) for role in ROLES),
        Stage(
            "aligning", "aligning", ["align.json"], aligned / "model.pt", {
                "cohort_dir": output / "cohort", "ckpt_dir": models, "classifier_dir": models, "aligned_dir": aligned,
                "output_dir": output / "aligning",
            }, ("training", *(f"classifying {role}" for role in ROLES)),
        ),
        *others,
        _sampling(output, "neutral before", models, num_images, before),
        _sampling(output, "neutral after", aligned, num_images, after),
        *([_sampling(output, "named after", aligned, num_images, after)] if named else []),
    ]  # fmt: skip


def _alternatives(output: Path, num_images: int, num_candidates: int, seed: int) -> list[Stage]:
    models, retrained, resampled = output / "models", output / "models" / "retrained", output / FOLDERS["resampled"]
    chosen_from = f"neutral {TO_CHOOSE_FROM}"
    return [
        Stage(
            "retraining", "training", ["train.json"], retrained / "model.pt", {
                "cohort_dir": output / "cohort", "ckpt_dir": retrained, "text_model_dir": models / "clip",
                "init_from": models / "model.pt", "output_dir": output / "retraining",
            }, ("training",), "retraining",
        ),
        # with a seed of its own: an image of the noise of `before` would be the very image
        _sampling(output, chosen_from, models, num_candidates, ("training",), seed=seed + 1),
        Stage(
            "resampling", "resampling", ["resample.json"], resampled / "summary.json", {
                "ckpt_dir": models, "classifier_dir": models, "sampling_dir": output / chosen_from,
                "output_dir": resampled,
            }, ("classifying guide", f"sampling {chosen_from}"),
        ),
        _sampling(output, "neutral retrained", retrained, num_images, ("retraining",)),
    ]  # fmt: skip


def _evaluation(output: Path, stages: Sequence[Stage], alternatives: bool, named: bool, reference: bool) -> Stage:
    arms = ["before", "after", *(("retrained", "resampled") if alternatives else ())]
    preparing = ("preparing", "preparing the reference") if reference else ("preparing",)
    return Stage(
        "evaluation", "evaluation", ["evaluate.json"], output / "evaluation" / "metrics.json", {
            "cohort_dir": output / "cohort", "ckpt_dir": output / "models", "classifier_dir": output / "models",
            "output_dir": output / "evaluation", "alignment": output / "aligning" / "alignment.json",
            "reference_dir": output / "reference" if reference else output / "cohort",
            "arms": {arm: str(output / FOLDERS.get(arm, f"neutral {arm}")) for arm in arms},
            "named": {arm: str(output / f"named {arm}") for arm in ("before", "after")} if named else None,
        }, (*preparing, *(stage.name for stage in stages)),
    )  # fmt: skip


def _sampling(output: Path, name: str, ckpt_dir: Path, num_images: int, needs: Sequence[str], **more: Any) -> Stage:
    folder = output / name
    own = {"cohort_dir": output / "cohort", "ckpt_dir": ckpt_dir, "num_images": num_images, "output_dir": folder}
    if name.split()[0] == NAMED:
        own["prompts"] = NAMED
    return Stage(f"sampling {name}", "sampling", ["inference.json"], folder / "summary.json", {**own, **more}, needs)


def _classifying(output: Path, role: str, named: bool) -> Stage:
    name, folder = f"classifying {role}", output / "models" / role
    own: dict[str, Any] = {"cohort_dir": output / "cohort", "output_dir": folder, "role": role}
    needs = ["training"]
    # the judge knows real images alone
    if named and role != "judge":
        own["generated"] = output / "named before"
        needs.append("sampling named before")
    return Stage(name, "classifying", ["classify.json"], folder / "summary.json", own, needs)

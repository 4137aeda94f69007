"""The alignment experiment: align a model trained on captioned images, and compare it with four alternatives."""

from __future__ import annotations

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
from medi_monai.evaluation.alignment.encoders import check_encoder
from medi_monai.results import plain, read_results
from medi_monai.results.alignment import AlignmentMetrics
from medi_monai.runs.experiment.resolved import Stage
from medi_monai.runs.experiment.run import Outcome, RunContext
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import atomic_path, file_digest, read_json

__all__ = ["AlignmentExperiment"]

ROLES = ("guide", "validation", "judge")
TO_CHOOSE_FROM = "to choose from"
#: output folders of arms that are not named ``neutral <arm>``
FOLDERS = {"resampled": "resampled"}
#: stages whose run time counts as the cost of an arm: those that ``before`` does not need, and sampling its images
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
    "prompted": ("sampling neutral prompted",),
    "debiased": ("sampling neutral debiased",),
}
#: arms of the original model in which neutral prompts get subgroups with the target's shares, with the choice of
#: `subgroups`; they need captions that name all subgroups
BY_PROMPT = {"prompted": "named", "debiased": "debiased"}


@dataclass(frozen=True)
class AlignmentExperiment:
    """Stages and page of the alignment experiment; see :class:`medi_monai.runs.experiment.run.Experiment`.

    Prepares, trains a model and classifiers, aligns, samples before and after with the same noise, and evaluates. Kinds
    of stages for ``stage_options`` are ``training``, ``classifying``, ``sampling``, ``aligning``, ``retraining``,
    ``resampling`` and ``evaluation``. Missing templates and prompts, and a target with invalid shares, are refused
    before any stage; a target with unknown values, and prompts that are not neutral, after preparing.

    Args:
        reference_dir: ``dataset_dir`` of real images with the target shares; None compares with the cohort.
        num_images: number of images before and after tuning, for neutral prompts and for prompts that name the
            attribute.
        num_candidates: number of images from which ``resampled`` selects, drawn with separate noise; None to omit all
            four alternatives: ``retrained``, the model trained further on real images resampled to the target;
            ``resampled``, images of the untuned model selected by the guide; ``prompted``, images of the untuned model
            for prompts that name subgroups with the target's shares; and ``debiased``, images of the untuned model for
            text embeddings moved to subgroups with the target's shares.
        num_tunings: number of seeds of the tuning; that of each further one is larger by 1.
    """

    reference_dir: str | None
    num_images: int
    num_candidates: int | None
    num_tunings: int = 1
    config = "align.json"

    def check(self, output: Path, options: Mapping[str, Any], stage_options: Mapping[str, Mapping[str, Any]]) -> dict:
        """Refuse options and prompts that a later stage would refuse, and keep a copy of a file of prompts."""
        if options["prompts"] == NEUTRAL and not composes_captions(options["templates"]):
            raise InputError(
                "the experiment samples prompts that leave the attribute open, which `templates` make, and there are "
                "none: give --prompts, a file with a prompt on each line or a list, or compose captions by templates"
            )
        _check_late_options(options, stage_options)
        return {**options, "prompts": _kept_prompts(options["prompts"], output)}

    def stages(self, run: RunContext) -> Iterator[Sequence[Stage]]:
        """Yield preparing; then, after checks against the cohort, training to sampling; then evaluation."""
        output, options, aligning = run.output, run.options, run.stage_options["aligning"]
        yield _preparation(output, self.reference_dir)
        training = captioned_cohort(Cohort.read(output / "cohort"))
        cohort_target(aligning["target"], training, options["attribute"], aligning.get("target_table"))
        named = _check_prompts(training, options, self.num_images)
        target = {name: aligning.get(name) for name in ("target", "target_table")}
        stages = _stages(output, self.num_images, self.num_candidates, options["seed"], named, target)
        stages += [stage for number in range(2, self.num_tunings + 1) for stage in _further_tuning(stages, number)]
        yield stages
        evaluation = _evaluation(output, stages, self, named)
        yield [_with_costs(evaluation, run)]

    def finish(self, run: RunContext) -> Outcome[AlignmentMetrics]:
        """Return results and page of the evaluation."""
        folder = run.output / "evaluation"
        metrics = read_results(folder / "metrics.json", AlignmentMetrics)
        return Outcome(metrics, {"verdict": plain(metrics.verdict)}, {}, folder / "report.html")


def _check_late_options(options: Mapping[str, Any], stage_options: Mapping[str, Mapping[str, Any]]) -> None:
    # raise errors that later stages would raise only after hours of training
    if options["attribute"] is None:
        raise InputError("the experiment aligns an attribute: name it with --attribute")
    aligning = stage_options["aligning"]
    check_shares(aligning["target"], options["attribute"].split(SEPARATOR), aligning.get("target_table"))
    last, steps = aligning["last_steps"], options["num_steps"]
    if last is not None and last > steps:
        raise InputError(f"last_steps = {last}: the gradient can pass through 1 to {steps} (num_steps) steps")
    check_encoder(stage_options["evaluation"]["encoder"], ("clip",))


def _kept_prompts(prompts: str | Sequence[str], output: Path) -> str | Sequence[str]:
    """Check the prompts, and copy a file of them under a name that depends on its content.

    The options of stages therefore change with the content of the file.

    Args:
        prompts: ``neutral``, a file, or a list.
        output: folder for the copy of a file.

    Returns:
        ``neutral``, the path of the copy, or the list as given.

    Raises:
        InputError: for a file that is missing or invalid, or a list with anything but texts.
    """
    if prompts == NEUTRAL:
        return prompts
    read_prompts(prompts)
    if not isinstance(prompts, str):
        return prompts
    copy = output / f"prompts-{file_digest(prompts)[:8]}{Path(prompts).suffix}"
    with atomic_path(copy) as path:
        path.write_bytes(Path(prompts).read_bytes())
    return str(copy)


def _check_prompts(training: Cohort, options: Mapping[str, Any], num_images: int) -> bool:
    """Refuse prompts that are not neutral, before any training; return whether captions name all subgroups."""
    wanted = num_images, lambda: training, options["templates"], options["attribute"]
    given, neutral = (len(prompt_plan(options["prompts"], *wanted, neutral=only)) for only in (False, True))
    if neutral < given:
        raise InputError(
            f"{given - neutral} of the {given} prompts name {options['attribute']}, but the experiment compares images "
            "of neutral prompts: remove them"
        )
    try:
        prompt_plan(NAMED, *wanted)
    except InputError as error:
        print(
            f"warning: {error}. The experiment is run without images for prompts that name the subgroup, which would "
            "help the classifiers and show whether the tuned model still follows such prompts",
            flush=True,
        )
        return False
    return True


def _with_costs(stage: Stage, run: RunContext) -> Stage:
    """Return the evaluation stage with the cost of each arm, without ``resampled`` if it could select no images."""
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


def _stages(
    output: Path, num_images: int, num_candidates: int | None, seed: int, named: bool, target: Mapping[str, Any]
) -> list[Stage]:
    """Return the stages from training to sampling, those needed by most others first.

    Args:
        output: folder of the experiment.
        num_images: number of images of each sampling.
        num_candidates: number of candidates of ``resampled``; None to omit the alternatives.
        seed: random seed of the experiment.
        named: whether to also sample prompts that name the attribute.
        target: options ``target`` and ``target_table``.
    """
    models, aligned = output / "models", output / "models" / "aligned"
    before, after = ("training",), ("aligning",)
    others = [] if num_candidates is None else _alternatives(output, num_images, num_candidates, seed)
    if others and named:
        others += [
            _sampling(output, f"neutral {arm}", models, num_images, before, subgroups=choice, **target)
            for arm, choice in BY_PROMPT.items()
        ]
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
                "output_dir": output / "aligning", "seed": seed,
            }, ("training", *(f"classifying {role}" for role in ROLES)),
        ),
        *others,
        _sampling(output, "neutral before", models, num_images, before),
        _sampling(output, "neutral after", aligned, num_images, after),
        *([_sampling(output, "named after", aligned, num_images, after)] if named else []),
    ]  # fmt: skip


def _further_tuning(stages: Sequence[Stage], number: int) -> list[Stage]:
    """Return the tuning with another seed, and the sampling of its images from the same noise as before.

    Args:
        stages: stages of the first tuning.
        number: number of the tuning, from 2; its stages and folders end in it.
    """
    own = {
        stage.name for stage in stages if stage.name in ("aligning", "sampling neutral after", "sampling named after")
    }
    folders = {"aligning": ("aligned_dir", "output_dir"), "sampling": ("ckpt_dir", "output_dir")}
    further = []
    for stage in stages:
        if stage.name not in own:
            continue
        changed = {name: _numbered(stage.options[name], number) for name in folders[stage.run_id]}
        if stage.run_id == "aligning":
            changed["seed"] = stage.options["seed"] + number - 1
            result = changed["aligned_dir"] / "model.pt"
        else:
            result = changed["output_dir"] / "summary.json"
        needs = tuple(f"{name} {number}" if name in own else name for name in stage.needs)
        options = {**stage.options, **changed}
        further.append(replace(stage, name=f"{stage.name} {number}", result=result, options=options, needs=needs))
    return further


def _numbered(folder: Path, number: int) -> Path:
    return folder.with_name(f"{folder.name} {number}")


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
        # a different seed, because with the noise of `before`, the images would be identical
        _sampling(output, chosen_from, models, num_candidates, ("training",), seed=seed + 1),
        Stage(
            "resampling", "resampling", ["resample.json"], resampled / "summary.json", {
                "ckpt_dir": models, "classifier_dir": models, "sampling_dir": output / chosen_from,
                "output_dir": resampled,
            }, ("classifying guide", f"sampling {chosen_from}"),
        ),
        _sampling(output, "neutral retrained", retrained, num_images, ("retraining",)),
    ]  # fmt: skip


def _evaluation(output: Path, stages: Sequence[Stage], experiment: AlignmentExperiment, named: bool) -> Stage:
    reference = bool(experiment.reference_dir)
    others = () if experiment.num_candidates is None else ("retrained", "resampled", *(BY_PROMPT if named else ()))
    tunings = range(2, experiment.num_tunings + 1)

    def folders(kind: str, *arms: str) -> dict[str, Any]:
        found: dict[str, Any] = {arm: str(output / FOLDERS.get(arm, f"{kind} {arm}")) for arm in arms}
        if experiment.num_tunings > 1:
            found["after"] = [found["after"], *(f"{found['after']} {number}" for number in tunings)]
        return found

    preparing = ("preparing", "preparing the reference") if reference else ("preparing",)
    return Stage(
        "evaluation", "evaluation", ["evaluate.json"], output / "evaluation" / "metrics.json", {
            "cohort_dir": output / "cohort", "ckpt_dir": output / "models", "classifier_dir": output / "models",
            "output_dir": output / "evaluation", "alignment": output / "aligning" / "alignment.json",
            "reference_dir": output / "reference" if reference else output / "cohort",
            "arms": folders("neutral", "before", "after", *others),
            "named": folders("named", "before", "after") if named else None,
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
    # the judge is trained only on real images
    if named and role != "judge":
        own["generated"] = output / "named before"
        needs.append("sampling named before")
    return Stage(name, "classifying", ["classify.json"], folder / "summary.json", own, needs)

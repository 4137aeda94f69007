"""The run ``experiment`` of a text-to-image bundle: from captioned images to an aligned model and its page."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medi_monai.engines.runs import finish_run
from medi_monai.engines.stages import Stage, run_stage, seconds_of
from medi_monai.utils.errors import InputError
from medi_monai.utils.files import read_json

__all__ = ["fair_experiment_run"]

ROLES = ("guide", "validation", "judge")


def fair_experiment_run(
    bundle_root: str | os.PathLike,
    output_dir: str | os.PathLike,
    options: Mapping[str, Any],
    stage_options: Mapping[str, Mapping[str, Any]],
    reference_dir: str | None,
    num_images: int,
) -> dict[str, Any]:
    """Prepare, train, read, align, sample before and after with the same noise, evaluate; the page is ``report.html``.

    Each stage is a run of the bundle in a process of its own, as in :func:`medi_monai.engines.experiment_run`.

    Args:
        bundle_root: the bundle.
        output_dir: folder of everything.
        options: by the ids of the bundle's configs; each stage takes those that its config has.
        stage_options: options of one kind of stage alone: ``training``, ``classifying``, ``sampling``, ``aligning``.
        reference_dir: ``dataset_dir`` of the real images that the target describes; None compares with the cohort.
        num_images: generated before and after, of neutral prompts and of those that name the attribute.

    Returns:
        The content of ``metrics.json``.

    Raises:
        RunStopped: where a stage failed; its own message says why, and the same command goes on.
    """
    bundle, output = Path(bundle_root).resolve(), Path(output_dir).resolve()
    if not (bundle / "configs" / "align.json").is_file():
        raise InputError(f"there is no text-to-image bundle in {bundle}; give --bundle_root")
    start, seconds, before = time.perf_counter(), {}, ""
    for kind, stage in _stages(output, options, reference_dir, num_images):
        before = run_stage(bundle, output, stage, options, {stage.run_id: stage_options.get(kind, {})}, before)
        seconds[stage.name] = seconds_of(output, stage)
    content: dict[str, Any] = read_json(output / "evaluation" / "metrics.json")
    finish_run(
        "experiment",
        output,
        made={"stages": seconds},
        figures={"verdict": content["verdict"], "seconds": round(time.perf_counter() - start, 1)},
        settings={**options, **{f"{kind}: {k}": v for kind, own in stage_options.items() for k, v in own.items()}},
        digests={},
        where=output / "evaluation" / "report.html",
    )
    return content


def _stages(
    output: Path, options: Mapping[str, Any], reference_dir: str | None, num_images: int
) -> list[tuple[str, Stage]]:
    """The kind of each stage, which its options go by, and the stage."""
    cohort, models, aligned = output / "cohort", output / "models", output / "models" / "aligned"

    def stage(kind: str, name: str, run: tuple[str, str], result: Path, **own: Any) -> tuple[str, Stage]:
        return kind, Stage(name, run[0], [run[1]], result, own)

    def preparing(name: str, folder: Path, **own: Any) -> tuple[str, Stage]:
        run = "preparing", "prepare.json"
        return stage("preparing", name, run, folder / "summary.json", output_dir=folder, **own)

    def sampling(prompts: str, when: str, ckpt_dir: Path) -> tuple[str, Stage]:
        folder, run = output / f"{prompts} {when}", ("sampling", "inference.json")
        own = {"cohort_dir": cohort, "ckpt_dir": ckpt_dir, "prompts": prompts, "num_images": num_images}
        return stage("sampling", f"sampling {prompts} {when}", run, folder / "summary.json", output_dir=folder, **own)

    def classifying(role: str) -> tuple[str, Stage]:
        run, folder = ("training", "classify.json"), models / role
        # the judge knows real images alone
        own = {} if role == "judge" else {"generated": output / "named before"}
        own |= {"cohort_dir": cohort, "output_dir": folder}
        return stage("classifying", f"classifying {role}", run, folder / "summary.json", role=role, **own)

    trained = {"cohort_dir": cohort, "ckpt_dir": models, "classifier_dir": models}
    pairs = {
        name: {when: str(output / f"{prompts} {when}") for when in ("before", "after")}
        for name, prompts in (("arms", "neutral"), ("named", "named"))
    }
    references = []
    if reference_dir:
        references = [preparing("preparing the reference", output / "reference", dataset_dir=reference_dir)]
    return [
        preparing("preparing", cohort),
        *references,
        stage(
            "training", "training", ("training", "train.json"), models / "model.pt", cohort_dir=cohort, ckpt_dir=models,
            text_model_dir=models / "clip", output_dir=output / "training",
        ),
        sampling("neutral", "before", models),
        sampling("named", "before", models),
        *map(classifying, ROLES),
        stage(
            "aligning", "aligning", ("aligning", "align.json"), aligned / "model.pt", aligned_dir=aligned,
            output_dir=output / "aligning", **trained,
        ),
        sampling("neutral", "after", aligned),
        sampling("named", "after", aligned),
        stage(
            "evaluation", "evaluation", ("evaluation", "evaluate.json"), output / "evaluation" / "metrics.json",
            output_dir=output / "evaluation", alignment=output / "aligning" / "alignment.json",
            reference_dir=output / "reference" if reference_dir else cohort, **pairs, **trained,
        ),
    ]  # fmt: skip

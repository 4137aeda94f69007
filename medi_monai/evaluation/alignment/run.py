"""The run ``evaluation`` of an alignment: subgroups of generated images before and after, compared with a target."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from medi_monai.alignment.functional import SubgroupTarget
from medi_monai.cohort import Cohort
from medi_monai.evaluation.alignment.adherence import measure_adherence
from medi_monai.evaluation.alignment.images import ComparedImages, Measured, compared_images
from medi_monai.evaluation.alignment.inputs import gather
from medi_monai.evaluation.alignment.pairs import measure_pairs
from medi_monai.evaluation.alignment.quality import measure_memorization, measure_quality
from medi_monai.evaluation.alignment.shares import measure_shares
from medi_monai.evaluation.alignment.table import long_table
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.evaluation.verdicts.alignment import cautions, verdict_by_arm
from medi_monai.networks.encoders import Encoder
from medi_monai.networks.text import ClipModel
from medi_monai.report.alignment_page import write_alignment_page
from medi_monai.results import typed, write_run
from medi_monai.results.alignment import AlignmentMetrics, TuningCurve
from medi_monai.utils.errors import InputError

__all__ = ["MEASURES", "evaluate_alignment_run"]

#: measures, each of which computes some fields of ``AlignmentMetrics`` from the same images
MEASURES: tuple[Callable[[ComparedImages], Measured], ...] = (
    measure_shares,
    measure_quality,
    measure_memorization,
    measure_pairs,
    measure_adherence,
)


def evaluate_alignment_run(
    arms: Mapping[str, str | os.PathLike],
    target: str | Mapping[Any, Any] | SubgroupTarget | None,
    judge: Any,
    cohort: Cohort,
    encoder: Encoder,
    image_size: int,
    output_dir: str | os.PathLike,
    reference: Cohort | None = None,
    guide: Any = None,
    validation: Any = None,
    attributes: Sequence[str] | None = None,
    target_table: pd.DataFrame | str | os.PathLike | None = None,
    clip: ClipModel | str | os.PathLike | None = None,
    alignment: str | os.PathLike | None = None,
    named: Mapping[str, str | os.PathLike] | None = None,
    words: Mapping[str, Mapping[str, str | Sequence[str]]] | None = None,
    prompt: str = "caption",
    settings: FidelitySettings | None = None,
    tolerance: float = 0.05,
    batch_size: int = 256,
    device: str | torch.device = "cpu",
    num_workers: int = 0,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
    features_dir: str | os.PathLike | None = None,
) -> AlignmentMetrics | None:
    """Evaluate images before and after a tuning; write ``metrics.json``, ``metrics.csv`` and ``report.html``.

    Args:
        arms: ``output_dir`` of the sampling run of each arm: ``before``, ``after``, and any others.
        target: target shares, as for :func:`medi_monai.alignment.functional.make_target`; None for the target recorded
            in ``alignment``.
        judge: classifier that took no part in the tuning, as for
            :func:`medi_monai.networks.classifier.load_classifier`.
        cohort: real images with their split; the model was trained on ``train``.
        encoder: encoder of the features.
        image_size: side of the images in pixels.
        output_dir: output folder; earlier results are moved to ``earlier-<n>``.
        reference: real images to compare with, with the attributes; by default the cohort.
        guide: classifier whose gradient tuned the model; its predictions are reported next to those of the judge.
        validation: classifier that decided when to stop; reported like the guide.
        attributes: aligned attributes, if ``target`` does not name them.
        target_table: reference table, or its path, for the target ``table``.
        clip: CLIP model for consistency and CLIP score; None omits them.
        alignment: ``alignment.json`` of the tuning, or its folder; None if there is none.
        named: ``output_dir`` of a second sampling of each arm, with prompts that name the attribute.
        words: for each attribute, the words that name each value in these prompts; by default the values themselves.
        prompt: column of the prompts in the manifests.
        settings: settings of the comparison with real images.
        tolerance: largest total variation, in (0, 1), at which the target counts as met.
        batch_size: batch size of all networks.
        device: device of all networks.
        num_workers: number of processes that read images for the encoder.
        costs: known costs of each arm, for the page; the fields of :class:`medi_monai.results.alignment.ArmCost`.
        features_dir: folder of features, as for :func:`medi_monai.evaluation.embedding.features_folder`.

    Returns:
        The content of ``metrics.json``; None in all but the first of ``torchrun``'s processes, which only embed.

    Raises:
        InputError: for missing arms, arms without a common prompt, no judge, a judge that lacks an attribute or is the
            same as another classifier, an invalid or missing target, missing columns, or a tolerance out of range.
    """
    settings = settings or FidelitySettings()
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance = {tolerance}: a total variation between 0 and 1, such as 0.05 for five points")
    classifiers = {"judge": judge, "guide": guide, "validation": validation}
    inputs = gather(
        arms,
        target,
        classifiers,
        cohort,
        reference,
        attributes=attributes,
        target_table=target_table,
        alignment=alignment,
        named=named,
        words=words,
        prompt=prompt,
        clip=clip,
        device=device,
    )
    images = compared_images(inputs, encoder, image_size, batch_size, str(device), num_workers, settings, features_dir)
    if images is None:
        return None
    measured = [measure(images) for measure in MEASURES]
    figures = {name: own for measures in measured for name, own in measures.figures.items()}
    pictures = {name: own for measures in measured for name, own in measures.pictures.items()}
    metrics = typed(
        AlignmentMetrics,
        {
            **figures,
            "curve": _curve(inputs.recorded),
            "costs": costs or {},
            "chosen": inputs.selections,
            "settings_that_differ": inputs.differing_settings,
            "encoder": encoder.describe(),
            "settings": {
                **vars(settings), "tolerance": tolerance, "image_size": image_size, "prompt": prompt, "arms": arms,
                "named": named or {},
            },
            "digests": inputs.digests,
            "verdict": {},
            "warnings": [],
        },
    )  # fmt: skip
    metrics = replace(metrics, verdict=verdict_by_arm(metrics), warnings=cautions(metrics))
    return write_run(
        "evaluation",
        output_dir,
        "metrics",
        metrics,
        {"metrics.csv": long_table(metrics)},
        lambda written, path: write_alignment_page(written, pictures["pairs"], pictures["closest"], path),
        {
            "arms": list(inputs.arms),
            "real_images": len(inputs.real),
            **{arm: len(generated) for arm, generated in inputs.arms.items()},
        },
        {
            "answer": {arm: verdict.answer for arm, verdict in metrics.verdict.items()},
            "distance_to_target": {
                arm: distances[metrics.part].total_variation for arm, distances in metrics.distance_to_target.items()
            },
        },
    )


def _curve(recorded: Mapping[str, Any] | None) -> TuningCurve | None:
    if recorded is None:
        return None
    rows = [
        {"step": row["step"], "classifiers": {name: seen for name, seen in row.items() if name != "step"}}
        for row in recorded["curve"]
    ]
    return typed(TuningCurve, {"rows": rows, "kept_step": recorded["kept_step"]}, "the record of `aligning`")

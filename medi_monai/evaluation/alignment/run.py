"""The run ``evaluation`` of an alignment: subgroups of generated images before and after, compared with a target."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from medi_monai.cohort.demo import are_made_up
from medi_monai.evaluation.alignment.adherence import measure_adherence
from medi_monai.evaluation.alignment.encoders import REGULARIZER
from medi_monai.evaluation.alignment.images import ComparedImages, Measured, compared_images
from medi_monai.evaluation.alignment.inputs import (
    AlignmentInputs,
    GeneratedImages,
    RealImages,
    TargetSource,
    gather,
)
from medi_monai.evaluation.alignment.pairs import measure_pairs
from medi_monai.evaluation.alignment.quality import measure_memorization, measure_quality
from medi_monai.evaluation.alignment.seeds import pool_seeds, seed_results
from medi_monai.evaluation.alignment.shares import measure_shares
from medi_monai.evaluation.alignment.table import alignment_table
from medi_monai.evaluation.blank_encoder import encoder_findings, similarity_findings
from medi_monai.evaluation.compression import compression_findings
from medi_monai.evaluation.embedding import Embedder
from medi_monai.evaluation.fidelity import FidelitySettings
from medi_monai.evaluation.verdicts.alignment import cautions, verdict_by_arm
from medi_monai.networks.encoders import Encoder
from medi_monai.networks.text import ClipModel
from medi_monai.report.alignment_page import write_alignment_page
from medi_monai.results import Finding, typed, write_run
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
    generated: GeneratedImages,
    real: RealImages,
    target: TargetSource,
    classifiers: Mapping[str, Any],
    embedder: Embedder,
    output_dir: str | os.PathLike,
    clip: ClipModel | str | os.PathLike | None = None,
    alignment: str | os.PathLike | None = None,
    settings: FidelitySettings | None = None,
    tolerance: float = 0.05,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
) -> AlignmentMetrics | None:
    """Evaluate images before and after a tuning; write ``metrics.json``, ``metrics.csv`` and ``report.html``.

    Args:
        generated: images of each arm.
        real: real images.
        target: target shares.
        classifiers: classifiers by role, as for :func:`medi_monai.networks.classifier.load_classifier`, or None for a
            role that is not filled: ``judge``, which took no part in the tuning and is required; ``guide``, whose
            gradient tuned the model, and ``validation``, which decided when to stop, whose predictions are reported
            next to those of the judge.
        embedder: how images are embedded; its batch size and device are those of all networks.
        output_dir: output folder; earlier results are moved to ``earlier-<n>``.
        clip: CLIP model of the CLIP score; None omits it.
        alignment: ``alignment.json`` of the tuning, or its folder; None if there is none.
        settings: settings of the comparison with real images.
        tolerance: largest total variation, in (0, 1), at which the target counts as met.
        costs: known costs of each arm, for the page; the fields of :class:`medi_monai.results.alignment.ArmCost`.

    Returns:
        The content of ``metrics.json``; None in all but the first of ``torchrun``'s processes, which only embed.

    Raises:
        InputError: for missing arms, arms without a common prompt, no judge, a judge that lacks an attribute or is the
            same as another classifier, an invalid or missing target, missing columns, or a tolerance out of range.
    """
    settings = settings or FidelitySettings()
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance = {tolerance}: a total variation between 0 and 1, such as 0.05 for five points")
    inputs = gather(generated, real, target, classifiers, clip, alignment, embedder.device)
    embedder = embedder.compressing(inputs.cohort, inputs.arms)
    encoder = embedder.encoder
    images = compared_images(inputs, embedder, settings)
    if images is None:
        return None
    measured = [measure(images) for measure in MEASURES]
    figures = {name: own for measures in measured for name, own in measures.figures.items()}
    seeds = seed_results(figures, inputs.seeds, inputs.joint.name)
    figures = {**pool_seeds(figures, inputs.seeds), "seeds": seeds}
    pictures = {name: own for measures in measured for name, own in measures.pictures.items()}
    recorded_settings = {
        **vars(settings),
        "tolerance": tolerance,
        "image_size": embedder.image_size,
        "prompt": generated.prompt,
        "arms": generated.folders,
        "named": generated.named or {},
    }
    notes = [*encoder_findings(images.features["real"], encoder.name), *compression_findings(encoder)]
    metrics = _metrics(inputs, figures, recorded_settings, encoder, costs or {}, notes)
    return write_run(
        "evaluation",
        output_dir,
        "metrics",
        metrics,
        {"metrics.csv": alignment_table(metrics)},
        lambda written, path: write_alignment_page(
            written, pictures["pairs"], pictures["closest"], path, inputs.cohort.mpp
        ),
        {
            "arms": list(inputs.arms),
            "real_images": len(inputs.real),
            **{arm: len(images_of_arm) for arm, images_of_arm in inputs.arms.items()},
        },
        {
            "answer": {arm: verdict.answer for arm, verdict in metrics.verdict.items()},
            "distance_to_target": {
                arm: distances[metrics.part].total_variation for arm, distances in metrics.distance_to_target.items()
            },
        },
    )


def _metrics(
    inputs: AlignmentInputs,
    figures: Mapping[str, Any],
    settings: Mapping[str, Any],
    encoder: Encoder,
    costs: Mapping[str, Mapping[str, Any]],
    blank: Sequence[Finding],
) -> AlignmentMetrics:
    """Return the content of ``metrics.json``, with the verdicts on its figures after findings on a blank encoder."""
    metrics = typed(
        AlignmentMetrics,
        {
            **figures,
            "curve": _curve(inputs.recorded),
            "costs": costs,
            "chosen": inputs.selections,
            "settings_that_differ": inputs.differing_settings,
            "encoder": encoder.describe(),
            "regularizer": (inputs.recorded or {}).get(REGULARIZER),
            "settings": settings,
            "digests": inputs.digests,
            "demo": are_made_up(inputs.real.table["patient"]),
            "verdict": {},
            "warnings": [],
        },
    )
    tuned = metrics.consistency.get("after")
    warnings = (*blank, *similarity_findings(tuned.unrelated if tuned else None), *cautions(metrics))
    return replace(metrics, verdict=verdict_by_arm(metrics), warnings=warnings)


def _curve(recorded: Mapping[str, Any] | None) -> TuningCurve | None:
    if recorded is None:
        return None
    rows = [
        {"step": row["step"], "classifiers": {name: seen for name, seen in row.items() if name != "step"}}
        for row in recorded["curve"]
    ]
    return typed(TuningCurve, {"rows": rows, "kept_step": recorded["kept_step"]}, "the record of `aligning`")

"""The long table of an evaluated alignment, ``metrics.csv``: one row per figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from medi_monai.evaluation.fidelity import DISTANCES, FLOOR, SHARES
from medi_monai.results import Figure
from medi_monai.results.alignment import AlignmentMetrics, PredictedShares

__all__ = ["long_table"]


def long_table(metrics: AlignmentMetrics) -> pd.DataFrame:
    """Return one row per figure, with its arm, metric, group, classifier (column ``reader``) and prompt."""
    rows = [*_share_rows(metrics, "judge")]
    for classifier, predicted in metrics.readers.items():
        rows += _share_rows(predicted, classifier)
    rows += [*_prompt_rows(metrics), *_fidelity_rows(metrics), *_diversity_rows(metrics), *_other_rows(metrics)]
    return pd.DataFrame(rows)


def _row(arm: str, metric: str, group: str, figure: Figure, classifier: str = "", prompt: str = "") -> dict[str, Any]:
    names = {"arm": arm, "metric": metric, "group": group, "reader": classifier, "prompt": prompt}
    return {**names, **figure.cells()}


def _share_rows(predicted: PredictedShares, classifier: str) -> Iterator[dict[str, Any]]:
    for arm, by_part in predicted.distance_to_target.items():
        for part, distances in by_part.items():
            corrected = distances.corrected
            for value, share in predicted.proportions[arm][part].items():
                yield _row(arm, f"proportion of {part}", value, share, classifier)
            for metric in ("total_variation", "kl"):
                yield _row(arm, metric, part, getattr(distances, metric), classifier)
                if corrected:
                    yield _row(arm, f"corrected {metric}", part, getattr(corrected, metric), classifier)
            for value, share in corrected.proportions.items() if corrected else ():
                yield _row(arm, f"corrected proportion of {part}", value, share, classifier)


def _prompt_rows(metrics: AlignmentMetrics) -> Iterator[dict[str, Any]]:
    for part, by_prompt in metrics.by_prompt.items():
        for of_prompt in by_prompt.prompts:
            for arm, shares in of_prompt.arms.items():
                yield _row(arm, "total_variation", part, shares.total_variation, "judge", of_prompt.prompt)


def _fidelity_rows(metrics: AlignmentMetrics) -> Iterator[dict[str, Any]]:
    for group, fidelity in metrics.fidelity.items():
        for metric in (*DISTANCES, *SHARES):
            yield _row(FLOOR, metric, group, getattr(fidelity.floor, metric))
        for arm, figures in fidelity.arms.items():
            for metric in (*DISTANCES, *SHARES):
                yield _row(arm, metric, group, getattr(figures, metric))
            yield _row(arm, "frechet_distance_ratio", group, figures.ratio)


def _diversity_rows(metrics: AlignmentMetrics) -> Iterator[dict[str, Any]]:
    for group, by_arm in metrics.diversity.items():
        for arm, diversity in by_arm.items():
            yield _row(arm, "diversity_ms_ssim", group, diversity.ms_ssim)
            yield _row(arm, "diversity_features", group, diversity.features)


def _other_rows(metrics: AlignmentMetrics) -> Iterator[dict[str, Any]]:
    for arm, pairs in metrics.consistency.items():
        for group in ("all", "stayed", "changed", "unrelated"):
            yield _row(arm, "consistency", group, getattr(pairs, group))
    for arm, score in metrics.clip_score.items():
        yield _row(arm, "clip_score", "all", score)
    for attribute, by_arm in metrics.named_prompts.items():
        for arm, adherence in by_arm.items():
            yield _row(arm, "prompt adherence", attribute, adherence.share, "judge")

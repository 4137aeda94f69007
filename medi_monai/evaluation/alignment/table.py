"""The figures of ``metrics.json`` as a long table with one row per figure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from medi_monai.evaluation.fidelity import DISTANCES, FLOOR, SHARES
from medi_monai.results import Figure
from medi_monai.results.alignment import AlignmentMetrics

__all__ = ["alignment_table"]

Row = dict[str, Any]


def alignment_table(metrics: AlignmentMetrics) -> pd.DataFrame:
    """Return one row per figure: ``arm``, ``metric``, ``group``, classifier (``reader``), ``prompt``, and its numbers.

    Args:
        metrics: results of the evaluation of an alignment.
    """
    sections = (_shares(metrics), _by_prompt(metrics), _fidelity(metrics), _diversity(metrics), _prompts(metrics))
    return pd.DataFrame([row for section in sections for row in section])


def _row(arm: str, metric: str, group: str, figure: Figure, classifier: str = "", prompt: str = "") -> Row:
    names = {"arm": arm, "metric": metric, "group": group, "reader": classifier, "prompt": prompt}
    return {**names, **figure.cells()}


def _shares(metrics: AlignmentMetrics) -> Iterator[Row]:
    """Yield shares of the subgroups and their distance to the target, as predicted by each classifier."""
    for classifier, predicted in {"judge": metrics, **metrics.readers}.items():
        for arm, by_part in predicted.distance_to_target.items():
            for part, distances in by_part.items():
                for value, share in predicted.proportions[arm][part].items():
                    yield _row(arm, f"proportion of {part}", value, share, classifier)
                for metric in ("total_variation", "kl"):
                    yield _row(arm, metric, part, getattr(distances, metric), classifier)
                    if distances.corrected:
                        yield _row(arm, f"corrected {metric}", part, getattr(distances.corrected, metric), classifier)
                for value, share in distances.corrected.proportions.items() if distances.corrected else ():
                    yield _row(arm, f"corrected proportion of {part}", value, share, classifier)


def _by_prompt(metrics: AlignmentMetrics) -> Iterator[Row]:
    for part, by_prompt in metrics.by_prompt.items():
        for row in by_prompt.prompts:
            for arm, shares in row.arms.items():
                yield _row(arm, "total_variation", part, shares.total_variation, "judge", row.prompt)


def _fidelity(metrics: AlignmentMetrics) -> Iterator[Row]:
    for group, fidelity in metrics.fidelity.items():
        for metric in (*DISTANCES, *SHARES):
            yield _row(FLOOR, metric, group, getattr(fidelity.floor, metric))
        for arm, figures in fidelity.arms.items():
            for metric in (*DISTANCES, *SHARES):
                yield _row(arm, metric, group, getattr(figures, metric))
            yield _row(arm, "frechet_distance_ratio", group, figures.ratio)


def _diversity(metrics: AlignmentMetrics) -> Iterator[Row]:
    for group, by_name in metrics.diversity.items():
        for name, diversity in by_name.items():
            yield _row(name, "diversity_ms_ssim", group, diversity.ms_ssim)
            yield _row(name, "diversity_features", group, diversity.features)


def _prompts(metrics: AlignmentMetrics) -> Iterator[Row]:
    """Yield consistency with the images before, CLIP scores, and prompt adherence."""
    for arm, pairs in metrics.consistency.items():
        for group in ("all", "stayed", "changed", "unrelated"):
            yield _row(arm, "consistency", group, getattr(pairs, group))
    for arm, score in metrics.clip_score.items():
        yield _row(arm, "clip_score", "all", score)
    for attribute, by_arm in metrics.named_prompts.items():
        for arm, adherence in by_arm.items():
            yield _row(arm, "prompt adherence", attribute, adherence.share, "judge")

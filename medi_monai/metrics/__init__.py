"""Metrics of images, features, predictions and metadata, as functions of arrays."""

from medi_monai.metrics.association import associate, contingency_table, cramers_v, majority_rule, mutual_information
from medi_monai.metrics.components import Estimate, Source, cluster_weights, estimate
from medi_monai.metrics.copies import CopySearch, aligned_correlation, structure
from medi_monai.metrics.diversity import ms_ssim_diversity, relative_spread
from medi_monai.metrics.frechet import (
    frechet_distance,
    frechet_distance_of_moments,
    frechet_distance_with_interval,
)
from medi_monai.metrics.groups import (
    GroupConfusion,
    accuracy,
    auroc,
    balanced_accuracy,
    calibration_error,
    equal_opportunity_gap,
    equalized_odds_gap,
    matthews_correlation,
    worst_group_accuracy,
)
from medi_monai.metrics.kernel import KernelDistance, kernel_distance
from medi_monai.metrics.moments import Moments, as_features, feature_blocks
from medi_monai.metrics.neighbors import nearest_neighbors, precision_recall, robustness_by_k, robustness_index
from medi_monai.metrics.resampling import (
    FEWEST_PATIENTS,
    PatientSampler,
    draw_patients,
    figure,
    holm,
    interval_around,
    mean_figure,
    mean_interval,
    normal_interval,
    paired_test,
    percentile_interval,
    wilson_interval,
)
from medi_monai.metrics.shortcut import (
    adjusted_rand_index,
    average_performance_drop,
    clustering_score,
    integrated_degradation,
    mean_silhouette,
)
from medi_monai.metrics.stain import group_means, stain_regression

__all__ = [
    "FEWEST_PATIENTS",
    "CopySearch",
    "Estimate",
    "GroupConfusion",
    "KernelDistance",
    "Moments",
    "PatientSampler",
    "Source",
    "accuracy",
    "adjusted_rand_index",
    "aligned_correlation",
    "as_features",
    "associate",
    "auroc",
    "average_performance_drop",
    "balanced_accuracy",
    "calibration_error",
    "cluster_weights",
    "clustering_score",
    "contingency_table",
    "cramers_v",
    "draw_patients",
    "equal_opportunity_gap",
    "equalized_odds_gap",
    "estimate",
    "feature_blocks",
    "figure",
    "frechet_distance",
    "frechet_distance_of_moments",
    "frechet_distance_with_interval",
    "group_means",
    "holm",
    "integrated_degradation",
    "interval_around",
    "mean_interval",
    "kernel_distance",
    "majority_rule",
    "matthews_correlation",
    "mean_figure",
    "mean_silhouette",
    "ms_ssim_diversity",
    "mutual_information",
    "nearest_neighbors",
    "normal_interval",
    "paired_test",
    "percentile_interval",
    "precision_recall",
    "relative_spread",
    "robustness_by_k",
    "robustness_index",
    "stain_regression",
    "structure",
    "wilson_interval",
    "worst_group_accuracy",
]

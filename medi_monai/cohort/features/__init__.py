"""Features computed elsewhere: read files of TRIDENT and CLAM or a Parquet table, and join them to metadata."""

from medi_monai.cohort.features.table import (
    POOLINGS,
    FeatureCohort,
    FeatureSource,
    features_path,
    read_feature_cohort,
)

__all__ = ["POOLINGS", "FeatureCohort", "FeatureSource", "features_path", "read_feature_cohort"]

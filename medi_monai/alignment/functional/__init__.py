"""Losses, targets and rollouts of alignment as pure functions of tensors and callables, without networks or cohorts."""

from medi_monai.alignment.functional.consistency import (
    consistency_loss,
    consistency_weights,
    form_and_color_loss,
    images_to_change,
)
from medi_monai.alignment.functional.losses import batch_matching_loss, transport_loss
from medi_monai.alignment.functional.rollout import (
    ROLLOUTS,
    Rollout,
    adjusted_direct,
    check_rollout,
    step_coefficients,
    truncated,
)
from medi_monai.alignment.functional.targets import (
    SEPARATOR,
    SubgroupTarget,
    check_shares,
    make_target,
)
from medi_monai.alignment.functional.transport import TransportLabels, apportion, subset_counts, transport_labels

__all__ = [
    "ROLLOUTS",
    "SEPARATOR",
    "Rollout",
    "SubgroupTarget",
    "TransportLabels",
    "adjusted_direct",
    "apportion",
    "batch_matching_loss",
    "check_rollout",
    "check_shares",
    "consistency_loss",
    "consistency_weights",
    "form_and_color_loss",
    "images_to_change",
    "make_target",
    "step_coefficients",
    "subset_counts",
    "transport_labels",
    "transport_loss",
    "truncated",
]

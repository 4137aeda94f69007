"""Ignite handlers for training: checkpoints, weight averaging and monitoring."""

from medi_monai.engines.handlers.checkpoints import CHECKPOINT_INDEX, TrainingCheckpoint, saved_checkpoints
from medi_monai.engines.handlers.ema import WeightAverage
from medi_monai.engines.handlers.monitoring import (
    FiniteLossGuard,
    ProgressHandler,
    SampleGridHandler,
    ScalarHandler,
    ValidationLossHandler,
    attach_bar,
)

__all__ = [
    "CHECKPOINT_INDEX",
    "FiniteLossGuard",
    "ProgressHandler",
    "SampleGridHandler",
    "ScalarHandler",
    "TrainingCheckpoint",
    "ValidationLossHandler",
    "WeightAverage",
    "attach_bar",
    "saved_checkpoints",
]

"""Ignite handlers: what happens around the steps of a training."""

from medi_monai.engines.handlers.checkpoints import TrainingCheckpoint
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
    "FiniteLossGuard",
    "ProgressHandler",
    "SampleGridHandler",
    "ScalarHandler",
    "TrainingCheckpoint",
    "ValidationLossHandler",
    "WeightAverage",
    "attach_bar",
]

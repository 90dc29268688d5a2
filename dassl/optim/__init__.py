"""Optimisers and learning-rate schedules by name, and the mean of weights over epochs."""

from .averaging import WeightAverage
from .lr_scheduler import build_lr_scheduler, training_length
from .optimizer import build_optimizer

__all__ = ["WeightAverage", "build_lr_scheduler", "build_optimizer", "training_length"]

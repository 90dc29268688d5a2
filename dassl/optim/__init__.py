"""Optimisers and learning-rate schedules by name."""

from .lr_scheduler import build_lr_scheduler, training_length
from .optimizer import build_optimizer

__all__ = ["build_lr_scheduler", "build_optimizer", "training_length"]

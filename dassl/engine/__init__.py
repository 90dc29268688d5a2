"""The training loop, its hooks, and the run folder."""

from .build import TRAINER_REGISTRY, build_trainer
from .run_folder import Run, run
from .trainer import SimpleTrainer, TrainerBase, TrainerX

__all__ = ["TRAINER_REGISTRY", "Run", "SimpleTrainer", "TrainerBase", "TrainerX", "build_trainer", "run"]

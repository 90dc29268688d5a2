"""Trainers by name."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode) -> Any:
    """The trainer TRAINER.NAME, with its data and model built; raises ValueError for an unknown name."""
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg)

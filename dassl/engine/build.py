"""Trainers by name."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from dassl.utils import Registry

TRAINER_REGISTRY = Registry("TRAINER")


def build_trainer(cfg: CfgNode, **given: Any) -> Any:
    """The trainer TRAINER.NAME, with its data and model built; raises ValueError for an unknown name.

    `given` is what there is already, as the trainer's class names it, e.g. `dataset`.
    """
    return TRAINER_REGISTRY.get(cfg.TRAINER.NAME)(cfg, **given)

"""Evaluators: fed batch by batch, they give names and values."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from .classification import EVALUATOR_REGISTRY, Classification, EvaluatorBase


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> EvaluatorBase:
    """The evaluator TEST.EVALUATOR; raises ValueError for an unknown name."""
    evaluator: EvaluatorBase = EVALUATOR_REGISTRY.get(cfg.TEST.EVALUATOR)(cfg, **kwargs)
    return evaluator


__all__ = ["EVALUATOR_REGISTRY", "Classification", "EvaluatorBase", "build_evaluator"]

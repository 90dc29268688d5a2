"""Accuracy, error, macro F1, per-class accuracy and the confusion matrix."""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import torch
from yacs.config import CfgNode

from dassl.utils import Registry
from dassl.utils.distributed import gather_lists, is_main_process
from dassl.utils.tools import open_atomically

EVALUATOR_REGISTRY = Registry("EVALUATOR")


class EvaluatorBase:
    """What the trainer calls: reset, process per batch, evaluate.

    Args:
        cfg: The run's config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        """Forget all batches."""
        raise NotImplementedError

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Take a batch's outputs and labels."""
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, float]:
        """Names and values over all batches; the first is the main one."""
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Top-1 classification.

    Args:
        cfg: The run's config; TEST.PER_CLASS_RESULT prints per class, TEST.COMPUTE_CMAT writes cmat.pt.
        lab2cname: Class name by label.

    Attributes:
        per_class: After `evaluate`: accuracy in percent by class name, for the classes that occur.
        num_images: After `evaluate`: images seen.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        self._lab2cname = lab2cname or {}
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._y_true: list[int] = []
        self._y_pred: list[int] = []
        self._num_classes = 0
        self.per_class: dict[str, float] = {}
        self.num_images = 0

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Take scores [B, C] and labels [B].

        Raises:
            FloatingPointError: A score is not finite: its argmax would mean nothing.
        """
        if not torch.isfinite(mo).all():
            raise FloatingPointError("the model's outputs hold NaN or infinite values: they cannot be scored")
        self._num_classes = mo.shape[1]
        self._y_true += gt.tolist()
        self._y_pred += mo.argmax(1).tolist()

    def evaluate(self) -> OrderedDict[str, float]:
        """accuracy, error_rate, macro_f1 (percent; F1 averaged over the classes that occur), in that order.

        Raises:
            ValueError: No batch was processed.
        """
        true, pred = gather_lists(self._y_true), gather_lists(self._y_pred)
        if not true:
            raise ValueError("nothing to evaluate: the loader gave no batch")
        self.num_images = len(true)
        n = max(self._num_classes, max(true) + 1, max(pred) + 1)
        index = torch.tensor(true) * n + torch.tensor(pred)
        cmat = torch.bincount(index, minlength=n * n).view(n, n)  # rows: truth, columns: prediction
        hits, support, predicted = cmat.diagonal().double(), cmat.sum(1).double(), cmat.sum(0).double()
        present = support > 0
        f1 = (2 * hits / (support + predicted))[present]
        accuracy = 100 * hits.sum().item() / len(true)
        results = OrderedDict(accuracy=accuracy, error_rate=100 - accuracy, macro_f1=100 * f1.mean().item())
        recall = 100 * hits / support.clamp(min=1)
        for label in present.nonzero().flatten().tolist():
            name = self._lab2cname.get(label, str(label))
            self.per_class[f"{name} ({label})" if name in self.per_class else name] = recall[label].item()
        print(
            f"=> result\n* total: {len(true):,}\n* correct: {int(hits.sum()):,}\n* accuracy: {accuracy:.1f}%\n"
            f"* error: {100 - accuracy:.1f}%\n* macro_f1: {results['macro_f1']:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            print("=> per-class result")
            for label in present.nonzero().flatten().tolist():
                print(
                    f"* class: {label} ({self._lab2cname.get(label, '')})\ttotal: {int(support[label]):,}\t"
                    f"correct: {int(hits[label]):,}\tacc: {recall[label]:.1f}%"
                )
            results["perclass_accuracy"] = recall[present].mean().item()
            print(f"* average: {results['perclass_accuracy']:.1f}%")
        if self.cfg.TEST.COMPUTE_CMAT and is_main_process():
            path = os.path.join(self.cfg.OUTPUT_DIR, "cmat.pt")
            with open_atomically(path, "wb") as file:
                torch.save(cmat.double() / support.clamp(min=1).unsqueeze(1), file)
            print(f"Confusion matrix (rows: truth, as shares) saved to {path}")
        return results

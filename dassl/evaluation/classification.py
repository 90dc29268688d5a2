"""Accuracy, error, macro F1, calibration error, per-class accuracy and the confusion matrix."""

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
_BINS = 15  # of the calibration error, as published


class EvaluatorBase:
    """What the trainer calls: reset, process per batch, evaluate."""

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

    def pictures(self) -> dict[str, torch.Tensor]:
        """Hook: pictures of what was evaluated last, by name, for TensorBoard; uint8 [3, H, W]."""
        return {}


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Top-1 classification.

    Args:
        cfg: The run's config; TEST.PER_CLASS_RESULT prints per class, TEST.COMPUTE_CMAT writes cmat.pt.
        lab2cname: Class name by label.

    Attributes:
        per_class: After `evaluate`: accuracy in percent by class name, for the classes that occur.
        confusion: After `evaluate`: images by true (rows) and predicted class, long [C, C].
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
        self._bins = torch.zeros(3, _BINS, dtype=torch.float64)  # images, hits and summed confidence of each bin
        self.confusion = torch.zeros(0, 0, dtype=torch.long)
        self.per_class: dict[str, float] = {}
        self.num_images = 0

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Take scores [B, C] and labels [B]; for the calibration error the scores are read as logits.

        Raises:
            FloatingPointError: A score is not finite: its argmax would mean nothing.
        """
        if not torch.isfinite(mo).all():
            raise FloatingPointError("the model's outputs hold NaN or infinite values: they cannot be scored")
        self._num_classes = mo.shape[1]
        self._y_true += gt.tolist()
        predicted = mo.argmax(1).cpu()
        self._y_pred += predicted.tolist()
        self._bins += _binned(mo.float().softmax(1).amax(1).cpu(), predicted == gt.cpu())

    def evaluate(self) -> OrderedDict[str, float]:
        """accuracy, error_rate, macro_f1, ece, all in percent, in that order.

        F1 is averaged over the classes that occur. ECE is the expected calibration error (Guo et al., ICML 2017,
        arXiv 1706.04599, eq. 3): in 15 bins of equal width, |accuracy - mean confidence|, weighted by the bins' images.
        Confidence is the largest probability that softmax makes of an image's scores.

        Raises:
            ValueError: No batch was processed.
        """
        true, pred = gather_lists(self._y_true), gather_lists(self._y_pred)
        if not true:
            raise ValueError("nothing to evaluate: the loader gave no batch")
        self.num_images = len(true)
        # A process that got no image knows no number of classes.
        n = max(*gather_lists([self._num_classes]), max(true) + 1, max(pred) + 1)
        index = torch.tensor(true) * n + torch.tensor(pred)
        self.confusion = cmat = torch.bincount(index, minlength=n * n).view(n, n)
        hits, support, predicted = cmat.diagonal().double(), cmat.sum(1).double(), cmat.sum(0).double()
        present = support > 0
        f1 = (2 * hits / (support + predicted))[present]
        accuracy = 100 * hits.sum().item() / len(true)
        results = OrderedDict(accuracy=accuracy, error_rate=100 - accuracy, macro_f1=100 * f1.mean().item())
        images, right, confidence = torch.stack(gather_lists([self._bins])).sum(0)
        results["ece"] = 100 * (right - confidence).abs().sum().item() / images.sum().item()
        recall = 100 * hits / support.clamp(min=1)
        for label in present.nonzero().flatten().tolist():
            name = self._lab2cname.get(label, str(label))
            self.per_class[f"{name} ({label})" if name in self.per_class else name] = recall[label].item()
        print(
            f"=> result\n* total: {len(true):,}\n* correct: {int(hits.sum()):,}\n* accuracy: {accuracy:.1f}%\n"
            f"* error: {100 - accuracy:.1f}%\n* macro_f1: {results['macro_f1']:.1f}%\n* ece: {results['ece']:.1f}%"
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

    def pictures(self) -> dict[str, torch.Tensor]:
        """Accuracy per class as bars, and the confusion matrix."""
        from .pictures import accuracy_bars, confusion_map  # matplotlib is slow to import

        names = [self._lab2cname.get(label, str(label)) for label in range(len(self.confusion))]
        return {
            "accuracy_per_class": accuracy_bars(self.per_class),
            "confusion_matrix": confusion_map(self.confusion, names),
        }


def _binned(confidence: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Images, hits and summed confidence by bin, float64 [3, 15].

    Args:
        confidence: fp32 [B], from 0 to 1; bin i holds those in (i/15, (i+1)/15].
        right: bool [B], whether the prediction is the label.
    """
    edges = torch.linspace(0, 1, _BINS + 1)[1:-1]
    weights = (torch.ones_like(confidence), right, confidence)
    bins = torch.bucketize(confidence, edges)
    return torch.stack([torch.bincount(bins, weight.double(), minlength=_BINS) for weight in weights])

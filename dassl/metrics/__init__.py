"""Accuracy of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def compute_accuracy(
    output: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor, topk: Sequence[int] = (1,)
) -> list[torch.Tensor]:
    """Top-k accuracies in percent.

    Args:
        output: [B, C] scores, or a sequence whose first item they are.
        target: Long [B], labels.
        topk: The k's, each in 1..C.

    Returns:
        One tensor [1] per k.
    """
    scores = output if isinstance(output, torch.Tensor) else output[0]
    hits = scores.topk(max(topk), dim=1).indices.eq(target.view(-1, 1))
    return [hits[:, :k].any(dim=1).float().mean().mul(100).view(1) for k in topk]

"""Distance of learned text features from hand-written ones: what KgCoOp (eq. 4) and TCP add to cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def text_anchor_loss(text: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """1 - the mean over classes of cos(text, teacher).

    On the unit sphere it is half the squared distance that KgCoOp's equation has; this is what its code computes.

    Args:
        text: [C, E], features of the learned prompts.
        teacher: [C, E], of the hand-written ones, without gradient.

    Returns:
        A scalar in [0, 2].

    Raises:
        ValueError: Other shapes.
    """
    if text.ndim != 2 or text.shape != teacher.shape:
        raise ValueError(f"text and teacher must both be [C, E], got {list(text.shape)} and {list(teacher.shape)}")
    return 1 - F.cosine_similarity(text, teacher, dim=-1).mean()

"""L_sem, the prompt consistency loss: the prompts of an image's views must mean the same (GOPro, BMVC 2023)."""

from __future__ import annotations

import torch

REDUCTIONS = ("sum", "mean")


def prompt_consistency(
    text: torch.Tensor, text_moco: torch.Tensor, text_augmix: torch.Tensor, reduction: str = "sum"
) -> torch.Tensor:
    """Squared distance of the text features of two augmented views from the original view's.

        L_sem = d(T, T_moco) + d(T, T_augmix)

    with d the squared Euclidean distance over E, averaged over images and classes (`sum`; for unit vectors
    2 - 2 cos per pair), or averaged over E as well (`mean`, the published code's element-wise mean; for unit vectors
    (2 - 2 cos) / E, about 4e-4 at cos = 0.9 and E = 512). No stop-gradient: all three views are pulled together.

    Args:
        text: [B, C, E], normalised features of the original view's prompts.
        text_moco: [B, C, E], of the MoCo v3 view.
        text_augmix: [B, C, E], of the AugMix view.
        reduction: `sum` or `mean` over E.

    Returns:
        Scalar in fp32.

    Raises:
        ValueError: Shapes differ or are not [B, C, E], or an unknown reduction.
    """
    if text.ndim != 3 or not text.shape == text_moco.shape == text_augmix.shape:
        shapes = [list(t.shape) for t in (text, text_moco, text_augmix)]
        raise ValueError(f"prompt_consistency needs three [B, C, E] tensors, got {shapes}")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {REDUCTIONS}, got {reduction!r}")
    text = text.float()
    squared = (text - text_moco.float()).square() + (text - text_augmix.float()).square()
    return squared.mean() if reduction == "mean" else squared.sum(-1).mean()

"""GOPro's total loss; the trainer, the benchmarks and the tests take it from here."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..losses import nt_xent, prompt_consistency
from .model import GOProOutput


def gopro_loss(
    output: GOProOutput,
    label: torch.Tensor,
    w_sem: float = 1.0,
    w_con: float = 0.1,
    temperature: float = 0.1,
    sem_reduction: str = "sum",
) -> dict[str, torch.Tensor]:
    """L = L_ce + w_sem L_sem + w_con L_con.

    Args:
        output: Of a forward pass with all three views.
        label: Long [B].
        w_sem: Weight of the prompt consistency loss.
        w_con: Weight of the visual contrastive loss.
        temperature: Of the contrastive loss.
        sem_reduction: Of the consistency loss over E, sum or mean.

    Returns:
        Scalars: loss (the total), loss_ce, loss_sem, loss_con.

    Raises:
        ValueError: The output is of one view alone.
    """
    text_moco, text_augmix = output.text_moco, output.text_augmix
    projected, projected_moco = output.projected, output.projected_moco
    if text_moco is None or text_augmix is None or projected is None or projected_moco is None:
        raise ValueError("gopro_loss needs the output of all three views, got that of the original alone")
    ce = F.cross_entropy(output.logits, label)
    sem = prompt_consistency(output.text, text_moco, text_augmix, sem_reduction)
    con = nt_xent(projected, projected_moco, temperature)
    return {"loss": ce + w_sem * sem + w_con * con, "loss_ce": ce, "loss_sem": sem, "loss_con": con}

"""GOPro's total loss; the trainer, the benchmarks and the tests take it from here."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..losses import nt_xent, prompt_consistency
from .model import GOProOutput, Texts


def gopro_loss(
    output: GOProOutput,
    label: torch.Tensor,
    w_sem: float = 1.0,
    w_con: float = 0.1,
    temperature: float = 0.1,
    sem_reduction: str = "sum",
    sem_views: str = "both",
    scale: float = 1.0,
) -> dict[str, torch.Tensor]:
    """L = L_ce + w_sem L_sem + w_con L_con.

    L_ce and L_sem are means over images, and L_con needs no text: where the text side of all images does not fit, both
    are taken of some images at a time, and only the total has gradients.

    Args:
        output: Of a forward pass with all three views.
        label: Long [B].
        w_sem: Weight of the prompt consistency loss.
        w_con: Weight of the visual contrastive loss.
        temperature: Of the contrastive loss.
        sem_reduction: Of the consistency loss over E, sum or mean.
        sem_views: Which augmented views it is of, both, moco or augmix.
        scale: The loss scale of the backward pass to come; see `mean_over_groups`.

    Returns:
        Scalars: loss (the total), loss_ce, loss_sem, loss_con.

    Raises:
        ValueError: The output is of one view alone.
    """
    projected, projected_moco = output.projected, output.projected_moco
    if projected is None or projected_moco is None:
        raise ValueError("gopro_loss needs the output of all three views, got that of the original alone")

    def of_texts(texts: Texts, rows: slice) -> list[torch.Tensor]:
        text, text_moco, text_augmix = texts[1:]
        assert text_moco is not None and text_augmix is not None  # as projections of two views are there
        ce = F.cross_entropy(texts.logits, label[rows])
        text = text if output.sem_labels is None else text[:, output.sem_labels]
        moco, augmix = (
            text if sem_views == other else own for own, other in ((text_moco, "augmix"), (text_augmix, "moco"))
        )
        sem = prompt_consistency(text, moco, augmix, sem_reduction)  # a view that is left out: the distance 0
        return [ce + w_sem * sem, ce, sem]

    of_text, ce, sem = output.mean_over_images(of_texts, scale)
    con = nt_xent(projected, projected_moco, temperature)
    return {"loss": of_text + w_con * con, "loss_ce": ce, "loss_sem": sem, "loss_con": con}

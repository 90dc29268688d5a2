"""L_con, the visual contrastive loss: NT-Xent between two views (SimCLR, https://arxiv.org/abs/2002.05709, eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from dassl.utils.distributed import all_gather_with_grad, get_rank


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Normalised temperature-scaled cross-entropy over two views of B images.

    With a_i, b_i the unit vectors of the views of image i, s(u, v) = u.v / temperature and N = B x ranks images in
    all (views of other ranks are gathered with gradient and serve as negatives):

        l(a_i) = -log exp s(a_i, b_i) / (sum_j exp s(a_i, b_j) + sum_{j != i} exp s(a_i, a_j))

    and l(b_i) likewise; the loss is the mean over the 2B terms. One image alone has no negatives: the loss is 0.

    Args:
        first: [B, E], features of the first view; normalised here.
        second: [B, E], features of the second view of the same images.
        temperature: tau > 0.

    Returns:
        Scalar in fp32.

    Raises:
        ValueError: Shapes differ or are not [B, E], or the temperature is not positive.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"nt_xent needs two [B, E] tensors, got {list(first.shape)} and {list(second.shape)}")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    a, b = F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)
    all_a, all_b = all_gather_with_grad(a), all_gather_with_grad(b)
    positives = get_rank() * len(a) + torch.arange(len(a), device=a.device)
    # An image is no negative of itself.
    self_mask = F.one_hot(positives, len(all_a)).bool()

    def one_side(own: torch.Tensor, all_own: torch.Tensor, all_other: torch.Tensor) -> torch.Tensor:
        within = (own @ all_own.t() / temperature).masked_fill(self_mask, float("-inf"))
        logits = torch.cat([own @ all_other.t() / temperature, within], dim=1)
        return F.cross_entropy(logits, positives)

    return (one_side(a, all_a, all_b) + one_side(b, all_b, all_a)) / 2

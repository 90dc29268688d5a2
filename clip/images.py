"""The image tower, on request with the token statistics of every block, computed on the fly: tokens are never kept.

On request too, a method's own tokens stand beside the image's and its updates beside the weights, with gradients.
Letters: B images, N tokens, n tokens of a method in J blocks, Dv width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .blocks import Update, finish, is_residual_block, project_heads, rows_in_cache
from .keep import Block, Keep, again, choose
from .memory import activation_budget


@dataclass
class ImageFeatures:
    """What the image tower gives for B images with L blocks of width Dv.

    Attributes:
        final: [B, E], the projected feature, not normalised.
        mean: [B, L, Dv], mean over the tokens after each block (class token included).
        var: [B, L, Dv], population variance over the same tokens.
    """

    final: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor

    def __getitem__(self, rows: Any) -> ImageFeatures:
        """Those of some images, as a tensor's rows are taken."""
        return ImageFeatures(self.final[rows], self.mean[rows], self.var[rows])

    def chunk(self, chunks: int) -> list[ImageFeatures]:
        """Split along the batch into equal parts, as `torch.chunk`."""
        parts = (x.chunk(chunks) for x in (self.final, self.mean, self.var))
        return [ImageFeatures(*part) for part in zip(*parts, strict=True)]


def _attend(heads: torch.Tensor) -> torch.Tensor:
    """[B, N, 3, H, d] -> [B, N, Dv]."""
    q, k, v = heads.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _run_block(
    block: Any, x: torch.Tensor, tokens: torch.Tensor | None = None, update: Update | None = None, keep: Keep = Keep.ALL
) -> torch.Tensor:
    """One block with full attention, [B, N, Dv] in fp32; first, tokens take the place of the last rows."""

    def project_and_attend(x: torch.Tensor) -> torch.Tensor:
        return _attend(project_heads(block, x, update))

    if tokens is not None:
        x = torch.cat([x[:, : -tokens.shape[1]], tokens.float().expand(len(x), -1, -1)], dim=1)
    if keep == Keep.ALL:
        attended = project_and_attend(x)
    elif keep < Keep.STATES:
        attended = again(_attend, project_heads(block, x, update))
    else:  # an update may draw random numbers
        attended = again(project_and_attend, x, random=update is not None)
    return finish(block, x.flatten(0, 1), attended.flatten(0, 1), update, keep).view_as(x)


def known_blocks(tower: Any) -> list[Any]:
    """A tower's transformer blocks in order; none where it has none, or others than `clip.blocks` computes."""
    blocks = list(getattr(getattr(tower, "transformer", None), "resblocks", ()))
    return blocks if all(map(is_residual_block, blocks)) else []


def _encode(
    visual: Any,
    blocks: list[Any],
    images: torch.Tensor,
    statistics: bool,
    tokens: torch.Tensor | None = None,
    updates: Sequence[Update] | None = None,
    budget: int | None = None,
) -> tuple[torch.Tensor, ...]:
    means: list[torch.Tensor] = []
    variances: list[torch.Tensor] = []
    learning = torch.is_grad_enabled()

    def with_tokens(x: torch.Tensor) -> torch.Tensor:
        assert tokens is not None
        return before(torch.cat([x, tokens[0].to(x.dtype).expand(len(x), -1, -1)], dim=1))  # type: ignore[no-any-return]

    def run_blocks(x: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        dtype, x = x.dtype, x.float()
        keep = [Keep.ALL] * len(blocks)
        if learning:
            size = Block(x.shape[0] * x.shape[1], x.shape[2], dtype.itemsize)
            keep = choose([size] * len(blocks), activation_budget(x.device) if budget is None else budget)
        for i, block in enumerate(blocks):
            own = tokens[i] if tokens is not None and 0 < i < len(tokens) else None
            update = updates[i] if updates else None
            if keep[i] == Keep.INPUT:  # an update may draw random numbers
                x = again(_run_block, block, x, own, update, random=update is not None)
            else:
                x = _run_block(block, x, own, update, keep[i])
            if statistics:
                means.append(x.mean(1))
                variances.append((x - means[-1].unsqueeze(1)).square_().mean(1))
        x = x if tokens is None else x[:, : -tokens.shape[2]]  # no tower pools over a method's tokens
        return x.to(dtype)

    # What stands before and after the blocks (patches, positions, pooling) differs between ViTs: open_clip's own code.
    visual.transformer.forward = run_blocks
    before = visual.ln_pre.forward
    if tokens is not None:  # they come after the positions and before the first norm, as published
        visual.ln_pre.forward = with_tokens
    try:
        final = visual(images).float()
    finally:
        del visual.transformer.forward
        vars(visual.ln_pre).pop("forward", None)
    return (final, torch.stack(means, dim=1), torch.stack(variances, dim=1)) if statistics else (final,)


def encode_images(
    visual: Any,
    blocks: list[Any],
    images: torch.Tensor,
    statistics: bool = False,
    tokens: torch.Tensor | None = None,
    updates: Sequence[Update] | None = None,
    budget: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """Final feature and, on request, token statistics of each block.

    With tokens or updates gradients reach them where they are enabled, and what the budget does not hold is computed
    again in the backward pass. Without, nothing is kept.

    Args:
        visual: open_clip's image tower.
        blocks: Its `known_blocks`; without any, the tower's own code computes the final feature.
        images: [B, 3, height, width], normalised, in the weights' precision.
        statistics: Give the statistics too; needs blocks.
        tokens: [J, 1 or B, n, Dv]: the first join the image's before the first block, the others replace them before
            blocks 1..J-1; needs blocks.
        updates: What is added to the weights, one a block; needs blocks.
        budget: Bytes that activations may take; None: `activation_budget`.

    Returns:
        The fields of `ImageFeatures`, or (final,), in fp32.
    """
    if torch.is_grad_enabled() and (tokens is not None or updates is not None):
        return _encode(visual, blocks, images, statistics, tokens, updates, budget)
    with torch.no_grad():
        if not blocks:
            return (visual(images).float(),)
        if images.is_cuda:
            return _encode(visual, blocks, images, statistics, tokens, updates)
        size = max(1, rows_in_cache(blocks[0]) // len(visual.positional_embedding))
        parts = []
        for i in range(0, len(images), size):
            own = tokens if tokens is None or tokens.shape[1] == 1 else tokens[:, i : i + size]
            parts.append(_encode(visual, blocks, images[i : i + size], statistics, own, updates))
        return tuple(torch.cat(x) for x in zip(*parts, strict=True))

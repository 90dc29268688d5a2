"""The image tower, on request with the token statistics of every block, computed on the fly: tokens are never kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from .blocks import finish, is_residual_block, project_heads, rows_in_cache


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

    def chunk(self, chunks: int) -> list[ImageFeatures]:
        """Split along the batch into equal parts, as `torch.chunk`."""
        parts = (x.chunk(chunks) for x in (self.final, self.mean, self.var))
        return [ImageFeatures(*part) for part in zip(*parts, strict=True)]


def _run_block(block: Any, x: torch.Tensor) -> torch.Tensor:
    """One block with full attention, [B, N, Dv] in fp32."""
    q, k, v = project_heads(block, x).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return finish(block, x.flatten(0, 1), attended.flatten(0, 1)).view_as(x)


def known_blocks(tower: Any) -> list[Any]:
    """A tower's transformer blocks in order; none where it has none, or others than `clip.blocks` computes."""
    blocks = list(getattr(getattr(tower, "transformer", None), "resblocks", ()))
    return blocks if all(map(is_residual_block, blocks)) else []


def _encode(visual: Any, blocks: list[Any], images: torch.Tensor, statistics: bool) -> tuple[torch.Tensor, ...]:
    means: list[torch.Tensor] = []
    variances: list[torch.Tensor] = []

    def run_blocks(x: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        dtype, x = x.dtype, x.float()
        for block in blocks:
            x = _run_block(block, x)
            if statistics:
                means.append(x.mean(1))
                variances.append((x - means[-1].unsqueeze(1)).square_().mean(1))
        return x.to(dtype)

    # What stands before and after the blocks (patches, positions, pooling) differs between ViTs: open_clip's own code.
    visual.transformer.forward = run_blocks
    try:
        final = visual(images).float()
    finally:
        del visual.transformer.forward
    return (final, torch.stack(means, dim=1), torch.stack(variances, dim=1)) if statistics else (final,)


@torch.no_grad()
def encode_images(
    visual: Any, blocks: list[Any], images: torch.Tensor, statistics: bool = False
) -> tuple[torch.Tensor, ...]:
    """Final feature and, on request, token statistics of each block.

    Args:
        visual: open_clip's image tower.
        blocks: Its `known_blocks`; without any, the tower's own code computes the final feature.
        images: [B, 3, height, width], normalised, in the weights' precision.
        statistics: Give the statistics too; needs blocks.

    Returns:
        The fields of `ImageFeatures`, or (final,), in fp32 and without gradient.
    """
    if not blocks:
        return (visual(images).float(),)
    if images.is_cuda:
        return _encode(visual, blocks, images, statistics)
    size = max(1, rows_in_cache(blocks[0]) // len(visual.positional_embedding))
    parts = [_encode(visual, blocks, part, statistics) for part in torch.split(images, size)]
    return tuple(torch.cat(x) for x in zip(*parts, strict=True))

"""The image tower with the token statistics of every block, computed on the fly: tokens are never kept."""

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


def _encode(visual: Any, images: torch.Tensor) -> ImageFeatures:
    means: list[torch.Tensor] = []
    variances: list[torch.Tensor] = []
    transformer = visual.transformer
    # Early open_clip versions call the blocks with tokens first, later ones with the batch.
    tokens_first = not hasattr(transformer, "batch_first")

    def run_blocks(x: torch.Tensor, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        dtype = x.dtype
        x = x.transpose(0, 1) if tokens_first else x
        for block in transformer.resblocks:
            if is_residual_block(block):
                x = _run_block(block, x.float())
            elif tokens_first or not transformer.batch_first:
                x = block(x.to(dtype).transpose(0, 1)).transpose(0, 1)
            else:
                x = block(x.to(dtype))
            mean = x.mean(1, dtype=torch.float32)
            means.append(mean)
            variances.append((x - mean.unsqueeze(1)).square_().mean(1))
        x = x.to(dtype)
        return x.transpose(0, 1) if tokens_first else x

    # What stands before and after the blocks (patches, positions, pooling) differs between ViTs: open_clip's own code.
    transformer.forward = run_blocks
    try:
        final = visual(images)
    finally:
        del transformer.forward
    final = final[0] if isinstance(final, tuple) else final
    return ImageFeatures(final.float(), torch.stack(means, dim=1), torch.stack(variances, dim=1))


@torch.no_grad()
def encode_images(visual: Any, images: torch.Tensor) -> ImageFeatures:
    """Final feature and per-block token statistics.

    Args:
        visual: open_clip's `VisionTransformer`.
        images: [B, 3, height, width], normalised, in the weights' precision.

    Returns:
        Features in fp32, without gradient.
    """
    if images.is_cuda:
        return _encode(visual, images)
    size = max(1, rows_in_cache(visual.transformer.resblocks[0]) // len(visual.positional_embedding))
    parts = [_encode(visual, part) for part in torch.split(images, size)]
    return ImageFeatures(*(torch.cat(x) for x in zip(*((p.final, p.mean, p.var) for p in parts), strict=True)))

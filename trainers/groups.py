"""A mean over images whose graph does not fit into memory: some images at a time, whose gradients are kept instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def mean_over_groups(
    function: Callable[..., Sequence[torch.Tensor]], size: int, scale: float, *inputs: torch.Tensor
) -> Sequence[torch.Tensor]:
    """What a function gives of all images, from what it gives of some at a time; nothing is computed twice.

    Each group's gradient is taken at once and its graph freed.

    Args:
        function: Takes the slice of images that a group is, and these rows of each input; returns scalars, each a mean
            over these images. What it reads beside its arguments gets no gradient.
        size: Images a group at most.
        scale: Factor on the loss while gradients are taken, so that they do not vanish in half precision: the loss
            scale of the backward pass to come.
        inputs: [B, ...] each.

    Returns:
        The scalars; the first is differentiable, once, the others are not.
    """
    result: Sequence[torch.Tensor] = _Groups.apply(function, size, scale, *inputs)
    return result


class _Groups(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., Sequence[torch.Tensor]], size: int, scale: float, *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        needed, count = ctx.needs_input_grad[3:], len(inputs[0])
        results, gradients = [], []
        for start in range(0, count, size):
            rows = slice(start, start + size)
            leaves = [x[rows].detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)]
            with torch.enable_grad():
                parts = [x * (len(leaves[0]) / count) for x in function(rows, *leaves)]
                learning = [leaf for leaf in leaves if leaf.requires_grad]
                found = iter(torch.autograd.grad(parts[0] * scale, learning, allow_unused=True))
            results.append([x.detach() for x in parts])
            gradients.append([next(found) if need else None for need in needed])
        columns = zip(*gradients, strict=True)
        ctx.save_for_backward(*(None if any(x is None for x in column) else torch.cat(column) for column in columns))
        ctx.scale = scale
        first, *others = (torch.stack(column).sum() for column in zip(*results, strict=True))
        ctx.mark_non_differentiable(*others)
        return first, *others

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        factor = grad / ctx.scale
        return None, None, None, *(None if x is None else x * factor for x in ctx.saved_tensors)

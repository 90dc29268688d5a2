"""The parts of open_clip's residual attention block on frozen weights, in as few passes over memory as they allow.

Both towers run through them: `clip.images` with full attention, `clip.prompts` with that of a prefix tree. The weights
never need gradients, so that a backward pass keeps only what activations need; what is added to them (`Update`) may.
Letters: R rows (tokens), D width, H heads, d = D / H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from .keep import Keep
from .linear import linear

# On a CPU, rows go through in parts whose MLP layer has about this size: they stay in the cache, and the allocator
# takes them from its pool, where each larger array costs fresh pages of the system.
PART_BYTES = 10 * 2**20
_LAYERS = ("ln_1", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
_READ = {"attn.in_proj_weight", "attn.in_proj_bias"} | {f"{x}.{y}" for x in _LAYERS for y in ("weight", "bias")}
QUICK = 1.702  # QuickGELU(x) = x sigmoid(1.702 x)


class Update(Protocol):
    """What a method adds to the attention weights of one block, e.g. in low rank; each acts like `F.linear`."""

    def in_proj(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """[..., D] -> [..., 3 D], queries, keys and values."""

    def out_proj(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """[..., D] -> [..., D]."""


def is_residual_block(block: nn.Module) -> bool:
    """Whether the functions below compute the block: it has the parameters that they read, and no others."""
    names = {name for name, _ in block.named_parameters()} - {"ls_1.gamma", "ls_2.gamma"}
    return names == _READ and hasattr(block.attn, "num_heads")


def autocast_at(device: torch.device) -> tuple[str, torch.dtype, bool]:
    """What `torch.autocast` takes to be on a device, later, as it is now."""
    kind = device.type
    return kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)


def rows_in_cache(block: Any) -> int:
    """Rows that a part on a CPU should have, see PART_BYTES."""
    fc = block.mlp.c_fc
    return max(1, PART_BYTES // int(fc.out_features * fc.weight.element_size()))


def norm(x: torch.Tensor, layer: nn.LayerNorm) -> torch.Tensor:
    """Layer norm in fp32 whatever the weights' precision: the residual stream stays in fp32 too."""
    return F.layer_norm(x, layer.normalized_shape, layer.weight.float(), layer.bias.float(), layer.eps)


def project_heads(block: Any, x: torch.Tensor, update: Update | None = None) -> torch.Tensor:
    """Queries, keys and values of rows, [..., D] in fp32 -> [..., 3, H, d] in the weights' precision."""
    attn = block.attn
    weight: torch.Tensor = attn.in_proj_weight
    qkv = (update.in_proj if update else linear)(norm(x, block.ln_1).to(weight.dtype), weight, attn.in_proj_bias)
    return qkv.view(*x.shape[:-1], 3, attn.num_heads, -1)


def finish(
    block: Any, x: torch.Tensor, attended: torch.Tensor, update: Update | None = None, keep: Keep = Keep.ALL
) -> torch.Tensor:
    """What follows attention: output projection, MLP, both residual sums.

    Args:
        block: The block.
        x: The block's input, [R, D] in fp32.
        attended: Values that the heads gathered, [R, D] in the weights' precision.
        update: What is added to the block's attention weights.
        keep: Whether a backward pass finds the MLP's hidden layer kept.

    Returns:
        The block's output, [R, D] in fp32.
    """
    out = block.attn.out_proj
    x = x + block.ls_1((update.out_proj if update else linear)(attended, out.weight, out.bias))
    if torch.is_grad_enabled():
        return _MLP.apply(x, block, keep < Keep.HEADS)  # type: ignore[no-any-return]
    for part in _parts(block, x):
        part += block.ls_2(_contract(block, _expand(block, norm(part, block.ln_2))))
    return x


def _parts(block: Any, x: torch.Tensor) -> Sequence[torch.Tensor]:
    return (x,) if x.is_cuda else torch.split(x, rows_in_cache(block))


class _MLP(torch.autograd.Function):
    """x + MLP(x), part by part in both directions.

    Cheaper than what autograd makes of it: activations are overwritten, QuickGELU's factors cancel, and what is
    computed again ends at the hidden layer.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, block: Any, keep: bool) -> torch.Tensor:
        ctx.block, ctx.cast = block, autocast_at(x.device)
        kept, result = [], torch.empty_like(x)
        for part, out in zip(_parts(block, x), _parts(block, result), strict=True):
            hidden = _expand(block, norm(part, block.ln_2))
            kept += [hidden] if keep else []
            torch.add(part, block.ls_2(_contract(block, hidden, overwrite=not keep)), out=out)
        ctx.save_for_backward(x, *kept)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        block, (x, *kept) = ctx.block, ctx.saved_tensors
        gamma, result = getattr(block.ls_2, "gamma", None), torch.empty_like(x)
        fc, proj = block.mlp.c_fc.weight, block.mlp.c_proj.weight
        parts = (_parts(block, y) for y in (x, grad, result))
        with torch.autocast(*ctx.cast):
            for i, (part, g, out) in enumerate(zip(*parts, strict=True)):
                with torch.enable_grad():
                    part = part.detach().requires_grad_()
                    normed = norm(part, block.ln_2)
                hidden = kept[i] if kept else _expand(block, normed.detach())
                inner = linear((g if gamma is None else g * gamma).to(proj.dtype), proj.t())
                inner = linear(_activation_backward(block, inner, hidden), fc.t())
                torch.add(g, torch.autograd.grad(normed, part, inner.float())[0], out=out)
        return result, None, None


def _is_quick(block: Any) -> bool:
    return type(block.mlp.gelu).__name__ == "QuickGELU"


def _expand(block: Any, x: torch.Tensor) -> torch.Tensor:
    """The hidden layer of normalised rows before its activation: for QuickGELU 1.702 times that, see `_contract`."""
    fc, scale = block.mlp.c_fc, QUICK if _is_quick(block) else 1.0
    return linear(x.to(fc.weight.dtype), fc.weight, fc.bias, alpha=scale, beta=scale)


def _contract(block: Any, hidden: torch.Tensor, overwrite: bool = True) -> torch.Tensor:
    """The MLP's output; 1.702 QuickGELU(x) = SiLU(1.702 x): the matrix products scale for nothing."""
    proj = block.mlp.c_proj
    if _is_quick(block):
        return linear(F.silu(hidden, inplace=overwrite), proj.weight, proj.bias, alpha=1 / QUICK)
    return linear(block.mlp.gelu(hidden), proj.weight, proj.bias)


def _activation_backward(block: Any, grad: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    if _is_quick(block):
        return torch.ops.aten.silu_backward.grad_input(grad, hidden, grad_input=grad)  # type: ignore[no-any-return]
    with torch.enable_grad():
        hidden = hidden.detach().requires_grad_()
        return torch.autograd.grad(block.mlp.gelu(hidden), hidden, grad)[0]

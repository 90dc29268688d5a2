"""The parts of open_clip's residual attention block on frozen weights, in as few passes over memory as they allow.

Both towers run through them: `clip.images` with full attention, `clip.prompts` with that of a prefix tree. The weights
never need gradients, so that a backward pass keeps only what activations need; what is added to them (`Update`) may.
Letters: R rows (tokens), D width, H heads, d = D / H.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

# On a CPU, what keeps no activations goes through in parts whose MLP layer has about this size: they stay in the cache,
# and the allocator takes them from its pool, where each larger array costs fresh pages of the system.
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
    qkv = (update.in_proj if update else F.linear)(norm(x, block.ln_1).to(weight.dtype), weight, attn.in_proj_bias)
    return qkv.view(*x.shape[:-1], 3, attn.num_heads, -1)


def finish(block: Any, x: torch.Tensor, attended: torch.Tensor, update: Update | None = None) -> torch.Tensor:
    """What follows attention: output projection, MLP, both residual sums.

    Args:
        block: The block.
        x: The block's input, [R, D] in fp32.
        attended: Values that the heads gathered, [R, D] in the weights' precision.
        update: What is added to the block's attention weights.

    Returns:
        The block's output, [R, D] in fp32.
    """
    out = block.attn.out_proj
    x = x + block.ls_1((update.out_proj if update else F.linear)(attended, out.weight, out.bias))
    if x.is_cuda or torch.is_grad_enabled():
        x = x + block.ls_2(_mlp(block, x))
        return x
    for part in torch.split(x, rows_in_cache(block)):
        part += block.ls_2(_mlp(block, part))
    return x


def _mlp(block: Any, x: torch.Tensor) -> torch.Tensor:
    fc, proj, act = block.mlp.c_fc, block.mlp.c_proj, block.mlp.gelu
    x = norm(x, block.ln_2).to(fc.weight.dtype)
    if type(act).__name__ != "QuickGELU":
        return F.linear(act(F.linear(x, fc.weight, fc.bias)), proj.weight, proj.bias)
    # 1.702 QuickGELU(x) = SiLU(1.702 x): the matrix products scale for nothing, and SiLU keeps its input alone.
    hidden = torch.addmm(fc.bias, x, fc.weight.t(), beta=QUICK, alpha=QUICK)
    hidden = F.silu(hidden, inplace=not torch.is_grad_enabled())
    return torch.addmm(proj.bias, hidden, proj.weight.t(), alpha=1 / QUICK)


def kept_bytes(rows: int, width: int, itemsize: int) -> int:
    """Bytes of activations that a backward pass through one block keeps.

    Per row: two residual states in fp32; query, key, value, both of the latter once more with the keys of other rows,
    the heads' output, and the MLP's hidden layer of four widths.
    """
    return int(rows * width * (2 * 4 + (3 + 2.4 + 1 + 4) * itemsize))

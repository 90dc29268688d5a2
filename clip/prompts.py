"""Text features of image-conditioned prompts at the cost of the tokens that differ.

B images with M context vectors each and C classes give B x C sequences [SOT, v_1..v_M, class tokens, ".", EOT].
CLIP's text tower is causal, so three facts make the full computation (B x C rows of 77 tokens) avoidable without
changing its result:

1. Nothing after EOT is ever read: no padding.
2. SOT and the context depend on the image alone: each block computes them once per image, and the tokens of all
   classes attend to these shared keys and values.
3. Two classes whose names start with the same words have the same states there: the class tokens of all classes
   form a prefix tree (`PromptTree`), and every node is computed once per image.

What is left is one row per tree node and image, packed without padding. Letters: B images, M context tokens,
P = 1 + M prefix tokens, T tree nodes, C classes, D text width, H heads, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .tokenizer import EOT


class PromptTree(nn.Module):
    """The class tokens of C classes as a prefix tree, in breadth-first order.

    Args:
        class_tokens: C token sequences, each the ids after the context: name, full stop, EOT.

    Attributes:
        tokens: Long [T], the token id of each node.
        depths: Long [T], the node's distance from the context's end, from 0.
        eot: Long [C], the node at which each class's feature is read.
        levels: Per depth d, the half-open range (start, end) of its nodes.
        longest: Longest sequence, in tokens.

    Raises:
        ValueError: No classes, or a sequence that does not end in its only EOT.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    eot: torch.Tensor

    def __init__(self, class_tokens: Sequence[Sequence[int]]) -> None:
        super().__init__()
        if not class_tokens:
            raise ValueError("a prompt tree needs at least one class, got none")
        for ids in class_tokens:
            if not ids or ids[-1] != EOT or EOT in ids[:-1]:
                raise ValueError(f"class tokens must end in their only EOT ({EOT}), got {list(ids)}")
        self.longest = max(map(len, class_tokens))
        tokens: list[int] = []
        self.levels: list[tuple[int, int]] = []
        paths: list[list[list[int]]] = []  # per level, per node: its ancestors and itself
        at: list[list[int]] = [[] for _ in class_tokens]  # path of each class so far
        for depth in range(self.longest):
            start, level_paths = len(tokens), []
            seen: dict[tuple[int, int], int] = {}
            for c, ids in enumerate(class_tokens):
                if depth >= len(ids):
                    continue
                key = (at[c][-1] if at[c] else -1, ids[depth])
                if key not in seen:
                    seen[key] = len(tokens)
                    tokens.append(ids[depth])
                    level_paths.append([*at[c], seen[key]])
                at[c] = [*at[c], seen[key]]
            self.levels.append((start, len(tokens)))
            paths.append(level_paths)
        counts = torch.tensor([end - start for start, end in self.levels])
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)
        self.register_buffer("depths", torch.arange(self.longest).repeat_interleave(counts), persistent=False)
        self.register_buffer("eot", torch.tensor([path[-1] for path in at]), persistent=False)
        for depth, level_paths in enumerate(paths):
            self.register_buffer(f"path_{depth}", torch.tensor(level_paths), persistent=False)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.eot)

    @property
    def num_nodes(self) -> int:
        """T."""
        return len(self.tokens)

    def path(self, depth: int) -> torch.Tensor:
        """Long [nodes at this depth, depth + 1]: each node's ancestors, itself last."""
        path: torch.Tensor = getattr(self, f"path_{depth}")
        return path


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prefix: int, tree: PromptTree) -> torch.Tensor:
    """Attention of B images' rows: the prefix is causal in itself, a node sees its prefix, ancestors and itself.

    Args:
        q: [B, H, P + T, d], scaled by d ** -0.5; the first P rows are the prefix, the others the tree's nodes.
        k: [B, H, P + T, d].
        v: [B, H, P + T, d].
        prefix: P.
        tree: The tree of T nodes.

    Returns:
        [B, H, P + T, d].
    """
    prefix_k, prefix_v = k[:, :, :prefix], v[:, :, :prefix]
    node_k, node_v = k[:, :, prefix:], v[:, :, prefix:]
    scores = q @ prefix_k.transpose(-1, -2)  # [B, H, P + T, P]
    causal = torch.ones(prefix, prefix, dtype=torch.bool, device=q.device).triu(1)
    own = scores[:, :, :prefix].masked_fill(causal, float("-inf")).softmax(-1, dtype=torch.float32)
    out = [own.to(v.dtype) @ prefix_v]
    for depth, (start, end) in enumerate(tree.levels):
        rows = slice(prefix + start, prefix + end)
        path = tree.path(depth)
        # A few keys a row: products summed in place of a batch of tiny matrix products, which cost more to launch.
        own = (q[:, :, rows].unsqueeze(3) * node_k[:, :, path]).sum(-1)  # [B, H, n, depth + 1]
        weights = torch.cat([scores[:, :, rows], own], dim=-1).softmax(-1, dtype=torch.float32).to(v.dtype)
        level = weights[..., :prefix] @ prefix_v
        out.append(level + (weights[..., prefix:].unsqueeze(-1) * node_v[:, :, path]).sum(3))
    return torch.cat(out, dim=2)


class _QuickGELU(torch.autograd.Function):
    """x * sigmoid(1.702 x), keeping x alone for the backward pass (open_clip's keeps three tensors of its size)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.sigmoid(1.702 * x).mul_(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(1.702 * x)
        result: torch.Tensor = grad * (gate + 1.702 * x * gate * (1 - gate))
        return result


def _linear(x: torch.Tensor, layer: Any) -> torch.Tensor:
    return F.linear(x.to(layer.weight.dtype), layer.weight, layer.bias)


def _norm(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    # In fp32 whatever the weights' precision: the residual stream stays in fp32 too.
    return F.layer_norm(x, norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)


def _run_block(block: Any, x: torch.Tensor, prefix: int, tree: PromptTree, last: bool) -> torch.Tensor:
    """One residual attention block of open_clip's text tower on packed rows.

    Args:
        block: The module.
        x: [B, P + T, D] in fp32.
        prefix: P.
        tree: The tree of T nodes.
        last: Give the classes' EOT rows only, [B, C, D]: nothing else is read after the last block.

    Returns:
        [B, P + T, D] in fp32.
    """
    attn = block.attn
    qkv = F.linear(_norm(x, block.ln_1).to(attn.in_proj_weight.dtype), attn.in_proj_weight, attn.in_proj_bias)
    q, k, v = qkv.view(*x.shape[:2], 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    q = q * q.shape[-1] ** -0.5
    if torch.is_grad_enabled():  # the gathered keys and values are larger than what they are gathered from
        attended = checkpoint(_attend, q, k, v, prefix, tree, use_reentrant=False, preserve_rng_state=False)
    else:
        attended = _attend(q, k, v, prefix, tree)
    attended = attended.transpose(1, 2).flatten(2)
    if last:
        x, attended = x[:, prefix + tree.eot], attended[:, prefix + tree.eot]
    x = x + block.ls_1(_linear(attended, attn.out_proj)).float()
    hidden = _linear(_norm(x, block.ln_2), block.mlp.c_fc)
    quick = type(block.mlp.gelu).__name__ == "QuickGELU"
    hidden = _QuickGELU.apply(hidden) if quick else block.mlp.gelu(hidden)
    out: torch.Tensor = x + block.ls_2(_linear(hidden, block.mlp.c_proj)).float()
    return out


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device now; 8 GiB where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 8 * 2**30


def kept_bytes(rows: int, width: int, layers: int, itemsize: int) -> int:
    """Bytes of activations that a backward pass through all blocks keeps.

    Per row and block: two residual states in fp32, query, key, value twice over (the scaled query is a copy), the
    attention's output and the MLP's hidden layer of four widths.
    """
    return rows * layers * width * (2 * 4 + (4 + 1 + 4) * itemsize)


def encode_prompts(
    blocks: Sequence[nn.Module],
    prefix: torch.Tensor,
    nodes: torch.Tensor,
    tree: PromptTree,
    budget: int | None = None,
) -> torch.Tensor:
    """Hidden states at the classes' EOT tokens after all blocks, exact and differentiable in `prefix`.

    When memory is short the result is the same: with gradients, each block's inside is computed again in the
    backward pass; without, images go through in parts.

    Args:
        blocks: open_clip's residual attention blocks, in order.
        prefix: [B, P, D], embeddings of SOT and the context with positions added.
        nodes: [T, D], embeddings of the tree's tokens with positions added.
        tree: The classes' prefix tree.
        budget: Bytes that activations may take; None: an eighth of the free memory on the CPU, half on a GPU.

    Returns:
        [B, C, D] in fp32, before the final layer norm.
    """
    batch, length, width = prefix.shape
    itemsize = blocks[0].attn.in_proj_weight.element_size()  # type: ignore[union-attr, operator]
    rows = length + len(nodes)
    if budget is None:
        budget = free_memory(prefix.device) // (2 if prefix.is_cuda else 8)
    if not torch.is_grad_enabled():
        # One block's widest moment: residual, norm, hidden layer and its activation.
        images = max(1, budget // (rows * width * (4 * 4 + 10 * itemsize)))
        if images < batch:
            parts = [encode_prompts(blocks, part, nodes, tree, budget) for part in torch.split(prefix, images)]
            return torch.cat(parts)
    recompute = torch.is_grad_enabled() and kept_bytes(batch * rows, width, len(blocks), itemsize) > budget
    x = torch.cat([prefix.float(), nodes.float().expand(batch, -1, -1)], dim=1)
    for i, block in enumerate(blocks):
        last = i == len(blocks) - 1
        if recompute:
            x = checkpoint(_run_block, block, x, length, tree, last, use_reentrant=False, preserve_rng_state=False)
        else:
            x = _run_block(block, x, length, tree, last)
    return x

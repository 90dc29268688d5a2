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


def _tree_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    prefix_k: torch.Tensor,
    prefix_v: torch.Tensor,
    tree: PromptTree,
) -> torch.Tensor:
    """Each node attends to its image's prefix and to its own ancestors.

    Args:
        q: [B or 1, T, H, d], scaled by d ** -0.5.
        k: [B or 1, T, H, d].
        v: [B or 1, T, H, d].
        prefix_k: [B, P, H, d].
        prefix_v: [B, P, H, d].
        tree: The tree of T nodes.

    Returns:
        [B, T, H * d].
    """
    batch, width = prefix_k.shape[0], prefix_k.shape[1]
    prefix_scores = torch.einsum("bthd,bphd->bthp", q.expand(batch, -1, -1, -1), prefix_k)
    out = []
    for depth, (start, end) in enumerate(tree.levels):
        path = tree.path(depth)
        own = torch.einsum("bthd,btkhd->bthk", q[:, start:end], k[:, path])
        weights = torch.cat([prefix_scores[:, start:end], own.expand(batch, -1, -1, -1)], dim=-1).softmax(-1)
        level = torch.einsum("bthp,bphd->bthd", weights[..., :width], prefix_v)
        own_v = v[:, path].expand(batch, -1, -1, -1, -1)
        out.append(level + torch.einsum("bthk,btkhd->bthd", weights[..., width:], own_v))
    return torch.cat(out, dim=1).flatten(2)


def _causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention inside the prefix; all [B, P, H, d], q already scaled; returns [B, P, H * d]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    return out.transpose(1, 2).flatten(2)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.linear(x.to(weight.dtype), weight, bias)


def _norm(x: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    # In fp32 whatever the weights' precision: the residual stream stays in fp32 too.
    return F.layer_norm(x.float(), norm.normalized_shape, norm.weight.float(), norm.bias.float(), norm.eps)


class _Block:
    """One residual attention block of open_clip's text tower, as functions of packed rows."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.heads: int = block.attn.num_heads

    def qkv(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[.., n, D] -> three [.., n, H, d], the query scaled."""
        attn = self.block.attn
        qkv = _linear(_norm(x, self.block.ln_1), attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = qkv.view(*x.shape[:-1], 3, self.heads, -1).unbind(-3)
        return q * q.shape[-1] ** -0.5, k, v

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Output projection, residual and MLP; x and attended [.., n, D]."""
        block = self.block
        x = x + block.ls_1(_linear(attended, block.attn.out_proj.weight, block.attn.out_proj.bias)).float()
        hidden = block.mlp.gelu(_linear(_norm(x, block.ln_2), block.mlp.c_fc.weight, block.mlp.c_fc.bias))
        out: torch.Tensor = x + block.ls_2(_linear(hidden, block.mlp.c_proj.weight, block.mlp.c_proj.bias)).float()
        return out


def encode_prompts(
    blocks: Sequence[nn.Module], prefix: torch.Tensor, nodes: torch.Tensor, tree: PromptTree
) -> torch.Tensor:
    """Hidden states at the classes' EOT tokens after all blocks, exact and differentiable in `prefix`.

    Args:
        blocks: open_clip's residual attention blocks, in order.
        prefix: [B, P, D], embeddings of SOT and the context with positions added.
        nodes: [T, D], embeddings of the tree's tokens with positions added.
        tree: The classes' prefix tree.

    Returns:
        [B, C, D] in fp32, before the final layer norm.
    """
    x_prefix, x = (
        prefix.float(),
        nodes.float().unsqueeze(0),
    )  # nodes differ per image from block 0's output on
    for i, module in enumerate(blocks):
        block, last = _Block(module), i == len(blocks) - 1
        q_prefix, k_prefix, v_prefix = block.qkv(x_prefix)
        q, k, v = block.qkv(x)
        attended = _tree_attention(q, k, v, k_prefix, v_prefix, tree)
        if last:  # only the EOT states are read, and nobody attends to the prefix any more
            x, attended = x[:, tree.eot], attended[:, tree.eot]
        else:
            x_prefix = block.finish(x_prefix, _causal_attention(q_prefix, k_prefix, v_prefix))
        x = block.finish(x, attended)
    return x

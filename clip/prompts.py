"""Text features of image-conditioned prompts at the cost of the tokens that differ.

B images with M context vectors each and C classes give B x C sequences [SOT, v_1..v_M, class tokens, ".", EOT].
CLIP's text tower is causal, so three facts make the full computation (B x C rows of 77 tokens) avoidable without
changing its result:

1. Nothing after EOT is ever read: no padding.
2. SOT and the context depend on the image alone: each block computes them once per image, and the tokens of all
   classes attend to these shared keys and values.
3. Two classes whose names start with the same words have the same states there: the class tokens of all classes
   form a prefix tree (`PromptTree`), and every node is computed once per image.

What is left is one row per tree node and image. The tree's tiles make attention dense again, in one fused kernel a
block. Letters: B images, M context tokens, P = 1 + M prefix tokens, R tree rows in n tiles of S, C classes, D text
width, H heads, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .blocks import finish, project_heads, rows_in_cache
from .memory import free_memory
from .prompt_tree import PromptTree


def _attend(nodes: torch.Tensor, prefix: torch.Tensor, tree: PromptTree, mask: torch.Tensor) -> torch.Tensor:
    """Attention of all rows: the prefix is causal in itself, a node sees its prefix, ancestors and itself.

    Args:
        nodes: Queries, keys and values of the tree's rows, [B, R, 3, H, d].
        prefix: Those of the prefix, [B, P, 3, H, d].
        tree: The tree.
        mask: Its `attention_mask`.

    Returns:
        [B R + B P, D]: the nodes of all images, then the prefixes of all.
    """
    tiles, places = tree.above.shape
    # Taken apart by unbind: gradients of indexed parts would each be written into zeros of the whole size.
    q, k, v = nodes.unbind(2)
    prefix_q, prefix_k, prefix_v = prefix.unbind(2)

    def keys(nodes: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        parts = [prefix.unsqueeze(1).expand(-1, tiles, -1, -1, -1), torch.unflatten(nodes, 1, (tiles, -1))]
        if places:
            above = nodes.index_select(1, tree.above.flatten())
            parts.insert(1, torch.unflatten(above, 1, (tiles, places)))
        return torch.cat(parts, dim=2).flatten(0, 1).transpose(1, 2)  # [B n, H, P + A + S, d]

    queries = torch.unflatten(q, 1, (tiles, -1)).flatten(0, 1).transpose(1, 2)
    out = F.scaled_dot_product_attention(queries, keys(k, prefix_k), keys(v, prefix_v), attn_mask=mask.to(q.dtype))
    q, k, v = (x.transpose(1, 2) for x in (prefix_q, prefix_k, prefix_v))
    first = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return torch.cat([x.transpose(1, 2).flatten(0, 1).flatten(1) for x in (out, first)])


def _first_block(
    block: nn.Module, x: torch.Tensor, embedded: torch.Tensor, batch: int, tree: PromptTree, mask: torch.Tensor
) -> torch.Tensor:
    """The first block sees the same nodes in every image: their queries, keys and values are computed once."""
    prefix = project_heads(block, torch.unflatten(x[batch * len(embedded) :], 0, (batch, -1)))
    nodes = project_heads(block, embedded).expand(batch, -1, -1, -1, -1)
    return finish(block, x, _attend(nodes, prefix, tree, mask))


def _run_block(
    block: nn.Module, x: torch.Tensor, batch: int, tree: PromptTree, mask: torch.Tensor, last: bool
) -> torch.Tensor:
    """One residual attention block on packed rows.

    Args:
        block: The module.
        x: [B R + B P, D] in fp32.
        batch: B.
        tree: The tree.
        mask: Its `attention_mask`.
        last: Give the classes' EOT rows only, [B C, D]: nothing else is read after the last block.

    Returns:
        [B R + B P, D] in fp32.
    """
    split = batch * len(tree.tokens)
    nodes, prefix = torch.split(project_heads(block, x), [split, len(x) - split])
    attended = _attend(torch.unflatten(nodes, 0, (batch, -1)), torch.unflatten(prefix, 0, (batch, -1)), tree, mask)
    if last:
        ends = [torch.unflatten(rows[:split], 0, (batch, -1))[:, tree.eot].flatten(0, 1) for rows in (x, attended)]
        x, attended = ends
    return finish(block, x, attended)


def kept_bytes(rows: int, width: int, itemsize: int) -> int:
    """Bytes of activations that a backward pass through one block keeps.

    Per row: two residual states in fp32; query, key, value, both of the latter once more with the keys of other rows,
    the heads' output, and the MLP's hidden layer of four widths.
    """
    return int(rows * width * (2 * 4 + (3 + 2.4 + 1 + 4) * itemsize))


def encode_prompts(
    blocks: Sequence[nn.Module],
    prefix: torch.Tensor,
    nodes: torch.Tensor,
    tree: PromptTree,
    budget: int | None = None,
) -> torch.Tensor:
    """Hidden states at the classes' EOT tokens after all blocks, exact and differentiable in `prefix`.

    When memory is short the result is the same: with gradients, the first blocks' insides are computed again in the
    backward pass, as many as need be; without, images go through in parts.

    Args:
        blocks: open_clip's residual attention blocks, in order.
        prefix: [B, P, D], embeddings of SOT and the context with positions added.
        nodes: [R, D], embeddings of the tree's tokens with positions added.
        tree: The classes' prefix tree.
        budget: Bytes that activations may take; None: an eighth of the free memory on the CPU, half on a GPU.

    Returns:
        [B, C, D] in fp32, before the final layer norm.
    """
    batch, length, width = prefix.shape
    weight: torch.Tensor = blocks[0].attn.in_proj_weight  # type: ignore[union-attr, assignment]
    rows = length + len(nodes)
    if budget is None:
        budget = free_memory(prefix.device) // (2 if prefix.is_cuda else 8)
    if not torch.is_grad_enabled():
        # One block's widest moment: residual, norm, hidden layer and its activation.
        images = max(1, budget // (rows * width * (4 * 4 + 10 * weight.element_size())))
        if not prefix.is_cuda:
            images = max(1, min(images, rows_in_cache(blocks[0]) // rows))
        if images < batch:
            parts = [encode_prompts(blocks, part, nodes, tree, budget) for part in torch.split(prefix, images)]
            return torch.cat(parts)
    kept = budget // kept_bytes(batch * rows, width, weight.element_size())
    mask = tree.attention_mask(length, batch, weight.dtype)
    nodes = nodes.float()
    x = torch.cat([nodes.repeat(batch, 1), prefix.float().flatten(0, 1)])
    for i, block in enumerate(blocks):
        if i == 0 and len(blocks) > 1:
            run = partial(_first_block, block, x, nodes, batch, tree, mask)
        else:
            run = partial(_run_block, block, x, batch, tree, mask, i == len(blocks) - 1)
        if torch.is_grad_enabled() and i < len(blocks) - kept:
            x = checkpoint(run, use_reentrant=False, preserve_rng_state=False)
        else:
            x = run()
    return torch.unflatten(x, 0, (batch, -1))

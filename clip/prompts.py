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
block. Deep contexts change rows between blocks, which breaks none of this; where a class gets rows of its own, all that
follows them is its own too, and the tree is taken apart from that block on.

Letters: B images, M context tokens, P prefix tokens (SOT and the context's rows in front), K rows of the context in all
(M, or C M where each class has its own), R tree rows in n tiles of S, C classes, D text width, H heads, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from .blocks import Update, finish, project_heads, rows_in_cache
from .keep import Block, Keep, again, choose
from .memory import activation_budget
from .prompt_tree import PromptTree

PARTS_LEARNING = 4  # a part of images with gradients, in those of `rows_in_cache`: the MLP is taken apart on its own


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


class Deep(NamedTuple):
    """Rows of the context that take the place of the first ones between blocks.

    Attributes:
        shared: [J, B or 1, K, D]: before block j = 1..J, all K rows of the context become those of shared[j - 1].
        own: (block index, [C, M, D]): before this block every class's M rows become its own; or None.
    """

    shared: torch.Tensor | None = None
    own: tuple[int, torch.Tensor] | None = None

    def part(self, start: int, stop: int) -> Deep:
        """That of images start..stop-1."""
        per_image = self.shared is not None and self.shared.shape[1] > 1
        return self._replace(shared=self.shared[:, start:stop]) if per_image else self  # type: ignore[index]


def place_context(
    nodes: torch.Tensor, prefix: torch.Tensor, tree: PromptTree, rows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Put rows of the context where they belong.

    Args:
        nodes: [1 or B, R, D].
        prefix: [B, P, D].
        tree: Says how many rows stand in the prefix and which in the nodes.
        rows: [1 or B, K, D].

    Returns:
        Nodes and prefix with the rows in place.
    """
    prefix = torch.cat([prefix[:, :1], rows[:, : prefix.shape[1] - 1].expand(len(prefix), -1, -1)], dim=1)
    if len(tree.context_nodes):
        batch = max(len(nodes), len(rows))
        placed = rows[:, tree.context_rows].expand(batch, -1, -1)
        nodes = nodes.expand(batch, -1, -1).index_copy(1, tree.context_nodes, placed)
    return nodes, prefix


def _pack(nodes: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
    """[1 or B, R, D] and [B, P, D] -> the nodes of all images, then the prefixes of all: [B R + B P, D]."""
    return torch.cat([nodes.expand(len(prefix), -1, -1).flatten(0, 1), prefix.flatten(0, 1)])


def _unpack(x: torch.Tensor, batch: int, tree: PromptTree) -> tuple[torch.Tensor, torch.Tensor]:
    split = batch * len(tree.tokens)
    nodes, prefix = torch.split(x, [split, len(x) - split])
    return torch.unflatten(nodes, 0, (batch, -1)), torch.unflatten(prefix, 0, (batch, -1))


def _heads(
    block: nn.Module,
    x: torch.Tensor,
    batch: int,
    tree: PromptTree,
    shared: torch.Tensor | None,
    update: Update | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries, keys and values of nodes and prefix; with `shared`, those of the nodes, x is the prefix."""
    if shared is None:
        return _unpack(project_heads(block, x, update), batch, tree)
    return shared.expand(batch, -1, -1, -1, -1), project_heads(block, x, update)


def _run_block(
    block: nn.Module,
    x: torch.Tensor,
    batch: int,
    tree: PromptTree,
    mask: torch.Tensor,
    last: bool,
    rows: torch.Tensor | None = None,
    shared: tuple[torch.Tensor, torch.Tensor] | None = None,
    update: Update | None = None,
    keep: Keep = Keep.ALL,
) -> torch.Tensor:
    """One residual attention block on packed rows.

    Args:
        block: The module.
        x: [B R + B P, D] in fp32.
        batch: B.
        tree: The tree.
        mask: Its `attention_mask`.
        last: Give the classes' EOT rows only, [B C, D]: nothing else is read after the last block.
        rows: Rows of the context to put in place first, [1 or B, K, D].
        shared: Where all images have the same nodes, their queries, keys and values, [1, R, 3, H, d], and x's prefix.
        update: What is added to the block's weights.
        keep: What a backward pass finds kept.

    Returns:
        [B R + B P, D] in fp32.
    """

    def attend(nodes: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
        return _attend(nodes, prefix, tree, mask)

    def project_and_attend(x: torch.Tensor) -> torch.Tensor:
        return attend(*_heads(block, x, batch, tree, heads, update))

    if rows is not None:
        x = _pack(*place_context(*_unpack(x, batch, tree), tree, rows))
    heads, source = (None, x) if shared is None else shared
    if keep == Keep.ALL:
        attended = project_and_attend(source)
    elif keep < Keep.STATES:
        attended = again(attend, *_heads(block, source, batch, tree, heads, update))
    else:  # an update may draw random numbers
        attended = again(project_and_attend, source, random=update is not None)
    if last:
        x, attended = (_unpack(part, batch, tree)[0][:, tree.eot].flatten(0, 1) for part in (x, attended))
    return finish(block, x, attended, update, keep)


def encode_prompts(
    blocks: Sequence[nn.Module],
    prefix: torch.Tensor,
    nodes: torch.Tensor,
    tree: PromptTree,
    budget: int | None = None,
    deep: Deep | None = None,
    updates: Sequence[Update] | None = None,
) -> torch.Tensor:
    """Hidden states at the classes' EOT tokens after all blocks, exact and differentiable in all that is not frozen.

    When memory is short the result is the same: with gradients, more is computed again in the backward pass; without,
    fewer images go through at a time.

    Args:
        blocks: open_clip's residual attention blocks, in order.
        prefix: [B, P, D], embeddings of SOT and the context with positions added.
        nodes: [1 or B, R, D], embeddings of the tree's nodes with positions added.
        tree: The classes' prefix tree.
        budget: Bytes that activations may take; None: `activation_budget`.
        deep: What the context becomes between blocks.
        updates: What is added to the weights, one a block.

    Returns:
        [B, C, D] in fp32, before the final layer norm.
    """
    deep, nodes, prefix = deep or Deep(), nodes.float(), prefix.float()
    batch, length, width = prefix.shape
    itemsize = blocks[0].attn.in_proj_weight.element_size()  # type: ignore[union-attr, operator]
    if budget is None:
        budget = activation_budget(prefix.device)
    learning, layers = torch.is_grad_enabled(), len(blocks)
    each = length + nodes.shape[1]  # rows of an image
    images = batch
    if not learning:  # one block's widest moment: residual, norm, hidden layer and its activation
        images = budget // (each * width * (4 * 4 + 10 * itemsize))
    if not prefix.is_cuda:
        images = min(images, rows_in_cache(blocks[0]) * (PARTS_LEARNING if learning else 1) // each)
    images = max(1, images)
    shared = len(nodes) < batch
    starts = range(0, batch, images)
    sizes = [_sizes(blocks, prefix[i : i + images].shape, shared, tree, deep) for i in starts]
    keep = choose([size for part in sizes for size in part], budget) if learning else [Keep.ALL] * len(starts) * layers
    # Where all images have the same nodes, so are their heads in the first block.
    heads = project_heads(blocks[0], nodes, updates[0] if updates else None) if shared else None
    parts = []
    for part, i in enumerate(starts):
        own = nodes if len(nodes) == 1 else nodes[i : i + images]
        kept, given = keep[part * layers : (part + 1) * layers], deep.part(i, i + images)
        parts.append(_encode_part(blocks, prefix[i : i + images], own, heads, tree, kept, given, updates))
    return torch.cat(parts)


def _encode_part(
    blocks: Sequence[nn.Module],
    prefix: torch.Tensor,
    nodes: torch.Tensor,
    heads: torch.Tensor | None,
    tree: PromptTree,
    keep: Sequence[Keep],
    deep: Deep,
    updates: Sequence[Update] | None,
) -> torch.Tensor:
    """`encode_prompts` of some images; `heads` are those of shared nodes in the first block, `keep` is per block."""
    batch, length, _ = prefix.shape
    dtype: torch.dtype = blocks[0].attn.in_proj_weight.dtype  # type: ignore[union-attr, assignment]
    mask = tree.attention_mask(length, batch, dtype)
    shared = None if heads is None else (heads, prefix)
    x = _pack(nodes, prefix)
    for i, block in enumerate(blocks):
        rows = deep.shared[i - 1] if deep.shared is not None and 0 < i <= len(deep.shared) else None
        if deep.own is not None and i == deep.own[0]:
            nodes, prefix = _unpack(x, batch, tree)
            tree, source = tree.apart(deep.own[1].shape[1])
            x = _pack(torch.cat([prefix, nodes], dim=1)[:, source], prefix[:, :1])
            mask = tree.attention_mask(1, batch, dtype)
            rows = deep.own[1].flatten(0, 1).unsqueeze(0)
        update = updates[i] if updates else None
        given = (block, x, batch, tree, mask, i == len(blocks) - 1, rows, shared if i == 0 else None, update)
        if keep[i] == Keep.INPUT:  # an update may draw random numbers
            x = again(_run_block, *given, random=update is not None)
        else:
            x = _run_block(*given, keep[i])
    return torch.unflatten(x, 0, (batch, -1))


def kept_bytes(blocks: Sequence[nn.Module], prefix: Sequence[int], tree: PromptTree) -> int:
    """Bytes that a backward pass of `encode_prompts` finds kept where nothing is computed again.

    Args:
        blocks: See there.
        prefix: B, P, D; the images have the same nodes.
        tree: See there.
    """
    return sum(block.kept(Keep.ALL) for block in _sizes(blocks, prefix, True, tree, Deep()))


def _sizes(
    blocks: Sequence[nn.Module], prefix: Sequence[int], shared: bool, tree: PromptTree, deep: Deep
) -> list[Block]:
    """What the blocks run on, for `choose`; `prefix`: B, P, D; `shared`: all images have the same nodes."""
    (batch, length, width), sizes = prefix, []
    itemsize = blocks[0].attn.in_proj_weight.element_size()  # type: ignore[union-attr, operator]
    for i in range(len(blocks)):
        if deep.own is not None and i == deep.own[0]:
            tree, length = tree.apart(deep.own[1].shape[1])[0], 1
        tiles, size, keys = tree.visible.shape
        rows, gathered = batch * (length + tiles * size), 2 * (length + keys) / size
        out = batch * tree.num_classes if i == len(blocks) - 1 else None
        sizes.append(Block(rows, width, itemsize, gathered, shared and i == 0, out))
    return sizes

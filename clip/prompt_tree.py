"""Class names as a prefix tree, cut into tiles that attend to few keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .tokenizer import EOT

TILE = 64  # nodes a tile at most: dense attention inside a tile costs 1/50 of a block's matrix products


class PromptTree(nn.Module):
    """The class tokens of C classes as a prefix tree, its T nodes in depth-first order (parents first).

    In this order a node's descendants follow it directly, so node i descends from (or is) j where j <= i < end(j).
    The nodes are cut into n tiles of S consecutive ones. What a tile's nodes attend to, beside the tile itself, are
    the ancestors of its first node, at most A of them (a node before the tile that is an ancestor of any is one of
    the first). R = n S rows; those after the last node are padding and see nobody but themselves.

    Args:
        class_tokens: C token sequences, each the ids after the context: name, full stop, EOT.

    Attributes:
        tokens: Long [R], the token id of each node.
        depths: Long [R], the node's distance from the context's end, from 0.
        eot: Long [C], the node at which each class's feature is read.
        above: Long [n, A], ancestors of each tile's first node; unused places hold 0.
        visible: Bool [n, S, A + S], whether a tile's node sees a key of `above` or of the tile itself.
        num_nodes: T.
        longest: Longest sequence, in tokens.

    Raises:
        ValueError: No classes, or a sequence that does not end in its only EOT.
    """

    tokens: torch.Tensor
    depths: torch.Tensor
    eot: torch.Tensor
    above: torch.Tensor
    visible: torch.Tensor

    def __init__(self, class_tokens: Sequence[Sequence[int]]) -> None:
        super().__init__()
        if not class_tokens:
            raise ValueError("a prompt tree needs at least one class, got none")
        for ids in class_tokens:
            if not ids or ids[-1] != EOT or EOT in ids[:-1]:
                raise ValueError(f"class tokens must end in their only EOT ({EOT}), got {list(ids)}")
        self.longest = max(map(len, class_tokens))
        # Sorted sequences meet their common beginnings one after another: depth-first order without a tree.
        tokens: list[int] = []
        paths: list[list[int]] = []  # ancestors and itself, per node
        ends: dict[tuple[int, ...], int] = {}
        last: tuple[int, ...] = ()
        path: list[int] = []
        for ids in sorted(set(map(tuple, class_tokens))):
            shared = next((i for i, (a, b) in enumerate(zip(ids, last, strict=False)) if a != b), len(last))
            path = path[:shared]
            for token in ids[shared:]:
                path = [*path, len(tokens)]
                tokens.append(token)
                paths.append(path)
            ends[ids], last = path[-1], ids
        self.num_nodes = len(tokens)
        tiles = -(-self.num_nodes // TILE)
        size = -(-self.num_nodes // tiles)
        padding = tiles * size - self.num_nodes
        tokens += [EOT] * padding
        depths = [len(path) - 1 for path in paths] + [0] * padding
        # After a node's last descendant.
        after = torch.arange(1, len(tokens) + 1)
        for i, path in enumerate(paths):
            after[path] = i + 1
        ancestors = [paths[start][:-1] for start in range(0, self.num_nodes, size)]
        most = max(map(len, ancestors))
        above = torch.tensor([chain + [0] * (most - len(chain)) for chain in ancestors], dtype=torch.long)
        used = torch.tensor([[i < len(chain) for i in range(most)] for chain in ancestors], dtype=torch.bool)
        rows = torch.arange(len(tokens)).view(tiles, size, 1)
        own = rows.transpose(1, 2)
        above, used = above.view(tiles, most), used.view(tiles, 1, most)
        visible = [used & (rows < after[above].unsqueeze(1)), (own <= rows) & (rows < after[own])]
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)
        self.register_buffer("depths", torch.tensor(depths), persistent=False)
        self.register_buffer("eot", torch.tensor([ends[tuple(ids)] for ids in class_tokens]), persistent=False)
        self.register_buffer("above", above, persistent=False)
        self.register_buffer("visible", torch.cat(visible, dim=2), persistent=False)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.eot)

    def attention_mask(self, prefix: int, batch: int, dtype: torch.dtype) -> torch.Tensor:
        """What is added to attention scores.

        Args:
            prefix: P, keys before `above` that all nodes see.
            batch: B, images.
            dtype: Of the scores.

        Returns:
            [B n, 1, S, P + A + S], 0 or -inf.
        """
        mask = torch.zeros(self.visible.shape, dtype=dtype, device=self.visible.device)
        mask.masked_fill_(~self.visible, float("-inf"))
        return torch.nn.functional.pad(mask, (prefix, 0)).repeat(batch, 1, 1).unsqueeze(1)

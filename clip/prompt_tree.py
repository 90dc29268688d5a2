"""Prompts as a prefix tree, cut into tiles that attend to few keys."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .tokenizer import EOT

TILE = 32  # nodes a tile at most: dense attention inside a tile costs 1/100 of a block's matrix products


class PromptTree(nn.Module):
    """What C prompts hold after their common beginning: a prefix tree of T nodes in depth-first order (parents first).

    A prompt is [SOT, the first rows of the context, symbols]. A symbol is a token's id, or ~k for row k of the context:
    so a context may stand after or within the class name, or each class may have rows of its own.

    In this order a node's descendants follow it directly, so node i descends from (or is) j where j <= i < end(j).
    The nodes are cut into n tiles of S consecutive ones. What a tile's nodes attend to, beside the tile itself, are
    the ancestors of its first node, at most A of them (a node before the tile that is an ancestor of any is one of
    the first). R = n S rows; those after the last node are padding and see nobody but themselves.

    Args:
        symbols: C sequences, each what follows the common beginning, up to EOT.
        front: How many rows of the context stand between SOT and the symbols; None: all, whatever their number.
        class_rows: M where each class has M rows of its own (class c's are c M to c M + M - 1), else 0.

    Attributes:
        tokens: Long [R], the token id of each node; EOT where a row of the context stands, and in padding.
        context_nodes: Long [K], the nodes that hold a row of the context.
        context_rows: Long [K], which row.
        depths: Long [R], the node's distance from the context's end, from 0.
        eot: Long [C], the node at which each class's feature is read.
        above: Long [n, A], ancestors of each tile's first node; unused places hold 0.
        visible: Bool [n, S, A + S], whether a tile's node sees a key of `above` or of the tile itself.
        num_nodes: T.
        longest: Longest sequence, in symbols.
        paths: Per class, its nodes in order.

    Raises:
        ValueError: No classes, or a sequence that does not end in its only EOT.
    """

    tokens: torch.Tensor
    context_nodes: torch.Tensor
    context_rows: torch.Tensor
    depths: torch.Tensor
    eot: torch.Tensor
    above: torch.Tensor
    visible: torch.Tensor

    def __init__(self, symbols: Sequence[Sequence[int]], front: int | None = None, class_rows: int = 0) -> None:
        super().__init__()
        if not symbols:
            raise ValueError("a prompt tree needs at least one class, got none")
        for ids in symbols:
            if not ids or ids[-1] != EOT or EOT in ids[:-1]:
                raise ValueError(f"class tokens must end in their only EOT ({EOT}), got {list(ids)}")
        self.symbols, self.front, self.class_rows = [tuple(ids) for ids in symbols], front, class_rows
        self.longest = max(map(len, symbols))
        self._apart: tuple[PromptTree, torch.Tensor] | None = None
        # Sorted sequences meet their common beginnings one after another: depth-first order without a tree.
        tokens: list[int] = []
        paths: list[list[int]] = []  # ancestors and itself, per node
        found: dict[tuple[int, ...], list[int]] = {}
        last: tuple[int, ...] = ()
        path: list[int] = []
        for ids in sorted(set(self.symbols)):
            shared = next((i for i, (a, b) in enumerate(zip(ids, last, strict=False)) if a != b), len(last))
            path = path[:shared]
            for token in ids[shared:]:
                path = [*path, len(tokens)]
                tokens.append(token)
                paths.append(path)
            found[ids], last = path, ids
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
        self.paths = [found[ids] for ids in self.symbols]
        rows_at = [(node, ~symbol) for node, symbol in enumerate(tokens) if symbol < 0]
        at = torch.tensor(rows_at, dtype=torch.long).view(-1, 2)
        self.register_buffer("context_nodes", at[:, 0].contiguous(), persistent=False)
        self.register_buffer("context_rows", at[:, 1].contiguous(), persistent=False)
        ids = [EOT if symbol < 0 else symbol for symbol in tokens]
        self.register_buffer("tokens", torch.tensor(ids), persistent=False)
        self.register_buffer("depths", torch.tensor(depths), persistent=False)
        self.register_buffer("eot", torch.tensor([path[-1] for path in self.paths]), persistent=False)
        self.register_buffer("above", above, persistent=False)
        self.register_buffer("visible", torch.cat(visible, dim=2), persistent=False)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.eot)

    def rows_in_front(self, num_context: int) -> int:
        """How many of M rows of the context stand between SOT and the symbols."""
        return num_context if self.front is None else self.front

    def of_classes(self, labels: Sequence[int]) -> PromptTree:
        """The prompts of some classes alone, in the order of `labels`; only for trees whose classes share the context.

        Raises:
            ValueError: Each class has rows of its own.
        """
        if self.class_rows:
            raise ValueError("classes with rows of their own cannot be taken out of a prompt tree")
        return PromptTree([self.symbols[label] for label in labels], self.front).to(self.tokens.device)

    def apart(self, num_context: int) -> tuple[PromptTree, torch.Tensor]:
        """The same prompts, each with rows of the context of its own: nothing is shared but SOT.

        Args:
            num_context: M; all M rows stand in front of this tree's symbols.

        Returns:
            The tree, and for each of its rows which of [SOT, the M rows, this tree's rows] it was so far: long [R'].
        """
        if self._apart is None or self._apart[0].class_rows != num_context:
            rows = [[~(c * num_context + m) for m in range(num_context)] for c in range(self.num_classes)]
            tree = PromptTree([[*r, *ids] for r, ids in zip(rows, self.symbols, strict=True)], 0, num_context)
            source = torch.zeros(len(tree.tokens), dtype=torch.long)
            for new, old in zip(tree.paths, self.paths, strict=True):
                places = [*range(1, 1 + num_context), *(1 + num_context + node for node in old)]
                source[new] = torch.tensor(places)
            self._apart = (tree.to(self.tokens.device), source.to(self.tokens.device))
        return self._apart

    def attention_mask(self, prefix: int, batch: int, dtype: torch.dtype) -> torch.Tensor:
        """What is added to attention scores.

        Args:
            prefix: P, keys before `above` that all nodes see.
            batch: B, images.
            dtype: Of the scores.

        Returns:
            [B n, 1, S, P + A + S], 0 or -inf.
        """
        mask = torch.zeros_like(self.visible, dtype=dtype).masked_fill_(~self.visible, float("-inf"))
        return torch.nn.functional.pad(mask, (prefix, 0)).repeat(batch, 1, 1).unsqueeze(1)

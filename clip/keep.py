"""What each block keeps for its backward pass and what is computed again there, chosen by a budget in bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from typing import NamedTuple

import torch
from torch.utils.checkpoint import checkpoint


class Keep(IntEnum):
    """From all to nothing but the block's input, in the order of what a byte costs to compute again.

    Attention is nearly free beside matrix products, and the copies of keys and values that it makes are large. A linear
    layer of D inputs costs 2 D operations a number, whichever it is. Without STATES, the MLP runs to its end once more.
    """

    ALL = 0
    HIDDEN = 1  # attention is computed again from its queries, keys and values
    HEADS = 2  # and the MLP's hidden layer
    STATES = 3  # and the queries, keys and values: what is left are the residual states before attention and MLP
    INPUT = 4  # and the second of these


class Block(NamedTuple):
    """What one block runs on.

    Attributes:
        rows: R.
        width: D.
        itemsize: Bytes a number in the weights' precision.
        gathered: Keys and values that attention copies, in rows of D for each of R.
        shared: Whether its input and heads are another's, which keeps them anyway.
        out: Rows after attention, where only some are read; None: all.
    """

    rows: int
    width: int
    itemsize: int
    gathered: float = 0
    shared: bool = False
    out: int | None = None

    def kept(self, keep: Keep) -> int:
        """Bytes that its backward pass finds kept."""
        out = self.rows if self.out is None else self.out
        own = 0 if self.shared else self.rows
        numbers = [
            (1 + self.gathered + self.shared) * self.rows,  # what the heads gathered, of which keys and values
            4 * out,
            3 * own,
        ]
        states = 4 * (own + out) if keep < Keep.INPUT else 4 * self.rows
        return int(self.width * (sum(numbers[keep:]) * self.itemsize + states))


def choose(blocks: Sequence[Block], budget: float) -> list[Keep]:
    """What each block keeps so that all fit into the budget at the least computed again; the first blocks give first.

    Args:
        blocks: Blocks in the order in which they run.
        budget: Bytes; what cannot be saved is kept beyond it.

    Returns:
        One a block.
    """
    chosen, total = [Keep.ALL] * len(blocks), sum(block.kept(Keep.ALL) for block in blocks)
    for keep in list(Keep)[1:]:
        for i, block in enumerate(blocks):
            if total <= budget:
                return chosen
            saved = block.kept(chosen[i]) - block.kept(keep)
            if saved > 0:
                chosen[i], total = keep, total - saved
    return chosen


def again(function: Callable[..., torch.Tensor], *args: object, random: bool = False) -> torch.Tensor:
    """Call a function whose insides are computed again in the backward pass.

    Args:
        function: Any.
        args: Its arguments.
        random: Whether it draws random numbers, which then are the same again.

    Returns:
        What it returns.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    result: torch.Tensor = checkpoint(partial(function, *args), use_reentrant=False, preserve_rng_state=random)
    return result

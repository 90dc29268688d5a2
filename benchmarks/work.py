"""The least work that the exact computation needs, and the time that it takes at measured rates: the floor.

Counted are matrix products (two operations a multiply-add) on the rows that differ: one per image and node of the
class names' prefix tree, and the context's. The start token's states are the same for every image, so they cost
nothing; the first block sees the same nodes in every image; the last one computes only what is read. A backward pass
needs gradients of activations alone. Norms, softmax and the like count as nothing. Bytes: each block's weights once a
pass, and each row once in and out of each block. Floors are therefore lower than any program can reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Work:
    """Operations and bytes; they add up."""

    flops: float  # operations of matrix products
    bytes: float  # read and written

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def over(self, count: int) -> Work:
        """A share of it, e.g. per image."""
        return Work(self.flops / count, self.bytes / count)

    def floor(self, rates: dict[str, float], seconds: float) -> dict[str, Any]:
        """The floor at measured rates, and the share of it that a measured time reaches.

        Args:
            rates: From `machine.Probe`, of the same moments as the time.
            seconds: The measured time.

        Returns:
            flops, bytes, rates, seconds (the longer of the two times) and share (floor / measured, 1 is the floor).
        """
        least = max(self.flops / rates["matmul_flops"], self.bytes / rates["copy_bytes"])
        return {"flops": self.flops, "bytes": self.bytes, "rates": rates, "seconds": least, "share": least / seconds}


@dataclass
class Tower:
    """A transformer's sizes."""

    layers: int
    width: int  # D
    hidden: int  # inside the MLPs
    output: int  # E
    itemsize: int  # bytes a number

    @classmethod
    def of(cls, blocks: Sequence[Any], output: int) -> Tower:
        """Read the sizes off open_clip's residual attention blocks."""
        fc = blocks[0].mlp.c_fc
        return cls(len(blocks), fc.in_features, fc.out_features, output, fc.weight.element_size())

    @property
    def rest(self) -> int:
        """Operations a row of a block after attention: output projection and MLP."""
        return 2 * self.width**2 + 4 * self.width * self.hidden

    @property
    def weight_bytes(self) -> int:
        """Of all blocks."""
        return self.layers * (4 * self.width**2 + 2 * self.width * self.hidden) * self.itemsize

    def stream_bytes(self, rows: int) -> int:
        """Rows in and out of all blocks."""
        return 2 * self.layers * rows * self.width * self.itemsize


def text_work(tower: Tower, names: Sequence[Sequence[int]], batch: int, context: int, backward: bool = False) -> Work:
    """The text features of B images x C classes.

    Args:
        tower: The text tower.
        names: C token sequences after the context: name, full stop, end token.
        batch: B.
        context: M.
        backward: Also the gradient in the context, without recomputation.
    """
    nodes = {tuple(ids[: i + 1]) for ids in names for i in range(len(ids))}
    ends = {tuple(ids) for ids in names}
    d, m = tower.width, context
    pairs = sum(1 + m + len(node) for node in nodes)  # keys that each node attends to, itself included
    end_pairs = sum(1 + m + len(end) for end in ends)
    context_pairs = sum(i + 2 for i in range(m))
    qkv, kv, attention = 6 * d**2, 4 * d**2, 4 * d  # per row, per row, per pair

    # Per image: of the context, of the nodes after their keys and queries, of attention.
    inner = max(tower.layers - 2, 0)
    first = m * (qkv + tower.rest) + len(nodes) * tower.rest
    middle = (m + len(nodes)) * (qkv + tower.rest)
    last = (m + len(nodes)) * kv + len(ends) * (2 * d**2 + tower.rest)
    attended = (tower.layers - 1) * (pairs + context_pairs) + end_pairs
    project = len(ends) * 2 * d * tower.output
    forward = batch * (first + inner * middle + last + attended * attention + project) + len(nodes) * qkv
    rows = batch * (m + len(nodes))
    work = Work(forward, tower.weight_bytes + tower.stream_bytes(rows))
    if backward:  # each product once more for its input; attention's two become four
        # The first block's nodes are constants: no gradient of their queries, keys and values.
        later = (tower.layers - 2) * (pairs + context_pairs) + end_pairs
        flops = batch * (first + inner * middle + last + 2 * later * attention + project)
        work += Work(flops, tower.weight_bytes + tower.stream_bytes(rows))
    return work


def image_work(tower: Tower, images: int, size: int, patch: int) -> Work:
    """The image tower's forward pass with the statistics of all blocks.

    Args:
        tower: The image tower.
        images: Number of images, all views counted.
        size: Their height = width, pixels.
        patch: Height = width of a patch, pixels.
    """
    d, patches = tower.width, (size // patch) ** 2
    tokens = patches + 1
    per_image = patches * 2 * 3 * patch**2 * d + 2 * d * tower.output
    per_image += tower.layers * (tokens * (6 * d**2 + tower.rest) + 4 * tokens**2 * d)
    rows = images * tokens
    return Work(images * per_image, tower.weight_bytes + tower.stream_bytes(rows))


def learner_work(images: int, layers: int, vision_width: int, text_width: int, backward: bool) -> Work:
    """Style and content projections of `images` images in all blocks, with their weights' gradients if asked."""
    flops = images * layers * 2 * 2 * vision_width * text_width
    weights = layers * 2 * vision_width * text_width * 4
    return Work(flops * (2 if backward else 1), weights * (3 if backward else 1))

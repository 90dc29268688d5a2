"""Training steps of both sides: loss, gradients and SGD, how far the sides are apart, their times and memory."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import machine, measure, models
from benchmarks.naive import naive_loss
from clip.memory import free_memory
from trainers.gopro import RELEASED, gopro_loss

LOSS_SCALE = {"fp16": 1024.0}  # so that no gradient vanishes in half precision


class Side:
    """One side's model in training.

    Args:
        args: The options.
        name: ours or naive.
        method: GOPro, CoOp, CoCoOp or MaPLe.
        batch: B images, GOPro's in three views; None: the text side alone.
        classes: C.
        sem_classes: How many classes GOPro's L_sem is of, ours only; 0: all.
        like: The side whose learnables it takes; None keeps the first values.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        name: str,
        method: str,
        batch: int | None,
        classes: int,
        sem_classes: int = 0,
        *,
        like: Side | None = None,
    ) -> None:
        clip = models.backbone_of(args, name)
        self.ours, self.gopro, self.whole = name == "ours", method == "GOPro", batch is not None
        self.scale = LOSS_SCALE.get(args.dtype, 1.0)
        self.autocast = models.autocast(args.device, "fp32" if self.ours else args.dtype)
        if self.ours:
            self.model = models.build_ours(clip, classes, method, like.learner if like else None)
        else:
            self.model = models.build_naive(clip, classes, method)
        self.learner: Any = self.model.train().learner if self.ours else self.model.train()
        if sem_classes:
            self.model.choose_sem_classes(sorted(random.Random(0).sample(range(classes), sem_classes)))
        if batch is None:
            weights = torch.randn(classes, clip.embed_dim, generator=torch.Generator().manual_seed(2))
            self.weights = weights.to(args.device)
        else:
            self.images = models.views(clip, batch, 3 if self.gopro else 1)
            self.label = models.labels(batch, classes, args.device)

    def loss(self) -> torch.Tensor:
        """The method's on always the same images; of the text side alone, a weighted sum of its features."""
        with self.autocast:
            out = self.model(*self.images) if self.whole else self.model.text()
        if not self.whole:
            return torch.sum(out.float() * self.weights)
        if self.gopro and self.ours:
            return our_loss(out, self.label, self.scale)
        if self.gopro:
            return naive_loss(tuple(x.float() for x in out), self.label)["loss"]
        return F.cross_entropy((out.logits if self.ours else out).float(), self.label)

    def step(self) -> Callable[[], Any]:
        """A function that does one training step; of the text side, features and gradients."""
        return sgd(self.loss, self.learner, self.scale) if self.whole else self.gradients

    def gradients(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The loss, and its gradients by the learnables' published names; they are not kept."""
        loss = self.loss()
        torch.autograd.backward(loss * self.scale)
        named = sorted(self.learner.named_parameters())
        gradients = [p.grad for _, p in named if p.grad is not None]  # the text side leaves some out
        self.learner.zero_grad(set_to_none=True)
        return loss, gradients


def our_loss(out: Any, label: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """GOPro's published total loss, by the trainer's own function; `scale` is the loss scale of what follows."""
    return gopro_loss(out, label, sem_reduction=RELEASED.sem_reduction, scale=scale)["loss"]


def sgd(loss: Callable[..., torch.Tensor], learner: torch.nn.Module, scale: float = 1.0) -> Callable[..., None]:
    """A training step, given what the loss takes: loss, backward, and SGD as the recipe has it."""
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.002 / scale, momentum=0.9)

    def run(*args: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(*args) * scale)
        optimizer.step()

    return run


def error_of(args: argparse.Namespace, *case: Any, what: str = "", limit: float = 0.0, zero: float = 0.0) -> float:
    """Of loss and gradients, ours against the naive side, at a case: method, images, classes.

    Above the precision's limit, and `limit` where that is higher, the benchmark stops and names `what` was compared;
    `zero` is that of `relative_error`, for the gradients.
    """
    naive = Side(args, "naive", *case)
    (loss, gradients), (expected, wanted) = Side(args, "ours", *case, like=naive).gradients(), naive.gradients()
    error = max(measure.relative_error([loss], [expected]), measure.relative_error(gradients, wanted, zero))
    return measure.require(error, max(limit, models.LIMITS[args.dtype]), what)


def two_steps(args: argparse.Namespace, *side: Any) -> None:
    """Two steps of one side by itself, for its memory; the second one meets the optimizer's state."""
    step = Side(args, *side).step()
    step()
    step()


def peak(args: argparse.Namespace, *side: Any) -> int | None:
    """Peak memory of a side's training."""
    return measure.peak_bytes(two_steps, args, *side, device=args.device)


def fitting(args: argparse.Namespace, wanted: int, need: Callable[[float], float]) -> int:
    """The largest size up to `wanted` that fits into the memory at hand, by the bytes that a size takes."""
    return measure.largest_fitting(wanted, need, free_memory(torch.device(args.device)))


def measured(
    args: argparse.Namespace, sides: Mapping[str, Sequence[Any]], probe: machine.Probe | None = None
) -> dict[str, dict[str, Any]]:
    """Times and peaks of the training steps of sides, by name; what each is, is what `Side` takes."""
    steps = {name: Side(args, *side).step() for name, side in sides.items()}
    times = measure.measure(steps, args.repeats, args.device, probe=probe)
    del steps
    return {name: times[name] | {"peak_bytes": peak(args, *side)} for name, side in sides.items()}

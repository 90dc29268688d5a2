"""A training step of GOPro: three views of B images, C classes, losses, gradients, SGD; ours against the naive one.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --quick

The naive side keeps every activation of 3 x B x C rows of the full context. Where that does not fit into the memory at
hand, which two small runs tell, its time and memory are continued in a straight line from the largest C that does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import machine, measure, record

ZERO = 1e-4  # e.g. the gradient of a bias in front of a norm, which is rounding and nothing else
CASES = [(2, 10), (4, 50), (4, 500), (4, 1000)]  # images, classes
QUICK = [(2, 4), (2, 12)]
PROBES = (2, 6)  # classes of the runs that tell what the naive side needs
QUICK_FITTING = 8
BUDGET_SEC = 90


class Side:
    """One side's model in training, on B images.

    Args:
        args: The options.
        name: ours or naive.
        batch: B.
        classes: C.
        like: The side whose learnables it takes; None keeps the first values.
    """

    def __init__(self, args: argparse.Namespace, name: str, batch: int, classes: int, like: Side | None = None) -> None:
        from benchmarks import models

        self.clip = models.backbone_of(args, name)
        self.scale = models.LOSS_SCALE.get(args.dtype, 1.0)
        views, label = models.views(self.clip, batch), models.labels(batch, classes, self.clip.device)
        self.learner: Any
        self.loss: Callable[[], Any]
        if name == "ours":
            ours = models.build_ours(self.clip, classes, like.learner if like else None).train()
            self.learner, self.loss = ours.learner, lambda: models.ours_loss(ours, views, label)
        else:
            naive = models.build_naive(self.clip, classes).train()
            self.learner, self.loss = naive, lambda: models.reference_loss(naive, views, label, args.dtype)

    def step(self) -> Callable[[], None]:
        """A function that does one training step."""
        from benchmarks import models

        return models.step(self.loss, self.learner, self.scale)

    def gradients(self) -> tuple[Any, list[Any]]:
        """The loss, and its gradients by the learnables' published names; they are not kept."""
        loss = self.loss()
        (loss * self.scale).backward()
        gradients = [p.grad for _, p in sorted(self.learner.named_parameters())]
        self.learner.zero_grad(set_to_none=True)
        return loss, gradients


def run_alone(args: argparse.Namespace, side: str, batch: int, classes: int) -> None:
    """Two steps of one side by itself, for its memory; the second one meets the optimizer's state."""
    step = Side(args, side, batch, classes).step()
    step()
    step()


class Naive:
    """The naive side at one batch size: what fits, and what the rest would cost."""

    def __init__(self, args: argparse.Namespace, batch: int) -> None:
        self.args, self.batch = args, batch
        peaks = [measure.peak_bytes(run_alone, args, "naive", batch, n, device=args.device) for n in PROBES]
        known = [(classes, peak) for classes, peak in zip(PROBES, peaks, strict=True) if peak]
        self.need = measure.line(known) if len(known) == len(PROBES) else lambda _: float("inf")
        self.points: list[tuple[int, float]] = []
        self.errors: dict[int, float] = {}

    def fitting(self, classes: int) -> int:
        """The largest number of classes that fits, up to `classes`."""
        import torch

        from clip.memory import free_memory

        wanted = min(classes, QUICK_FITTING) if self.args.quick else classes
        return measure.largest_fitting(wanted, self.need, free_memory(torch.device(self.args.device)))

    def error(self, classes: int) -> float:
        """Of ours against the naive side at a size that fits; above the limit, the benchmark stops."""
        from benchmarks import models

        if classes not in self.errors:
            naive = Side(self.args, "naive", self.batch, classes)
            ours = Side(self.args, "ours", self.batch, classes, like=naive)
            (loss, gradients), (expected, expected_gradients) = ours.gradients(), naive.gradients()
            error = measure.relative_error(gradients, expected_gradients, zero=ZERO)
            error = max(error, measure.relative_error([loss], [expected]))
            limit, what = models.LIMITS[self.args.dtype], f"{self.batch} images x {classes} classes"
            self.errors[classes] = measure.require(error, limit, what)
        return self.errors[classes]

    def continued(self, classes: int) -> tuple[dict[str, Any] | None, float | None]:
        """Time and memory at a size that does not fit, from the largest that does and half of it, and the error there.

        Both are None when next to nothing fits.
        """
        if not self.points:
            fitting = self.fitting(classes)
            if fitting < 2:
                return None, None
            for size in (fitting // 2, fitting):
                step = Side(self.args, "naive", self.batch, size).step()
                times = measure.measure({"naive": step}, self.args.repeats, self.args.device, BUDGET_SEC)
                self.points.append((size, times["naive"]["seconds"]))
        largest = self.points[-1][0]
        source = f"{self.batch} images x {largest} classes"
        side = {"seconds": measure.line(self.points)(classes), "runs": [], "peak_bytes": self.need(classes)}
        return side | {"extrapolated_from": source}, self.error(largest)


def measure_case(
    args: argparse.Namespace, batch: int, classes: int, naive_at: dict[int, Naive], probe: machine.Probe
) -> dict[str, Any]:
    """A row of the record: times, agreement, peaks of memory and floor of one case."""
    from benchmarks import models

    at = naive_at[batch] = naive_at.get(batch) or Naive(args, batch)
    fits = at.fitting(classes) == classes
    naive, error = (None, at.error(classes)) if fits else at.continued(classes)
    measured = ("ours", "naive") if fits else ("ours",)
    steps = {side: Side(args, side, batch, classes).step() for side in measured}
    times = measure.measure(steps, args.repeats, args.device, BUDGET_SEC, probe=probe)
    work = models.whole_floor(models.backbone_of(args, "ours"), batch, classes, training=True)
    floor = work.floor(probe.take(), times["ours"]["seconds"])
    del steps
    for side in measured:
        times[side]["peak_bytes"] = measure.peak_bytes(run_alone, args, side, batch, classes, device=args.device)
    case = {"batch": batch, "classes": classes}
    return record.row(case, times["ours"], times.get("naive", naive), error=error, floor=floor)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv)
    probe = machine.Probe(args.device, args.dtype, args.quick)
    cases, naive_at = QUICK if args.quick else CASES, dict[int, Naive]()
    rows = (measure_case(args, batch, classes, naive_at, probe) for batch, classes in cases)
    return record.finish("training_step", args, rows)


if __name__ == "__main__":
    main()

"""A training step of GOPro: three views of B images, C classes, losses, gradients, SGD; ours against the naive one.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --quick

The naive side keeps every activation of 3 x B x C rows of the full context. Where that does not fit into the memory at
hand, which two small runs tell, its time and memory are continued in a straight line from the largest C that does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import common, machine, tables
from benchmarks.agreement import relative_error, require
from benchmarks.extrapolate import largest_fitting, line

LIMIT = 1e-5  # relative, in fp32: loss and gradients of all learnables
ZERO = 1e-4  # e.g. the gradient of a bias in front of a norm, which is rounding and nothing else
CASES = [(2, 10), (4, 50), (4, 500), (4, 1000)]  # images, classes
QUICK = [(2, 4), (2, 12)]
PROBES = (2, 6)  # classes of the runs that tell what the naive side needs
QUICK_FITTING = 8
BUDGET_SEC = 90


class Sides:
    """Both models of one case, with the same weights and images."""

    def __init__(self, args: argparse.Namespace, batch: int, classes: int, only: str = "") -> None:
        from benchmarks import models

        self.args, self.models = args, models
        self.scale = models.LOSS_SCALE.get(args.dtype, 1.0)
        same = args.dtype == "fp32"
        self.clip = models.backbone(args.backbone, args.device, args.dtype if only != "naive" else "fp32")
        self.naive = self.ours = None
        if only != "ours":
            full = self.clip if same or only else models.backbone(args.backbone, args.device)
            self.naive = models.build_naive(full, classes).train()
        if only != "naive":
            self.ours = models.build_ours(self.clip, classes, like=self.naive).train()
        self.views, self.label = models.views(self.clip, batch), models.labels(batch, classes, self.clip.device)

    def loss(self, side: str) -> Any:
        """The total loss of one side."""
        if side == "ours":
            return self.models.ours_loss(self.ours, self.views, self.label)
        return self.models.reference_loss(self.naive, self.views, self.label, self.args.dtype)

    def parameters(self, side: str) -> dict[str, Any]:
        """The learnables by their published names."""
        return dict((self.ours.learner if side == "ours" else self.naive).named_parameters())

    def step(self, side: str) -> Any:
        """A function that does one training step."""
        return self.models.step(lambda: self.loss(side), list(self.parameters(side).values()), self.scale)

    def error(self) -> float:
        """Of ours against the naive one: the loss, and each learnable's gradient."""
        losses, gradients = [], []
        for side in ("ours", "naive"):
            loss, parameters = self.loss(side), self.parameters(side)
            (loss * self.scale).backward()
            losses.append([loss])
            gradients.append([p.grad for _, p in sorted(parameters.items())])
            for p in parameters.values():
                p.grad = None
        return max(relative_error(*losses), relative_error(*gradients, zero=ZERO))


def run_alone(args: argparse.Namespace, side: str, batch: int, classes: int) -> None:
    """Two steps of one side by itself, for its memory; the second one meets the optimizer's state."""
    step = Sides(args, batch, classes, only=side).step(side)
    step()
    step()


class Naive:
    """The naive side at one batch size: what fits, and what the rest would cost."""

    def __init__(self, args: argparse.Namespace, batch: int) -> None:
        self.args, self.batch = args, batch
        probes = [
            (classes, common.peak_bytes(run_alone, args, "naive", batch, classes, device=args.device))
            for classes in PROBES
        ]
        self.need = line(probes) if all(peak for _, peak in probes) else lambda _: float("inf")
        self.points: list[tuple[int, float]] = []
        self.errors: dict[int, float] = {}

    def fitting(self, classes: int) -> int:
        """The largest number of classes that fits, up to `classes`."""
        limit = QUICK_FITTING if self.args.quick else classes
        return largest_fitting(min(classes, limit), self.need, machine.available_bytes(self.args.device))

    def error(self, classes: int) -> float:
        """Of ours against the naive side at a size that fits; above the limit, the benchmark stops."""
        from benchmarks import models

        if classes not in self.errors:
            limit = LIMIT if self.args.dtype == "fp32" else models.LIMITS[self.args.dtype]
            error = Sides(self.args, self.batch, classes).error()
            self.errors[classes] = require(error, limit, f"{self.batch} images x {classes} classes")
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
                step = Sides(self.args, self.batch, size, only="naive").step("naive")
                times = common.measure({"naive": step}, self.args.repeats, self.args.device, BUDGET_SEC)
                self.points.append((size, times["naive"]["seconds"]))
        largest = self.points[-1][0]
        source = f"{self.batch} images x {largest} classes"
        side = {"seconds": line(self.points)(classes), "runs": [], "peak_bytes": self.need(classes)}
        return side | {"extrapolated_from": source}, self.error(largest)


def measure_case(
    args: argparse.Namespace, batch: int, classes: int, naive_at: Naive, probe: machine.Probe
) -> dict[str, Any]:
    """A row of the record: times, agreement, peaks of memory and floor of one case."""
    from benchmarks import models

    fits = naive_at.fitting(classes) == classes
    naive, error = (None, naive_at.error(classes)) if fits else naive_at.continued(classes)
    sides = Sides(args, batch, classes, only="" if fits else "ours")
    steps = {side: sides.step(side) for side in (("ours", "naive") if fits else ("ours",))}
    times = common.measure(steps, args.repeats, args.device, BUDGET_SEC, probe=probe)
    work = models.whole_floor(sides.clip, batch, classes, training=True)
    floor = work.floor(probe.take(), times["ours"]["seconds"])
    del sides, steps
    peak = common.peak_bytes(run_alone, args, "ours", batch, classes, device=args.device)
    if fits:
        alone = common.peak_bytes(run_alone, args, "naive", batch, classes, device=args.device)
        naive = times["naive"] | {"peak_bytes": alone}
    case = {"batch": batch, "classes": classes}
    return common.row(case, times["ours"] | {"peak_bytes": peak}, naive, error=error, floor=floor)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = common.options(__doc__, argv)
    probe = machine.Probe(args.device, args.dtype, args.quick)
    rows: list[dict[str, Any]] = []
    naive_at: dict[int, Naive] = {}
    cases = QUICK if args.quick else CASES
    for i, (batch, classes) in enumerate(cases):
        if batch not in naive_at:
            naive_at[batch] = Naive(args, batch)
        rows.append(measure_case(args, batch, classes, naive_at[batch], probe))
        print(f"[{i + 1}/{len(cases)}] {tables.label(rows[-1]['case'])}", flush=True)
    return common.finish("training_step", args, rows)


if __name__ == "__main__":
    main()

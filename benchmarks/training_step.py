"""A training step of GOPro: three views of B images, C classes, losses, gradients, SGD; ours against the naive one.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --quick
    python -m benchmarks.training_step --classes 500 1000 --repeats 1     ours beside the floor alone, in minutes

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

from benchmarks import machine, measure, record

# Loss and gradients, fp32: batch norm over four images that differ little magnifies rounding. Against double precision
# the naive side is off by 5e-6, ours by 6e-6 to 1e-5, by which library computes the products.
LIMIT = 3e-5
ZERO = 1e-4  # e.g. the gradient of a bias in front of a norm, which is rounding and nothing else
CASES = [(2, 10), (4, 50), (4, 500), (4, 1000)]  # images, classes
QUICK = [(2, 4), (2, 12)]
PROBES = (2, 6)  # classes of the runs that tell what the naive side needs
QUICK_FITTING = 8


class Naive:
    """The naive side at one batch size: what fits, and what the rest would cost."""

    def __init__(self, args: argparse.Namespace, batch: int) -> None:
        from benchmarks import steps

        self.args, self.batch = args, batch
        self.need = measure.line([(n, steps.peak(args, "naive", "GOPro", batch, n)) for n in PROBES])
        self.points: list[tuple[int, float]] = []

    def fitting(self, classes: int) -> int:
        """The largest number of classes that fits, up to `classes`."""
        from benchmarks import steps

        return steps.fitting(self.args, min(classes, QUICK_FITTING) if self.args.quick else classes, self.need)

    def error(self, classes: int) -> float:
        """Of ours against the naive side at a size that fits; above the limit, the benchmark stops."""
        from benchmarks import steps

        what = f"{self.batch} images x {classes} classes"
        return steps.error_of(self.args, "GOPro", self.batch, classes, what=what, limit=LIMIT, zero=ZERO)

    def continued(self, classes: int) -> tuple[dict[str, Any] | None, float | None]:
        """Time and memory at a size that does not fit, from the largest that does and half of it, and the error there.

        Both are None when next to nothing fits.
        """
        from benchmarks import steps

        if not self.points:
            fitting = self.fitting(classes)
            if fitting < 2:
                return None, None
            for size in (fitting // 2, fitting):
                step = steps.Side(self.args, "naive", "GOPro", self.batch, size).step()
                times = measure.measure({"naive": step}, self.args.repeats, self.args.device)
                self.points.append((size, times["naive"]["seconds"]))
            self.largest_error = self.error(fitting)
        source = f"{self.batch} images x {self.points[-1][0]} classes"
        side = {"seconds": measure.line(self.points)(classes), "runs": [], "peak_bytes": self.need(classes)}
        return side | {"extrapolated_from": source}, self.largest_error


def measure_case(
    args: argparse.Namespace, batch: int, classes: int, naive_at: dict[int, Naive], probe: machine.Probe
) -> dict[str, Any]:
    """A row of the record: times, agreement, peaks of memory and floor of one case."""
    from benchmarks import models, steps

    fits, naive, error = False, None, None
    if args.classes is None:
        at = naive_at[batch] = naive_at.get(batch) or Naive(args, batch)
        fits = at.fitting(classes) == classes
        naive, error = (None, at.error(classes)) if fits else at.continued(classes)
    machine.give_memory_back()
    names = ("ours", "naive") if fits else ("ours",)
    times = steps.measured(args, {name: (name, "GOPro", batch, classes) for name in names}, probe)
    work = models.whole_floor(models.backbone_of(args, "ours"), batch, classes, training=True)
    floor = work.floor(probe.take(), times["ours"]["seconds"])
    case = {"batch": batch, "classes": classes}
    return record.row(case, times["ours"], times.get("naive", naive), error=error, floor=floor)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv, classes=sorted({case[1] for case in [*CASES, *QUICK]}))
    cases = [case for case in (QUICK if args.quick else CASES) if args.classes is None or case[1] in args.classes]
    probe, naive_at = machine.Probe(args.device, args.dtype, args.quick), dict[int, Naive]()
    rows = (measure_case(args, *case, naive_at, probe) for case in cases)
    return record.finish("training_step", args, rows)


if __name__ == "__main__":
    main()

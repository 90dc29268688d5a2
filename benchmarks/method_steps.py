"""Training steps of CoOp, CoCoOp and MaPLe beside the naive ones, and the text side of CoOp and MaPLe alone.

    python -m benchmarks.method_steps
    python -m benchmarks.method_steps --quick

A step is the forward pass of B images and C classes, cross-entropy, gradients and SGD; the text side is the features of
C classes and their gradients. The naive side keeps every activation of its rows of the full context. Where that does
not fit into the memory at hand, which two small runs of each method tell, it is not measured.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import figures, measure, record

Case = tuple[str, int | None, int]  # method, images (None: the text side alone), classes
CASES: list[Case] = [
    *(("CoOp", None, 100), ("CoOp", 4, 100), ("CoOp", 4, 1000)),
    *(("CoCoOp", 1, 100), ("CoCoOp", 8, 100), ("CoCoOp", 1, 1000)),
    *(("MaPLe", None, 100), ("MaPLe", 4, 100), ("MaPLe", 4, 1000)),
]
QUICK: list[Case] = [("CoOp", None, 4), ("CoCoOp", 2, 8), ("MaPLe", 2, 4)]
QUICK_ROWS = 12  # of the naive side, at most
PROBE_IMAGES, PROBES = 4, (24, 72)  # images and rows of the runs that tell what the naive side needs
# Loss and gradients, fp32; CoCoOp's hidden units get sums of large terms that cancel, in the naive side too.
LIMIT = 1e-4


def rows_of(method: str, batch: int | None, classes: int) -> int:
    """Sequences that go through the naive side's text tower."""
    return classes * (batch or 1) if method == "CoCoOp" else classes


def measure_case(args: argparse.Namespace, case: Case, needs: dict[str, Callable[[float], float]]) -> dict[str, Any]:
    """A row of the record: times, agreement and peaks of memory of one case.

    Args:
        args: The options.
        case: Method, images, classes.
        needs: Sequences -> bytes that a naive step takes, in a straight line from two small steps, by method.
    """
    from benchmarks import steps

    method, batch, classes = case
    named = {"method": method, "batch": batch, "classes": classes}
    if method not in needs:
        each = rows_of(method, PROBE_IMAGES, 1)
        probes = [(rows, steps.peak(args, "naive", method, PROBE_IMAGES, rows // each)) for rows in PROBES]
        needs[method] = measure.line(probes)
    rows, need = rows_of(*case), needs[method]
    fits = steps.fitting(args, rows, need) == rows and (rows <= QUICK_ROWS or not args.quick)
    error = steps.error_of(args, *case, what=figures.label(named), limit=LIMIT) if fits else None
    times = steps.measured(args, {name: (name, *case) for name in (("ours", "naive") if fits else ("ours",))})
    more: dict[str, Any] = {} if fits or math.isinf(need(rows)) else {"needs_bytes": need(rows)}
    return record.row(named, **times, error=error, **more)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv)
    needs = dict[str, Callable[[float], float]]()
    cases = QUICK if args.quick else CASES
    return record.finish("method_steps", args, (measure_case(args, case, needs) for case in cases))


if __name__ == "__main__":
    main()

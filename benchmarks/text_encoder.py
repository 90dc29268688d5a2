"""The text encoder alone: features of image-conditioned prompts, ours against rows padded to the full context.

    python -m benchmarks.text_encoder
    python -m benchmarks.text_encoder --quick

The table is printed and kept as JSON in benchmarks/results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import common, machine, tables
from benchmarks.agreement import relative_error, require
from benchmarks.extrapolate import line

LIMIT = 1e-5  # relative, in fp32: features and gradients
# Prompts (images), classes, context tokens, mode. The first is the one that the targets name; then growth with C, B, M.
CASES = [
    (12, 50, 4, "forward"),
    (4, 20, 4, "forward and backward"),
    *((4, classes, 4, "forward") for classes in (10, 50, 100, 500, 1000)),
    *((batch, 50, 4, "forward") for batch in (1, 2, 8)),
    *((4, 50, context, "forward") for context in (1, 8, 16)),
]
QUICK = [(2, 5, 4, "forward"), (2, 5, 4, "forward and backward"), (2, 40, 4, "forward"), (2, 5, 2, "forward")]
NAIVE_ROWS = 600  # sequences; more take minutes and only repeat themselves
QUICK_FITTING = 20


class Sides:
    """Both encoders of one case, with the same context vectors."""

    def __init__(self, args: argparse.Namespace, batch: int, classes: int, context: int, only: str = "") -> None:
        import torch

        from benchmarks import models

        self.classes = classes
        self.ours = self.naive = None
        if only != "naive":
            self.ours = models.backbone(args.backbone, args.device, args.dtype)
            self.tree = self.ours.prompt_tree(models.class_names(classes), context)
        if only != "ours":
            same = self.ours is not None and args.dtype == "fp32"
            self.full = self.ours if same else models.backbone(args.backbone, args.device)
            self.naive = models.build_naive(self.full, classes, context)
        self.autocast = torch.autocast(args.device, models.DTYPES[args.dtype], enabled=args.dtype != "fp32")
        clip = self.ours or self.full
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(batch, context, clip.text_width, generator=generator).to(args.device)
        self.context = clip.embed_words(models.words(context)) + 0.01 * noise

    def encode(self, side: str, context: Any) -> Any:
        """[B, M, Dt] -> normalised features [B, C, E]."""
        import torch
        import torch.nn.functional as F

        if side == "ours":
            return F.normalize(self.ours.encode_prompts(context, self.tree), dim=-1)
        naive, features = self.naive, []
        with self.autocast:
            for one in context:
                shared = one.expand(self.classes, -1, -1)
                features.append(naive.encode_text(torch.cat([naive.prefix, shared, naive.suffix], dim=1)))
        return torch.stack(features).float()

    def run(self, side: str, mode: str) -> list[Any]:
        """One pass: the features and, with a backward pass, the gradient in the context."""
        import torch

        if mode == "forward":
            with torch.no_grad():
                return [self.encode(side, self.context)]
        leaf = self.context.clone().requires_grad_()
        features = self.encode(side, leaf)
        generator = torch.Generator().manual_seed(2)
        weights = torch.randn(features.shape, generator=generator).to(features.device)
        (features * weights).sum().backward()
        return [features, leaf.grad]


def run_alone(args: argparse.Namespace, side: str, batch: int, classes: int, context: int, mode: str) -> None:
    """One side by itself, for its memory."""
    Sides(args, batch, classes, context, only=side).run(side, mode)


def both(
    args: argparse.Namespace,
    sides: Sides,
    mode: str,
    repeats: int,
    budget_sec: float,
    probe: machine.Probe | None = None,
) -> tuple[dict[str, Any], float]:
    """Times of both sides of a case, and the error between their results."""
    from benchmarks import models

    results: dict[str, Any] = {}
    functions = {side: partial(sides.run, side, mode) for side in ("ours", "naive")}
    times = common.measure(functions, repeats, args.device, budget_sec, results, probe)
    limit = LIMIT if args.dtype == "fp32" else models.LIMITS[args.dtype]
    error = relative_error(results["ours"], results["naive"])
    return times, require(error, limit, f"{len(sides.context)} prompts x {sides.classes} classes, {mode}")


def continued(args: argparse.Namespace, batch: int, context: int, mode: str, fitting: int) -> tuple[Any, float]:
    """The naive side's seconds as a line over the classes, from `fitting` of them and half; the error at `fitting`."""
    points, error = [], 0.0
    for size in (fitting // 2, fitting):
        times, error = both(args, Sides(args, batch, size, context), mode, 1, 0)
        points.append((size, times["naive"]["seconds"]))
    return line(points), error


def measure_case(
    args: argparse.Namespace, case: tuple[int, int, int, str], peaks: bool, lines: dict[Any, Any], probe: machine.Probe
) -> dict[str, Any]:
    """A row of the record: times, agreement, peaks of memory and floor of one case.

    Args:
        args: The options.
        case: Batch, classes, context, mode.
        peaks: Whether to measure memory.
        lines: What `continued` gave, for the cases that share it.
        probe: Measures the machine's rates.

    Returns:
        The row.
    """
    from benchmarks import models

    batch, classes, context, mode = case
    fitting = min(classes, QUICK_FITTING if args.quick else NAIVE_ROWS // batch)
    sides, budget_sec = Sides(args, batch, classes, context), 90 if peaks else 30
    if fitting == classes:
        times, error = both(args, sides, mode, args.repeats, budget_sec, probe)
    else:
        key = (batch, context, mode)
        lines[key] = lines.get(key) or continued(args, *key, fitting)
        seconds, error = lines[key]
        ours = {"ours": partial(sides.run, "ours", mode)}
        times = common.measure(ours, args.repeats, args.device, budget_sec, probe=probe)
        source = f"{batch} prompts x {fitting} classes"
        times["naive"] = {"seconds": seconds(classes), "runs": [], "extrapolated_from": source}
    work = models.text_floor(sides.ours, batch, classes, context, mode != "forward")
    floor = work.floor(probe.take(), times["ours"]["seconds"])
    rows = {}
    for side in ("ours", "naive"):
        peak = common.peak_bytes(run_alone, args, side, *case, device=args.device) if peaks else None
        rows[side] = times[side] | {"peak_bytes": peak}
    what = {"batch": batch, "classes": classes, "context": context, "mode": mode}
    return common.row(what, rows["ours"], rows["naive"], error=error, floor=floor)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = common.options(__doc__, argv)
    probe = machine.Probe(args.device, args.dtype, args.quick)
    cases = QUICK if args.quick else CASES
    rows: list[dict[str, Any]] = []
    lines: dict[Any, Any] = {}
    for i, case in enumerate(cases):  # memory of the first two: one forward, one backward
        rows.append(measure_case(args, case, i < 2, lines, probe))
        print(f"[{i + 1}/{len(cases)}] {tables.label(rows[-1]['case'])}", flush=True)
    return common.finish("text_encoder", args, rows)


if __name__ == "__main__":
    main()

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


def measure_case(args: argparse.Namespace, case: tuple[int, int, int, str], peaks: bool) -> dict[str, Any]:
    """A row of the record: times, agreement, peaks of memory and floor of one case."""
    from benchmarks import models

    batch, classes, context, mode = case
    fitting = classes if batch * classes <= NAIVE_ROWS else NAIVE_ROWS // batch
    if args.quick and classes > 20:
        fitting = 20
    sides = Sides(args, batch, classes, context)
    budget = 90 if peaks else 30
    source = None
    if fitting == classes:
        times = common.measure(
            {side: partial(sides.run, side, mode) for side in ("ours", "naive")}, args.repeats, args.device, budget
        )
        ours, naive = times["ours"], times["naive"]
    else:
        ours = common.measure({"ours": partial(sides.run, "ours", mode)}, args.repeats, args.device, budget)["ours"]
        points, source = [], f"{batch} prompts x {fitting} classes"
        for size in (max(1, fitting // 2), fitting):
            sides = Sides(args, batch, size, context)
            run = partial(sides.run, "naive", mode)
            points.append((size, common.measure({"naive": run}, 1, args.device, budget)["naive"]["seconds"]))
        naive = {"seconds": line(points)(classes), "runs": []}
    # Of a size that the naive side can run: for an extrapolated case, its largest.
    limit = LIMIT if args.dtype == "fp32" else models.LIMITS[args.dtype]
    error = common.relative_error(sides.run("ours", mode), sides.run("naive", mode))
    common.require(error, limit, tables.label({"batch": batch, "classes": classes, "mode": mode}))
    peak = {
        side: common.peak_bytes(run_alone, args, side, *case, device=args.device) if peaks else None
        for side in ("ours", "naive")
    }
    return common.row(
        {"batch": batch, "classes": classes, "context": context, "mode": mode},
        ours | {"peak_bytes": peak["ours"]},
        naive | {"peak_bytes": peak["naive"], "extrapolated_from": source},
        error=error,
        floor=models.text_floor(sides.ours, batch, classes, context, mode != "forward"),
    )


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = common.options(__doc__, argv)
    rates = machine.rates(args.device, args.dtype, args.quick)
    cases = QUICK if args.quick else CASES
    rows = []
    for i, case in enumerate(cases):  # memory of the first two: one forward, one backward
        rows.append(measure_case(args, case, peaks=i < 2))
        print(f"[{i + 1}/{len(cases)}] {tables.label(rows[-1]['case'])}", flush=True)
    return common.finish("text_encoder", args, rows, rates)


if __name__ == "__main__":
    main()

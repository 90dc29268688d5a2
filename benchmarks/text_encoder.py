"""The text encoder alone: features of image-conditioned prompts, ours against rows padded to the full context.

    python -m benchmarks.text_encoder
    python -m benchmarks.text_encoder --quick

The table is printed and kept as JSON in benchmarks/results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import machine, measure, record
from benchmarks.class_names import class_names

Case = tuple[int, int, int, str]  # prompts (images), classes, context tokens, mode
# The first is the one that the targets name; then growth with C, B, M.
CASES: list[Case] = [
    (12, 50, 4, "forward"),
    (4, 20, 4, "forward and backward"),
    *((4, classes, 4, "forward") for classes in (10, 50, 100, 500, 1000)),
    *((batch, 50, 4, "forward") for batch in (1, 2, 8)),
    *((4, 50, context, "forward") for context in (1, 8, 16)),
]
QUICK = [(2, 5, 4, "forward"), (2, 5, 4, "forward and backward"), (2, 40, 4, "forward"), (2, 5, 2, "forward")]
NAIVE_ROWS = 600  # sequences; more take minutes and only repeat themselves
QUICK_FITTING = 20


def encoder(args: argparse.Namespace, side: str, classes: int, context: int) -> Callable[[Any], Any]:
    """One side's function from context vectors [B, M, Dt] to normalised features [B, C, E]."""
    import torch
    import torch.nn.functional as F

    from benchmarks import models

    clip = models.backbone_of(args, side)
    if side == "ours":
        tree = clip.prompt_tree(class_names(classes), context)
        return lambda prompts: F.normalize(clip.encode_prompts(prompts, tree), dim=-1)
    naive = models.build_naive(clip, classes, context=context)

    def padded(prompts: Any) -> Any:
        with models.autocast(args.device, args.dtype):
            return torch.stack([naive.encode_text(naive.rows(one)) for one in prompts]).float()

    return padded


def prompts_of(args: argparse.Namespace, side: str, batch: int, context: int) -> Any:
    """Context vectors [B, M, Dt] that differ from image to image."""
    import torch

    from benchmarks import models

    clip = models.backbone_of(args, side)
    noise = torch.randn(batch, context, clip.text_width, generator=torch.Generator().manual_seed(1))
    return clip.embed_words(models.words(context)) + 0.01 * noise.to(args.device)


def run(encode: Callable[[Any], Any], prompts: Any, mode: str) -> list[Any]:
    """One pass: the features and, with a backward pass, the gradient in the context."""
    import torch

    if mode == "forward":
        with torch.no_grad():
            return [encode(prompts)]
    leaf = prompts.clone().requires_grad_()
    features = encode(leaf)
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(2)).to(features.device)
    (features * weights).sum().backward()
    return [features, leaf.grad]


def run_alone(args: argparse.Namespace, side: str, batch: int, classes: int, context: int, mode: str) -> None:
    """One side by itself, for its memory."""
    run(encoder(args, side, classes, context), prompts_of(args, side, batch, context), mode)


def times_of(
    args: argparse.Namespace,
    sides: Sequence[str],
    case: Case,
    repeats: int,
    budget_sec: float,
    probe: machine.Probe | None = None,
) -> tuple[dict[str, Any], float]:
    """Times of one or both sides of a case, and the error between their results."""
    from benchmarks import models

    batch, classes, context, mode = case
    prompts, results = prompts_of(args, "ours", batch, context), dict[str, Any]()
    functions = {side: partial(run, encoder(args, side, classes, context), prompts, mode) for side in sides}
    times = measure.measure(functions, repeats, args.device, budget_sec, results, probe)
    error = measure.relative_error(results["ours"], results[sides[-1]])
    return times, measure.require(error, models.LIMITS[args.dtype], f"{batch} prompts x {classes} classes, {mode}")


def measure_case(
    args: argparse.Namespace, case: Case, peaks: bool, lines: dict[Any, Any], probe: machine.Probe
) -> dict[str, Any]:
    """A row of the record: times, agreement, peaks of memory and floor of one case.

    Args:
        args: The options.
        case: Batch, classes, context, mode.
        peaks: Whether to measure memory.
        lines: The naive side's seconds as a line over the classes, and the error at the largest measured, by what
            cases share it: batch, context, mode.
        probe: Measures the machine's rates.
    """
    from benchmarks import models

    batch, classes, context, mode = case
    fitting = min(classes, QUICK_FITTING if args.quick else NAIVE_ROWS // batch)
    budget_sec = 90 if peaks else 30
    if fitting == classes:
        times, error = times_of(args, ("ours", "naive"), case, args.repeats, budget_sec, probe)
    else:
        key = (batch, context, mode)
        if key not in lines:
            points = []
            for size in (fitting // 2, fitting):
                times, error = times_of(args, ("ours", "naive"), (batch, size, context, mode), 1, 0)
                points.append((size, times["naive"]["seconds"]))
            lines[key] = measure.line(points), error
        seconds, error = lines[key]
        times, _ = times_of(args, ("ours",), case, args.repeats, budget_sec, probe)
        source = f"{batch} prompts x {fitting} classes"
        times["naive"] = {"seconds": seconds(classes), "runs": [], "extrapolated_from": source}
    work = models.text_floor(models.backbone_of(args, "ours"), batch, classes, context, mode != "forward")
    floor = work.floor(probe.take(), times["ours"]["seconds"])
    for side, found in times.items():
        found["peak_bytes"] = measure.peak_bytes(run_alone, args, side, *case, device=args.device) if peaks else None
    what = {"batch": batch, "classes": classes, "context": context, "mode": mode}
    return record.row(what, **times, error=error, floor=floor)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv)
    probe = machine.Probe(args.device, args.dtype, args.quick)
    cases, lines = QUICK if args.quick else CASES, dict[Any, Any]()
    # Memory of the first two: one forward, one backward.
    rows = (measure_case(args, case, i < 2, lines, probe) for i, case in enumerate(cases))
    return record.finish("text_encoder", args, rows)


if __name__ == "__main__":
    main()

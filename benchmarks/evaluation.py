"""Testing: images/s of one view at a time, ours against the released way (three views, image by image).

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --quick

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

from benchmarks import figures, machine, measure, record

# Classes, images a batch of ours, and of the naive side, which takes its images one after another anyway.
CASES = [(10, 32, 4), (100, 32, 2), (1000, 16, 1)]
GPU = [(10, 256, 8), (100, 128, 8), (1000, 64, 4)]
QUICK = [(4, 4, 2), (12, 4, 2)]


def build(args: argparse.Namespace, side: str, classes: int) -> Any:
    """One side's function from B images to logits [B, C]."""
    import torch

    from benchmarks import models

    clip = models.backbone_of(args, side)
    naive = models.build_naive(clip, classes).eval()
    if side == "ours":
        ours = models.build_ours(clip, classes, like=naive).eval()
        return torch.inference_mode()(lambda images: ours(images).logits)

    def released(images: Any) -> Any:
        with torch.no_grad(), models.autocast(args.device, args.dtype):
            return naive(images, images, images)[0].float()

    return released


def run_alone(args: argparse.Namespace, side: str, classes: int, batch: int) -> None:
    """One batch of one side by itself, for its memory."""
    from benchmarks import models

    build(args, side, classes)(models.views(models.backbone_of(args, side), batch, 1)[0])


def measure_case(
    args: argparse.Namespace, classes: int, batch: int, naive_batch: int, probe: machine.Probe
) -> dict[str, Any]:
    """A row of the record; its times are per image."""
    from benchmarks import models

    clip = models.backbone_of(args, "ours")
    images = models.views(clip, batch, 1)[0]
    case = {"batch": batch, "naive_batch": naive_batch, "classes": classes}
    logits: dict[str, Any] = {}
    counts = {"ours": batch, "naive": naive_batch}
    sides = {side: partial(build(args, side, classes), images[:count]) for side, count in counts.items()}
    times = measure.measure(sides, args.repeats, args.device, results=logits, probe=probe)
    error = measure.relative_error([logits["ours"][:naive_batch]], [logits["naive"]])
    measure.require(error, models.LIMITS[args.dtype], figures.label(case))
    for side, count in counts.items():
        peak = measure.peak_bytes(run_alone, args, side, classes, count, device=args.device)
        times[side] = record.per_image(times[side], count) | {"peak_bytes": peak}
    work = models.whole_floor(clip, batch, classes, training=False)
    floor = work.over(batch).floor(probe.take(), times["ours"]["seconds"])
    return record.row(case, **times, error=error, floor=floor)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv)
    probe = machine.Probe(args.device, args.dtype, args.quick)
    cases = QUICK if args.quick else GPU if args.device == "cuda" else CASES
    return record.finish("evaluation", args, (measure_case(args, *case, probe) for case in cases), per="image")


if __name__ == "__main__":
    main()

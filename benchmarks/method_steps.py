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
    ("CoOp", None, 100),
    ("CoOp", 4, 100),
    ("CoOp", 4, 1000),
    ("CoCoOp", 1, 100),
    ("CoCoOp", 8, 100),
    ("CoCoOp", 1, 1000),
    ("MaPLe", None, 100),
    ("MaPLe", 4, 100),
    ("MaPLe", 4, 1000),
]
QUICK: list[Case] = [("CoOp", None, 4), ("CoCoOp", 2, 8), ("MaPLe", 2, 4)]
QUICK_ROWS = 12  # of the naive side, at most
PROBE_IMAGES, PROBES = 4, (24, 72)  # images and rows of the runs that tell what the naive side needs
BUDGET_SEC = 90
# Loss and gradients, fp32; CoCoOp's hidden units get sums of large terms that cancel, in the naive side too.
LIMIT = 1e-4


class Side:
    """One side's model in training.

    Args:
        args: The options.
        name: ours or naive.
        case: Method, images, classes.
        like: The side whose learnables it takes; None keeps the first values.
    """

    def __init__(self, args: argparse.Namespace, name: str, case: Case, like: Side | None = None) -> None:
        import torch
        import torch.nn.functional as F

        from benchmarks import models

        method, batch, classes = case
        self.clip = models.backbone_of(args, name)
        self.scale, self.whole = models.LOSS_SCALE.get(args.dtype, 1.0), batch is not None
        self.learner: Any
        model: Any
        if name == "ours":
            model = models.build_method(method, self.clip, classes, like.learner if like else None).train()
            self.learner, dtype = model.learner, "fp32"
        else:
            model = self.learner = models.build_naive_method(method, self.clip, classes).train()
            dtype = args.dtype

        if batch is None:
            shape = (classes, self.clip.embed_dim)
            weights = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(args.device)

            def loss() -> Any:
                with models.autocast(args.device, dtype):
                    text = model.text()
                return (text.float() * weights).sum()
        else:
            images, label = models.views(self.clip, batch, 1)[0], models.labels(batch, classes, args.device)

            def loss() -> Any:
                with models.autocast(args.device, dtype):
                    out = model(images)
                return F.cross_entropy((out.logits if name == "ours" else out).float(), label)

        self.loss: Callable[[], Any] = loss

    def step(self) -> Callable[[], Any]:
        """A function that does one training step; of the text side, features and gradients."""
        from benchmarks import models

        return models.step(self.loss, self.learner, self.scale) if self.whole else self.gradients

    def gradients(self) -> tuple[Any, list[Any]]:
        """The loss, and its gradients by the learnables' published names; they are not kept."""
        loss = self.loss()
        (loss * self.scale).backward()
        named = sorted(self.learner.named_parameters())
        gradients = [p.grad for _, p in named if p.grad is not None]  # the text side leaves some out
        self.learner.zero_grad(set_to_none=True)
        return loss, gradients


def run_alone(args: argparse.Namespace, side: str, case: Case) -> None:
    """Two steps of one side by itself, for its memory; the second one meets the optimizer's state."""
    step = Side(args, side, case).step()
    step()
    step()


def rows_of(case: Case) -> int:
    """Sequences that go through the naive side's text tower."""
    method, batch, classes = case
    return classes * (batch or 1) if method == "CoCoOp" else classes


def naive_needs(args: argparse.Namespace, method: str) -> Callable[[float], float]:
    """Sequences -> bytes that a naive step takes, in a straight line from two small steps."""
    known, each = [], rows_of((method, PROBE_IMAGES, 1))
    for rows in PROBES:
        case = (method, PROBE_IMAGES, rows // each)
        if peak := measure.peak_bytes(run_alone, args, "naive", case, device=args.device):
            known.append((rows, peak))
    return measure.line(known) if len(known) == len(PROBES) else lambda _: float("inf")


def error_of(args: argparse.Namespace, case: Case, what: str = "") -> float:
    """Of loss and gradients, ours against the naive side; above the limit, the benchmark stops."""
    from benchmarks import models

    naive = Side(args, "naive", case)
    ours = Side(args, "ours", case, like=naive)
    (loss, gradients), (expected, expected_gradients) = ours.gradients(), naive.gradients()
    error = measure.relative_error([loss, *gradients], [expected, *expected_gradients])
    return measure.require(error, max(LIMIT, models.LIMITS[args.dtype]), what)


def measure_case(args: argparse.Namespace, case: Case, needs: dict[str, Callable[[float], float]]) -> dict[str, Any]:
    """A row of the record: times, agreement and peaks of memory of one case."""
    import torch

    from clip.memory import free_memory

    method, batch, classes = case
    named = {"method": method, "batch": batch, "classes": classes}
    if method not in needs:
        needs[method] = naive_needs(args, method)
    rows, need = rows_of(case), needs[method]
    fits = measure.largest_fitting(rows, need, free_memory(torch.device(args.device))) == rows
    fits = fits and (rows <= QUICK_ROWS or not args.quick)
    error = error_of(args, case, figures.label(named)) if fits else None
    steps = {side: Side(args, side, case).step() for side in (("ours", "naive") if fits else ("ours",))}
    times = measure.measure(steps, args.repeats, args.device, BUDGET_SEC)
    del steps
    for side, found in times.items():
        found["peak_bytes"] = measure.peak_bytes(run_alone, args, side, case, device=args.device)
    more = {} if fits or math.isinf(need(rows)) else {"needs_bytes": need(rows)}
    return record.row(named, times["ours"], times.get("naive"), error=error, **more)


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv)
    needs = dict[str, Callable[[float], float]]()
    cases = QUICK if args.quick else CASES
    return record.finish("method_steps", args, (measure_case(args, case, needs) for case in cases))


if __name__ == "__main__":
    main()

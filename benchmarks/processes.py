"""A training step of two processes: their gradients averaged in one flat message, or by DistributedDataParallel.

    python -m benchmarks.processes
    python -m benchmarks.processes --quick

Two processes of one thread each talk over gloo on this machine and take turns of one step a side. Ours is what the
engine does (`average_gradients` after the backward pass); the other side is PyTorch's wrapper.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import machine, measure, record

WORLD = 2
TINY = "two processes, GOPro on the tiny CLIP, 2 x 2 images x 10 classes"
WHOLE = "two processes, GOPro on ViT-B/16, 2 x 2 images x 10 classes"
LEARNABLES = "its 9.7 million learnables alone, on random statistics in place of the towers"
LIMIT = 1e-5  # of the averaged gradients, relative
Case = tuple[Any, tuple[Any, ...]]  # a module whose forward pass gives a loss, and what this process gives it


def gopro(name: str, rank: int) -> Case:
    """GOPro on a CLIP, and three views of this process's two images."""
    from benchmarks import models
    from benchmarks.class_names import class_names
    from trainers.gopro import build_gopro, gopro_loss

    model = build_gopro(models.backbone(name, "cpu"), class_names(10))
    given = (*models.views(model.clip, 2 * WORLD), models.labels(2 * WORLD, 10, "cpu"))
    with_loss = _with_loss(model, lambda a, b, c, label: gopro_loss(model(a, b, c), label)["loss"])
    return with_loss, tuple(x[2 * rank : 2 * rank + 2] for x in given)


def learnables(rank: int) -> Case:
    """A loss of the learnables of ViT-B/16's size on random statistics: little computation, much to send."""
    import torch

    from clip import ImageFeatures
    from trainers.gopro import GOProLearner, ImageProjector, PromptLearner

    images, layers, vision_width, text_width = 4, 12, 768, 512
    learner = GOProLearner(PromptLearner(torch.zeros(4, text_width), layers, vision_width), ImageProjector(text_width))
    for parameter in learner.parameters():  # a projector that starts as zero would leave the rest without a gradient
        torch.nn.init.normal_(parameter, std=0.02)
    generator = torch.Generator().manual_seed(rank)
    mean = torch.randn(images, layers, vision_width, generator=generator)
    final = torch.randn(images, text_width, generator=generator)

    def loss(mean: Any, final: Any) -> Any:
        statistics = ImageFeatures(final, mean, mean.square())
        contexts = [learner.prompt_learner(statistics, view) for view in ("original", "moco", "augmix")]
        return sum(context.square().mean() for context in contexts) + learner.simproj(final).square().mean()

    return _with_loss(learner, loss), (mean, final)


def _with_loss(module: Any, loss: Callable[..., Any]) -> Any:
    """The module with a forward pass that gives the loss, which DistributedDataParallel has to see."""
    from torch import nn

    class WithLoss(nn.Module):
        def forward(self, *given: Any) -> Any:
            return loss(*given)

    with_loss = WithLoss()
    with_loss.module = module
    return with_loss


# With how many steps a repeat: the short ones differ most from step to step.
CASES: dict[str, tuple[Callable[[int], Case], int]] = {
    TINY: (partial(gopro, "tiny"), 8),
    WHOLE: (partial(gopro, "ViT-B/16"), 3),
    LEARNABLES: (learnables, 8),
}


def side(name: str, case: str, rank: int) -> tuple[Callable[[], None], list[Any]]:
    """One training step of a side as a function, and its parameters."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    from dassl.utils.distributed import average_gradients

    torch.manual_seed(0)  # the same weights on both sides
    module, given = CASES[case][0](rank)
    learned = [p for p in module.parameters() if p.requires_grad]
    loss = DistributedDataParallel(module) if name == "naive" else module
    optimizer = torch.optim.SGD(learned, lr=0.002, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss(*given))
        if name == "ours":
            average_gradients(learned)
        optimizer.step()

    return step, learned


def in_turns(steps: dict[str, Callable[[], None]], count: int) -> dict[str, dict[str, Any]]:
    """As `measure.measure`, which would end by the clock, and so at different turns in different processes."""
    from torch import distributed

    runs: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(count):
        for name, step in steps.items():
            distributed.barrier()
            start = time.perf_counter()
            step()
            runs[name].append(time.perf_counter() - start)
    return {name: record.side(times) for name, times in runs.items()}


def work(rank: int, folder: str, repeats: int, cases: Sequence[str]) -> list[tuple[dict[str, dict[str, Any]], float]]:
    """What one process does; gives the times of both sides, and how far their first gradients are apart, by case."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD)
    rows = []
    for case in cases:
        (ours, own), (naive, other) = (side(name, case, rank) for name in ("ours", "naive"))
        ours(), naive()
        gradients, expected = ([p.grad for p in learned] for learned in (own, other))
        error = measure.require(measure.relative_error(gradients, expected), LIMIT, case)
        rows.append((in_turns({"ours": ours, "naive": naive}, repeats * CASES[case][1]), error))
    distributed.destroy_process_group()
    return rows


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure and write the record."""
    args = measure.options(__doc__, argv, models=False)
    cases = [case for case in CASES if case != WHOLE or not args.quick]
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(WORLD, multiprocessing.get_context("spawn"), machine.end_with_parent) as pool,
    ):
        measured, _ = pool.map(work, range(WORLD), [folder] * WORLD, [args.repeats] * WORLD, [cases] * WORLD)
    found = zip(cases, measured, strict=True)
    rows = (record.row({"what": case}, **times, error=error) for case, (times, error) in found)
    return record.finish("processes", args, rows)


if __name__ == "__main__":
    main()

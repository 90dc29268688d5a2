"""Options, timing in turns, peaks of memory in child processes, agreement of both sides, and costs by extrapolation."""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from benchmarks import machine, record
from benchmarks.record import RESULTS, ROOT, USUAL_DTYPE

LONG_SEC = 10
SHARE = 0.75  # of the memory at hand, which the naive side may plan to take


def options(
    description: str,
    argv: Sequence[str] | None = None,
    models: bool = True,
    more: Callable[[argparse.ArgumentParser], None] | None = None,
    classes: Sequence[int] = (),
) -> argparse.Namespace:
    """Parse a benchmark's command line; exits, saying so, when it asks for what cannot be done here.

    Args:
        description: The benchmark's docstring.
        argv: Arguments without the program's name; None takes sys.argv.
        models: Whether the benchmark runs a backbone.
        more: Adds options of its own.
        classes: Numbers of classes that may be chosen to be measured alone, without the naive side.

    Returns:
        quick, repeats, out (a Path), with models also backbone, device and dtype, and with classes also classes.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes in seconds, to see that it runs")
    parser.add_argument("--repeats", type=int, help="timed runs of each side at most; the median counts (default 5)")
    parser.add_argument("--out", type=Path, help="folder of the JSON (default benchmarks/results)")
    if models:
        parser.add_argument("--backbone", help="any name that clip.load takes; weights are random (default ViT-B/16)")
        parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU if any")
        parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="default: fp32, on a GPU bf16")
    if more is not None:
        more(parser)
    if classes:
        parser.add_argument(
            "--classes",
            type=int,
            nargs="+",
            choices=classes,
            help="these alone, without the naive side; the JSON then goes to output/benchmarks",
        )
    args = parser.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    if args.repeats is None:
        args.repeats = 1 if args.quick else 5
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    kept = not args.quick and not getattr(args, "classes", None)
    args.out = args.out or (RESULTS if kept else ROOT / "output" / "benchmarks")
    try:  # before the long work
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out must be a folder that can be written: {error}")
    if not models:
        args.device = "cpu"
        return args
    import torch

    args.backbone = args.backbone or ("tiny" if args.quick else "ViT-B/16")
    if not torch.cuda.is_available():
        print("GPU: skipped, there is no CUDA device here")
        if args.device == "cuda":
            sys.exit(0)
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.dtype = args.dtype or USUAL_DTYPE[args.device]
    return args


def measure(
    sides: Mapping[str, Callable[[], Any]],
    repeats: int,
    device: str = "cpu",
    budget_sec: float = 90,
    results: dict[str, Any] | None = None,
    probe: machine.Probe | None = None,
) -> dict[str, dict[str, Any]]:
    """Time functions in turn, so that a drift of the machine meets them alike.

    The first run of each warms up. It counts only where it used up the budget, and at least LONG_SEC.

    Args:
        sides: Name -> function.
        repeats: Timed runs each.
        device: cpu or cuda, to wait for.
        budget_sec: A function whose counted runs have used it up is not run again.
        results: Gets what each function returned last.
        probe: Samples the machine's rates before each run.

    Returns:
        Name -> a side of a record.
    """
    runs: dict[str, list[float]] = {name: [] for name in sides}

    def enough(first: float, *counted: float) -> bool:
        return sum(counted) >= budget_sec if counted else first >= max(budget_sec, LONG_SEC)

    for _ in range(repeats + 1):
        for name, function in sides.items():
            if runs[name] and enough(*runs[name]):
                continue
            if probe is not None:
                probe.sample()
            machine.wait(device)
            start = time.perf_counter()
            result = function()
            machine.wait(device)
            runs[name].append(time.perf_counter() - start)
            if results is not None:
                results[name] = result
    return {name: record.side(times[1:] or times) for name, times in runs.items()}


def peak_bytes(function: Callable[..., Any], *args: Any, device: str = "cpu") -> int | None:
    """Peak memory in bytes of a call in a process of its own: the process's (RSS), or CUDA's own count.

    The function must be a module's, because the process imports it. None when the process was killed or the device ran
    out of memory.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":  # it imports once; a plain fork would inherit the threads' locks and this peak
        own = ["benchmarks.models"] if Path.cwd() == ROOT else []  # its path is the working folder
        context.set_forkserver_preload(["torch", "torchvision", "open_clip", *own])
    with ProcessPoolExecutor(1, context, machine.end_with_parent) as pool:
        try:
            return pool.submit(machine.run_and_report_peak, function, args, device).result()
        except (BrokenProcessPool, MemoryError):
            return None
        except RuntimeError as error:
            if "out of memory" in str(error) or "can't allocate memory" in str(error):
                return None
            raise


def relative_error(got: Sequence[Any], expected: Sequence[Any], zero: float = 0.0) -> float:
    """Worst over tensors of max |got - expected| / max |expected|.

    Args:
        got: Tensors.
        expected: As many, of the same shapes.
        zero: A tensor whose largest value is below this share of the largest of all is a mathematical zero plus
            rounding, and is compared with the largest of all.
    """
    pairs = [(a.detach().double().cpu(), b.detach().double().cpu()) for a, b in zip(got, expected, strict=True)]
    scales = [float(b.abs().max()) for _, b in pairs]
    largest = max(scales)
    scales = [scale if scale > zero * largest else largest or 1.0 for scale in scales]
    return max(float((a - b).abs().max()) / scale for (a, b), scale in zip(pairs, scales, strict=True))


def require(error: float, limit: float, what: str) -> float:
    """Return the error; above the limit, stop the benchmark."""
    if not error <= limit:  # also when it is not a number
        raise SystemExit(f"{what}: ours differs from the naive reference by {error:.1e} relative, limit {limit:.0e}")
    return error


def line(points: Sequence[tuple[float, float | None]]) -> Callable[[float], float]:
    """The line through the first and the last of some points (size, cost), sizes rising; it never falls.

    What the naive reference costs where it cannot run: its text tower does the same for every image and class, so time
    and memory grow in a straight line with the classes. Short memory would slow it further: the line flatters it.
    Where one of both costs is None, because that size did not fit, every size costs infinitely much.

    Raises:
        ValueError: Fewer than two sizes.
    """
    (x0, y0), (x1, y1) = points[0], points[-1]
    if x1 <= x0:
        raise ValueError(f"a line needs two rising sizes, got {[x for x, _ in points]}")
    if y0 is None or y1 is None:
        return lambda _: math.inf
    slope = max(0.0, (y1 - y0) / (x1 - x0))
    return lambda x: y1 + slope * (x - x1)


def largest_fitting(wanted: int, need: Callable[[float], float], available: float) -> int:
    """The largest size up to `wanted` whose need in bytes stays within SHARE of the bytes available; 0 when none does.

    The need never falls with the size.
    """
    return bisect_right(range(1, wanted + 1), SHARE * available, key=need)

"""What the benchmarks share: options, timing, peaks of memory in child processes, records.

A record (one JSON file a benchmark and machine) is {"schema", "benchmark", "date", "command", "machine", "settings",
"rates", "per", "rows"}; a row is {"case", "ours", "naive", "ratio", "error", "floor"}. A side is {"seconds", "runs",
"peak_bytes", "extrapolated_from"}: the median, the single times, and for a size that does not fit where its cost was
taken from. A floor is {"flops", "bytes", "rates", "seconds", "share"}, with the rates of the same moments; the record's
own rates are their medians. Times are seconds per run, or per image where "per" says so. What was not measured is null.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from benchmarks import machine, tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCHEMA = 1
LONG_SEC = 10


def options(description: str, argv: Sequence[str] | None = None, models: bool = True) -> argparse.Namespace:
    """Parse a benchmark's command line; exits, saying so, when it asks for a device that is not there.

    Args:
        description: The benchmark's docstring.
        argv: Arguments without the program's name; None takes sys.argv.
        models: Whether the benchmark runs a backbone.

    Returns:
        quick, repeats, out (a Path), and with models also backbone, device and dtype.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes in seconds, to see that it runs")
    parser.add_argument("--repeats", type=int, help="timed runs of each side at most; the median counts (default 5)")
    parser.add_argument("--out", type=Path, help="folder of the JSON (default benchmarks/results)")
    if models:
        parser.add_argument("--backbone", help="any name that clip.load takes; weights are random (default ViT-B/16)")
        parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: a GPU if any")
        parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="default: fp32, on a GPU bf16")
    args = parser.parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    args.repeats = args.repeats or (1 if args.quick else 5)
    args.out = args.out or (ROOT / "output" / "benchmarks" if args.quick else RESULTS)
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
    args.dtype = args.dtype or ("fp32" if args.device == "cpu" else "bf16")
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

    The first run of each counts only if it took longer than LONG_SEC: caches and set-up are nothing beside that.

    Args:
        sides: Name -> function.
        repeats: Timed runs each.
        device: cpu or cuda, to wait for.
        budget_sec: A function that has used it up is not run again once it has a time.
        results: Gets what each function returned last.
        probe: Samples the machine's rates before each run.

    Returns:
        Name -> a side of a record.
    """
    runs: dict[str, list[float]] = {name: [] for name in sides}
    spent = dict.fromkeys(sides, 0.0)
    for turn in range(repeats + 1):
        for name, function in sides.items():
            if len(runs[name]) == repeats or (runs[name] and spent[name] >= budget_sec):
                continue
            if probe is not None:
                probe.sample()
            machine.wait(device)
            start = time.perf_counter()
            result = function()
            machine.wait(device)
            seconds = time.perf_counter() - start
            spent[name] += seconds
            if turn or seconds > LONG_SEC:
                runs[name].append(seconds)
            if results is not None:
                results[name] = result
    rest = {"peak_bytes": None, "extrapolated_from": None}
    return {name: {"seconds": statistics.median(times), "runs": times, **rest} for name, times in runs.items()}


def peak_bytes(function: Callable[..., Any], *args: Any, device: str = "cpu") -> int | None:
    """Peak memory of a call in a process of its own: the process's (RSS), or CUDA's own count.

    Args:
        function: A module's function, because the process imports it.
        args: Its arguments.
        device: cpu or cuda.

    Returns:
        Bytes; None when the process was killed or the device ran out of memory.
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


def row(case: dict[str, Any], ours: dict[str, Any], naive: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """A record's row; adds the ratio naive / ours."""
    ratio = naive["seconds"] / ours["seconds"] if naive else None
    return {"case": case, "ours": ours, "naive": naive, "ratio": ratio, "error": None, "floor": None, **more}


def finish(name: str, args: argparse.Namespace, rows: list[dict[str, Any]], per: str = "run") -> Path:
    """Write the record of a benchmark, print its table and say where the file is.

    Args:
        name: The benchmark's module.
        args: From `options`.
        rows: From `row`.
        per: What a time is of: run or image.

    Returns:
        The file.
    """
    about = machine.describe(args.device)
    measured = [one["floor"]["rates"] for one in rows if one["floor"] and "rates" in one["floor"]]
    rates = None
    if measured:
        rates = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
    keys = ("backbone", "device", "dtype", "repeats", "quick")
    record = {
        "schema": SCHEMA,
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *args.argv]),
        "machine": about,
        "settings": {key: getattr(args, key) for key in keys if hasattr(args, key)},
        "rates": rates,
        "per": per,
        "rows": rows,
    }
    usual = getattr(args, "dtype", None) in (None, "fp32" if args.device == "cpu" else "bf16")
    path: Path = args.out / f"{name}-{about['short']}{'' if usual else '-' + args.dtype}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{tables.text(record)}\n{path}")
    return path

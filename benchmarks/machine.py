"""What the machine is and can do: its name, memory at hand, measured rates; and the peak of a process's memory."""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import re
import statistics
import sys
import threading
import timeit
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any


def wait(device: str) -> None:
    """Until a GPU has done what it was given; nothing on a CPU."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def describe(device: str) -> dict[str, Any]:
    """Name and sizes of the machine, and the versions that speed depends on.

    Args:
        device: cpu or cuda: what the figures were measured on.

    Returns:
        name (for people), short (for file names), device, cpu, cores, threads, memory_bytes, system, python, torch.
    """
    import psutil
    import torch

    from dassl.utils import usable_cores

    cores = usable_cores()
    cpu = _cpu()
    name, short = f"{cpu}, {cores} cores", f"{slug(cpu)}-{cores}-cores"
    if device == "cuda":
        name = torch.cuda.get_device_name()
        short = slug(name)
    return {
        "name": name,
        "short": short,
        "device": device,
        "cpu": cpu,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def slug(name: str) -> str:
    """A short name for files: lower case, without trade marks and clock rates."""
    name = re.sub(r"\((R|TM)\)|@.*|\b(CPU|Processor|\d+-Core)\b", " ", name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "machine"


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    info = path.read_text() if path.is_file() else ""
    names = re.findall(r"^model name\s*: (.+)$", info, re.MULTILINE)
    name = next(iter(names), "") or platform.processor() or platform.machine()
    extra = next((label for flag, label in (("amx_tile", "AMX"), ("avx512f", "AVX-512")) if flag in info), "")
    name = re.sub(r"\((R|TM)\)", "", name)
    return f"{name} ({extra})" if extra else name


def run_and_report_peak(function: Callable[..., Any], args: tuple[Any, ...], device: str) -> int:
    """Call a function, then give this process's highest memory use in bytes; on a GPU, its allocator's."""
    function(*args)
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "linux":  # getrusage would start from the parent's peak
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def end_with_parent() -> None:
    """First thing in a child: end it when its parent ends, so that a killed benchmark leaves nothing behind.

    Before the child asks for work: it holds both ends of the queue, so that one without a parent would wait for ever.
    """

    def exit_after_parent() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=exit_after_parent, daemon=True).start()


def give_memory_back() -> None:
    """Return what was freed in this process to the system, where the C library can: it decides what a step keeps."""
    import ctypes

    gc.collect()
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


class Probe:
    """Measures the rates that floors are computed from, again and again between timed runs.

    A machine's speed can change by half within seconds (clock, neighbours), so a floor counts only beside runs of the
    same moments.

    Args:
        device: cpu or cuda.
        dtype: fp32, fp16 or bf16, of the products.
        quick: Small sizes.
    """

    def __init__(self, device: str, dtype: str, quick: bool = False) -> None:
        import torch

        from clip.linear import linear
        from dassl.engine.optimisation import PRECISIONS

        self.device = device
        kind = PRECISIONS[dtype].weights
        scale = 1 if quick else 4 if device == "cpu" else 16
        self.products: list[tuple[int, Callable[[], Any]]] = []
        # Rows x inner x columns: square, and the text tower's two MLP products over many rows; by either library.
        for n, k, m in ((512, 512, 512), (768, 128, 512), (768, 512, 128)):
            a = torch.randn(n * scale, k * scale, device=device).to(kind)
            b = torch.randn(k * scale, m * scale, device=device).to(kind)
            ways = (partial(torch.mm, a, b, out=torch.empty_like(a @ b)), partial(linear, a, b.t()))
            self.products += [(2 * n * k * m * scale**3, way) for way in ways]
        self.source = torch.ones((4 if quick else 128) * 2**20 // 4, device=device)
        self.target = torch.ones_like(self.source)
        self.samples: list[tuple[float, float]] = []
        self.sample()
        self.samples.clear()  # the first sample warms up

    def _seconds(self, function: Callable[[], Any]) -> float:
        def timed() -> None:
            function()
            wait(self.device)

        wait(self.device)
        return min(timeit.repeat(timed, number=1, repeat=2))

    def sample(self) -> None:
        """Measure both rates once: the best of the products, and a large copy (read and written)."""
        flops = max(n / self._seconds(product) for n, product in self.products)
        copied = self._seconds(partial(self.target.copy_, self.source))
        self.samples.append((flops, 2 * self.source.numel() * 4 / copied))

    def take(self) -> dict[str, float]:
        """The medians since the last take: matmul_flops in operations per second, copy_bytes in bytes per second."""
        if not self.samples:
            self.sample()
        flops, copied = zip(*self.samples, strict=True)
        self.samples = []
        return {"matmul_flops": statistics.median(flops), "copy_bytes": statistics.median(copied)}

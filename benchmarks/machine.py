"""What the machine is and can do: its name, memory at hand, measured rates; and the peak of a process's memory."""

from __future__ import annotations

import multiprocessing
import os
import platform
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable
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
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cpu = _cpu()
    about = {
        "device": device,
        "cpu": cpu,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device == "cuda":
        gpu = torch.cuda.get_device_name()
        return {"name": gpu, "short": slug(gpu), **about}
    return {"name": f"{cpu}, {cores} cores", "short": f"{slug(cpu)}-{cores}-cores", **about}


def slug(name: str) -> str:
    """A short name for files: lower case, without trade marks and clock rates."""
    name = re.sub(r"\((R|TM)\)|@.*|\b(CPU|Processor|\d+-Core)\b", " ", name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "machine"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.is_file() else []
    name = (names[0] if names else "") or platform.processor() or platform.machine()
    flags = info.read_text() if info.is_file() else ""
    extra = next((label for flag, label in (("amx_tile", "AMX"), ("avx512f", "AVX-512")) if flag in flags), "")
    name = re.sub(r"\((R|TM)\)", "", name)
    return f"{name} ({extra})" if extra else name


def available_bytes(device: str) -> int:
    """Memory that can still be taken."""
    import torch

    from clip.memory import free_memory

    return free_memory(torch.device(device))


def run_and_report_peak(function: Callable[..., Any], args: tuple[Any, ...], device: str) -> int:
    """Call a function, then give this process's highest memory use in bytes; on a GPU, its allocator's."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    function(*args)
    if device == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    if status.is_file():  # not getrusage: on Linux it starts from the parent's peak
        return int(re.findall(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)[0]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _end_with_parent() -> None:
    """A benchmark that is killed must not leave a heavy child behind."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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

        self.device = device
        kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
        scale = 1 if quick else 4 if device == "cpu" else 16
        self.products = []
        # Rows x inner x columns: square, and the text tower's two MLP products over many rows.
        for n, k, m in ((512, 512, 512), (768, 128, 512), (768, 512, 128)):
            a = torch.randn(n * scale, k * scale, device=device).to(kind)
            b = torch.randn(k * scale, m * scale, device=device).to(kind)
            self.products.append((2 * n * k * m * scale**3, a, b, torch.empty_like(a @ b)))
        self.source = torch.ones((4 if quick else 128) * 2**20 // 4, device=device)
        self.target = torch.ones_like(self.source)
        self.samples: list[tuple[float, float]] = []
        self.sample()
        self.samples.clear()  # the first sample warms up

    def _seconds(self, function: Callable[[], Any]) -> float:
        times = []
        for _ in range(2):
            wait(self.device)
            start = time.perf_counter()
            function()
            wait(self.device)
            times.append(time.perf_counter() - start)
        return min(times)

    def sample(self) -> None:
        """Measure both rates once: the best of the products, and a large copy (read and written)."""
        import torch

        flops = max(
            n / self._seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)) for n, a, b, out in self.products
        )
        copied = self._seconds(lambda: self.target.copy_(self.source))
        self.samples.append((flops, 2 * self.source.numel() * 4 / copied))

    def take(self) -> dict[str, float]:
        """The medians since the last take: matmul_flops in operations per second, copy_bytes in bytes per second."""
        if not self.samples:
            self.sample()
        flops, copied = zip(*self.samples, strict=True)
        self.samples = []
        return {"matmul_flops": statistics.median(flops), "copy_bytes": statistics.median(copied)}

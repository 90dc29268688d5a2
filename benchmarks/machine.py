"""What the machine is and can do: its name, memory at hand, measured rates; and the peak of a process's memory."""

from __future__ import annotations

import os
import platform
import re
import statistics
import sys
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
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info()[0])
    info = Path("/proc/meminfo")
    if not info.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    free = int(re.findall(r"^MemAvailable:\s*(\d+) kB", info.read_text(), re.MULTILINE)[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():  # "max" where there is none
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def run_and_report_peak(function: Callable[..., Any], args: tuple[Any, ...], device: str) -> int:
    """Call a function, then give this process's highest memory use in bytes; on a GPU, its allocator's."""
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


def rates(device: str, dtype: str, quick: bool = False) -> dict[str, float]:
    """Measured rates that floors are computed from.

    Args:
        device: cpu or cuda.
        dtype: fp32, fp16 or bf16, of the products.
        quick: Small sizes.

    Returns:
        matmul_flops: Highest rate over some shapes of matrix products, operations per second.
        copy_bytes: Rate of copying a large buffer, bytes read and written per second.
    """
    import torch

    kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]

    def seconds(function: Callable[[], Any], repeats: int = 3 if quick else 7) -> float:
        times = []
        for _ in range(repeats + 2):
            wait(device)
            start = time.perf_counter()
            function()
            wait(device)
            times.append(time.perf_counter() - start)
        return statistics.median(times[2:])

    scale = 1 if quick else 4 if device == "cpu" else 16
    best = 0.0
    # Rows x inner x columns: square, and the towers' two MLP products over many rows.
    for n, k, m in ((512, 512, 512), (768, 128, 512), (768, 512, 128)):
        a = torch.randn(n * scale, k * scale, device=device).to(kind)
        b = torch.randn(k * scale, m * scale, device=device).to(kind)
        out = torch.empty(n * scale, m * scale, device=device, dtype=kind)
        best = max(best, 2 * n * k * m * scale**3 / seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out)))
    source = torch.ones((4 if quick else 256) * 2**20 // 4, device=device)
    target = torch.ones_like(source)
    return {
        "matmul_flops": best,
        "copy_bytes": 2 * source.numel() * 4 / seconds(lambda: target.copy_(source)),
    }

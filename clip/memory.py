"""Memory: how much is free, and in what pages it comes."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import torch

# A training step writes gigabytes of fresh arrays. In pages of 4 kB the system is asked a million times for them, which
# is a tenth of the step on a CPU; PyTorch reads this when it first makes a tensor. Results are the same.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def free_memory(device: torch.device) -> int:
    """Bytes that can be taken on the device now; on a CPU a container's limit is respected."""
    if device.type == "cuda":  # what the allocator holds for itself is as good as free
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")  # psutil sees the whole machine
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return free
    return max(0, min(free, limit - used + int(stat["inactive_file"])))  # the kernel gives its file cache back


def activation_budget(device: torch.device) -> int:
    """Bytes that the activations of one pass through a tower may take: a fifth of what is free, on a GPU half."""
    return free_memory(device) // (2 if device.type == "cuda" else 5)

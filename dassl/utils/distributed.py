"""Several processes, started by `torchrun --nproc_per_node N train.py ...`; alone, everything is a no-op."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


def init_distributed(use_cuda: bool = True) -> None:
    """Join the process group that torchrun's environment describes; nothing without it."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    cuda = use_cuda and torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")


def shutdown_distributed() -> None:
    """Leave the process group."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def get_world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def get_rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this process writes files and prints."""
    return get_rank() == 0


def all_gather_with_grad(x: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, in rank order; gradients flow back to the process that owns a row.

    Args:
        x: [B, ...], the same shape in every process.

    Returns:
        [B * world size, ...]; x itself when there is one process.
    """
    if get_world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))  # type: ignore[no-untyped-call]


def broadcast_object(item: Any) -> Any:
    """Rank 0's object in every process."""
    if get_world_size() == 1:
        return item
    items = [item]
    dist.broadcast_object_list(items, 0)
    return items[0]


def barrier() -> None:
    """Wait for all processes, e.g. until rank 0 has written a file that all read."""
    if get_world_size() > 1:
        dist.barrier()


def gather_lists(items: list[Any]) -> list[Any]:
    """Items of all processes, in rank order."""
    if get_world_size() == 1:
        return items
    parts: list[Any] = [None] * get_world_size()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """Element-wise mean over the processes, each with a tensor of the same shape."""
    if get_world_size() > 1:
        dist.all_reduce(values)
        values /= get_world_size()
    return values


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of the gradients over the processes, in one message."""
    average_tensors([p.grad for p in parameters if p.grad is not None])


def average_tensors(tensors: list[torch.Tensor]) -> None:
    """Mean of each tensor over the processes, in place and in one message; every process gives the same shapes."""
    if get_world_size() == 1 or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    flat /= get_world_size()
    for tensor, mean in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def broadcast_module(module: nn.Module) -> None:
    """Parameters and buffers of rank 0 to all."""
    if get_world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)

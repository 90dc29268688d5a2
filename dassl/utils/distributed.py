"""Several processes, started by `torchrun --nproc_per_node N train.py ...`; alone, everything is a no-op."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
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
        number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= gpus:
            raise ValueError(
                f"torchrun's --nproc_per_node must be at most {gpus}, the GPUs of this machine, got a process number "
                f"{number + 1}; USE_CUDA False computes on the CPU"
            )
        torch.cuda.set_device(number)
    # PyTorch's own time limits (gloo 30 minutes, NCCL 10) stay: the first process may lawfully take long alone, and a
    # process that ends needs none: gloo's others see its connections close, and torchrun ends all when it ends.
    dist.init_process_group("nccl" if cuda else "gloo")


def lost_process(error: BaseException) -> ConnectionError | None:
    """What to say in place of an error that comes of another process's end; None for another error."""
    if get_world_size() == 1:
        return None
    if not isinstance(error, dist.DistError) and not (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return None
    return ConnectionError(
        f"another of this run's {get_world_size()} processes ended or does not answer; its own message, or torchrun's, "
        f"says why. What was saved stays: the same command goes on ({error})"
    )


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


class _AllGather(torch.autograd.Function):
    """torch.distributed.nn has it too, deprecated in favour of functions without a public name."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(x) for _ in range(get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)  # others may hold the same tensor
        dist.all_reduce(total)
        return own_rows(total)


def all_gather_with_grad(x: torch.Tensor) -> torch.Tensor:
    """Rows of all processes, in rank order; gradients flow back to the process that owns a row.

    Args:
        x: [B, ...], the same shape in every process.

    Returns:
        [B * world size, ...]; x itself when there is one process.
    """
    if get_world_size() == 1:
        return x
    rows: torch.Tensor = _AllGather.apply(x.contiguous())
    return rows


def own_rows(x: torch.Tensor) -> torch.Tensor:
    """This process's rows [B, ...] of those that `all_gather_with_grad` gathered."""
    return x.chunk(get_world_size())[get_rank()]


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
    """Mean of the gradients over the processes, by an all-reduce after the backward pass; see `averaged`.

    Not by DistributedDataParallel: a step takes as long with it (`benchmarks/processes.py`), and it averages only what
    one forward pass through its wrapper leads to: not the second gradient of a step (`Optimisation.model_gradients`),
    and not those of a trainer whose forward pass goes past the module that it registered.
    """
    learned = [p for p in parameters if p.grad is not None]
    for parameter, gradient in zip(learned, averaged([p.grad for p in learned if p.grad is not None]), strict=True):
        parameter.grad = gradient


def averaged(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Mean of each tensor over the processes, which all give the same shapes.

    In messages of some megabytes, each on its way while the next is packed; what comes back are views of them.
    """
    if get_world_size() == 1:
        return tensors
    sent = []
    for part in _packed(tensors):
        message = torch.cat([t.flatten() for t in part])
        sent.append((part, message, dist.all_reduce(message, async_op=True)))
    means = []
    for part, message, work in sent:
        work.wait()
        message /= get_world_size()
        views = torch.split(message, [t.numel() for t in part])
        means += [view.view_as(t).to(t.dtype) for view, t in zip(views, part, strict=True)]
    return means


def _packed(tensors: list[torch.Tensor], numbers: int = 2**20) -> Iterator[list[torch.Tensor]]:
    """Runs of tensors, each of about as many numbers or one larger tensor."""
    part: list[torch.Tensor] = []
    for tensor in tensors:
        part.append(tensor)
        if sum(t.numel() for t in part) >= numbers:
            yield part
            part = []
    if part:
        yield part


def broadcast_module(module: nn.Module) -> None:
    """Parameters and buffers of rank 0 to all."""
    if get_world_size() > 1:
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)

"""Gathering with gradients, against one process that has all rows."""

from collections.abc import Callable
from pathlib import Path

import processes
import pytest
import torch
from torch import nn

from dassl.utils.distributed import (
    all_gather_with_grad,
    average_gradients,
    barrier,
    broadcast_module,
    broadcast_object,
    gather_lists,
    get_rank,
    get_world_size,
    init_distributed,
    is_main_process,
    shutdown_distributed,
)

INPUT = torch.arange(12.0).view(4, 3) / 10


def layer() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(3, 2)


def contrast(x: torch.Tensor) -> torch.Tensor:
    """A loss in which every row meets every other."""
    return torch.logsumexp(x @ x.t(), dim=1).mean()


def shared_gradient(x: torch.Tensor) -> torch.Tensor:
    """Autograd hands the two gathers one and the same gradient tensor; neither may change it in place."""
    return ((all_gather_with_grad(x) + all_gather_with_grad(2 * x)) ** 2).sum()


LOSSES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "all rows against all": lambda x: contrast(all_gather_with_grad(x)),
    "gradient tensor used twice": shared_gradient,
    "gradient that is a broadcast view": lambda x: all_gather_with_grad(x).sum(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_gathered_gradient_is_that_of_a_single_process(name: str, tmp_path: Path) -> None:
    def job() -> None:
        init_distributed(use_cuda=False)
        model = layer()
        LOSSES[name](model(INPUT.chunk(2)[get_rank()])).backward()
        average_gradients(model.parameters())
        torch.save([p.grad for p in model.parameters()], tmp_path / f"{get_rank()}.pt")
        shutdown_distributed()

    processes.together(job)
    model = layer()
    LOSSES[name](model(INPUT)).backward()
    for rank in range(2):
        for got, parameter in zip(torch.load(tmp_path / f"{rank}.pt"), model.parameters(), strict=True):
            torch.testing.assert_close(got, parameter.grad)


@pytest.mark.slow
def test_gather_and_broadcast_keep_rank_order(tmp_path: Path) -> None:
    def job() -> None:
        init_distributed(use_cuda=False)
        rank = get_rank()
        assert get_world_size() == 2
        assert is_main_process() == (rank == 0)
        assert gather_lists([rank, "x"]) == [0, "x", 1, "x"]
        assert gather_lists([rank][rank:]) == [0]  # the second one has none
        assert broadcast_object({"rank": rank}) == {"rank": 0}
        gathered = all_gather_with_grad(torch.full((2, 1), float(rank)))
        assert gathered.flatten().tolist() == [0, 0, 1, 1]
        module = nn.BatchNorm1d(2)
        module.running_mean += rank + 1
        module.weight.data += rank
        broadcast_module(module)
        assert module.running_mean.tolist() == [1, 1] and module.weight.tolist() == [1, 1]
        unused = nn.Linear(1, 1)
        average_gradients(unused.parameters())
        assert unused.weight.grad is None
        barrier()
        shutdown_distributed()
        assert get_world_size() == 1

    processes.together(job)


def test_alone_everything_is_a_no_op() -> None:
    x, items = torch.ones(2, requires_grad=True), [1]
    assert all_gather_with_grad(x) is x
    assert gather_lists(items) is items
    assert broadcast_object(x) is x
    assert (get_rank(), get_world_size(), is_main_process()) == (0, 1, True)
    model = layer()
    model(INPUT).sum().backward()
    before = model.weight.grad.clone()
    average_gradients(model.parameters())
    broadcast_module(model)
    barrier()
    assert torch.equal(model.weight.grad, before)

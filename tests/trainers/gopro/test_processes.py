"""What couples the images of a batch, in several processes that share it: as in one process with the whole batch."""

import processes
import pytest
import torch
from torch import nn

from dassl.utils.distributed import (
    average_gradients,
    get_rank,
    init_distributed,
    mean_over_processes,
    shutdown_distributed,
)
from trainers.gopro import RELEASED, ImageProjector
from trainers.losses import nt_xent, prompt_consistency

BATCH, WIDTH = 4, 6  # of four processes, each has one image
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # a gradient in front of batch norm is zero but for rounding


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # forked processes have no others
    yield
    torch.set_num_threads(threads)


def projector():
    torch.manual_seed(0)
    return ImageProjector(WIDTH, RELEASED).train()


def images():
    return [torch.randn(BATCH, WIDTH, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def batch_norm(model, views):
    """Two passes, as the trainer's two views: both move the running statistics."""
    first, second = (model(view) for view in views[:2])
    return {"loss": (first * second.exp()).mean(), "outputs": torch.cat([first, second], 1)}


def contrastive(model, views):
    return {"loss": nt_xent(model.linear(views[0]), model.linear(views[1]), 0.2)}


def contrastive_behind_batch_norm(model, views):
    return {"loss": nt_xent(model(views[0]), model(views[1]))}


def consistency(model, views):
    text = [model.linear(view)[:, None] * torch.arange(1, 4)[:, None] for view in views]  # of three classes
    return {"loss": prompt_consistency(*text)}


def cross_entropy(model, views):
    return {"loss": nn.functional.cross_entropy(model.linear(views[0]), torch.arange(BATCH)[: len(views[0])] * 0 + 2)}


def step(loss_of, rank=0, count=1):
    model, views = projector(), images()
    own = [view.chunk(count)[rank].clone().requires_grad_() for view in views]
    result = loss_of(model, own)
    result["loss"].backward()
    average_gradients(model.parameters())
    return {
        "loss": mean_over_processes(result["loss"].detach()),
        "outputs": result.get("outputs", torch.zeros(len(own[0]), 0)).detach(),
        "gradients": {name: p.grad for name, p in model.named_parameters() if p.grad is not None},
        "images": [view.grad for view in own if view.grad is not None],
        "buffers": dict(model.named_buffers()),
    }


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "loss_of",
    [batch_norm, contrastive, contrastive_behind_batch_norm, consistency, cross_entropy],
    ids=lambda f: f.__name__,
)
def test_a_shared_batch_is_as_a_whole_one(loss_of, count, tmp_path):
    def job():
        init_distributed(use_cuda=False)
        torch.save(step(loss_of, get_rank(), count), tmp_path / f"{get_rank()}.pt")
        shutdown_distributed()

    processes.together(job, count)
    shares, whole = [torch.load(tmp_path / f"{rank}.pt") for rank in range(count)], step(loss_of)
    together = torch.cat([share["outputs"] for share in shares])
    torch.testing.assert_close(together, whole["outputs"], **CLOSE)
    for i, gradient in enumerate(whole["images"]):  # each process's loss is a mean over its share
        torch.testing.assert_close(torch.cat([share["images"][i] for share in shares]) / count, gradient, **CLOSE)
    for share in shares:
        torch.testing.assert_close(share["loss"], whole["loss"], **CLOSE)
        for kind in ("gradients", "buffers"):
            assert list(share[kind]) == list(whole[kind]) and share[kind]
            for name, value in whole[kind].items():
                torch.testing.assert_close(share[kind][name], value, **CLOSE, msg=f"{kind} {name}")
    if "batch_norm" in loss_of.__name__:
        assert whole["buffers"]["batchnorm.num_batches_tracked"] == 2
        assert not torch.equal(whole["buffers"]["batchnorm.running_mean"], torch.zeros(WIDTH))

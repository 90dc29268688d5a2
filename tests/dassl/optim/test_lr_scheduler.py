"""Learning rates of six epochs, worked out by hand from upstream's definitions.

The base rate is 0.1, GAMMA 0.1, MAX_EPOCH 6, two epochs of warm-up. When the warm-up ends upstream sets the base rate
once more, whatever the schedule, then steps the schedule. With WARMUP_RECOUNT the schedule counts from 0 at that
point; without, from 2: a step at epoch s is then taken at epoch s of the run, steps within the warm-up are lost, and
cosine, which multiplies the last rate by (1 + cos(pi k / 6)) / (1 + cos(pi (k - 1) / 6)), starts from the full rate.
"""

import io
import math
import warnings
from typing import Any

import pytest
import torch

from dassl.config import get_cfg_default, merge_opts
from dassl.optim import build_lr_scheduler, training_length

CONSTANT = [0.003, 0.003]  # WARMUP_CONS_LR
LINEAR = [0.0007, 0.1 * 1 / 2]  # WARMUP_MIN_LR, then epoch / warm-up epochs of the base rate
STEP = ("OPTIM.LR_SCHEDULER", "single_step", "OPTIM.STEPSIZE", "(3,)")
LAST_STEP = ("OPTIM.LR_SCHEDULER", "single_step", "OPTIM.STEPSIZE", "(1, 3)")  # upstream takes the last one
NO_STEP = ("OPTIM.LR_SCHEDULER", "single_step")  # STEPSIZE -1: MAX_EPOCH
MULTI = ("OPTIM.LR_SCHEDULER", "multi_step", "OPTIM.STEPSIZE", "(1, 3)")
COSINE = ("OPTIM.LR_SCHEDULER", "cosine")
SEQUENCES: list[tuple[tuple[str, ...], list[float], list[float], list[float]]] = [
    # schedule, no warm-up, after a warm-up with recount, after a warm-up without
    (STEP, [0.1, 0.1, 0.1, 0.01, 0.01, 0.01], [0.1, 0.1, 0.1, 0.01], [0.1, 0.01, 0.01, 0.01]),
    (LAST_STEP, [0.1, 0.1, 0.1, 0.01, 0.01, 0.01], [0.1, 0.1, 0.1, 0.01], [0.1, 0.01, 0.01, 0.01]),
    (NO_STEP, [0.1] * 6, [0.1] * 4, [0.1] * 4),
    (MULTI, [0.1, 0.01, 0.01, 0.001, 0.001, 0.001], [0.1, 0.01, 0.01, 0.001], [0.1, 0.01, 0.01, 0.01]),
    (
        COSINE,
        [0.1, 0.0933012702, 0.075, 0.05, 0.025, 0.0066987298],
        [0.1, 0.0933012702, 0.075, 0.05],
        [0.1, 0.0666666667, 0.0333333333, 0.0089316398],
    ),
]
CASES = [
    pytest.param((*schedule, *warmup), expected, id=f"{schedule[1]} {schedule[3:]} {name}")
    for schedule, plain, recounted, continued in SEQUENCES
    for name, warmup, expected in (
        ("no warm-up", (), plain),
        ("constant, recount", ("OPTIM.WARMUP_EPOCH", "2", "OPTIM.WARMUP_TYPE", "constant"), CONSTANT + recounted),
        ("linear, recount", ("OPTIM.WARMUP_EPOCH", "2", "OPTIM.WARMUP_TYPE", "linear"), LINEAR + recounted),
        (
            "constant, no recount",
            ("OPTIM.WARMUP_EPOCH", "2", "OPTIM.WARMUP_TYPE", "constant", "OPTIM.WARMUP_RECOUNT", "False"),
            CONSTANT + continued,
        ),
        (
            "linear, no recount",
            ("OPTIM.WARMUP_EPOCH", "2", "OPTIM.WARMUP_TYPE", "linear", "OPTIM.WARMUP_RECOUNT", "False"),
            LINEAR + continued,
        ),
    )
]


def make(
    opts: tuple[str, ...], groups: int = 1, steps_per_epoch: int | None = None
) -> tuple[torch.optim.Optimizer, Any]:
    cfg = get_cfg_default()
    base = ("OPTIM.LR", "0.1", "OPTIM.MAX_EPOCH", "6", "OPTIM.WARMUP_CONS_LR", "0.003", "OPTIM.WARMUP_MIN_LR", "0.0007")
    merge_opts(cfg, [*base, *opts])
    parameters = [{"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1 / 10**i} for i in range(groups)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    return optimizer, build_lr_scheduler(optimizer, cfg.OPTIM, steps_per_epoch)


def rates(optimizer: torch.optim.Optimizer, scheduler: Any, epochs: int) -> list[float]:
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        assert scheduler.get_last_lr()[0] == found[-1]
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize(("opts", "expected"), CASES)
def test_rates_are_upstreams(opts: tuple[str, ...], expected: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rates(*make(opts), 6) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("done", [0, 1, 2, 3, 5])
@pytest.mark.parametrize(("opts", "expected"), CASES)
def test_state_restored_in_the_middle_goes_on_as_before(
    opts: tuple[str, ...], expected: list[float], done: int
) -> None:
    optimizer, scheduler = make(opts)
    rates(optimizer, scheduler, done)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)  # plain values only
    optimizer, scheduler = make(opts)
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    assert rates(optimizer, scheduler, 6 - done) == pytest.approx(expected[done:], rel=1e-6)


@pytest.mark.parametrize("warmup", ["constant", "linear"])
def test_every_parameter_group_keeps_its_own_base_rate(warmup: str) -> None:
    optimizer, scheduler = make((*COSINE, "OPTIM.WARMUP_EPOCH", "2", "OPTIM.WARMUP_TYPE", warmup), groups=2)
    found = []
    for _ in range(4):
        found.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    second = {"constant": [0.003, 0.003], "linear": [0.0007, 0.01 / 2]}[warmup]
    assert [lrs[1] for lrs in found] == pytest.approx([*second, 0.01, 0.00933012702])


def test_warm_up_of_one_epoch_is_the_published_recipe() -> None:
    opts = (*COSINE, "OPTIM.WARMUP_EPOCH", "1", "OPTIM.WARMUP_TYPE", "constant", "OPTIM.WARMUP_CONS_LR", "1e-5")
    assert rates(*make(opts), 3) == pytest.approx([1e-5, 0.1, 0.0933012702])


# Stepped after every batch ------------------------------------------------------------------------------------------

BATCH = ("OPTIM.LR_STEP", "batch")


@pytest.mark.parametrize(("opts", "expected"), CASES)
def test_one_batch_an_epoch_gives_the_rates_of_the_epochs(opts: tuple[str, ...], expected: list[float]) -> None:
    assert rates(*make((*opts, *BATCH), steps_per_epoch=1), 6) == pytest.approx(expected, rel=1e-6)
    assert rates(*make((*opts, "OPTIM.LR_STEP", "epoch"), steps_per_epoch=5), 6) == rates(*make(opts), 6)


@pytest.mark.parametrize("opts", [STEP, LAST_STEP, NO_STEP, MULTI])
def test_rates_that_change_in_steps_change_at_the_same_epochs(opts: tuple[str, ...]) -> None:
    of_epochs, of_batches = rates(*make(opts), 6), rates(*make((*opts, *BATCH), steps_per_epoch=4), 24)
    assert of_batches == pytest.approx([rate for rate in of_epochs for _ in range(4)])


def test_cosine_over_batches_falls_in_every_batch_after_a_warm_up_of_whole_epochs() -> None:
    warmup = ("OPTIM.WARMUP_EPOCH", "1", "OPTIM.WARMUP_TYPE", "linear")
    expected = [0.0007, *(0.1 * k / 4 for k in range(1, 4))]
    expected += [0.05 * (1 + math.cos(math.pi * k / 24)) for k in range(20)]
    found = rates(*make((*COSINE, *warmup, *BATCH), steps_per_epoch=4), 24)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("step", [(), BATCH])
def test_cosine_ends_at_its_lowest_rate(step: tuple[str, ...]) -> None:
    optimizer, scheduler = make((*COSINE, *step, "OPTIM.COSINE_MIN_LR", "0.02"), steps_per_epoch=3)
    count = 18 if step else 6
    assert rates(optimizer, scheduler, count)[count // 2] == pytest.approx(0.06)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)


@pytest.mark.parametrize(("limit", "length"), [(18, (6, 18)), (7, (3, 7)), (1, (1, 1)), (40, (14, 40)), (0, (9, 27))])
def test_limit_in_batches_sets_the_length_of_training_and_schedule(limit: int, length: tuple[int, int]) -> None:
    opts = (*COSINE, "OPTIM.MAX_EPOCH", "9", "OPTIM.MAX_ITER", str(limit))
    cfg = get_cfg_default()
    merge_opts(cfg, opts)
    assert training_length(cfg.OPTIM, 3) == length
    for by, count in zip(("epoch", "batch"), length, strict=True):
        _, scheduler = make((*opts, "OPTIM.LR_STEP", by), steps_per_epoch=3)
        assert scheduler.T_max == count
    assert training_length(cfg.OPTIM, 0) == (9, 0)  # no training images


def test_schedule_over_batches_needs_their_number() -> None:
    with pytest.raises(ValueError, match="OPTIM.MAX_ITER 7 needs the number of batches an epoch"):
        make(("OPTIM.MAX_ITER", "7"))
    with pytest.raises(ValueError, match="OPTIM.LR_STEP batch needs the number of batches an epoch: .*steps_per_epoch"):
        make(BATCH)
    make((*COSINE, *BATCH), steps_per_epoch=0)  # a data set that is only tested on


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (("OPTIM.LR_SCHEDULER", "cosin"), "OPTIM.LR_SCHEDULER must be one of .*'cosine'.* got 'cosin'"),
        (("OPTIM.LR_STEP", "batches"), r"OPTIM.LR_STEP must be one of \('epoch', 'batch'\), got 'batches'"),
        (("OPTIM.MAX_EPOCH", "0"), "OPTIM.MAX_EPOCH must be at least 1, got 0"),
        (("OPTIM.STEPSIZE", "(0.5,)"), "OPTIM.STEPSIZE must hold an integer for single_step, got 0.5"),
        (
            ("OPTIM.LR_SCHEDULER", "multi_step", "OPTIM.STEPSIZE", "(1, 2.5)"),
            r"OPTIM.STEPSIZE must hold integers for multi_step, got \(1, 2.5\)",
        ),
        (("OPTIM.STEPSIZE", "()"), "OPTIM.STEPSIZE must hold an integer for single_step, got "),
        (
            ("OPTIM.WARMUP_EPOCH", "1", "OPTIM.WARMUP_TYPE", "cosine"),
            r"OPTIM.WARMUP_TYPE must be one of \('constant', 'linear'\), got 'cosine'",
        ),
    ],
)
def test_impossible_schedule_names_key_and_value(opts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(opts)

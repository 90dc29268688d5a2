"""Learning-rate schedules that step once an epoch, or once a batch: Dassl's sequences, on today's PyTorch.

Their state is plain. What is called an epoch below is a batch where OPTIM.LR_STEP says so.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR, StepLR
from yacs.config import CfgNode

AVAI_SCHEDS = ("single_step", "multi_step", "cosine")
AVAI_STEPS = ("epoch", "batch")
AVAI_WARMUPS = ("constant", "linear")


class _WarmupScheduler:
    """For `warmup_epoch` epochs, at least 1, a rate of its own, then the successor from its beginning.

    The successor is made on the same optimiser; `rate` is that of the first epoch.
    """

    def __init__(self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, rate: float) -> None:
        self.optimizer, self.successor = optimizer, successor
        self.warmup_epoch, self.rate = warmup_epoch, rate
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = 0
        self._apply(self.warmup_lr(0))

    def warmup_lr(self, epoch: int) -> list[float]:
        """Rate of each parameter group in a warm-up epoch."""
        raise NotImplementedError

    def _apply(self, lrs: list[Any]) -> None:
        self._last_lr: list[Any] = lrs
        for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
            group["lr"] = lr

    def step(self) -> None:
        """Go to the next epoch."""
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step()
            self._last_lr = self.successor.get_last_lr()
            return
        self.last_epoch += 1
        done = self.last_epoch >= self.warmup_epoch
        self._apply(self.successor.get_last_lr() if done else self.warmup_lr(self.last_epoch))

    def get_last_lr(self) -> list[Any]:
        """Current rate of each parameter group."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Plain values, the successor's state among them."""
        return {"last_epoch": self.last_epoch, "last_lr": self._last_lr, "successor": self.successor.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore; the rates themselves come back with the optimiser's state."""
        self.last_epoch = state["last_epoch"]
        self._last_lr = state["last_lr"]
        self.successor.load_state_dict(state["successor"])


class ConstantWarmupScheduler(_WarmupScheduler):
    """The same rate in all epochs of the warm-up, for every parameter group."""

    def __init__(self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, cons_lr: float) -> None:
        super().__init__(optimizer, successor, warmup_epoch, cons_lr)  # the argument's name is Dassl's

    def warmup_lr(self, epoch: int) -> list[float]:
        """`rate` for every group."""
        return [self.rate] * len(self.base_lrs)


class LinearWarmupScheduler(_WarmupScheduler):
    """A linear rise to the base rate after the first epoch."""

    def __init__(self, optimizer: Optimizer, successor: LRScheduler, warmup_epoch: int, min_lr: float) -> None:
        super().__init__(optimizer, successor, warmup_epoch, min_lr)

    def warmup_lr(self, epoch: int) -> list[float]:
        """Base rate * epoch / warmup_epoch, and `rate` in epoch 0."""
        return [self.rate if epoch == 0 else lr * epoch / self.warmup_epoch for lr in self.base_lrs]


def training_length(optim_cfg: CfgNode, steps_per_epoch: int) -> tuple[int, int]:
    """How long a training is in epochs, the last of which MAX_ITER may end early, and in batches.

    `steps_per_epoch` is 0 where there are no training images.
    """
    epochs, limit = optim_cfg.MAX_EPOCH, optim_cfg.MAX_ITER
    if limit < 1 or steps_per_epoch < 1:
        return epochs, epochs * steps_per_epoch
    return -(-limit // steps_per_epoch), limit


def build_lr_scheduler(
    optimizer: Optimizer, optim_cfg: CfgNode, steps_per_epoch: int | None = None
) -> LRScheduler | _WarmupScheduler:
    """Schedule by OPTIM.LR_SCHEDULER, after OPTIM.WARMUP_EPOCH epochs of warm-up.

    With WARMUP_RECOUNT the schedule starts when the warm-up ends; without, it counts the warm-up's epochs too. Its
    length is that of the training, in epochs, or with LR_STEP batch in batches; there STEPSIZE and WARMUP_EPOCH are
    taken times `steps_per_epoch`.

    Args:
        optimizer: The optimiser.
        optim_cfg: The node OPTIM.
        steps_per_epoch: Batches an epoch, for LR_STEP batch and MAX_ITER; 0 where there are no training images.

    Returns:
        An object with step, get_last_lr, state_dict and load_state_dict.

    Raises:
        ValueError: Unknown name, a value out of range, or a number of batches that is needed and not given.
    """
    name, max_epoch = optim_cfg.LR_SCHEDULER, optim_cfg.MAX_EPOCH
    if name not in AVAI_SCHEDS:
        raise ValueError(f"OPTIM.LR_SCHEDULER must be one of {AVAI_SCHEDS}, got {name!r}")
    if max_epoch < 1:
        raise ValueError(f"OPTIM.MAX_EPOCH must be at least 1, got {max_epoch}")
    unit, length = _unit_and_length(optim_cfg, steps_per_epoch)
    scheduler: LRScheduler
    if name == "single_step":
        size = optim_cfg.STEPSIZE
        size = size[-1] if isinstance(size, list | tuple) and size else size
        if not isinstance(size, int):
            raise ValueError(f"OPTIM.STEPSIZE must hold an integer for single_step, got {size!r}")
        scheduler = StepLR(optimizer, step_size=size * unit if size > 0 else length, gamma=optim_cfg.GAMMA)
    elif name == "multi_step":
        if not all(isinstance(epoch, int) for epoch in optim_cfg.STEPSIZE):  # 2.5 would never be reached
            raise ValueError(f"OPTIM.STEPSIZE must hold integers for multi_step, got {optim_cfg.STEPSIZE!r}")
        milestones = [epoch * unit for epoch in optim_cfg.STEPSIZE]
        scheduler = MultiStepLR(optimizer, milestones=milestones, gamma=optim_cfg.GAMMA)
    else:
        scheduler = CosineAnnealingLR(optimizer, length, eta_min=optim_cfg.COSINE_MIN_LR)
    warmup = optim_cfg.WARMUP_EPOCH * unit
    if warmup <= 0:
        return scheduler
    if optim_cfg.WARMUP_TYPE not in AVAI_WARMUPS:
        raise ValueError(f"OPTIM.WARMUP_TYPE must be one of {AVAI_WARMUPS}, got {optim_cfg.WARMUP_TYPE!r}")
    if not optim_cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = warmup
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, warmup, optim_cfg.WARMUP_CONS_LR)
    return LinearWarmupScheduler(optimizer, scheduler, warmup, optim_cfg.WARMUP_MIN_LR)


def _unit_and_length(optim_cfg: CfgNode, steps_per_epoch: int | None) -> tuple[int, int]:
    """Steps of the schedule in an epoch, and in the whole training."""
    if optim_cfg.LR_STEP not in AVAI_STEPS:
        raise ValueError(f"OPTIM.LR_STEP must be one of {AVAI_STEPS}, got {optim_cfg.LR_STEP!r}")
    by_batch, limit = optim_cfg.LR_STEP == "batch", optim_cfg.MAX_ITER
    if steps_per_epoch is None and (by_batch or limit > 0):
        raise ValueError(
            f"OPTIM.{'LR_STEP batch' if by_batch else f'MAX_ITER {limit}'} needs the number of batches an epoch: "
            "build_lr_scheduler(optimizer, optim_cfg, steps_per_epoch)"
        )
    steps_per_epoch = steps_per_epoch or 1  # without training images nothing is ever stepped
    epochs, steps = training_length(optim_cfg, steps_per_epoch)
    return (steps_per_epoch, steps) if by_batch else (1, epochs)

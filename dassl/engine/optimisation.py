"""Models by name, each with its optimiser and schedule, and the precision they are trained in."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import nn

from dassl.utils import tolist_if_not
from dassl.utils.distributed import average_gradients, averaged, gather_lists, get_world_size


class Precision(NamedTuple):
    """What a word for a precision means; learnables are fp32 in all of them."""

    weights: torch.dtype  # of frozen weights
    compute: torch.dtype  # of matrix products under autocast; fp16 goes with loss scaling


PRECISIONS = {
    "fp32": Precision(torch.float32, torch.float32),
    "fp16": Precision(torch.float16, torch.float16),
    "bf16": Precision(torch.bfloat16, torch.bfloat16),
    "amp": Precision(torch.float32, torch.float16),
}


class Optimisation:
    """Registered models and their update: backward pass, mean over processes, step, schedule."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._lr_updated = False
        self.precision = "fp32"
        self.scaler: Any = None
        self.loss_scale = 1.0  # after the last step
        self.batch: dict[str, Any] | None = None
        self.epoch = self.batch_idx = 0

    # Models ------------------------------------------------------------------------------------------------------

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Declare what is trained and saved: its state dict is the checkpoint.

        Args:
            name: Folder of its checkpoints.
            model: Module with the learnables, frozen weights left out.
            optim: Its optimiser, or None.
            sched: Its schedule, stepped once an epoch (or a batch, by OPTIM.LR_STEP), or None.

        Raises:
            ValueError: The name is taken.
        """
        if "_models" not in self.__dict__:
            raise AttributeError("call super().__init__() before register_model")
        if name in self._models:
            raise ValueError(f"a model named {name!r} is registered already")
        self._models[name], self._optims[name], self._scheds[name] = model, optim, sched

    def get_model_names(self, names: str | list[str] | None = None) -> list[str]:
        """All registered names, or the given ones after a check."""
        if names is None:
            return list(self._models)
        names = tolist_if_not(names)
        unknown = [name for name in names if name not in self._models]
        if unknown:
            raise ValueError(f"no model named {unknown}; registered: {list(self._models)}")
        return names

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """Put models into train, test or eval mode."""
        if mode not in ("train", "test", "eval"):
            raise ValueError(f"mode must be train, test or eval, got {mode!r}")
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    # Optimisation ------------------------------------------------------------------------------------------------

    def set_precision(self, name: str) -> None:
        """Choose the precision of `autocast`, and loss scaling for fp16 and amp.

        Raises:
            ValueError: Not one of `PRECISIONS`.
        """
        if name not in PRECISIONS:
            raise ValueError(f"precision must be one of {list(PRECISIONS)}, got {name!r}")
        self.precision = name
        half = PRECISIONS[name].compute is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type) if half else None
        self.loss_scale = self.scaler.get_scale() if half else 1.0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context that runs matrix products in the chosen precision."""
        dtype = PRECISIONS[self.precision].compute
        if dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    def detect_anomaly(self, loss: torch.Tensor, parts: dict[str, torch.Tensor] | None = None) -> None:
        """Stop at a loss that is not finite.

        Raises:
            FloatingPointError: Names the epoch, the batch, the parts of the loss and the batch's images.
        """
        if not torch.isfinite(loss).all():
            self.stop_not_finite({k: v.item() for k, v in (parts or {"loss": loss.mean()}).items()})

    def stop_not_finite(self, parts: dict[str, float], everywhere: bool = False) -> None:
        """Raise FloatingPointError; see `detect_anomaly`. `everywhere`: all processes do, and name their images."""
        images = list((self.batch or {}).get("impath", []))
        images = gather_lists(images) if everywhere else images
        raise FloatingPointError(
            f"loss is not finite in epoch {self.epoch + 1}, batch {self.batch_idx + 1} "
            f"({', '.join(f'{name} {value:.4g}' for name, value in parts.items())}); "
            f"images: {', '.join(images) or 'unknown'}. A lower OPTIM.LR or PREC fp32 may help"
        )

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        """Clear gradients."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: torch.Tensor, parts: dict[str, torch.Tensor] | None = None) -> None:
        """Backpropagate the loss (scaled, with a scaler).

        A loss that is not finite stops the run here on a CPU. On a GPU, and with several processes, the epoch loop
        sees it in the figures it logs: looking here would wait for the GPU, or leave the other processes waiting.
        """
        self._scaled(loss, parts).backward()  # type: ignore[no-untyped-call]

    def model_gradients(self, loss: torch.Tensor, retain_graph: bool = False) -> list[torch.Tensor | None]:
        """Gradients of a scalar loss, for methods that combine those of several; nothing is added to any `.grad`.

        They compare with the gradients that `before_step` sees: scaled with the same loss scale as `model_backward`
        does, and averaged over processes.

        Returns:
            One for each parameter that requires a gradient, models in the order of their registration; None where the
            loss does not depend on it.
        """
        learnables = [p for model in self._models.values() for p in model.parameters() if p.requires_grad]
        found = torch.autograd.grad(self._scaled(loss), learnables, retain_graph=retain_graph, allow_unused=True)
        # Autograd may hand out a broadcast view, or one tensor twice; whoever combines gradients writes into them.
        own = [g.clone(memory_format=torch.contiguous_format) for g in found if g is not None]
        means = iter(averaged(own))
        return [None if g is None else next(means) for g in found]

    def _scaled(self, loss: torch.Tensor, parts: dict[str, torch.Tensor] | None = None) -> torch.Tensor:
        """What to differentiate; see `model_backward` on losses that are not finite."""
        if not loss.is_cuda and get_world_size() == 1:
            self.detect_anomaly(loss, parts)
        scaled: torch.Tensor = loss if self.scaler is None else self.scaler.scale(loss)
        return scaled

    def before_step(self, name: str) -> None:
        """Hook: change the gradients of model `name` before its optimiser's step.

        The gradients of all models that are updated are averaged over processes by now, hold the loss scale as a
        factor (a projection may ignore it), and no model has stepped yet.
        """

    def model_update(self, names: str | list[str] | None = None) -> None:
        """One optimiser step each, after the mean of the gradients over processes and `before_step`."""
        names = [name for name in self.get_model_names(names) if self._has_gradient(name)]
        for name in names:
            average_gradients(self._models[name].parameters())
        for name in names:
            self.before_step(name)
        for name in names:
            if self.scaler is None:
                self._optims[name].step()
            else:
                self.scaler.step(self._optims[name])
        if self.scaler is not None and names:
            self.scaler.update()
            before, self.loss_scale = self.loss_scale, self.scaler.get_scale()
            if self.loss_scale < before:
                print(f"Step skipped: gradients overflowed at loss scale {before:g}; it is lowered")

    def _has_gradient(self, name: str) -> bool:
        groups = [] if self._optims[name] is None else self._optims[name].param_groups
        return any(p.grad is not None for group in groups for p in group["params"])

    def model_backward_and_update(
        self, loss: torch.Tensor, names: str | list[str] | None = None, parts: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Clear gradients, backpropagate, step.

        Args:
            loss: Scalar.
            names: Models to update; all by default.
            parts: Named parts of the loss, for the error message when it is not finite.
        """
        self.model_zero_grad(names)
        self.model_backward(loss, parts)
        self.model_update(names)

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Step the schedules. The loop does it once an epoch, or a batch, by OPTIM.LR_STEP, unless the trainer did."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()
        self._lr_updated = True

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """Rate of the first model's first parameter group."""
        optims = [self._optims[name] for name in self.get_model_names(names) if self._optims[name] is not None]
        return float(optims[0].param_groups[0]["lr"]) if optims else 0.0

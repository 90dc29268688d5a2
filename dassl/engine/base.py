"""The base of all trainers: models by name, their optimisation and precision, checkpoints, and the loop over epochs."""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.utils import (
    load_checkpoint,
    save_checkpoint,
    tolist_if_not,
)
from dassl.utils.distributed import average_gradients, is_main_process
from dassl.utils.torchtools import checkpoint_epochs

from .checkpoint import check_same_config, restore_rng_states, rng_states
from .metrics_log import MetricsLog

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "amp": torch.float16}
BEST_MODEL = "model-best.pth.tar"
# Buffers of CoOp-style prompt learners: class names as tokens, which a model has from its own data set.
CLASS_BUFFERS = ("token_prefix", "token_suffix")


class TrainerBase:
    """Models by name, their optimisation, checkpoints, and the generic loop over epochs."""

    cfg: CfgNode
    output_dir = "./output"
    device = torch.device("cpu")

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: MetricsLog | None = None
        self._lr_updated = False
        self._eval_step = 0
        self.precision = "fp32"
        self.scaler: Any = None
        self.batch: dict[str, Any] | None = None
        self.epoch = self.start_epoch = self.max_epoch = 0
        self.batch_idx = self.num_batches = 0
        self.best_result = float("-inf")

    # Models ------------------------------------------------------------------------------------------------------

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Declare what is trained and saved: its state dict is the checkpoint.

        Args:
            name: Folder of its checkpoints.
            model: Module with the learnables, frozen weights left out.
            optim: Its optimiser, or None.
            sched: Its schedule, stepped once an epoch, or None.

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

        Args:
            name: fp32, fp16, bf16 or amp.

        Raises:
            ValueError: Another name.
        """
        if name not in PRECISIONS:
            raise ValueError(f"precision must be one of {list(PRECISIONS)}, got {name!r}")
        self.precision = name
        half = PRECISIONS[name] is torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type) if half else None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Context that runs matrix products in the chosen precision."""
        dtype = PRECISIONS[self.precision]
        if dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)

    def detect_anomaly(self, loss: torch.Tensor, parts: dict[str, torch.Tensor] | None = None) -> None:
        """Stop at a loss that is not finite.

        Raises:
            FloatingPointError: Names the epoch, the batch, the parts of the loss and the batch's images.
        """
        if torch.isfinite(loss).all():
            return
        values = ", ".join(f"{k} {v.item():.4g}" for k, v in (parts or {"loss": loss.mean()}).items())
        images = (self.batch or {}).get("impath", [])
        raise FloatingPointError(
            f"loss is not finite in epoch {self.epoch + 1}, batch {self.batch_idx + 1} ({values}); "
            f"images: {', '.join(images) or 'unknown'}. A lower OPTIM.LR or PREC fp32 may help"
        )

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        """Clear gradients."""
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: torch.Tensor, parts: dict[str, torch.Tensor] | None = None) -> None:
        """Check the loss, then backpropagate it (scaled, with a scaler)."""
        self.detect_anomaly(loss, parts)
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def model_update(self, names: str | list[str] | None = None) -> None:
        """One optimiser step each; gradients are averaged over processes first."""
        names = [name for name in self.get_model_names(names) if self._has_gradient(name)]
        for name in names:
            average_gradients(self._models[name].parameters())
            if self.scaler is None:
                self._optims[name].step()
            else:
                self.scaler.step(self._optims[name])
        if self.scaler is not None and names:
            scale = self.scaler.get_scale()
            self.scaler.update()
            if self.scaler.get_scale() < scale:
                print(f"Step skipped: gradients overflowed at loss scale {scale:g}; it is lowered")

    def _has_gradient(self, name: str) -> bool:
        groups = [] if self._optims[name] is None else self._optims[name].param_groups
        return any(p.grad is not None for group in groups for p in group["params"])

    def model_backward_and_update(
        self,
        loss: torch.Tensor,
        names: str | list[str] | None = None,
        parts: dict[str, torch.Tensor] | None = None,
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
        """Step the schedules. The loop does it once an epoch unless the trainer did."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()
        self._lr_updated = True

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """Rate of the first model's first parameter group."""
        optims = [self._optims[name] for name in self.get_model_names(names) if self._optims[name] is not None]
        return float(optims[0].param_groups[0]["lr"]) if optims else 0.0

    # Checkpoints -------------------------------------------------------------------------------------------------

    def checkpoint_meta(self) -> dict[str, Any]:
        """Plain values that say what the weights belong to."""
        return {"trainer": type(self).__name__}

    def check_checkpoint(self, meta: dict[str, Any]) -> None:
        """Refuse weights of another trainer; raises ValueError."""
        got = meta.get("trainer", type(self).__name__)
        if got != type(self).__name__:
            raise ValueError(f"the checkpoint belongs to trainer {got!r}, this is {type(self).__name__!r}")

    def convert_state_dict(self, name: str, state_dict: dict[str, Any]) -> dict[str, Any]:
        """Weights as a checkpoint names them -> as model `name` does; drops class-dependent buffers of CoOp's."""
        return {k: v for k, v in state_dict.items() if not k.endswith(CLASS_BUFFERS)}

    def save_model(
        self,
        epoch: int,
        directory: str,
        is_best: bool = False,
        val_result: float | None = None,
        model_name: str = "",
    ) -> None:
        """Write a checkpoint of every registered model.

        Args:
            epoch: The epoch just done, from 0.
            directory: The run's folder.
            is_best: Copy it to the best model's name too.
            val_result: Validation result to keep with it.
            model_name: File name; default by epoch.
        """
        if not is_main_process():
            return
        if self._writer is not None:
            self._writer.flush()  # the figures of a kept epoch must not be lost either
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "scaler": None if self.scaler is None else self.scaler.state_dict(),
                "rng": rng_states(),
                "best_result": self.best_result,
                "val_result": val_result,
                "meta": self.checkpoint_meta(),
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def _epochs(self, directory: str) -> list[int]:
        """Epochs of which a folder holds every model, ascending."""
        found = [set(checkpoint_epochs(os.path.join(directory, name))) for name in self.get_model_names()]
        return sorted(set.intersection(*found)) if found else []

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue from the newest epoch that all models have in a folder.

        Args:
            directory: A run's folder.

        Returns:
            Epochs done; 0 when there is nothing to continue.

        Raises:
            ValueError: The run there has another config, trainer or shape.
        """
        epochs = self._epochs(directory)
        if not epochs:
            return 0
        epoch = epochs[-1]
        for name in self.get_model_names():
            path = os.path.join(directory, name, f"model.pth.tar-{epoch}")
            checkpoint = load_checkpoint(path)
            config = checkpoint.get("meta", {}).get("config")
            if config is not None:  # before the weights: the key that differs says more than a shape
                check_same_config(config, self.cfg, directory)
            self._load_weights(name, path, checkpoint)
            for target, key in ((self._optims[name], "optimizer"), (self._scheds[name], "scheduler")):
                if target is None:
                    continue
                if not checkpoint.get(key):
                    raise ValueError(f"{path} holds no {key} state: it can be tested, but training cannot go on")
                target.load_state_dict(checkpoint[key])
            if self.scaler is not None and checkpoint.get("scaler"):
                self.scaler.load_state_dict(checkpoint["scaler"])
            self.best_result = checkpoint.get("best_result", self.best_result)
            if "rng" in checkpoint:
                restore_rng_states(checkpoint["rng"])
        print(f"Resuming from {directory} after epoch {epoch}")
        return epoch

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load weights for testing.

        Args:
            directory: A run's folder.
            epoch: Which epoch; None: the best model with TEST.FINAL_MODEL best_val, else the last epoch.

        Raises:
            ValueError: No directory given, another trainer, or tensors that do not fit.
            FileNotFoundError: No such checkpoint; lists the epochs there are.
        """
        names = self.get_model_names()
        if not names:
            print(f"{type(self).__name__} has nothing to load")
            return
        if not directory:
            raise ValueError("no folder to load the model from: give --model-dir, a run's output folder")
        epochs = self._epochs(directory)
        if epoch is None and self.cfg.TEST.FINAL_MODEL == "best_val":
            file = BEST_MODEL
        else:
            newest = epochs[-1] if epochs else "<epoch>"
            file = f"model.pth.tar-{newest if epoch is None else epoch}"
        for name in names:
            path = os.path.join(directory, name, file)
            if not os.path.isfile(path):
                raise FileNotFoundError(f"no model at {path}; epochs in {directory}: {epochs or 'none'}")
            checkpoint = load_checkpoint(path)
            self._load_weights(name, path, checkpoint)
            self.loaded_meta = checkpoint.get("meta", {})
            self.epoch = checkpoint["epoch"]
            print(f"Loaded {path} (epoch {checkpoint['epoch']})")

    def _load_weights(self, name: str, path: str, checkpoint: dict[str, Any]) -> None:
        if "state_dict" not in checkpoint:
            raise ValueError(f"{path} holds no state_dict; it holds {', '.join(map(str, checkpoint)) or 'nothing'}")
        try:
            self.check_checkpoint(checkpoint.get("meta", {}))
            given = self.convert_state_dict(name, checkpoint["state_dict"])
            own = self._models[name].state_dict()
            problems = [f"missing {key}" for key in own if key not in given and not key.endswith(CLASS_BUFFERS)]
            problems += [f"unexpected {key}" for key in given if key not in own]
            problems += [
                f"{key} has shape {list(given[key].shape)}, not {list(own[key].shape)}"
                for key in own
                if key in given and own[key].shape != given[key].shape
            ]
            if problems:
                raise ValueError(f"its tensors do not fit {name}: {'; '.join(problems)}")
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        self._models[name].load_state_dict({**own, **given})

    # Logs --------------------------------------------------------------------------------------------------------

    def init_writer(self, log_dir: str, start_step: int | None = None) -> None:
        """Open TensorBoard and metrics.jsonl; figures from `start_step` on are dropped (a run that goes on)."""
        if self._writer is None and is_main_process():
            self._writer = MetricsLog(self.output_dir, log_dir, start_step)

    def close_writer(self) -> None:
        """Close them."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """A figure for TensorBoard; nothing without a writer."""
        if self._writer is not None:
            self._writer.board.add_scalar(tag, scalar_value, global_step)

    def write_image(self, tag: str, image: torch.Tensor, global_step: int | None = None) -> None:
        """An image [3, H, W] in [0, 1] for TensorBoard; nothing without a writer."""
        if self._writer is not None:
            self._writer.board.add_image(tag, image, global_step)

    # The loop ----------------------------------------------------------------------------------------------------

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Generic training: epochs start_epoch..max_epoch-1 between the hooks."""
        self.start_epoch, self.max_epoch = start_epoch, max_epoch
        self.before_train()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self._set_epoch()
            self.before_epoch()
            self._lr_updated = False
            self.run_epoch()
            if not self._lr_updated:  # some trainers step at the last batch themselves
                self.update_lr()
            self.after_epoch()
        self.after_train()

    def _set_epoch(self) -> None:
        """Give the loaders this epoch's order and augmentations."""
        for loader in (getattr(self, "train_loader_x", None), getattr(self, "train_loader_u", None)):
            for part in ("sampler", "dataset"):
                set_epoch = getattr(getattr(loader, part, None), "set_epoch", None)
                if set_epoch is not None:
                    set_epoch(self.epoch)

    def before_train(self) -> None:
        """Hook."""

    def after_train(self) -> None:
        """Hook."""

    def before_epoch(self) -> None:
        """Hook."""

    def after_epoch(self) -> None:
        """Hook."""

    def run_epoch(self) -> None:
        """Train on all batches once."""
        raise NotImplementedError

    def test(self, split: str | None = None) -> float:
        """Evaluate."""
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        """Batch -> what forward_backward needs."""
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        """Batch -> input and labels."""
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> dict[str, float]:
        """One optimisation step; returns figures to log, "loss" among them."""
        raise NotImplementedError

    def model_inference(self, input: Any) -> torch.Tensor:
        """Input -> logits."""
        raise NotImplementedError

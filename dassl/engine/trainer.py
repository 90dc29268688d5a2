"""Trainers: one epoch loop with Dassl's hooks, precision, checkpoints, resume and logs in one place."""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.data import DataManager
from dassl.evaluation import Classification, build_evaluator
from dassl.utils import (
    AverageMeter,
    MetricMeter,
    load_checkpoint,
    save_checkpoint,
    tolist_if_not,
    write_json,
)
from dassl.utils.distributed import average_gradients, barrier, broadcast_module, is_main_process
from dassl.utils.logger import Tee
from dassl.utils.torchtools import checkpoint_epochs

from .checkpoint import check_same_config, plain_config, restore_rng_states, rng_states
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


class SimpleTrainer(TrainerBase):
    """A trainer on one data set: builds data, model and evaluator from a config, then trains and tests.

    Args:
        cfg: The run's config.

    Attributes:
        cfg: The config.
        dm: The data manager; its loaders are train_loader_x, train_loader_u, val_loader and test_loader.
        num_classes: Number of classes.
        lab2cname: Class name by label.
        results: Figures of the last evaluation.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.check_cfg(cfg)
        if cfg.TEST.FINAL_MODEL not in ("last_step", "best_val"):
            raise ValueError(f"TEST.FINAL_MODEL must be last_step or best_val, got {cfg.TEST.FINAL_MODEL!r}")
        if cfg.TEST.SPLIT not in ("val", "test"):
            raise ValueError(f"TEST.SPLIT must be val or test, got {cfg.TEST.SPLIT!r}")
        self.device = torch.device("cuda" if cfg.USE_CUDA and torch.cuda.is_available() else "cpu")
        self.cfg = cfg
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.results: dict[str, float] = {}
        self.loaded_meta: dict[str, Any] | None = None
        self._trained = False
        self.train_time_sec = 0.0
        self.build_data_loader()
        if cfg.TEST.FINAL_MODEL == "best_val" and self.val_loader is None:
            raise ValueError(
                f"TEST.FINAL_MODEL best_val needs validation images, and {cfg.DATASET.NAME} gives none here; "
                "use last_step (the test images never choose a model)"
            )
        self.build_model()
        for model in self._models.values():
            broadcast_module(model)
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)

    def check_cfg(self, cfg: CfgNode) -> None:
        """Hook: check what the trainer needs of the config, before anything is built."""

    def build_data_manager(self) -> DataManager:
        """Hook: the data; override for other transforms."""
        return DataManager(self.cfg)

    def build_data_loader(self) -> None:
        """Build the data and take the loaders and names from it."""
        dm = self.build_data_manager()
        self.train_loader_x, self.train_loader_u = dm.train_loader_x, dm.train_loader_u
        self.val_loader, self.test_loader = dm.val_loader, dm.test_loader
        self.num_classes, self.num_source_domains = dm.num_classes, dm.num_source_domains
        self.lab2cname, self.dm = dm.lab2cname, dm

    def build_model(self) -> None:
        """Build and register the model; every trainer has its own."""
        raise NotImplementedError(f"{type(self).__name__} must implement build_model")

    def checkpoint_meta(self) -> dict[str, Any]:
        """Trainer, backbone, class names and config."""
        return {
            **super().checkpoint_meta(),
            "backbone": self.cfg.MODEL.BACKBONE.NAME,
            "pretrained": self.cfg.MODEL.BACKBONE.PRETRAINED,
            "classnames": [self.lab2cname[label] for label in sorted(self.lab2cname)],
            "config": plain_config(self.cfg),
        }

    def train(self) -> None:  # type: ignore[override]
        """Train from where the run stands to MAX_EPOCH, then test; without learnables, only test."""
        self._trained = True
        super().train(self.start_epoch, self.max_epoch if self._models else 0)

    def before_train(self) -> None:
        """Resume if there is something to resume from, open the logs, keep the few-shot list."""
        if self._models and self.train_loader_x is None:
            raise ValueError(f"{self.cfg.DATASET.NAME} has no training images: it can only be tested on")
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.output_dir)
        if is_main_process() and self.start_epoch:
            if self.cfg.RESUME:
                self._copy_best_models(self.cfg.RESUME)
            self._drop_checkpoint(self.start_epoch - 1)  # in case the run was killed before it could
        self.num_batches = len(self.train_loader_x) if self.train_loader_x is not None else 0
        self.init_writer(os.path.join(self.output_dir, "tensorboard"), self.start_epoch * self.num_batches)
        if self.cfg.DATASET.NUM_SHOTS >= 1 and is_main_process():
            data = self.dm.dataset
            picked = {
                split: [[item.impath, item.label, item.classname] for item in items or []]
                for split, items in (("train", data.train_x), ("val", data.val))
            }
            write_json(picked, Path(self.output_dir, "few_shot.json"))
        self.time_start = time.time()

    def after_train(self) -> None:
        """Test the last model, or the best on validation data with TEST.FINAL_MODEL best_val."""
        self.train_time_sec = time.time() - self.time_start
        print(f"Training took {datetime.timedelta(seconds=round(self.train_time_sec))}")
        self.epoch = self.max_epoch if self._models else 0
        self._eval_step = self.epoch * self.num_batches
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val" and self._models:
                barrier()
                self.load_model(self.output_dir)
            self.test()
        self.close_writer()

    def after_epoch(self) -> None:
        """Validate if the best model counts; keep a checkpoint to resume from."""
        if self.cfg.TEST.FINAL_MODEL == "best_val":
            done, self.epoch = self.epoch, self.epoch + 1
            self._eval_step = self.epoch * self.num_batches - 1
            result = self.test(split="val")
            self.epoch = done
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST_MODEL)
        self.save_model(self.epoch, self.output_dir)
        if is_main_process():
            self._drop_checkpoint(self.epoch)  # the one before is no longer needed

    def _drop_checkpoint(self, epochs_done: int) -> None:
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        if not (frequency > 0 and epochs_done % frequency == 0):
            for name in self.get_model_names():
                Path(self.output_dir, name, f"model.pth.tar-{epochs_done}").unlink(missing_ok=True)

    def _copy_best_models(self, directory: str) -> None:
        for name in self.get_model_names():
            best, own = Path(directory, name, BEST_MODEL), Path(self.output_dir, name, BEST_MODEL)
            if best.is_file() and not own.is_file():
                own.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(best, own)

    def run_epoch(self) -> None:
        """Train on all labelled batches once, with a bar on a terminal and plain lines elsewhere."""
        assert self.train_loader_x is not None
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        self.num_batches = len(self.train_loader_x)
        terminal = sys.stderr.isatty() and is_main_process()
        bar = tqdm(
            self.train_loader_x,
            desc=f"epoch {self.epoch + 1}/{self.max_epoch}",
            disable=not terminal,
            leave=False,
        )
        end = time.time()
        for self.batch_idx, batch in enumerate(bar):
            self.batch = batch
            data_time.update(time.time() - end)
            lr = self.get_current_lr()
            summary = self.forward_backward(batch) or {}
            batch_time.update(time.time() - end)
            losses.update(summary)
            step = self.epoch * self.num_batches + self.batch_idx
            values = {name: losses.meters[name].val for name in summary} | {"lr": lr}
            if self._writer is not None:
                self._writer.add("train", self.epoch + 1, step, values, batch=self.batch_idx + 1)
            left = (self.max_epoch - self.epoch) * self.num_batches - self.batch_idx - 1
            eta = datetime.timedelta(seconds=int(batch_time.avg * left))
            bar.set_postfix_str(f"loss {losses.meters['loss'].avg:.4f} eta {eta}" if "loss" in summary else "")
            last = self.batch_idx + 1 == self.num_batches
            if last or (self.batch_idx + 1) % self.cfg.TRAIN.PRINT_FREQ == 0:
                line = (
                    f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{self.batch_idx + 1}/{self.num_batches}] "
                    f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} "
                    f"({data_time.avg:.3f}) {losses} lr {lr:.4e} eta {eta}"
                )
                if terminal and not last and isinstance(sys.stdout, Tee):
                    sys.stdout.write_file(line + "\n")
                else:
                    print(line)
            end = time.time()
        bar.close()

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on a split with the current weights.

        Args:
            split: val or test; default TEST.SPLIT.

        Returns:
            The evaluator's first figure (accuracy, percent).

        Raises:
            ValueError: No validation images for split val.
        """
        split = split or self.cfg.TEST.SPLIT
        loader = self.val_loader if split == "val" else self.test_loader
        if loader is None:
            raise ValueError(f"{self.cfg.DATASET.NAME} gives no validation images to evaluate on")
        self.set_model_mode("eval")
        self.evaluator.reset()
        self.init_writer(os.path.join(self.output_dir, "tensorboard"))
        print(f"Evaluate on the *{split}* set")
        terminal = sys.stderr.isatty() and is_main_process()
        for batch in tqdm(loader, desc=f"testing on {split}", disable=not terminal, leave=False):
            input, label = self.parse_batch_test(batch)
            with self.autocast():
                output = self.model_inference(input)
            self.evaluator.process(output, label)
        self.results = dict(self.evaluator.evaluate())
        self.split = split
        if self._writer is not None:
            self._writer.add(split, self.epoch, self._eval_step, self.results)
            self._writer.flush()
        return next(iter(self.results.values()))

    def result_record(self) -> dict[str, Any]:
        """Everything that tables need of this run's last evaluation, as plain values."""
        cfg = self.cfg
        meta = None if self._trained else self.loaded_meta
        keys = ("NAME", "SUBSAMPLE_CLASSES", "SOURCE_DOMAINS", "TARGET_DOMAINS", "NUM_SHOTS")

        def data_of(dataset: Any, seed: int) -> dict[str, Any]:
            named = {("dataset" if key == "NAME" else key.lower()): dataset[key] for key in keys}
            return {k: list(v) if isinstance(v, tuple) else v for k, v in named.items()} | {"seed": seed}

        own = data_of(cfg.DATASET, cfg.SEED)
        trained = own if self._trained else None  # not known of weights that a trainer loaded its own way
        if meta and "config" in meta:
            trained = data_of(meta["config"]["DATASET"], meta["config"]["SEED"])
        per_class = self.evaluator.per_class if isinstance(self.evaluator, Classification) else {}
        return {
            "trainer": cfg.TRAINER.NAME,
            **own,
            "backbone": cfg.MODEL.BACKBONE.NAME,
            "eval_only": not (self._trained and self._models),
            "train": trained if self._models else None,
            "epoch": self.epoch,
            "split": getattr(self, "split", cfg.TEST.SPLIT),
            "num_classes": self.num_classes,
            "num_images": getattr(self.evaluator, "num_images", 0),
            "results": self.results,
            "per_class": per_class,
            "train_time_sec": round(self.train_time_sec, 2),
        }

    def model_inference(self, input: Any) -> torch.Tensor:
        """Logits by `self.model`."""
        output: torch.Tensor = self.model(input)  # type: ignore[attr-defined]
        return output

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels, on the device."""
        return batch["img"].to(self.device), batch["label"].to(self.device)


class TrainerX(SimpleTrainer):
    """A trainer on labelled data only."""

    def parse_batch_train(self, batch: dict[str, Any]) -> Any:
        """Images, labels and domains, on the device."""
        return tuple(batch[key].to(self.device) for key in ("img", "label", "domain"))

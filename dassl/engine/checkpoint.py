"""Checkpoints: what they hold, when a run may go on from one, and what is refused."""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from dassl.config import declared_defaults, flatten
from dassl.config.free_keys import FREE_KEYS
from dassl.optim import WeightAverage
from dassl.utils import load_checkpoint, save_checkpoint
from dassl.utils.distributed import is_main_process
from dassl.utils.torchtools import checkpoint_epochs

from .optimisation import Optimisation

BEST_MODEL = "model-best.pth.tar"
# Buffers of CoOp-style prompt learners: class names as tokens, which a model has from its own data set.
CLASS_BUFFERS = ("token_prefix", "token_suffix")
# Images of each process: of another number of processes, as many together as before.
BATCH_KEYS = ("DATALOADER.TRAIN_X.BATCH_SIZE", "DATALOADER.TRAIN_U.BATCH_SIZE")


class OtherConfigError(ValueError):
    """A run of another config lies in the folder; it stays as it is."""


def plain_config(cfg: CfgNode) -> dict[str, Any]:
    """The config as nested plain values, as its YAML has them: tuples are lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in sorted(value.items())}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    tree: dict[str, Any] = plain(cfg)  # a checkpoint an epoch holds it: YAML takes longer than a small model's step
    return tree


def check_same_config(saved: dict[str, Any], cfg: CfgNode, where: str, free: Collection[str] = ()) -> None:
    """Refuse to continue a run under a config that would change its results.

    Keys that another version added or dropped do not count: a new key's default is what there was before.

    Args:
        saved: Config in the checkpoint, as a tree of plain values.
        cfg: Config of this process.
        where: The checkpoint's folder.
        free: Keys that may differ beside `FREE_KEYS`.

    Raises:
        OtherConfigError: A ValueError that lists the keys that differ with both values.
    """
    old, new, defaults = flatten(saved), flatten(plain_config(cfg)), flatten(plain_config(declared_defaults(cfg)))
    different = [
        f"{key} ({old.get(key, 'not set')!r} in the checkpoint, {value!r} now)"
        for key, value in sorted(new.items())
        if old.get(key, defaults.get(key)) != value and key not in FREE_KEYS and key not in free
    ]
    if different:
        raise OtherConfigError(
            f"{where} holds a run with another config, which cannot be continued: {'; '.join(different)}. "
            "Use another --output-dir, or remove that folder to start over"
        )


def rng_states() -> dict[str, Any]:
    """States of all generators as tensors and plain values."""
    state: Any = np.random.get_state()
    name, keys, pos, has_gauss, cached = state
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(pos), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng_states(states: dict[str, Any]) -> None:
    """Put the generators back."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])


def same_rng_states(one: Any, other: Any) -> bool:
    """Whether two of `rng_states` are equal."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(same_rng_states(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same_rng_states, one, other))
    return bool(one == other)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Name the file when what a checkpoint holds is not what it should be; raises ValueError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} holds something else than expected ({type(error).__name__}: {error})") from error


def common_epochs(directory: str, names: Collection[str]) -> list[int]:
    """Epochs of which a folder holds every one of some models, ascending."""
    found = [set(checkpoint_epochs(os.path.join(directory, name))) for name in names]
    return sorted(set.intersection(*found)) if found else []


def model_files(directory: str, names: Collection[str], epoch: int | None, best: bool) -> dict[str, str]:
    """Where the weights of some models lie that are to be tested, by the model's name.

    Args:
        directory: A run's folder.
        names: The models.
        epoch: Which epoch; None: the best model, or the last epoch.
        best: Whether it is the best model then (TEST.FINAL_MODEL best_val).

    Raises:
        FileNotFoundError: No such checkpoint; lists the epochs there are.
    """
    epochs = common_epochs(directory, names)
    newest = epochs[-1] if epochs else "<epoch>"
    file = BEST_MODEL if epoch is None and best else f"model.pth.tar-{newest if epoch is None else epoch}"
    files = {name: os.path.join(directory, name, file) for name in names}
    for path in files.values():
        if not os.path.isfile(path):
            raise FileNotFoundError(f"no model at {path}; epochs in {directory}: {epochs or 'none'}")
    return files


class Checkpoints(Optimisation):
    """Saving, resuming and loading the registered models."""

    cfg: CfgNode

    def __init__(self) -> None:
        super().__init__()
        self.best_result = float("-inf")
        self.average: WeightAverage | None = None
        self.loaded_meta: dict[str, Any] | None = None  # of the weights that were loaded for testing

    def flush_writer(self) -> None:
        """Bring all figures to the disk."""

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
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
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
        self.flush_writer()  # the figures of a kept epoch must not be lost either
        for name in self.get_model_names():
            optim, sched = self._optims[name], self._scheds[name]
            state = {
                "state_dict": self._models[name].state_dict(),
                "epoch": epoch + 1,
                "optimizer": None if optim is None else optim.state_dict(),
                "scheduler": None if sched is None else sched.state_dict(),
                "scaler": None if self.scaler is None else self.scaler.state_dict(),
                "average": None if self.average is None else self.average.state_dict(name),
                "rng": rng_states(),
                "best_result": self.best_result,
                "val_result": val_result,
                "meta": self.checkpoint_meta(),
            }
            save_checkpoint(state, os.path.join(directory, name), is_best=is_best, model_name=model_name)

    def _epochs(self, directory: str) -> list[int]:
        return common_epochs(directory, self.get_model_names())

    def _told_of(self, directory: str) -> str:
        """What a folder holds in place of this trainer's models, for the end of a message."""
        told = []
        for folder in sorted({path.parent for path in Path(directory).glob("*/model*.tar*")}):
            newest = (checkpoint_epochs(str(folder)) or [0])[-1]
            try:
                owner = load_checkpoint(str(folder / f"model.pth.tar-{newest}")).get("meta", {}).get("trainer")
            except (ValueError, OSError):  # damaged, or the best model alone
                owner = None
            told.append(f"{folder.name!r}" + (f" of trainer {owner!r}" if owner else ""))
        wanted = f"this is {type(self).__name__!r}, which reads {', '.join(map(repr, self.get_model_names()))}"
        return f"; it holds {', '.join(told)}, and {wanted}" if told else ""

    def free_keys(self, meta: dict[str, Any]) -> Collection[str]:
        """Hook: config keys that may differ from the checkpoint's, beside `FREE_KEYS`."""
        return ()

    def check_resume(self, directory: str) -> Collection[str]:
        """Whether training can go on from a folder's newest checkpoint, if it has one; changes nothing.

        Returns:
            Config keys that may differ from the checkpoint's, beside `FREE_KEYS`.

        Raises:
            OtherConfigError: The run there has another config, or other data.
            FileNotFoundError: RESUME names a folder with nothing that this trainer could go on from.
        """
        free: Collection[str] = ()
        epochs = self._epochs(directory)
        if self.cfg.RESUME and self._models and not epochs:
            raise FileNotFoundError(f"RESUME {directory} holds no model to go on from{self._told_of(directory)}")
        for name in self.get_model_names() if epochs else []:
            path = os.path.join(directory, name, f"model.pth.tar-{epochs[-1]}")
            with reading(path):
                checkpoint = load_checkpoint(path)
                free = self._check_same_run(checkpoint, directory)
        return free

    def _check_same_run(self, checkpoint: dict[str, Any], directory: str) -> Collection[str]:
        """Refuse another run's checkpoint; gives the config keys that may differ, beside `FREE_KEYS`."""
        own, meta = self.checkpoint_meta(), checkpoint.get("meta", {})
        other_number = meta.get("processes") not in (None, own.get("processes"))  # an older checkpoint does not say
        free = (*self.free_keys(meta), *(BATCH_KEYS if other_number else ()))
        if "config" in meta:  # before the weights: the key that differs says more than a shape
            check_same_config(meta["config"], self.cfg, directory, free)
        if meta.get("data", own.get("data")) != own.get("data"):
            raise OtherConfigError(
                f"{directory} holds a run on other images, which cannot be continued: the lists of DATASET.ROOT "
                f"{self.cfg.DATASET.ROOT!r} (DATASET.SPLIT_FILE {self.cfg.DATASET.SPLIT_FILE!r}) are not those that it "
                "began with. Use another --output-dir, or remove that folder to start over"
            )
        if other_number:
            self._check_processes(checkpoint, directory)
        return free

    def _check_processes(self, checkpoint: dict[str, Any], directory: str) -> None:
        """Refuse to go on with another number of processes where the steps would be others.

        They are the same as long as all processes together take as many images, and nothing is drawn but for these.
        """
        own, meta = self.checkpoint_meta(), checkpoint["meta"]
        before, now = meta["processes"], own["processes"]
        began = f"{directory} holds a run on {before} processes, and this is one on {now}"
        instead = f"go on with torchrun --nproc_per_node {before}, or use another --output-dir"
        for key, images, here in zip(BATCH_KEYS, meta["images_per_step"], own["images_per_step"], strict=True):
            if images != here:
                share, rest = divmod(images, now)
                other = "" if rest else f"give {key} {share}, "
                raise OtherConfigError(
                    f"{began}, whose steps would be others: {images} images there, {here} here; {other}{instead}"
                )
        if not same_rng_states(checkpoint.get("rng"), rng_states()):
            raise OtherConfigError(
                f"{began}, whose random draws would be others: this model draws in training, as dropout does, each "
                f"process for its own images; {instead}"
            )

    def resume_model_if_exist(self, directory: str) -> int:
        """Continue from the newest epoch that all models have in a run's folder.

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
            with reading(path):
                self._check_same_run(checkpoint, directory)
                self._load_weights(name, path, checkpoint)
                for target, key in ((self._optims[name], "optimizer"), (self._scheds[name], "scheduler")):
                    if target is None:
                        continue
                    if not checkpoint.get(key):
                        raise ValueError(f"{path} holds no {key} state: it can be tested, but training cannot go on")
                    target.load_state_dict(checkpoint[key])
                if self.average is not None:
                    if not checkpoint.get("average"):
                        raise ValueError(f"{path} holds no running average of the weights: training cannot go on")
                    self.average.load_state_dict(name, self._models[name], checkpoint["average"])
                if self.scaler is not None and checkpoint.get("scaler"):
                    self.scaler.load_state_dict(checkpoint["scaler"])
                    self.loss_scale = self.scaler.get_scale()
                self.best_result = float(checkpoint.get("best_result", self.best_result))
                if "rng" in checkpoint:
                    restore_rng_states(checkpoint["rng"])
        print(f"Resuming from {directory} after epoch {epoch}")
        return epoch

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load a run's weights for testing: of an epoch, else the best with TEST.FINAL_MODEL best_val, else the last.

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
        try:
            files = model_files(directory, names, epoch, self.cfg.TEST.FINAL_MODEL == "best_val")
        except FileNotFoundError as error:
            told = "" if self._epochs(directory) else self._told_of(directory)
            raise FileNotFoundError(f"{error}{told}") from None
        for name, path in files.items():
            self.take_checkpoint(name, path, load_checkpoint(path))

    def take_checkpoint(self, name: str, path: str, checkpoint: dict[str, Any]) -> None:
        """Put the weights of a checkpoint that was read from `path` into the model `name`, for testing.

        Raises:
            ValueError: Another trainer, or tensors that do not fit.
        """
        with reading(path):
            self._load_weights(name, path, checkpoint)
            self.loaded_meta = checkpoint.get("meta", {})
            self.epoch = int(checkpoint["epoch"])
        print(f"Loaded {path} (epoch {self.epoch})")

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

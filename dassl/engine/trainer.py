"""Trainers: the loop over epochs with its hooks, and on a data set the epoch, the logs and the test."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.config import flatten
from dassl.data import DataManager
from dassl.data.datasets import ClassList, DatasetBase
from dassl.evaluation import Classification, build_evaluator
from dassl.optim import WeightAverage, training_length
from dassl.utils import AverageMeter, MetricMeter, read_json, write_json, write_text
from dassl.utils.distributed import barrier, broadcast_module, get_world_size, is_main_process, mean_over_processes
from dassl.utils.logger import Tee
from dassl.utils.tools import copy_atomically, versions

from .checkpoint import BEST_MODEL, Checkpoints, plain_config
from .metrics_log import MetricsLog
from .projector import Projector


class TrainerBase(Checkpoints):
    """Models by name, their optimisation, checkpoints, and the generic loop over epochs."""

    output_dir = "./output"

    def __init__(self) -> None:
        super().__init__()
        self._writer: MetricsLog | None = None
        self._eval_step = 0
        self.start_epoch = self.max_epoch = self.num_batches = 0

    # Logs --------------------------------------------------------------------------------------------------------

    def init_writer(self, log_dir: str, start_step: int | None = None) -> None:
        """Open TensorBoard and metrics.jsonl; figures from `start_step` on are dropped (a run that goes on)."""
        if self._writer is None and is_main_process():
            self._writer = MetricsLog(self.output_dir, log_dir, start_step, self.board_texts())

    def board_texts(self) -> dict[str, str]:
        """Hook: texts for TensorBoard, Markdown by name."""
        return {}

    def flush_writer(self) -> None:
        """Bring all figures to the disk."""
        if self._writer is not None:
            self._writer.flush()

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
        dataset: The data set, if it is built already; a `ClassList` is enough to predict.
        device: Where to compute; None: a GPU if there is one and USE_CUDA is on.

    Attributes:
        dataset: The data set that was given, or that a trainer built before its loaders, or None.
        dm: The data manager; its loaders, num_classes and lab2cname are attributes here too.
        results: Figures of the last evaluation.
    """

    def __init__(
        self, cfg: CfgNode, dataset: DatasetBase | None = None, device: str | torch.device | None = None
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.check_cfg(cfg)
        if cfg.TEST.FINAL_MODEL not in ("last_step", "best_val"):
            raise ValueError(f"TEST.FINAL_MODEL must be last_step or best_val, got {cfg.TEST.FINAL_MODEL!r}")
        if cfg.TEST.SPLIT not in ("val", "test"):
            raise ValueError(f"TEST.SPLIT must be val or test, got {cfg.TEST.SPLIT!r}")
        if cfg.TEST.PROJECTOR and type(self).test_features is SimpleTrainer.test_features:
            raise ValueError(
                f"TEST.PROJECTOR must be 0 with TRAINER.NAME {cfg.TRAINER.NAME}, which gives no features (the hook "
                f"test_features), got {cfg.TEST.PROJECTOR}"
            )
        if cfg.OPTIM.AVERAGE and cfg.TEST.FINAL_MODEL != "last_step":
            raise ValueError(
                f"OPTIM.AVERAGE {cfg.OPTIM.AVERAGE} needs TEST.FINAL_MODEL last_step, got {cfg.TEST.FINAL_MODEL}: the "
                "averaged weights exist only after the last epoch"
            )
        self.device = torch.device(device or ("cuda" if cfg.USE_CUDA and torch.cuda.is_available() else "cpu"))
        self.cfg = cfg
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.results: dict[str, float] = {}
        self._trained = False
        self._chooses = False  # whether a test is one of the validations that choose a model
        self.train_time_sec = 0.0
        self.build_backbone()
        self.build_data_loader()
        self.num_batches = len(self.train_loader_x) if self.train_loader_x is not None else 0
        self.max_epoch, _ = training_length(cfg.OPTIM, self.num_batches)
        self.average = WeightAverage(cfg.OPTIM, self.max_epoch) if cfg.OPTIM.AVERAGE else None
        if cfg.TEST.FINAL_MODEL == "best_val" and self.val_loader is None and not isinstance(dataset, ClassList):
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

    def build_backbone(self) -> None:
        """Hook: what both data and model need, e.g. a pretrained tower whose input size the transforms take."""

    def build_data_manager(self) -> DataManager:
        """Hook: the data; override for other transforms."""
        return DataManager(self.cfg, dataset=self.dataset)

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

    @cached_property
    def has_own_validation(self) -> bool:
        """Whether there are validation images, none of them a test image (ImageNet's readers give the test list)."""
        data = self.dm.dataset
        tested = {item.impath for item in data.test or []}
        return bool(data.val) and tested.isdisjoint(item.impath for item in data.val or [])

    @cached_property
    def data_digest(self) -> str:
        """What a run trains, validates and tests on: paths below their common folder, labels and names, in order."""
        lists = [part or [] for part in (self.dm.dataset.train_x, self.dm.dataset.val, self.dm.dataset.test)]
        top = os.path.dirname(os.path.commonprefix([item.impath for part in lists for item in part]))
        sha = hashlib.sha256()
        for part in lists:
            for item in part:
                sha.update(f"{item.impath[len(top) :]}\0{item.label}\0{item.classname}\n".encode())
            sha.update(b"\1")
        return sha.hexdigest()

    def checkpoint_meta(self) -> dict[str, Any]:
        """Trainer, backbone, class names, config, a digest of the data, and how many processes share a step."""
        return {
            **super().checkpoint_meta(),
            "processes": get_world_size(),
            "images_per_step": self._images_per_step(),
            "backbone": self.cfg.MODEL.BACKBONE.NAME,
            "pretrained": self.cfg.MODEL.BACKBONE.PRETRAINED,
            **self._about_data(),
            "config": plain_config(self.cfg),
            "data": self.data_digest,
        }

    def _images_per_step(self) -> list[int]:
        """Images of a training step, labelled and unlabelled, of all processes together."""
        loaders = (self.train_loader_x, self.train_loader_u)
        return [0 if x is None else get_world_size() * min(x.batch_size or 0, len(x.sampler)) for x in loaders]  # type: ignore[arg-type]

    def _about_data(self) -> dict[str, Any]:
        """What prediction needs of a data set: its class names by label, and how its images are decoded."""
        names = [self.lab2cname[label] for label in sorted(self.lab2cname)]
        return {"classnames": names, "as_people_see": self.dm.dataset.as_people_see}

    def train(self) -> None:  # type: ignore[override]
        """Train from where the run stands to MAX_EPOCH or MAX_ITER, then test; without learnables, only test."""
        self._trained = True
        super().train(self.start_epoch, self.max_epoch if self._models else 0)

    def before_train(self) -> None:
        """Resume if there is something to resume from, open the logs, keep the few-shot list."""
        if self._models and self.train_loader_x is None:
            raise ValueError(f"{self.cfg.DATASET.NAME} has no training images: it can only be tested on")
        if self.cfg.TEST.FINAL_MODEL == "best_val" and self._models and not self.has_own_validation:
            raise ValueError(
                f"TEST.FINAL_MODEL best_val cannot choose a model on {self.cfg.DATASET.NAME}, whose validation images "
                "are test images; use last_step"
            )
        if self._models and self.cfg.OPTIM.MAX_ITER:
            print(
                f"OPTIM.MAX_ITER {self.cfg.OPTIM.MAX_ITER}: {self.max_epoch} epochs of {self.num_batches} batches, the "
                f"last of {self._steps_in(self.max_epoch) - self._steps_in(self.max_epoch - 1)}; OPTIM.MAX_EPOCH "
                f"{self.cfg.OPTIM.MAX_EPOCH} has no effect"
            )
        self.start_epoch = self.resume_model_if_exist(self.cfg.RESUME or self.output_dir)
        if is_main_process() and self.start_epoch:
            self._mend_checkpoints(self.start_epoch)
        self.init_writer(os.path.join(self.output_dir, "tensorboard"), self._steps_in(self.start_epoch))
        if self.cfg.DATASET.NUM_SHOTS >= 1 and is_main_process():
            data = self.dm.dataset
            picked = {
                split: [[item.impath, item.label, item.classname] for item in items or []]
                for split, items in (("train", data.train_x), ("val", data.val))
            }
            write_json(picked, Path(self.output_dir, "few_shot.json"))
        self.time_start = time.time()

    def _steps_in(self, epochs: int) -> int:
        """Batches in the first `epochs` epochs; OPTIM.MAX_ITER ends the last one early."""
        steps, limit = epochs * self.num_batches, self.cfg.OPTIM.MAX_ITER
        return min(steps, limit) if limit > 0 else steps

    def after_train(self) -> None:
        """Test the last model, or the best on validation data with TEST.FINAL_MODEL best_val."""
        self.train_time_sec = time.time() - self.time_start
        print(f"Training took {datetime.timedelta(seconds=round(self.train_time_sec))}")
        self.epoch = self.max_epoch if self._models else 0
        self._eval_step = self._steps_in(self.epoch)
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val" and self._models:
                barrier()
                self.load_model(self.output_dir)
            self.test()
        self.close_writer()

    def after_epoch(self) -> None:
        """Validate if the best model counts; keep a checkpoint to resume from, the last one of averaged weights."""
        if (average := self.average) is not None:
            last = self.epoch + 1 == self.max_epoch
            for name, model in self._models.items():
                average.add(name, model, self.epoch)
                if last:
                    average.apply(name, model)
            if last:
                print(f"The final weights are the {average.kind} mean over {self.max_epoch} epochs (OPTIM.AVERAGE)")
        if self.cfg.TEST.FINAL_MODEL == "best_val":
            done, self.epoch = self.epoch, self.epoch + 1
            self._eval_step = self._steps_in(self.epoch) - 1
            self._chooses = True
            result = self.test(split="val")
            self._chooses, self.epoch = False, done
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

    def _mend_checkpoints(self, epochs_done: int) -> None:
        """Drop the last but one and name the last, in case the run was killed before; take RESUME's best models."""
        if not Path(self.output_dir, "done").exists():
            self._drop_checkpoint(epochs_done - 1)
        for name in self.get_model_names():
            own = Path(self.output_dir, name)
            best = Path(self.cfg.RESUME or self.output_dir, name, BEST_MODEL)
            if best.is_file() and not (own / BEST_MODEL).is_file():
                copy_atomically(best, own / BEST_MODEL)
            if (own / f"model.pth.tar-{epochs_done}").is_file():
                write_text(f"model.pth.tar-{epochs_done}\n", own / "checkpoint")

    def run_epoch(self) -> None:
        """Train on all labelled batches once, or up to MAX_ITER; a bar on a terminal and plain lines elsewhere."""
        assert self.train_loader_x is not None
        self.set_model_mode("train")
        losses, batch_time, data_time = MetricMeter(), AverageMeter(), AverageMeter()
        self.num_batches = len(self.train_loader_x)
        each_batch = self.cfg.OPTIM.LR_STEP == "batch"
        first = self.epoch * self.num_batches  # step of the first batch
        count, last_step = self._steps_in(self.epoch + 1) - first, self._steps_in(self.max_epoch) - 1
        terminal = self.shows_bars
        batches = self.training_batches()
        bar = tqdm(
            batches if count == self.num_batches else islice(batches, count),
            total=count,
            desc=f"epoch {self.epoch + 1}/{self.max_epoch}",
            disable=not terminal,
            leave=False,
        )
        end = time.time()
        for self.batch_idx, batch in enumerate(bar):
            self.batch = batch
            data_time.update(time.time() - end)
            lr = self.get_current_lr()
            self._lr_updated = self._lr_updated and not each_batch
            summary = self._figures(self.forward_backward(batch) or {})
            if each_batch and not self._lr_updated:
                self.update_lr()
            batch_time.update(time.time() - end)
            losses.update(summary)
            step = first + self.batch_idx
            values = {name: losses.meters[name].val for name in summary} | {"lr": lr}
            if self._writer is not None:
                self._writer.add("train", self.epoch + 1, step, values, batch=self.batch_idx + 1)
            eta = datetime.timedelta(seconds=int(batch_time.avg * (last_step - step)))
            bar.set_postfix_str(f"loss {losses.meters['loss'].avg:.4f} eta {eta}" if "loss" in summary else "")
            last = self.batch_idx + 1 == count
            if last or (self.batch_idx + 1) % self.cfg.TRAIN.PRINT_FREQ == 0:
                line = (
                    f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{self.batch_idx + 1}/{count}] "
                    f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} "
                    f"({data_time.avg:.3f}) {losses} lr {lr:.4e} eta {eta}"
                )
                if terminal and not last and isinstance(sys.stdout, Tee):
                    sys.stdout.write_file(line + "\n")
                else:
                    print(line)
                self._write_speed(step, batch, batch_time.avg)
            end = time.time()
        bar.close()

    def training_batches(self) -> Iterable[Any]:
        """Hook: what `forward_backward` gets in this epoch."""
        assert self.train_loader_x is not None
        return self.train_loader_x

    @property
    def shows_bars(self) -> bool:
        """Whether progress bars are drawn: by one process, on a terminal."""
        return sys.stderr.isatty() and is_main_process()

    def _write_speed(self, step: int, batch: Any, seconds: float) -> None:
        """For TensorBoard alone: metrics.jsonl holds what is the same whenever a run is made."""
        self.write_scalar("train_speed/seconds_per_step", seconds, step)
        if isinstance(batch, dict) and "label" in batch and seconds > 0:
            self.write_scalar("train_speed/images_per_second", len(batch["label"]) * get_world_size() / seconds, step)

    def _figures(self, summary: dict[str, Any]) -> dict[str, float]:
        """A step's figures as numbers, their mean over the processes; one transfer, however many they are.

        Raises:
            FloatingPointError: One of them is not finite.
        """
        if not summary:
            return {}
        scalars = [torch.as_tensor(value, dtype=torch.float64).mean() for value in summary.values()]
        values = mean_over_processes(torch.stack([scalar.to(self.device) for scalar in scalars])).tolist()
        figures = dict(zip(summary, values, strict=True))
        if not all(map(math.isfinite, values)):
            self.stop_not_finite(figures, everywhere=True)
        return figures

    @torch.no_grad()
    def test(self, split: str | None = None) -> float:
        """Evaluate on a split, val or test (default TEST.SPLIT), with the current weights.

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
        shown = self._writer is not None and not self._chooses
        projector = None
        if shown and self.cfg.TEST.PROJECTOR:
            projector = Projector(self.cfg.TEST.PROJECTOR, len(loader.sampler))  # type: ignore[arg-type]
        print(f"Evaluate on the *{split}* set")
        for input, label in self.test_inputs(split, loader):
            with self.autocast():
                output = self.model_inference(input)
            self.evaluator.process(output, label)
            if projector is not None and (rows := projector.rows(len(label))):
                with self.autocast():
                    features = self.test_features(input[rows])
                projector.add(features, label[rows], output[rows].argmax(1), self._pixels(input[rows]))
        self.results = dict(self.evaluator.evaluate())
        self.split = split
        if self._writer is not None:
            self._writer.add(split, self.epoch, self._eval_step, self.results)
            if shown:
                self._show(split, projector)
            self._writer.flush()
        return next(iter(self.results.values()))

    def _show(self, split: str, projector: Projector | None) -> None:
        """What TensorBoard shows of a test beside its figures; not of the validations that choose a model."""
        assert self._writer is not None
        for name, picture in self.evaluator.pictures().items():
            self.write_image(f"{split}/{name}", picture, self._eval_step)
        self._writer.add_hyperparameters(self.hyperparameters())
        if projector is not None:
            names = [self.lab2cname.get(label, str(label)) for label in range(self.num_classes)]
            projector.write(self._writer.board, split, self._eval_step, names)

    def test_features(self, input: Any) -> torch.Tensor:
        """Hook: features [B, E] of what `model_inference` takes, for TEST.PROJECTOR."""
        raise NotImplementedError(f"{type(self).__name__} gives no features")

    def _pixels(self, input: Any) -> torch.Tensor | None:
        """Images [B, 3, H, W] as they were before they were normalised, from 0 to 1; None of other inputs."""
        if not isinstance(input, torch.Tensor) or input.ndim != 4:
            return None
        node = self.cfg.INPUT
        mean, std = (torch.tensor(x, device=input.device).view(1, 3, 1, 1) for x in (node.PIXEL_MEAN, node.PIXEL_STD))
        return input * std + mean if "normalize" in node.TRANSFORMS else input

    def board_texts(self) -> dict[str, str]:
        """The config as YAML, and of a run of train.py the command, the code's commit and what it ran on."""
        texts = {"run/config": f"```yaml\n{self.cfg.dump()}\n```"}
        try:
            env = read_json(Path(self.output_dir, "env.json"))
        except (OSError, ValueError):  # not a run of train.py, or damaged, which is mended at the end
            env = {}
        if isinstance(env, dict) and "command" in env:
            texts["run/command"] = f"```\n{env['command']}\n```"
            rows = {"commit": env.get("commit"), "device": env.get("device"), **versions()}
            lines = [f"| {name} | {value} |" for name, value in rows.items() if value]
            texts["run/versions"] = "\n".join(["| what | which |", "|---|---|", *lines])
        return texts

    def hyperparameters(self) -> dict[str, Any]:
        """The keys of the config that TensorBoard's HPARAMS table compares; of a test, OPTIM as in the training."""
        settings = flatten(plain_config(self.cfg))
        trained = flatten((self.loaded_meta or {}).get("config", {}))
        settings |= {key: value for key, value in trained.items() if key.startswith("OPTIM.")}
        keys = {"SEED", "TRAINER.NAME", "DATASET.NAME", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES"}
        keys |= {"MODEL.BACKBONE.NAME"}
        return {key: value for key, value in settings.items() if key in keys or key.startswith("OPTIM.")}

    def test_inputs(self, split: str, loader: Any) -> Iterator[tuple[Any, torch.Tensor]]:
        """What `model_inference` gets of each batch of a split, and the labels; with a bar on a terminal."""
        for batch in tqdm(loader, desc=f"testing on {split}", disable=not self.shows_bars, leave=False):
            yield self.parse_batch_test(batch)

    def result_record(self) -> dict[str, Any]:
        """Everything that tables need of this run's last evaluation, as plain values.

        `settings` is the whole config, here of this evaluation and in `train` of the training that made the weights;
        `test_images` is a digest of the test set's paths in DATASET.ROOT, labels and class names.
        """
        cfg = self.cfg
        meta = None if self._trained else self.loaded_meta
        keys = ("NAME", "SUBSAMPLE_CLASSES", "SOURCE_DOMAINS", "TARGET_DOMAINS", "NUM_SHOTS")

        def described(config: dict[str, Any]) -> dict[str, Any]:
            settings = flatten(config)
            settings["DATASET.ROOT"] = os.path.realpath(os.path.expanduser(settings["DATASET.ROOT"]))
            named = {("dataset" if key == "NAME" else key.lower()): settings[f"DATASET.{key}"] for key in keys}
            return named | {"seed": settings["SEED"], "settings": settings}

        own = described(plain_config(cfg))
        trained = own if self._trained else None  # not known of weights that a trainer loaded its own way
        if meta and "config" in meta:
            trained = described(meta["config"])
        root = os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))
        items = [(os.path.relpath(d.impath, root), d.label, d.classname) for d in self.dm.dataset.test or []]
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
            **self._about_data(),
            "num_images": getattr(self.evaluator, "num_images", 0),
            "test_images": hashlib.sha256(json.dumps(items).encode()).hexdigest()[:12],
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

"""A tiny data set, a linear trainer and configs for the engine's tests; importing it registers both.

As a script it runs one training: `python dassl_toy.py ROOT OUTPUT KEY VALUE ...`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from tensorboard.summary.writer import event_file_writer
from torch import nn
from yacs.config import CfgNode

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a script

import processes

from dassl.config import get_cfg_default, merge_opts
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX, build_trainer, run
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer

CLASSES = ("blue", "green", "red")
COUNTS = {"train": 5, "val": 2, "test": 3}  # images a class
IMAGE_SIZE = 12  # pixels on disk; the model sees 8
EPOCHS = 3
BATCHES = 3  # an epoch: 15 training images in batches of 4, the rest dropped


# Real runs of one folder start seconds apart, and TensorBoard orders their files by second; here they get ahead.
seconds_ahead = int(os.environ.get("TOY_SECONDS_AHEAD", "0"))
event_file_writer.time = SimpleNamespace(time=lambda: time.time() + seconds_ahead)


def skip_seconds() -> None:
    """Let the next run be of a later second."""
    global seconds_ahead
    seconds_ahead += 10


def draw_images(root: Path) -> Path:
    """Noisy squares, so that no two images and no two crops are equal."""
    generator = torch.Generator().manual_seed(0)
    for split, count in COUNTS.items():
        for label, name in enumerate(CLASSES):
            folder = root / "toy" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(0, 120, (IMAGE_SIZE, IMAGE_SIZE, 3), generator=generator, dtype=torch.uint8)
                pixels[..., label] += 80
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
    return root


@DATASET_REGISTRY.register()
class ToyImages(DatasetBase):
    """What `draw_images` drew; every other image is of domain 1. VAL_PERCENT 0 leaves the validation images out."""

    def __init__(self, cfg: CfgNode) -> None:
        folder = Path(cfg.DATASET.ROOT, "toy")
        splits = {
            split: [
                Datum(str(path), label=label, domain=i % 2, classname=name)
                for label, name in enumerate(CLASSES)
                for i, path in enumerate(sorted((folder / split / name).iterdir()))
            ]
            for split in COUNTS
        }
        train = self.generate_fewshot_dataset(splits["train"], num_shots=cfg.DATASET.NUM_SHOTS)
        val = splits["val"] if cfg.DATASET.VAL_PERCENT > 0 else []
        super().__init__(train_x=train, val=val, test=splits["test"])


@TRAINER_REGISTRY.register()
class ToyTrainer(TrainerX):
    """Two linear layers with dropout between them, so that the global generator matters too."""

    def build_model(self) -> None:
        options = self.cfg.TRAINER.TOY
        self.set_precision(options.PREC)
        width, height = self.cfg.INPUT.SIZE
        self.body = nn.Linear(3 * width * height, options.WIDTH)
        self.head = nn.Linear(options.WIDTH, self.num_classes)
        self.model = nn.Sequential(nn.Flatten(), self.body, nn.Dropout(0.5), self.head)
        if options.TWO_MODELS:
            self.declare("body", self.body)
            self.declare("head", self.head)
        else:
            self.declare("model", self.model)

    def declare(self, name: str, model: nn.Module) -> None:
        optim = build_optimizer(model, self.cfg.OPTIM)
        self.register_model(name, model, optim, build_lr_scheduler(optim, self.cfg.OPTIM, self.num_batches))

    def forward_backward(self, batch: dict[str, Any]) -> dict[str, float]:
        image, label, _ = self.parse_batch_train(batch)
        with self.autocast():
            output = self.model(image)
            ce = F.cross_entropy(output.float(), label)
        nothing = torch.zeros(())
        if self.epoch * self.num_batches + self.batch_idx == self.cfg.TRAINER.TOY.NAN_AT_STEP:
            nothing = nothing / 0
        loss = ce + nothing
        self.model_backward_and_update(loss, parts={"ce": ce, "nothing": nothing})
        if self.cfg.TRAINER.TOY.STEPS_ITSELF and self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}

    def test_features(self, input: torch.Tensor) -> torch.Tensor:
        return input.flatten(1)[:, :5]


def toy_cfg(root: Path | str, output: Path | str, *opts: Any) -> CfgNode:
    """Config of a run of three epochs of three batches; KEY VALUE pairs change it."""
    cfg = get_cfg_default()
    node = cfg.TRAINER.TOY = CfgNode()
    node.PREC = "fp32"
    node.WIDTH = 4
    node.TWO_MODELS = False
    node.STEPS_ITSELF = False
    node.NAN_AT_STEP = -1
    settings = {
        "SEED": 1,
        "OUTPUT_DIR": str(output),
        "USE_CUDA": False,
        "VERBOSE": False,
        "DATASET.ROOT": str(root),
        "DATASET.NAME": "ToyImages",
        "INPUT.SIZE": (8, 8),
        "INPUT.TRANSFORMS": ("random_resized_crop", "random_flip", "normalize"),
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": 4,
        "DATALOADER.TEST.BATCH_SIZE": 4,
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": 0.1,
        "OPTIM.MAX_EPOCH": EPOCHS,
        "OPTIM.LR_SCHEDULER": "cosine",
        "OPTIM.WARMUP_EPOCH": 1,
        "OPTIM.WARMUP_TYPE": "constant",
        "OPTIM.WARMUP_CONS_LR": 0.01,
        "TRAINER.NAME": "ToyTrainer",
    }
    merge_opts(cfg, [item for pair in settings.items() for item in pair])
    merge_opts(cfg, opts)
    cfg.freeze()
    return cfg


def run_toy(cfg: CfgNode) -> Any:
    """Train and test as train.py does; returns the trainer."""
    skip_seconds()
    with run(cfg, ["--toy"], config_name="toy") as this_run:
        trainer = build_trainer(cfg)
        this_run.begin(free=trainer.check_resume(cfg.RESUME or cfg.OUTPUT_DIR))
        trainer.train()
        this_run.finish(trainer.result_record())
    return trainer


def test_toy(cfg: CfgNode, model_dir: Path | str, epoch: int | None = None) -> Any:
    """Load and test as train.py --eval-only does; returns the trainer."""
    skip_seconds()
    with run(cfg, ["--toy"], config_name="toy") as this_run:
        trainer = build_trainer(cfg)
        trainer.load_model(str(model_dir), epoch=epoch)
        weights = f"{model_dir}" if epoch is None else f"{model_dir} (epoch {epoch})"
        this_run.begin("test", weights, trainer.free_keys(trainer.loaded_meta))
        trainer.test()
        this_run.finish(trainer.result_record())
    return trainer


test_toy.__test__ = False  # type: ignore[attr-defined]


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """Records of metrics.jsonl."""
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def read_board(output: Path, speed: bool = False) -> dict[str, list[tuple[int, float]]]:
    """(step, value) pairs of every tag, as TensorBoard shows them; speed, which no two runs share, on request."""
    board = board_of(output)
    tags = [tag for tag in board.Tags()["scalars"] if speed or not tag.startswith("train_speed/")]
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


def board_of(output: Path, old: bool = True) -> Any:
    """Everything that TensorBoard reads of a run: all as tensors, or in the `old` way scalars and images as such."""
    from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator

    everything = dict.fromkeys(("scalars", "images", "tensors") if old else ("tensors",), 0)
    kind = event_accumulator if old else plugin_event_accumulator
    return kind.EventAccumulator(str(output / "tensorboard"), size_guidance=everything).Reload()


def texts_of(output: Path) -> dict[str, list[tuple[int, str]]]:
    """(step, Markdown) pairs of every text."""
    board = board_of(output, old=False)
    tags = board.SummaryMetadata
    return {
        tag.removesuffix("/text_summary"): [
            (event.step, event.tensor_proto.string_val[0].decode()) for event in board.Tensors(tag)
        ]
        for tag in board.Tags()["tensors"]
        if tags(tag).plugin_data.plugin_name == "text"
    }


def hparams_of(output: Path) -> dict[str, Any]:
    """The hyperparameters of a finished run, as TensorBoard's plugin parses them; empty where there are none."""
    from tensorboard.plugins.hparams import metadata

    board = board_of(output, old=False)
    start, end = metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG
    if not {start, end} <= set(board.Tags()["tensors"]):
        return {}
    ended = metadata.parse_session_end_info_plugin_data(board.SummaryMetadata(end).plugin_data.content)
    assert ended.status == 1  # success
    begun = metadata.parse_session_start_info_plugin_data(board.SummaryMetadata(start).plugin_data.content)
    return {key: getattr(value, value.WhichOneof("kind")) for key, value in begun.hparams.items()}


def in_child(job: Callable[[], Any]) -> int:
    """Start a process that does `job`; returns its id."""
    pid = processes.in_child(job)
    skip_seconds()
    return pid


def wait_for(pid: int) -> int:
    """Exit code of a child; minus the signal's number if one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die(*args: Any, **kwargs: Any) -> None:
    """End this process as the kernel's out-of-memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_epoch(number: int) -> Callable[[], None]:
    """Die at the second batch of an epoch, counted from 1."""

    def arm() -> None:
        step = ToyTrainer.forward_backward

        def forward_backward(self: Any, batch: Any) -> Any:
            if self.epoch + 1 == number and self.batch_idx == 1:
                die()
            return step(self, batch)

        ToyTrainer.forward_backward = forward_backward  # type: ignore[method-assign]

    return arm


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_toy(toy_cfg(*sys.argv[1:]))

"""Made-up run folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAMES = {"oxford_pets": "OxfordPets", "dtd": "DescribableTextures", "imagenet": "ImageNet", "pacs": "PACS"}
NAMES["image_folder"] = "ImageFolder"


def registry_name(stem: str) -> str:
    return NAMES.get(stem, stem.title())


def write_run(folder: Path, record: dict[str, Any]) -> Path:
    """A finished run folder with `record` in it."""
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(record))
    (folder / "done").touch()
    return folder


def make_record(dataset: str, trainer: str, seed: int, accuracy: float, **changes: Any) -> dict[str, Any]:
    """A record of schema 1; `train` defaults to the run's own values."""
    own = {
        "dataset": registry_name(dataset),
        "subsample_classes": "all",
        "source_domains": [],
        "target_domains": [],
        "num_shots": 16,
        "seed": seed,
    }
    own |= {key: changes[key] for key in changes if key in own}
    record = {
        "schema": 1,
        "trainer": trainer,
        **own,
        "backbone": "tiny",
        "config": "tiny",
        "eval_only": trainer == "ZeroshotCLIP",
    }
    record |= {
        "train": own if trainer != "ZeroshotCLIP" else None,
        "epoch": 10,
        "split": "test",
        "num_classes": 3,
    }
    record |= {
        "num_images": 60,
        "results": {"accuracy": accuracy, "error_rate": 100 - accuracy, "macro_f1": accuracy},
    }
    return record | {"per_class": {"a": 1.0, "b": 50.0, "c": 100.0}, "train_time_sec": 1.0} | changes


@pytest.fixture
def add_run(tmp_path: Path) -> Callable[..., Path]:
    """Adds a run to the output folder `tmp_path` in the layout of the scripts."""

    def add(
        task: str,
        kind: str,
        name: str,
        trainer: str,
        seed: int,
        accuracy: float,
        classes: str = "all",
        **changes: Any,
    ) -> Path:
        dataset = name.partition("-")[0]
        shots = 0 if trainer == "ZeroshotCLIP" else changes.get("num_shots", 16)
        config = changes.get("config", "tiny")
        folder = tmp_path / task / f"{kind}_{classes}" / name / f"shots_{shots}" / trainer / config / f"seed{seed}"
        record = make_record(dataset, trainer, seed, accuracy, subsample_classes=classes, **changes)
        record["eval_only"] = kind == "test"
        if record["train"] and classes == "new":
            record["train"] = {**record["train"], "subsample_classes": "base"}
        return write_run(folder, record)

    return add


@pytest.fixture
def add_known(add_run: Callable[..., Path]) -> Callable[..., Path]:
    """Adds a run of schema 2: `settings` are those of the run, `trained` those of the training."""

    def add(*where: Any, settings: dict[str, Any], trained: dict[str, Any] | None = None, **changes: Any) -> Path:
        folder = add_run(*where, **changes)
        record = json.loads((folder / "results.json").read_text()) | {"schema": 2, "settings": settings}
        record["train"] = record["train"] and record["train"] | {"settings": trained or settings}
        (folder / "results.json").write_text(json.dumps(record))
        return folder

    return add

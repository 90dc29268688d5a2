"""What a folder holds to rebuild a model from: a run's checkpoints, a test of some, or an export."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

import trainers
from dassl.config import check_values, flatten, get_cfg_default, merge_opts
from dassl.engine.checkpoint import common_epochs, model_files
from dassl.utils import load_checkpoint, read_json, read_text

CARD, LEARNED = "card.json", "learned.safetensors"  # of an export, see `trainers.export`
CLASSES, MERGED = "classes.safetensors", "merged.safetensors"
FORMAT = 1  # of the card
OWN_IMAGES = "ImageFolder"  # whose images are decoded as people see them, for runs that do not say how theirs were

Checkpoints = dict[str, tuple[str, dict[str, Any]]]  # by model: the file, and what it holds


@dataclass(frozen=True)
class Source:
    """What a model is rebuilt from.

    Attributes:
        path: Where it lies, for messages.
        config: The config, plain values, nested or by dotted key.
        classnames: C names by label.
        as_people_see: How images were decoded, see `dassl.utils.read_image`.
        checkpoints: By model, the file and what it holds: state_dict, epoch and meta; empty where nothing is learned.
        record: results.json; empty where there is none.
    """

    path: str
    config: dict[str, Any]
    classnames: list[str]
    as_people_see: bool
    checkpoints: Checkpoints
    record: dict[str, Any]


def read_source(folder: Path, epoch: int | None = None) -> Source:
    """What a folder holds to rebuild a model from; see `load_run`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no run at {folder}: there is no such folder")
    if (folder / CARD).is_file():
        if epoch is not None:
            raise ValueError(f"{folder} is an exported model, of one epoch: an epoch cannot be chosen (got {epoch})")
        return _read_export(folder)
    models = sorted({path.parent.name for path in folder.glob("*/model*.tar*")})
    if not models and not (folder / "env.json").is_file():
        raise ValueError(
            f"{folder} is no run's folder: it holds neither checkpoints (<model>/model.pth.tar-<epoch>) nor env.json "
            f"of a test nor {CARD} of an export"
        )
    if not (folder / "done").is_file() and epoch is None:
        failed = " (failed.json says why it failed)" if (folder / "failed.json").is_file() else ""
        epochs = ", ".join(map(str, common_epochs(str(folder), models)))
        hint = f"; an epoch may be chosen among those that it holds: {epochs}" if epochs else ""
        raise ValueError(f"the run in {folder} is not finished: no file done{failed}{hint}")
    record = _read_object(folder / "results.json") if (folder / "results.json").is_file() else {}
    if not models:
        return _read_test(folder, record, epoch)
    checkpoints = _read_models(folder, models, epoch, best=False)
    if epoch is None and _meta(checkpoints)["config"].get("TEST", {}).get("FINAL_MODEL") == "best_val":
        checkpoints = _read_models(folder, models, epoch, best=True)
    return _source(folder, _meta(checkpoints), checkpoints, record)


def _read_models(folder: Path, models: Sequence[str], epoch: int | None, best: bool) -> Checkpoints:
    """The checkpoints, without what only training goes on from."""
    files = model_files(str(folder), models, epoch, best)
    read = {name: (path, load_checkpoint(path)) for name, path in files.items()}
    wanted = ("state_dict", "epoch", "meta")
    return {name: (path, {k: v for k, v in found.items() if k in wanted}) for name, (path, found) in read.items()}


def _meta(checkpoints: Checkpoints) -> dict[str, Any]:
    path, checkpoint = next(iter(checkpoints.values()))
    meta = checkpoint.get("meta")
    if not isinstance(meta, dict) or not isinstance(meta.get("config"), dict) or not meta.get("classnames"):
        raise ValueError(
            f"{path} does not say what its weights belong to (meta with config and classnames): another program wrote "
            "it; test it with train.py --eval-only --model-dir"
        )
    return meta


def _source(folder: Path, meta: Mapping[str, Any], checkpoints: Checkpoints, record: dict[str, Any]) -> Source:
    config, names = meta["config"], [str(name) for name in meta["classnames"]]
    seen = meta.get("as_people_see", config.get("DATASET", {}).get("NAME") == OWN_IMAGES)
    return Source(str(folder), config, names, bool(seen), checkpoints, record)


def _read_test(folder: Path, record: dict[str, Any], epoch: int | None) -> Source:
    """Of a test: its own config and class names, on the weights that it tested; of a zero-shot run these alone."""
    env = _read_object(folder / "env.json")
    if env.get("kind") == "train":
        raise ValueError(f"{folder} is a training's folder without its checkpoints (<model>/model.pth.tar-<epoch>)")
    weights, said = str(env.get("weights", "")), None
    if found := re.fullmatch(r"(.*) \(epoch (\d+)\)", weights):
        weights, said = found[1], int(found[2])
    checkpoints: Checkpoints = {}
    if weights:
        try:
            checkpoints = read_source(Path(weights), said if epoch is None else epoch).checkpoints
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} is a test of the weights in {weights}: {error}") from error
    elif epoch is not None:
        raise ValueError(f"{folder} is a test of a method that learns nothing: there are no epochs (got {epoch})")
    if not record.get("classnames"):
        raise ValueError(
            f"{folder}: results.json names no classes, as an earlier version wrote it; "
            + (f"load {weights} with these class names" if weights else "give the method, the backbone and the classes")
        )
    config = yaml.safe_load(read_text(folder / "config.yaml"))
    return _source(folder, {**record, "config": config}, checkpoints, record)


def _read_export(folder: Path) -> Source:
    from safetensors.torch import load_file

    card = _read_object(folder / CARD)
    if card.get("format") != FORMAT:
        raise ValueError(f"{folder / CARD} has the format {card.get('format')!r}; this version reads {FORMAT}")
    if not isinstance(card.get("config"), dict) or not card.get("classnames"):
        raise ValueError(f"{folder / CARD} names no config and classnames")
    checkpoints: Checkpoints = {}
    path = folder / LEARNED
    if card.get("models"):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: {CARD} says that {', '.join(card['models'])} was learned")
        try:
            tensors = load_file(path)
        except Exception as error:  # safetensors raises an error of its own for a damaged file
            raise ValueError(f"{path} is no readable file of tensors: {error}") from error
        for name in card["models"]:
            state = {key.removeprefix(f"{name}/"): x for key, x in tensors.items() if key.startswith(f"{name}/")}
            checkpoints[name] = (str(path), {"state_dict": state, "epoch": card.get("epoch", 0), "meta": card})
    return _source(folder, card, checkpoints, card.get("results") or {})


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got a {type(content).__name__}")
    return content


def as_config(tree: Mapping[str, Any], strict: bool = False) -> CfgNode:
    """The config of a run, frozen, without what only its training reads.

    Args:
        tree: Nested, or by dotted key; keys that this version does not know are left out, and told.
        strict: Whether such keys, and values that break a rule of a method, are refused; raises ValueError.
    """
    cfg = get_cfg_default()
    trainers.add_config(cfg)
    known, given = flatten(cfg), flatten(dict(tree))
    given |= {"RESUME": "", "MODEL.INIT_WEIGHTS": "", "TEST.FEATURE_CACHE": "", "VERBOSE": False}
    if not strict and (unknown := sorted(key for key in given if key not in known)):
        print(f"Warning: config keys that this version does not know are left out: {', '.join(unknown)}")
    merge_opts(cfg, [word for key, value in given.items() if strict or key in known for word in (key, value)])
    if strict:
        check_values(cfg, trainers.RULES)
    cfg.freeze()
    return cfg

"""Reads the records of runs (results.json) under a folder, and says which runs do not count."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from protocols import definitions

MARKERS = {".lock", "results.json", "config.yaml", "env.json", "failed.json", "done"}


class Method(NamedTuple):
    """What a row or column of a table compares; `shots` is 0 for a method that learns nothing."""

    trainer: str
    config: str
    shots: int
    backbone: str


@dataclass(frozen=True)
class Run:
    """One finished run: what was tested (`name` as in definitions.Split.name), how, and the result."""

    folder: Path
    name: str
    classes: str
    method: Method
    seed: int
    accuracy: float
    source: str | None  # the data set trained on, by its config's name; None if nothing was learned


def dataset_stems() -> dict[str, str]:
    """Registry name of a data set -> name of its config file."""
    stems: dict[str, str] = {}
    for path in sorted((definitions.ROOT / "configs" / "datasets").glob("*.yaml")):
        content = yaml.safe_load(path.read_text()) or {}
        stems.setdefault(content.get("DATASET", {}).get("NAME", ""), path.stem)
    return stems


def step_of(folder: Path) -> str:
    """What the scripts made the run folder for, "train" or "test"; empty if it is none of theirs."""
    parts = folder.resolve().parts
    step = parts[-6].partition("_")[0] if len(parts) > 6 else ""
    return step if step in ("train", "test") else ""


def parse_record(folder: Path, record: dict[str, Any], stems: dict[str, str]) -> Run:
    """Makes a Run of a results.json.

    Raises:
        ValueError: a field is missing or has a wrong type, or the record belongs to another folder.
    """
    if not isinstance(record, dict) or record.get("schema") != 1:
        raise ValueError("results.json is no record of schema 1")
    try:
        train = record["train"]
        source = train and stems.get(train["dataset"], str(train["dataset"]).lower())
        shots = int(train["num_shots"]) if train else 0
        method = Method(record["trainer"], record["config"], shots, record["backbone"])
        accuracy, seed = float(record["results"]["accuracy"]), int(record["seed"])
        domains = [f"-{'+'.join(record[key] or [])}" for key in ("source_domains", "target_domains")]
        name = stems.get(record["dataset"], str(record["dataset"]).lower())
        classes = record["subsample_classes"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"results.json has no usable field {error}") from None
    if not 0 <= accuracy <= 100:
        raise ValueError(f"results.json has an accuracy of {accuracy}")
    parts = folder.resolve().parts
    if step_of(folder) and parts[-6].endswith(f"_{classes}"):
        if (parts[-3], parts[-1]) != (method.trainer, f"seed{seed}"):
            raise ValueError(f"results.json is of another run: {method.trainer}, seed {seed}")
        name = parts[-5]
        if len(domains[0]) > 1 and name.endswith(domains[0]):  # named after the domains it trained on
            name = name.removesuffix(domains[0]) + domains[1]
    return Run(folder, name, classes, method, seed, accuracy, source)


def read_runs(root: Path) -> tuple[list[Run], list[str]]:
    """Reads all runs below `root`; returns them and a line for each folder that does not count."""
    stems, problems = dataset_stems(), []
    runs: dict[tuple[object, ...], Run] = {}
    for folder_name, subfolders, files in os.walk(root):
        if not MARKERS & set(files):
            subfolders.sort(reverse=True)  # train before test: a separate test replaces a training's own
            continue
        subfolders.clear()
        folder = Path(folder_name)
        label = folder.relative_to(root) if folder != root else folder
        try:
            if "done" not in files:
                if "failed.json" in files:
                    error = json.loads((folder / "failed.json").read_text()).get("error", "")
                    raise ValueError(f"failed: {str(error).splitlines()[0] if error else 'no reason given'}")
                raise ValueError("unfinished: no file 'done'")
            if "results.json" not in files:
                raise ValueError("finished, but without results.json")
            run = parse_record(folder, json.loads((folder / "results.json").read_text()), stems)
        except (ValueError, AttributeError, OSError) as error:
            problems.append(f"{label}: {error}")
            continue
        key = (run.name, run.classes, run.method, run.seed, run.source)
        if key in runs and (step_of(runs[key].folder), step_of(folder)) != ("train", "test"):
            problems.append(f"{label}: left out, because {runs[key].folder} holds the same run")
            continue
        runs[key] = run
    return list(runs.values()), problems

"""Packs the records of a benchmark into a small folder that can be committed or sent, and read as the runs themselves.

Kept of each finished run: results.json, config.yaml, `done`, and of env.json the versions, commit and device. Not kept:
images, checkpoints, logs, the command line, and of absolute paths all but the last parts, which tell one from another.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from protocols.records import read_folder, read_object, run_folders, tail

KEPT_OF_ENV = ("seed", "commit", "versions", "device", "cpu_count", "started", "kind")


def check_target(source: Path, target: Path) -> None:
    """Raises ValueError where nothing can be packed to: what lies there, or runs that would count twice; names it."""
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"--pack needs a folder that does not exist yet or is empty, got {target}")
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"--pack {target} lies in {source}, where its runs would count a second time")


def pack(source: Path, target: Path) -> int:
    """Packs the finished runs below `source` into the folder `target`, all or nothing; returns their number.

    Raises:
        ValueError: `check_target` refuses it.
        OSError: It cannot be written.
    """
    check_target(source, target)
    runs: dict[Path, dict[str, Any]] = {}
    for folder in run_folders(source):
        try:
            read_folder(folder, {})
        except (ValueError, OSError):
            continue  # the report names it
        runs[folder] = {"results.json": read_object(folder / "results.json")}
        if (file := folder / "config.yaml").is_file():
            runs[folder][file.name] = read_yaml(file)
        if (file := folder / "env.json").is_file():
            env = read_object(file)
            runs[folder][file.name] = {key: env[key] for key in KEPT_OF_ENV if key in env}
    short = short_paths([*runs.values()])
    target.parent.mkdir(parents=True, exist_ok=True)
    # Readers pass over hidden folders, so a kill leaves nothing that counts.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        os.chmod(unfinished, 0o755)  # mkdtemp's 0700 would lock out the others on a shared disk
        for folder, files in runs.items():
            place = unfinished / folder.relative_to(source)
            place.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                kept = changed(content, lambda k, v: short.get((k, v), v) if isinstance(v, str) else v)
                text = json.dumps(kept, indent=1) + "\n" if name.endswith(".json") else yaml.safe_dump(kept)
                (place / name).write_text(text, encoding="utf-8")
            shutil.copyfile(folder / "done", place / "done")
        os.replace(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return len(runs)


def read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None


def is_absolute(value: str) -> bool:
    return os.path.isabs(os.path.expanduser(value))


def without_home(path: str) -> str:
    """A path without the home directory that it lies in, which holds a person's name."""
    real = os.path.realpath(os.path.expanduser(path))
    return re.sub(rf"^({re.escape(os.path.expanduser('~'))}|/home/[^/]+|/Users/[^/]+)/(?=.)", "", real)


def changed(node: Any, change: Callable[[str, Any], Any], key: str = "") -> Any:
    """The tree with each leaf replaced by `change` of the last part of its key and itself."""
    if isinstance(node, dict):
        return {name: changed(inner, change, str(name).rpartition(".")[2]) for name, inner in node.items()}
    if isinstance(node, list):
        return [changed(inner, change, key) for inner in node]
    return change(key, node)


def short_paths(trees: list[Any]) -> dict[tuple[str, str], str]:
    """Key and every absolute path -> its last parts, as many as tell it from the other values of the key."""
    values: dict[str, dict[str, str]] = defaultdict(dict)  # key -> value -> what it stands for

    def note(key: str, value: Any) -> None:
        if isinstance(value, str) and value:
            values[key][value] = without_home(value) if is_absolute(value) else value

    changed(trees, note)
    return {
        (key, value): tail(real, set(found.values())).lstrip("/")
        for key, found in values.items()
        for value, real in found.items()
        if is_absolute(value)
    }

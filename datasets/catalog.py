"""What `datasets.prepare` and `datasets.check` know of each data set: its reader, its parts, its state."""

import inspect
import os
import re
from collections.abc import Sequence
from typing import Any

import yaml

import datasets  # noqa: F401  registers the readers
from dassl.data.datasets import DATASET_REGISTRY
from dassl.names import did_you_mean

TABLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fetch", "sources.yaml")
RENDERED = ("shapes", "patterns", "digits", "counts")


def read_table(path: str = TABLE) -> dict[str, Any]:
    """The table of sources (see the head of ``sources.yaml``)."""
    with open(path, encoding="utf-8") as f:
        table: dict[str, Any] = yaml.safe_load(f)
    return table


def reader_class(stem: str) -> Any:
    """The reader of a data set by the name of its config file.

    Raises:
        LookupError: no reader of that name.
    """
    for name in DATASET_REGISTRY.registered_names():
        cls = DATASET_REGISTRY.get(name)
        if stem == (name.lower() if name.lower() in RENDERED else cls.__module__.rpartition(".")[2]):
            return cls
    raise LookupError(f"no reader for {stem!r}")


def resolve(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Config file names of the sets asked for.

    Args:
        names: config file names, registry names, or ``all``.
        known: config file names to choose from.

    Returns:
        The names, each once.

    Raises:
        ValueError: an unknown name; close matches are given.
    """
    by_name = {reader_class(stem).__name__.lower(): stem for stem in known} | {stem: stem for stem in known}
    found: list[str] = []
    for name in names:
        if name == "all":
            found.extend(known)
        elif name.lower() in by_name:
            found.append(by_name[name.lower()])
        else:
            raise ValueError(f"Unknown data set {name!r}.{did_you_mean(name, by_name)} Known: {', '.join(known)}.")
    return list(dict.fromkeys(found))


def is_there(path: str) -> bool:
    """Whether a file or a folder exists and is not empty."""
    return bool(os.listdir(path)) if os.path.isdir(path) else os.path.isfile(path) and os.path.getsize(path) > 0


def missing_parts(entry: dict[str, Any], folder: str) -> list[str]:
    """What the folder of a set still lacks, by the table."""
    needs = [need for part in entry["parts"] for need in part["needs"]]
    return [need for need in needs if not is_there(os.path.join(folder, need))]


def licence_of(cls: Any) -> str:
    """The licence that a reader's docstring names."""
    found = re.search(r"Licence: ((?:.|\n)*?)\.\s*(?:\n|$)", inspect.getdoc(cls) or "")
    return " ".join(found.group(1).split()) if found else "as this repository"


def list_sets(root: str, table: dict[str, Any]) -> str:
    """A table of all sets for people: name, size, state below `root`, licence."""
    rows = [("NAME", "SIZE", "STATE", "LICENCE")]
    for stem, entry in table.items():
        cls = reader_class(stem)
        missing = missing_parts(entry, os.path.join(root, cls.dataset_dir))
        total = sum(len(part["needs"]) for part in entry["parts"])
        state = "ready" if not missing else "missing" if len(missing) == total else "lacks " + ", ".join(missing)
        login = "" if all(part["sources"] for part in entry["parts"]) else " (login)"
        rows.append((stem, f"{entry['size_gb']:g} GB{login}", state, licence_of(cls)))
    for stem in RENDERED:
        state = "ready" if is_there(os.path.join(root, stem)) else "rendered at the first use"
        rows.append((stem, "-", state, licence_of(reader_class(stem))))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(f"{a:{widths[0]}}  {b:{widths[1]}}  {c:{widths[2]}}  {d}" for a, b, c, d in rows)

"""Reads the records of runs (results.json) under a folder, and says which runs do not count.

What a run is comes from its record alone, and everything that changes a result is part of it: the data set with its
images, what was trained on, and every config key but dassl.config.free_keys. Records of schema 1 hold no config; for
these it is read from the run's config.yaml, and what a test of theirs was trained with from the one training there is.
"""

from __future__ import annotations

import json
import math
import os
from ast import literal_eval
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from dassl.config import flatten, get_cfg_default
from dassl.config.free_keys import FREE_KEYS
from protocols import definitions
from protocols.lock import holders

MARKERS = {"results.json", "config.yaml", "env.json", "failed.json", "done"}
# Keys with a column, a row or a seed of their own; those of the images are compared apart.
NAMED_KEYS = {"SEED", "VERSION", "TRAINER.NAME", "MODEL.BACKBONE.NAME"} | {
    f"DATASET.{key}"
    for key in ("NAME", "ROOT", "SPLIT_FILE", "SUBSAMPLE_CLASSES", "NUM_SHOTS", "SOURCE_DOMAINS", "TARGET_DOMAINS")
}
# Keys that a test reads; the others are those of its weights' training.
TEST_KEYS = ("MODEL.", "TEST.", "TRAINER.", "INPUT.SIZE", "INPUT.INTERP", "INPUT.PIXEL", "INPUT.NO_T", "INPUT.TRANSF")
TESTED_WITH = "tested with "
OWN_IMAGES = "ImageFolder"  # its DATASET.ROOT says which images; elsewhere it only says where they lie

Settings = tuple[tuple[str, str], ...]
K = TypeVar("K")


class Method(NamedTuple):
    """What a row or column of a table compares.

    Attributes:
        trainer: Registry name.
        config: Stem of its config file.
        shots: Images per class; 0 for a method that learns nothing.
        backbone: Its name or file.
        settings: Every other key that changes its results with its value as JSON; empty where it is not known.
        origin: The folder that it was read from, if another holds the same runs.
    """

    trainer: str
    config: str
    shots: int
    backbone: str
    settings: Settings = ()
    origin: str = ""


def joined(method: Method) -> Method:
    """What methods that differ in nothing but shots have in common."""
    return method._replace(shots=min(method.shots, 1))


class Data(NamedTuple):
    """Which images the name of a data set stands for; empty fields are not known, or make no difference."""

    dataset: str
    root: str = ""
    split_file: str = ""
    images: str = ""  # digest of the test images' paths, labels and class names


@dataclass(frozen=True)
class Result:
    """What a finished run left: what was tested (`name` as in definitions.Split.name), how, and the figures."""

    folder: Path
    kind: str  # train (tested at its end) or test
    name: str
    data: Data
    classes: str
    method: Method
    seed: int  # of the training, if there was one
    figures: dict[str, float] = field(hash=False)
    per_class: dict[str, float] = field(hash=False)
    source: str | None  # the data set trained on, named like `name`; None if nothing was learned
    source_data: Data | None
    source_classes: str

    @property
    def accuracy(self) -> float:
        return self.figures["accuracy"]

    @property
    def group(self) -> tuple[object, ...]:
        """What the seeds of one experiment share."""
        return self.name, self.data, self.classes, self.method, self.source, self.source_data, self.source_classes


def known_splits() -> dict[str, definitions.Split]:
    """Registry name of a data set -> the name of its config file and the domains that this sets."""
    known: dict[str, definitions.Split] = {}
    for path in sorted((definitions.ROOT / "configs" / "datasets").glob("*.yaml")):
        node = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("DATASET", {})
        sources, targets = (literal_eval(node.get(key, "()")) for key in ("SOURCE_DOMAINS", "TARGET_DOMAINS"))
        known.setdefault(node.get("NAME", ""), definitions.Split(path.stem, "", sources, targets))
    return known


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; a ValueError names a file that cannot be read, or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, no record of schema 1 or 2")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """The leaves of a run's config.yaml, {} where there is none; a ValueError where it cannot be read as one."""
    try:
        return flatten(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"config.yaml cannot be read: {' '.join(str(error).split())}") from None


def entry(tree: dict[str, Any], key: str, kind: type[K]) -> K:
    """The value of a key; a ValueError names one that is missing or of another type."""
    value = tree.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):  # a bool is an int to Python
        raise ValueError(f"results.json has no usable field {key!r}: {value!r:.60}")
    return value


def figures_of(record: dict[str, Any], key: str) -> dict[str, float]:
    """A node of numbers by name; a ValueError says that it is missing, or one of its values is no number."""
    node = entry(record, key, dict)
    try:
        if odd := [name for name, value in node.items() if isinstance(value, bool | str)]:
            raise TypeError(odd[0])
        return {name: float(value) for name, value in node.items()}
    except (TypeError, OverflowError) as error:
        raise ValueError(f"results.json has no usable field of numbers {key!r}: {error}") from None


def trained_settings(leaves: dict[str, Any]) -> dict[str, str]:
    """The keys of a config that change a result and have no column of their own.

    What the method's recipe chooses by data set or shots is the recipe, whatever it chose; a key of the engine that an
    older record lacks had its default.
    """
    known = {**flatten(get_cfg_default()), **leaves} if leaves else {}
    recipe = set(known.get("RECIPE") or ())
    kept = known.keys() - NAMED_KEYS - FREE_KEYS
    return {key: '"by recipe"' if key in recipe else json.dumps(known[key], default=str) for key in kept}


def method_settings(leaves: dict[str, Any], train: dict[str, Any] | None, record: dict[str, Any]) -> Settings:
    """What `Method.settings` holds of a record, from its own config and that which its weights were trained with.

    `train` is {} if that is unknown, None if nothing was learned.
    """
    own = trained_settings(leaves)
    tested = {key: value for key, value in own.items() if key.startswith(TEST_KEYS)}
    if train is None:
        return tuple(sorted(tested.items()))
    found = trained_settings(train)
    if record["eval_only"] and found:
        nodes = {"", *map(node_of, found)}
        differs = [key for key in tested if found.get(key) != tested[key] and node_of(key) in nodes]
        found |= {TESTED_WITH + key: tested[key] for key in differs}
        # With MAX_ITER the number of epochs follows from that of the batches, which a record does not hold.
        at_end = train.get("OPTIM.MAX_ITER") or record.get("epoch") == train.get("OPTIM.MAX_EPOCH")
        if leaves.get("TEST.FINAL_MODEL") == "last_step" and not at_end:
            found[TESTED_WITH + "EPOCH"] = json.dumps(record.get("epoch"))
    return tuple(sorted(found.items()))


def split_of(tree: dict[str, Any], known: dict[str, definitions.Split], kind: str) -> tuple[str, str]:
    """Data set by the name of its config, and with the domains trained or tested on if they are not the usual ones."""
    dataset = entry(tree, "dataset", str)
    usual = known.get(dataset, definitions.Split(dataset.lower(), ""))
    domains = [tree.get(key) or [] for key in ("source_domains", "target_domains")]
    if any(not isinstance(d, list) or not all(isinstance(word, str) for word in d) for d in domains):
        raise ValueError(f"results.json has no usable field of domains: {domains}")
    split = replace(usual, sources=tuple(domains[0]), targets=tuple(domains[1]))
    return usual.dataset, usual.dataset if split == usual else split.name(kind)


def parse_record(folder: Path, record: dict[str, Any], known: dict[str, definitions.Split]) -> Result:
    """Makes a Result of a results.json; a ValueError names a field that is missing, odd or of another folder's run."""
    if record.get("schema") not in (1, 2):
        raise ValueError(f"results.json is no record of schema 1 or 2, but of {record.get('schema')!r}")
    old = record["schema"] == 1
    train = entry(record, "train", dict) if record.get("train", "") is not None else None
    tests_only, seed = entry(record, "eval_only", bool), entry(record, "seed", int)
    leaves = read_config(folder) if old else entry(record, "settings", dict)
    learned: dict[str, Any] | None = None  # the config of the training
    if train:
        learned = entry(train, "settings", dict) if not old else {} if tests_only else leaves
    figures = figures_of(record, "results")
    if not 0 <= figures.get("accuracy", math.nan) <= 100:
        raise ValueError(f"results.json has an accuracy of {figures.get('accuracy')}")
    method = Method(
        entry(record, "trainer", str),
        entry(record, "config", str),
        entry(train, "num_shots", int) if train else 0,
        entry(record, "backbone", str),
        method_settings(leaves, learned, record),
    )
    parts = folder.resolve().parts
    of_scripts = len(parts) > 6 and parts[-6].partition("_")[0] in ("train", "test")
    if of_scripts and (parts[-3], parts[-1]) != (method.trainer, f"seed{seed}"):
        raise ValueError(f"results.json is of another run: {method.trainer}, seed {seed}")
    dataset, name = split_of(record, known, "test")
    source, source_name = split_of(train, known, "train") if train else (None, None)
    return Result(
        folder=folder,
        kind="test" if tests_only else "train",
        name=name,
        data=images_of(dataset, leaves, str(record.get("test_images", ""))),
        classes=entry(record, "subsample_classes", str),
        method=method,
        seed=entry(train, "seed", int) if train and "seed" in train else seed,
        figures=figures,
        per_class=figures_of(record, "per_class"),
        source=source_name,
        source_data=images_of(source, learned or {}) if source else None,
        source_classes=str(train.get("subsample_classes", "")) if train else "",
    )


def images_of(dataset: str, leaves: dict[str, Any], images: str = "") -> Data:
    """The images that a config names."""
    root, split_file = (os.path.expanduser(str(leaves.get(f"DATASET.{key}") or "")) for key in ("ROOT", "SPLIT_FILE"))
    return Data(dataset, os.path.realpath(root) if os.path.isabs(root) else root, split_file, images)


def read_folder(folder: Path, known: dict[str, definitions.Split]) -> Result:
    """The result of a run's folder; a ValueError says that the run is not finished, or its record cannot be used."""
    if not (folder / "done").is_file():
        if (folder / "failed.json").is_file():
            error = str(read_object(folder / "failed.json").get("error") or "no reason given")
            raise ValueError(f"failed: {error.strip().splitlines()[0]}")
        raise ValueError("unfinished: no file 'done'")
    if not (folder / "results.json").is_file():
        raise ValueError("finished, but without results.json")
    return parse_record(folder, read_object(folder / "results.json"), known)


def run_folders(root: Path) -> Iterator[Path]:
    """The folders of runs, finished or not, below `root`, itself among them; hidden ones may be half written."""
    for folder, subfolders, files in os.walk(root):
        if MARKERS & set(files) or holders(subfolders):
            subfolders.clear()
            yield Path(folder)
        subfolders[:] = sorted((name for name in subfolders if not name.startswith(".")), reverse=True)


def read_runs(*roots: Path) -> tuple[list[Result], list[str]]:
    """Reads all runs below the folders; returns them and a line for each folder that does not count.

    Runs of one method in several folders add up, unless two of the folders hold the same run: then those of each folder
    count as another method.
    """
    known, problems = known_splits(), []
    paths = {root: os.path.abspath(root) for root in roots}
    names = {root: tail(path, set(paths.values())) if len(roots) > 1 else "" for root, path in paths.items()}
    found: list[Result] = []
    origins: dict[Path, tuple[str, str]] = {}  # of a run's folder: its root, and its own name in a message
    for root in roots:
        for folder in run_folders(root):
            inner = folder.relative_to(root) if folder != root else folder
            origins[folder] = names[root], str(Path(names[root], inner))
            try:
                found.append(read_folder(folder, known))
            except (ValueError, OSError) as error:
                problems.append(f"{origins[folder][1]}: {error}")
    results: dict[tuple[object, ...], Result] = {}
    found = told_apart(found, known[OWN_IMAGES].dataset if OWN_IMAGES in known else "")
    for result in sorted(found, key=lambda result: result.kind == "test"):  # a test replaces a training's own
        origin, label = origins[result.folder]
        key = (origin, *result.group, result.seed)
        if key in results and made_for_two_tasks(results[key], result):
            continue
        if key in results and (results[key].kind, result.kind) != ("train", "test"):
            problems.append(f"{label}: left out, because {results[key].folder} holds the same run")
            continue
        results[key] = result
    places: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for key in results:
        places[key[1:]].add(str(key[0]))
    shared = {joined(r.method) for r in results.values() if len(places[(*r.group, r.seed)]) > 1}
    return [
        replace(r, method=r.method._replace(origin=origins[r.folder][0])) if joined(r.method) in shared else r
        for r in results.values()
    ], problems


def made_for_two_tasks(one: Result, other: Result) -> bool:
    """Whether the scripts made the same run for two tasks, such as zero-shot tests of a whole set, with one outcome."""
    places = [(run.folder.parts[:-7], run.folder.parts[-6:]) for run in (one, other)]
    tasks = {task for run in (one, other) for task in run.folder.parts[-7:-6]}
    # Old records lack the calibration error, and it shows the logits' last bits, which another batch size changes.
    shared = one.figures.keys() & other.figures.keys()
    alike = all(abs(one.figures[k] - other.figures[k]) <= 0.01 * (k == "ece") for k in shared)
    return places[0] == places[1] and tasks <= set(definitions.TASKS) and alike


def told_apart(results: list[Result], own_images: str) -> list[Result]:
    """The results with no more in their identity than tells them apart, and data sets named by what differs.

    `own_images` is the name of the data set whose folder is its identity.
    """
    settings = common_settings({result.method for result in results})
    results = [replace(result, method=settings[result.method]) for result in results]
    # Where a benchmark's images lie makes no difference, unless the same part of it holds others there.
    seen: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for r in results:
        for place in ((), (r.data.root, r.data.split_file)):
            seen[(r.data.dataset, *place, r.name, r.classes)] |= {r.data.images} - {""}
    moved = {own_images} | {str(part[0]) for part, images in seen.items() if len(part) == 3 and len(images) > 1}

    def settled(data: Data, *part: str) -> Data:
        if data.dataset not in moved:
            return Data(data.dataset)
        redrawn = part and len(seen[(data.dataset, data.root, data.split_file, *part)]) > 1
        return data if redrawn else data._replace(images="")

    results = [
        replace(r, data=settled(r.data, r.name, r.classes), source_data=r.source_data and settled(r.source_data))
        for r in results
    ]
    names = data_labels({data for r in results for data in (r.data, r.source_data) if data})
    return [
        replace(r, name=r.name + names[r.data], source=r.source_data and f"{r.source}{names[r.source_data]}")
        for r in results
    ]


def common_settings(methods: set[Method]) -> dict[Method, Method]:
    """Each method, without the config nodes of methods that did not exist yet when some of its runs were made.

    A run that knows no settings belongs to the one method that it can be of, if there is one.
    """
    result = {}
    for method in methods:
        known_ones = [other for other in methods if other.settings]
        rivals = {other for other in known_ones if other[:4] == method[:4]}
        # Methods that differ in shots alone stay comparable.
        alike = [other for other in known_ones if other._replace(shots=0)[:4] == method._replace(shots=0)[:4]]
        known = [{node_of(key) for key, _ in other.settings} for other in alike]
        settings = next(iter(rivals)).settings if len(rivals) == 1 else method.settings
        common = set.intersection(*known) if known else set()
        kept = [(key, value) for key, value in settings if node_of(key) in {"", *common}]
        result[method] = method._replace(settings=tuple(kept))
    return result


def node_of(key: str) -> str:
    """TRAINER.GOPRO of TRAINER.GOPRO.W_CON; empty for other keys and for what only a test says."""
    return ".".join(key.split(".")[:2]) if key.startswith("TRAINER.") else ""


def data_labels(found: set[Data]) -> dict[Data, str]:
    """What a data set's name goes on with where several have it: " (photos)"; else empty."""
    labels = {}
    for data in found:
        rivals = [other for other in found if other.dataset == data.dataset]
        roots, split_files = {other.root for other in rivals}, {other.split_file for other in rivals}
        details = [tail(data.root, roots)] if len(roots) > 1 else []
        details += [tail(data.split_file, split_files) or "its own split"] if len(split_files) > 1 else []
        details += [f"images {data.images}"] if data.images else []
        text = ", ".join(details)
        labels[data] = f" ({text})" if text else ""
    return labels


def tail(path: str, paths: Iterable[str]) -> str:
    """The last parts of a path that tell it from the others."""
    parts = Path(path).parts
    for count in range(1, len(parts) + 1):
        if sum(Path(other).parts[-count:] == parts[-count:] for other in paths) == 1:
            return "/".join(parts[-count:])
    return path

"""The paper's protocols as data: what trains on which images, and what its weights are tested on."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from pathlib import Path

from dassl.config import composed_tree
from dassl.names import choose

ROOT = Path(__file__).resolve().parents[1]

REAL = (
    *("imagenet", "caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101"),
    *("fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
)
RENDERED = ("shapes", "patterns", "digits", "counts")
PACS = ("art_painting", "cartoon", "photo", "sketch")
TASKS = ("base2new", "cross-dataset", "domain-generalization", "few-shot")
ALIASES = {"basenew": "base2new"}

# Training set -> the other sets that its weights are tested on.
TARGETS: dict[str, dict[str, tuple[str, ...]]] = {
    "cross-dataset": {"imagenet": REAL[1:], "shapes": RENDERED[1:]},
    "domain-generalization": {"imagenet": ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")},
}
# Data set -> pairs of training domains and test domains, for domain generalization within one set.
DOMAINS: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "shapes": [(("photo",), ("photo", "sketch", "painting", "cartoon"))],
    "pacs": [(tuple(name for name in PACS if name != left_out), (left_out,)) for left_out in PACS],
}
# What DATASETS may name instead of a list, and per task the training sets that it stands for.
GROUPS = {
    name: {"base2new": sets, "cross-dataset": sets[:1], "domain-generalization": sets[:1], "few-shot": sets}
    for name, sets in (("paper", REAL), ("embedded", RENDERED))
}
# Training on ImageNet serves several tasks and takes the longest: where they agree in config and shots, it is done
# once, in this task's folder. So it is with shapes.
SHARED_TRAINING = {
    ("domain-generalization", "imagenet"): "cross-dataset",
    ("few-shot", "imagenet"): "cross-dataset",
    ("few-shot", "shapes"): "cross-dataset",
}
# Images per class where SHOTS is not given; only few-shot compares several numbers.
DEFAULT_SHOTS = {task: (1, 2, 4, 8, 16) if task == "few-shot" else (16,) for task in TASKS}
# What the name of a task's own config ends with; where a method has none, that of base2new serves.
CONFIG_SUFFIXES = {"cross-dataset": "_transfer", "domain-generalization": "_transfer", "few-shot": "_few_shot"}


@dataclass(frozen=True)
class Split:
    """The part of a data set that one run trains or is tested on."""

    dataset: str
    classes: str = "all"
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def name(self, kind: str) -> str:
        """The folder's name: the data set, and the domains if they are only some of it."""
        domains = self.sources if kind == "train" else self.targets
        return f"{self.dataset}-{'+'.join(domains)}" if domains else self.dataset


@dataclass(frozen=True)
class Experiment:
    """One training in the folder of the task `home`, and the splits that its weights are tested on."""

    home: str
    train: Split
    tests: tuple[Split, ...]


def experiments(task: str, source: str) -> list[Experiment]:
    """All that `task` trains on the data set `source`."""
    if task == "base2new":
        base = Split(source, "base")
        return [Experiment(task, base, (base, Split(source, "new")))]
    if task == "domain-generalization" and source in DOMAINS:
        found = [tuple(Split(source, "all", own, (name,)) for name in targets) for own, targets in DOMAINS[source]]
        return [Experiment(task, tests[0], tests) for tests in found]
    home = SHARED_TRAINING.get((task, source), task)
    tests = tuple(map(Split, (source, *TARGETS.get(task, {}).get(source, ()))))
    return [Experiment(home, tests[0], tests)]


def tested_on(task: str, source: str) -> tuple[list[str], list[str]]:
    """Names of the split trained on, where others are tested too, and of those others; of all where none are."""
    found = [[test.name("test") for test in experiment.tests] for experiment in experiments(task, source)]
    trained = found[0][:1] if len(found[0]) > 1 else []
    return trained, [name for name in dict.fromkeys(itertools.chain(*found)) if name not in trained]


def sources(task: str) -> list[str]:
    """The data sets that `task` trains on."""
    if task in ("base2new", "few-shot"):
        tests_only = TARGETS["domain-generalization"]["imagenet"]  # their test images stand in for training ones
        return sorted({path.stem for path in (ROOT / "configs" / "datasets").glob("*.yaml")} - {*tests_only})
    return sorted({*TARGETS[task], *(DOMAINS if task == "domain-generalization" else ())})


def source_of(task: str, dataset: str) -> str:
    """The data set whose training `dataset` is tested with."""
    allowed = {name: name for name in sources(task)}
    for source, targets in TARGETS.get(task, {}).items():
        allowed.update(dict.fromkeys(targets, source))
    return allowed[choose(dataset, allowed, f"data set for {task}")]


def find_task(name: str) -> str:
    """The task that `name`, or an alias, stands for."""
    return ALIASES.get(name) or choose(name, TASKS, "task")


def benchmark_sources(task: str, text: str) -> tuple[str, ...]:
    """The training sets of a whole benchmark: those of a group, or those that `text` lists."""
    if text in GROUPS:
        return GROUPS[text][task]
    allowed = [*sources(task), *GROUPS]
    return tuple(choose(name, allowed, f"data set to train on for {task} (DATASETS)") for name in text.split())


def backbone_config(source: str) -> str:
    """The config of base2new with the backbone that fits the training set; other tasks fall back on it."""
    return "tiny" if source in RENDERED else "vit_b16"


def default_config(trainer: str, task: str, source: str) -> str:
    """The file under configs/trainers/<trainer>/ for a task and a training set; that of base2new may be missing."""
    usual = backbone_config(source)
    own = usual + CONFIG_SUFFIXES.get(task, "")
    return own if own in configs(trainer) else usual


def configs(trainer: str) -> list[str]:
    """The names of a method's configs."""
    return sorted(path.stem for path in (ROOT / "configs" / "trainers" / trainer).glob("*.yaml"))


def trainers() -> list[str]:
    """The methods that have configs, in the registry's order."""
    return sorted({path.parent.name for path in (ROOT / "configs" / "trainers").glob("[!_]*/*.yaml")})


@functools.cache
def learns(trainer: str) -> bool:
    """Whether a method trains: one that does has an OPTIM node in a config; without, one run stands for all seeds."""
    folder = ROOT / "configs" / "trainers" / trainer
    return any("OPTIM" in composed_tree(str(folder / f"{name}.yaml")) for name in configs(trainer))

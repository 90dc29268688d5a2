"""Which calls of train.py a protocol needs, from the environment, the flags and further arguments.

Every run has a folder of its own:
OUTPUT/<task>/<train|test>_<base|new|all>/<data set[-domains]>/shots_<k>/<trainer>/<config>/seed<n>.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from dassl.names import choose, is_config_key
from protocols import definitions
from protocols.definitions import ROOT, Split

# Each is a variable of the environment and a flag, --data or the like, which wins.
DEFAULTS = {
    **{"DATA": str(ROOT / "data"), "OUTPUT": str(ROOT / "output"), "SEEDS": "1 2 3", "SHOTS": ""},
    **{"TRAINER": "GOPro", "CFG": "", "DATASETS": "paper", "JOBS": ""},
    **{"LAUNCHER": "local", "SLURM": ""},
}
# What starts the runs: processes of this machine, or jobs of a cluster; and how many go on at once, without JOBS.
LAUNCHERS = {"local": 1, "slurm": 256}
ALL = "all"  # as TRAINER: every method
# What these decide because the run's folder depends on it; not to be given to train.py by hand.
OWNED = {
    **{"--root": "DATA", "--seed": "SEEDS", "--config-file": "CFG"},
    **{"--dataset-config-file": "DATASET", "--output-dir": "OUTPUT", "--model-dir": "OUTPUT"},
    **{"DATASET.NUM_SHOTS": "SHOTS", "DATASET.SUBSAMPLE_CLASSES": "TASK", "--eval-only": "test.sh"},
    **{"DATASET.ROOT": "DATA", "SEED": "SEEDS", "TRAINER.NAME": "TRAINER", "DATASET.NAME": "DATASET"},
    **{"OUTPUT_DIR": "OUTPUT"},
}


@dataclass(frozen=True)
class Settings:
    """What the environment and the flags choose.

    `shots` is empty where the task's default holds; `datasets` is for benchmarks; `jobs` runs go on at once, started by
    `launcher`; `slurm` has the words for it, as in a shell; `flags` and `pairs` (KEY VALUE) go to train.py.
    """

    data: Path
    output: Path
    seeds: tuple[int, ...]
    shots: tuple[int, ...]
    trainers: tuple[str, ...]
    cfg: str
    datasets: str
    jobs: int
    launcher: str
    slurm: str
    dry_run: bool
    flags: tuple[str, ...]
    pairs: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One call of train.py; a test with empty `argv` was done at the end of the training in `folder`."""

    kind: str
    split: Split
    folder: Path
    argv: tuple[str, ...]
    weights: Path | None = None  # the training folder that a test needs

    def __str__(self) -> str:
        name, shots, trainer, cfg, seed = self.folder.parts[-5:]
        count = shots.removeprefix("shots_")
        what = f"{self.split.classes} classes" + (f", {count} shot{'s' * (count != '1')}" if count != "0" else "")
        return f"{self.kind} {name} ({what}), {trainer}/{cfg}, {seed}"


def split_flags(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Separates our flags from what goes to train.py: --seeds 1 2 and --seeds=1 are SEEDS.

    A flag takes all words up to the next flag or config key, at least one; --slurm may be repeated and adds up.
    """
    given: dict[str, list[str]] = {}
    rest: list[str] = []
    target = rest
    for word in words:
        flag, _, value = word.partition("=")
        name = flag[2:].upper()
        if name in DEFAULTS and flag == f"--{name.lower()}":
            target = given[name] = [*(given.get(name, []) if name == "SLURM" else []), *([value] if value else [])]
            continue
        if target and (word.startswith("--") or is_config_key(word)):
            target = rest
        target.append(word)
    for name, values in given.items():
        if not "".join(values):
            raise ValueError(f"--{name.lower()} needs a value")
    # The words of --slurm may hold spaces.
    return {name: (shlex.join if name == "SLURM" else " ".join)(values) for name, values in given.items()}, rest


def read_settings(words: list[str]) -> Settings:
    """Reads the environment, the flags and the arguments for train.py.

    Raises:
        ValueError: a value is no number or unknown, or an argument belongs to a setting.
    """
    given, rest = split_flags(words)
    for word in rest:
        if owner := OWNED.get(word.split("=")[0]):
            raise ValueError(f"{word} is set by {owner} here, because the run's folder depends on it")
    flags: list[str] = []
    pairs: list[str] = []
    remaining = iter(rest)
    for word in remaining:
        if not is_config_key(word):
            flags.append(word)
        elif (value := next(remaining, None)) is not None:
            pairs += [word, value]
        else:
            raise ValueError(f"{word} needs a value")
    values = {name: given.get(name) or os.environ.get(name) or default for name, default in DEFAULTS.items()}
    numbers: dict[str, tuple[int, ...]] = {}
    for name, least in (("SEEDS", 0), ("SHOTS", 1), ("JOBS", 1)):
        found, one = values[name].split(), name == "JOBS"
        right = all(re.fullmatch(r"\d+", word) and int(word) >= least for word in found)
        numbers[name] = tuple(dict.fromkeys(map(int, found))) if right else ()
        if not right or (values[name] and not found) or (one and len(numbers[name]) > 1):
            what = f"one whole number from {least}" if one else f"whole numbers from {least} with spaces between them"
            raise ValueError(f"{name} must be {what}, got {values[name]!r}")
    launcher = choose(values["LAUNCHER"], LAUNCHERS, "launcher (LAUNCHER)")
    if "SLURM" in given and launcher != "slurm":
        raise ValueError(f"--slurm is for LAUNCHER slurm, which is {launcher!r}")
    return Settings(
        data=absolute("DATA", values["DATA"]),
        output=absolute("OUTPUT", values["OUTPUT"]),
        seeds=numbers["SEEDS"],
        shots=numbers["SHOTS"],
        trainers=tuple(values["TRAINER"].split()),
        cfg=values["CFG"],
        datasets=values["DATASETS"],
        jobs=(*numbers["JOBS"], LAUNCHERS[launcher])[0],
        launcher=launcher,
        slurm=values["SLURM"],
        dry_run=bool(os.environ.get("DRY_RUN")),
        flags=tuple(flags),
        pairs=tuple(pairs),
    )


def absolute(name: str, value: str) -> Path:
    """The absolute path of a folder that a setting names; ~ is a home folder."""
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ValueError(f"{name} names the home folder of no user: {value!r}") from None


def shots_of(opts: Settings, task: str) -> tuple[int, ...]:
    """The numbers of images per class to train `task` with; a ValueError of several, where the task compares none."""
    shots = opts.shots or definitions.DEFAULT_SHOTS[task]
    if len(shots) > len(definitions.DEFAULT_SHOTS[task]) == 1:
        raise ValueError(f"SHOTS must be one whole number for {task}, got {' '.join(map(str, shots))!r}")
    return shots


def chosen(opts: Settings, task: str, source: str) -> tuple[dict[str, str], list[str]]:
    """The methods of TRAINER with their configs, and of all those that have no config for `source`.

    "all" are all methods in the registry's order, those that learn nothing first.

    Raises:
        ValueError: an unknown method, or one of a list has no such config.
    """
    known = definitions.trainers()
    every = ALL in opts.trainers
    names = sorted(known, key=definitions.learns) if every else opts.trainers
    picked: dict[str, str] = {}
    for trainer in names:
        choose(trainer, [*known, ALL], "trainer (TRAINER)")
        cfg = opts.cfg or definitions.default_config(trainer, task, source)
        if not every:
            choose(cfg, definitions.configs(trainer), f"config (CFG) of {trainer}")
        if cfg in definitions.configs(trainer):
            picked[trainer] = cfg
    if not picked:  # of all
        cfg = opts.cfg or definitions.backbone_config(source)
        choose(cfg, sorted({name for trainer in known for name in definitions.configs(trainer)}), "config (CFG)")
    return picked, [name for name in names if name not in picked]


def plan(opts: Settings, task: str, source: str, retest: bool = False) -> list[Job]:
    """All runs of `task` whose weights come from `source`, each training before its tests.

    With `retest`, the training's own split is tested once more instead of taken from the training's record.
    """
    runs = []
    for trainer, cfg in chosen(opts, task, source)[0].items():
        learns = definitions.learns(trainer)
        for experiment, shots, seed in product(
            definitions.experiments(task, source),
            shots_of(opts, task) if learns else (0,),
            opts.seeds if learns else opts.seeds[:1],
        ):
            tail = Path(f"shots_{shots}", trainer, cfg)
            training = make_job(opts, "train", experiment.home, experiment.train, tail, seed)
            weights = training.folder if learns else None
            runs += [training] if learns else []
            for split in experiment.tests:
                own = split == experiment.train
                if own and learns and not retest:
                    runs.append(Job("test", split, training.folder, (), weights))
                else:
                    runs.append(make_job(opts, "test", experiment.home if own else task, split, tail, seed, weights))
    return runs


def make_job(
    opts: Settings, kind: str, task: str, split: Split, tail: Path, seed: int, weights: Path | None = None
) -> Job:
    """The folder and train.py's arguments of one run; `tail` is shots_<k>/<trainer>/<config>."""
    shots, trainer, cfg = tail.parts
    folder = opts.output / task / f"{kind}_{split.classes}" / split.name(kind) / tail / f"seed{seed}"
    flags: dict[str, object] = {
        **{"--root": opts.data, "--seed": seed, "--trainer": trainer},
        "--dataset-config-file": ROOT / "configs" / "datasets" / f"{split.dataset}.yaml",
        "--config-file": ROOT / "configs" / "trainers" / trainer / f"{cfg}.yaml",
        "--output-dir": folder,
    }
    # User flags, then ours, then KEY VALUE pairs: a flag with several values must not stand before a key.
    argv = [*opts.flags]
    if split.sources:
        argv += ["--source-domains", *split.sources, "--target-domains", *split.targets]
    argv += [str(word) for flag in flags.items() for word in flag]
    keys = ["DATASET.SUBSAMPLE_CLASSES", split.classes, "TEST.FEATURE_CACHE", str(opts.output / "features")]
    if kind == "train":
        keys += ["DATASET.NUM_SHOTS", shots.removeprefix("shots_")]
    else:
        argv += ["--eval-only", *(["--model-dir", str(weights)] if weights else [])]
    return Job(kind, split, folder, (*argv, *keys, *opts.pairs), weights)

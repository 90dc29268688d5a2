"""Which calls of train.py a protocol needs, from the environment and the command line.

Every run has a folder of its own:
OUTPUT/<task>/<train|test>_<base|new|all>/<data set[-domains]>/shots_<k>/<trainer>/<config>/seed<n>.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from scripts import protocols
from scripts.protocols import ROOT, Split, choose

# What the environment decides because the run's folder depends on it; not to be given to train.py by hand.
OWNED = {
    **{"--root": "DATA", "--seed": "SEEDS", "--trainer": "TRAINER", "--config-file": "CFG"},
    **{"--dataset-config-file": "DATASET", "--output-dir": "OUTPUT", "--model-dir": "OUTPUT"},
    **{"DATASET.NUM_SHOTS": "SHOTS", "DATASET.SUBSAMPLE_CLASSES": "TASK", "--eval-only": "test.sh"},
}
KEY = re.compile(r"[A-Z]\w*(\.\w+)+|USE_CUDA|VERBOSE")


@dataclass(frozen=True)
class Settings:
    """What the environment and the command line choose; `extra` goes to train.py."""

    data: Path
    output: Path
    seeds: tuple[int, ...]
    shots: int
    trainers: tuple[str, ...]
    cfg: str
    dry_run: bool
    extra: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One call of train.py; a test with empty `argv` was done at the end of the training in `folder`."""

    kind: str
    split: Split
    folder: Path
    argv: tuple[str, ...]
    weights: Path | None = None  # the training folder that a test needs

    def __str__(self) -> str:
        trainer, cfg, seed = self.folder.parts[-3:]
        return f"{self.kind} {self.folder.parts[-5]} ({self.split.classes} classes), {trainer}/{cfg}, {seed}"


def read_settings(extra: list[str]) -> Settings:
    """Reads the environment.

    Raises:
        ValueError: a variable is no number, or an argument belongs to the environment.
    """
    for word in extra:
        if owner := OWNED.get(word.split("=")[0]):
            raise ValueError(f"{word} is set by {owner} here, because the run's folder depends on it")

    def numbers(name: str, default: str) -> list[int]:
        text = os.environ.get(name) or default
        if not re.fullmatch(r"\s*\d+(\s+\d+)*\s*", text):
            raise ValueError(f"{name} must be whole numbers with spaces between them, got {text!r}")
        return [int(word) for word in text.split()]

    return Settings(
        data=Path(os.environ.get("DATA") or ROOT / "data").absolute(),
        output=Path(os.environ.get("OUTPUT") or ROOT / "output").absolute(),
        seeds=tuple(dict.fromkeys(numbers("SEEDS", "1 2 3"))),
        shots=numbers("SHOTS", "16")[0],
        trainers=tuple((os.environ.get("TRAINER") or "GOPro").split()),
        cfg=os.environ.get("CFG", ""),
        dry_run=bool(os.environ.get("DRY_RUN")),
        extra=tuple(extra),
    )


def plan(opts: Settings, task: str, source: str, retest: bool = False) -> list[Run]:
    """All runs of `task` whose weights come from `source`, each training before its tests.

    With `retest`, the training's own split is tested once more instead of taken from the training's record.
    """
    runs = []
    for trainer in opts.trainers:
        configs = ROOT / "configs" / "trainers"
        choose(trainer, sorted(path.name for path in configs.iterdir() if path.is_dir()), "trainer (TRAINER)")
        cfg = opts.cfg or protocols.default_config(source)
        choose(
            cfg,
            sorted(path.stem for path in (configs / trainer).glob("*.yaml")),
            f"config (CFG) of {trainer}",
        )
        learns = trainer not in protocols.UNTRAINED
        tail = Path(f"shots_{opts.shots if learns else 0}", trainer, cfg)
        for experiment in protocols.experiments(task, source):
            for seed in opts.seeds if learns else opts.seeds[:1]:
                training = make_run(opts, "train", experiment.home, experiment.train, tail, seed)
                runs += [training] if learns else []
                for split in experiment.tests:
                    own = split == experiment.train
                    if own and learns and not retest:
                        runs.append(Run("test", split, training.folder, (), training.folder))
                        continue
                    home = experiment.home if own else task
                    weights = training.folder if learns else None
                    runs.append(make_run(opts, "test", home, split, tail, seed, weights))
    return runs


def make_run(
    opts: Settings, kind: str, task: str, split: Split, tail: Path, seed: int, weights: Path | None = None
) -> Run:
    """The folder and train.py's arguments of one run; `tail` is shots_<k>/<trainer>/<config>."""
    name = split.name(kind)
    folder = opts.output / task / f"{kind}_{split.classes}" / name / tail / f"seed{seed}"
    flags: dict[str, object] = {
        "--root": opts.data,
        "--seed": seed,
        "--trainer": tail.parts[1],
        "--dataset-config-file": ROOT / "configs" / "datasets" / f"{split.dataset}.yaml",
        "--config-file": ROOT / "configs" / "trainers" / tail.parts[1] / f"{tail.parts[2]}.yaml",
        "--output-dir": folder,
    }
    # User flags, then ours, then KEY VALUE pairs: a flag with several values must not stand before a key.
    cut = next((i for i, word in enumerate(opts.extra) if KEY.fullmatch(word)), len(opts.extra))
    argv = [*opts.extra[:cut]]
    if split.sources:
        argv += ["--source-domains", *split.sources, "--target-domains", *split.targets]
    argv += [str(word) for flag in flags.items() for word in flag]
    keys = ["DATASET.SUBSAMPLE_CLASSES", split.classes]
    if kind == "train":
        keys += ["DATASET.NUM_SHOTS", str(opts.shots)]
    else:
        argv += ["--eval-only", *(["--model-dir", str(weights)] if weights else [])]
    return Run(kind, split, folder, (*argv, *keys, *opts.extra[cut:]), weights)

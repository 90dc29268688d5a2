"""Train or test one method on one data set: CoOp's command line on yacs configs.

Configs are composed in CoOp's order: defaults, --dataset-config-file, --config-file, flags, KEY VALUE pairs. A file may
name another one that it only changes, `_BASE_: other.yaml`, and hold values for some data sets or numbers of shots,
`_WHEN_: [{DATASET.NUM_SHOTS: [2, 4], SET: {OPTIM: {MAX_EPOCH: 100}}}]`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dassl.names import is_config_key
from dassl.startup import importing

if TYPE_CHECKING:  # heavy imports wait until the arguments are parsed, so that --help answers at once
    from yacs.config import CfgNode

    from dassl.config import Recipe

EXAMPLE = """example:
  python train.py --root data --seed 1 --trainer GOPro --dataset-config-file configs/datasets/shapes.yaml \\
      --config-file configs/trainers/GOPro/tiny.yaml --output-dir output/try DATASET.NUM_SHOTS 16

The run's folder keeps config.yaml, env.json, log.txt, metrics.jsonl, tensorboard/, results.json, checkpoints, and a
file `done` written last. The same command again resumes a run that was interrupted.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of CoOp and Dassl."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--root", default="", help="folder of the data sets (DATASET.ROOT)")
    add("--output-dir", default="", help="the run's folder (OUTPUT_DIR)")
    add("--resume", default="", help="folder of a run to resume from (default: the output folder)")
    add("--seed", type=int, help="seed of everything; negative draws one (SEED)")
    add("--source-domains", nargs="+", help="domains to train on (DATASET.SOURCE_DOMAINS)")
    add("--target-domains", nargs="+", help="domains to test on (DATASET.TARGET_DOMAINS)")
    add("--transforms", nargs="+", help="training transforms (INPUT.TRANSFORMS)")
    add("--config-file", type=expanduser, default="", help="YAML file of the method")
    add("--dataset-config-file", type=expanduser, default="", help="YAML file of the data set")
    add("--trainer", default="", help="registered name of a method (TRAINER.NAME)")
    add("--backbone", default="", help="CLIP by name, MODEL:TAG or file (MODEL.BACKBONE.NAME)")
    add("--head", default="", help="name of a head, for trainers that have one (MODEL.HEAD.NAME)")
    add("--eval-only", action="store_true", help="test the checkpoint in --model-dir")
    add("--model-dir", type=expanduser, default="", help="run folder to load the checkpoint from, for --eval-only")
    add("--load-epoch", type=int, help="epoch to load (default: the last)")
    add("--no-train", action="store_true", help="build everything, then stop")
    add("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    return parser


def parse_args(argv: list[str]) -> argparse.Namespace:
    """Parse a command line, without the program's name; KEY VALUE pairs may stand anywhere in it.

    Returns:
        The flags, and in `opts` the pairs.

    Raises:
        ValueError: Flags that have no effect together, or --model-dir is no folder.
    """
    words: list[str] = []
    pairs: list[str] = []
    rest = iter(argv)
    for word in rest:
        follows_flag = bool(words) and words[-1].startswith("--") and "=" not in words[-1]
        if is_config_key(word) and not follows_flag:
            pairs += [word, *([] if (value := next(rest, None)) is None else [value])]
        else:
            words.append(word)
    args = build_parser().parse_intermixed_args(words)
    args.opts = pairs + args.opts
    if args.eval_only and (args.no_train or args.resume):
        raise ValueError("--eval-only tests the model in --model-dir: --no-train and --resume have no effect with it")
    if not args.eval_only and (args.model_dir or args.load_epoch is not None):
        raise ValueError("--model-dir and --load-epoch have no effect without --eval-only (to go on: --resume)")
    if args.model_dir and not Path(args.model_dir).is_dir():
        raise FileNotFoundError(f"--model-dir {args.model_dir} is not a folder")
    return args


def build_config(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a run; see `compose`."""
    return compose(args)[0]


def compose(args: argparse.Namespace) -> tuple[CfgNode, list[Recipe]]:
    """Compose the config of a run from its parsed command line.

    Returns:
        The frozen config, and the recipes (_WHEN_) of its files, applied or not.

    Raises:
        ValueError: Unknown key (close matches named), wrong type or a value that is not allowed.
        FileNotFoundError: A config file does not exist.
    """
    import trainers
    from dassl.config import check_values, flatten, get_cfg_default, merge_file, merge_opts
    from dassl.config.rules import RULES

    flags = {
        "DATASET.ROOT": args.root,
        "OUTPUT_DIR": args.output_dir,
        "RESUME": args.resume,
        "DATASET.SOURCE_DOMAINS": args.source_domains,
        "DATASET.TARGET_DOMAINS": args.target_domains,
        "INPUT.TRANSFORMS": args.transforms,
        "TRAINER.NAME": args.trainer,
        "MODEL.BACKBONE.NAME": args.backbone,
        "MODEL.HEAD.NAME": args.head,
    }
    given = {key: value for key, value in flags.items() if value}
    if args.seed is not None:  # 0 is a seed
        given["SEED"] = args.seed

    def merge(facts: dict[str, Any] | None = None, files_only: bool = False) -> tuple[CfgNode, list[Recipe]]:
        cfg, recipes = get_cfg_default(), []
        trainers.add_config(cfg)
        for path in filter(None, (args.dataset_config_file, args.config_file)):
            recipes += merge_file(cfg, path, facts)
        if not files_only:
            merge_opts(cfg, [item for pair in given.items() for item in pair])
            merge_opts(cfg, args.opts)
        return cfg, recipes

    cfg, recipes = merge()
    if recipes:  # their conditions are about the final config, and no recipe changes what they ask for
        facts = flatten(cfg)
        (cfg, recipes), (files, _) = merge(facts), merge(facts, files_only=True)
        chosen, wanted = flatten(cfg), flatten(files)
        keys = {key for recipe in recipes for key in recipe.settings}  # applied or not: the rest is their default
        cfg.RECIPE = tuple(sorted(key for key in keys if chosen[key] == wanted[key]))
    check_values(cfg, {**RULES, **trainers.RULES})
    cfg.freeze()
    return cfg, recipes


def next_steps(args: argparse.Namespace, cfg: CfgNode, num_classes: int) -> str:
    """What to do with a run that has trained on so many classes: commands to paste into a shell in the same folder."""
    words: list[str] = []
    named = ("source_domains", "target_domains", "transforms", "root", "trainer", "backbone", "head")
    for name in (*named, "dataset_config_file", "config_file"):
        if value := getattr(args, name):
            words += [f"--{name.replace('_', '-')}", *([value] if isinstance(value, str) else value)]
    words += ["--seed", str(cfg.SEED)]
    pairs = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    for key in ("OUTPUT_DIR", "RESUME", "SEED"):
        pairs.pop(key, None)
    folder, python, here = cfg.OUTPUT_DIR, _program("python"), Path(__file__).parent

    def test(name: str, **changed: str) -> str:
        flags = ["--eval-only", "--model-dir", folder, "--output-dir", os.path.join(folder, name)]
        settings = [word for pair in {**pairs, **changed}.items() for word in pair]
        return shlex.join(map(str, [*python, _shown(here / "train.py"), *flags, *words, *settings]))

    lines = [f"Test it:     {test('test')}"]
    if cfg.DATASET.SUBSAMPLE_CLASSES == "base" and num_classes > 1:
        lines += [f"New classes: {test('test_new', **{'DATASET.SUBSAMPLE_CLASSES': 'new'})}"]
    predict = shlex.join([*python, _shown(here / "predict.py"), "--model-dir", folder])
    board = shlex.join([*_program("tensorboard"), "--logdir", folder])
    return "\n".join([*lines, f"Predict:     {predict} IMAGE_OR_FOLDER", f"TensorBoard: {board}"])


def _shown(path: Path) -> str:
    """A path as a shell in the working folder may be given it; short where it lies there."""
    return os.path.relpath(path) if Path.cwd() in path.absolute().parents else str(path.absolute())


def _program(name: str) -> list[str]:
    """How a shell calls a program of this interpreter's environment: by its name where the PATH leads there."""
    own = Path(sys.executable).with_name(name)
    if own.exists():
        return [name if shutil.which(name) == str(own) else _shown(own)]
    return [_shown(Path(sys.executable)), *([] if name == "python" else ["-m", f"{name}.main"])]


def main(argv: list[str] | None = None) -> dict[str, float] | None:
    """Run from a command line.

    Args:
        argv: Arguments without the program's name; None takes sys.argv.

    Returns:
        The results of the last evaluation, or None with --no-train.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)

    with importing():
        import datasets  # noqa: F401  registers the data sets
        import trainers  # noqa: F401  and the methods
        from dassl.engine import build_trainer, run

    cfg, recipes = compose(args)
    with run(cfg, argv, config_name=Path(args.config_file).stem) as this_run:
        for recipe in recipes:
            if recipe.applied:
                print(recipe.told(cfg))
        trainer = build_trainer(cfg)
        if args.no_train:
            return None
        learns, weights = bool(trainer.get_model_names()), ""
        if args.eval_only and learns:
            trainer.load_model(args.model_dir, epoch=args.load_epoch)
            weights = args.model_dir if args.load_epoch is None else f"{args.model_dir} (epoch {args.load_epoch})"
            free = trainer.free_keys(trainer.loaded_meta)
        else:
            free = trainer.check_resume(cfg.RESUME or cfg.OUTPUT_DIR)
        trains = learns and not args.eval_only
        this_run.begin("train" if trains else "test", weights, free)
        if args.eval_only:
            trainer.test()
        else:
            trainer.train()
        this_run.finish(trainer.result_record())
        if trains:
            print(next_steps(args, cfg, trainer.num_classes))
        return dict(trainer.results)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"train.py: {type(error).__name__}: {error}")

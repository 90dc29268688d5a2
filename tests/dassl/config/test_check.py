"""Rules: what each allows, that the engine's fit its defaults, and the one error."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from yacs.config import CfgNode

from dassl.config import check, check_values, flatten, get_cfg_default, merge_opts, refuse_unread
from dassl.config.check import (
    Rule,
    at_least,
    between,
    each,
    empty,
    existing_file,
    interval,
    number,
    one_of,
    positive,
    share,
    text,
    whole,
)
from dassl.config.rules import RULES

ANY_VALUE = {"VERSION", "SEED", "INPUT.GN_MEAN", "DATASET.NUM_LABELED"}
NAMES = {"DATASET.NAME", "TRAINER.NAME", "MODEL.BACKBONE.NAME", "MODEL.HEAD.NAME", "DATASET.ROOT", "DATASET.SPLIT_FILE"}


@pytest.fixture
def cfg() -> CfgNode:
    return get_cfg_default()


def test_the_engines_defaults_follow_the_engines_rules(cfg: CfgNode) -> None:
    check_values(cfg, RULES)


def test_every_key_with_a_range_has_a_rule_and_every_rule_a_key(cfg: CfgNode) -> None:
    leaves = flatten(cfg)
    assert RULES.keys() <= leaves.keys()
    free = {key for key, value in leaves.items() if not isinstance(value, bool)} - RULES.keys()
    assert free == ANY_VALUE | NAMES


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (at_least(0), [0, 0.0, 5], [-1, -1e-9, True, "1", None, math.nan]),
        (positive, [1e-300, 2], [0, -1, math.nan, "a"]),
        (between(0, 0.5), [0, 0.5], [-0.1, 0.6, True]),
        (share, [0, 1, 0.5], [-0.01, 1.01]),
        (whole(1), [1, 2**40], [0, 1.0, True, "1"]),
        (number, [-1e9, 0], [True, "0", None]),
        (one_of("a", "b"), ["a"], ["c", "", 1]),
        (one_of(-1) | at_least(1), [-1, 1, 2.5], [0, -2]),
        (empty | text, ["", "a", "{}"], [" ", "\n", 1]),
        (each(whole(1)), [(), (1, 2), [3]], [(0,), (1, "2"), (1.5,), 3, (None,)]),
        (each(whole(1), count=2), [(1, 2)], [(), (1,), (1, 2, 3)]),
        (each(text), [(), ("a",)], [("",), (1,), ("a", " ")]),
        (interval(0, 1), [(0, 1), (0.5, 0.5)], [(1, 0), (0.5,), (0, 0.5, 1), (0, 2), (-1, 0), ("a", 1), (True, True)]),
        (existing_file, [__file__], ["", "/", "/gone", "x" * 5000]),
    ],
    ids=lambda value: value.allowed if isinstance(value, Rule) else "",
)
def test_rules(rule: Rule, allowed: list[Any], refused: list[Any]) -> None:
    for value in allowed:
        check_values(CfgNode({"A": {"B": value}}), {"A.B": rule})
    for value in refused:
        with pytest.raises(ValueError, match="A.B must"):
            check_values(CfgNode({"A": {"B": value}}), {"A.B": rule})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("TRAIN.PRINT_FREQ", "0", "TRAIN.PRINT_FREQ must be at least 1, got 0."),
        ("OPTIM.LR", "1e999", "OPTIM.LR must hold finite numbers of at most 64 bits, no null characters; got inf"),
        ("INPUT.RRCROP_SCALE", "(0.5,)", "two numbers (a, b) with 0 <= a <= b <= 1, got (0.5,)."),
        ("INPUT.SIZE", "(224.0, 224)", "INPUT.SIZE must be 2 values, each a whole number of at least 1, got (224.0"),
        ("INPUT.SIZE", "()", "INPUT.SIZE must be 2 values, each a whole number of at least 1, got ()."),
        ("INPUT.TRANSFORMS", "('random_filp',)", "got ('random_filp',). Did you mean random_flip"),
        ("INPUT.COLORJITTER_H", "0.7", "INPUT.COLORJITTER_H must be from 0 to 0.5, got 0.7."),
        ("INPUT.GB_K", "4", "INPUT.GB_K must be a positive odd number of pixels, got 4."),
        ("DATASET.SOURCE_DOMAINS", "('',)", "must be a list, each a text that is not blank, got ('',)."),
        ("DATASET.SUBSAMPLE_CLASSES", "bass", "must be one of all, base, new, got 'bass'. Did you mean base?"),
        ("DATASET.NUM_SHOTS", "0", "DATASET.NUM_SHOTS must be -1 or at least 1, got 0."),
        ("OUTPUT_DIR", "", "OUTPUT_DIR must be a text that is not blank, got ''."),
        ("OUTPUT_DIR", "a\0b", "OUTPUT_DIR must hold"),
        ("SEED", str(10**30), "SEED must hold finite numbers of at most 64 bits"),
        ("OPTIM.ADAM_BETA1", "1", "OPTIM.ADAM_BETA1 must be at least 0 and below 1, got 1.0."),
        ("OPTIM.ADAM_EPS", "0", "OPTIM.ADAM_EPS must be positive, got 0.0."),
        ("TEST.SPLIT", "train", "TEST.SPLIT must be one of val, test, got 'train'."),
    ],
)
def test_the_error_names_key_value_and_what_is_allowed(key: str, value: str, message: str, cfg: CfgNode) -> None:
    merge_opts(cfg, [key, value])
    with pytest.raises(ValueError, match=f"^{key} must ") as caught:
        check_values(cfg, RULES)
    assert message in str(caught.value)


def test_keys_without_a_rule_and_rules_without_a_key_are_no_hindrance(cfg: CfgNode) -> None:
    cfg.FOREIGN = CfgNode({"ANY": [None, "x", {"a": 1}], "HUGE": 2**63 - 1})
    check_values(cfg, {**RULES, "FOREIGN.GONE": positive})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATASET.NUM_LABELED", 5),
        ("DATASET.VAL_PERCENT", 0.2),
        ("DATASET.ALL_AS_UNLABELED", True),
        ("DATALOADER.K_TRANSFORMS", 2),
        ("DATALOADER.RETURN_IMG0", True),
        ("DATALOADER.TRAIN_U.BATCH_SIZE", 4),
        ("DATALOADER.TRAIN_U.SAME_AS_X", False),
        ("MODEL.HEAD.NAME", "mlp"),
        ("MODEL.HEAD.DROPOUT", 0.5),
        ("TRAIN.COUNT_ITER", "train_u"),
    ],
)
def test_a_trainer_may_refuse_keys_that_it_does_not_read(key: str, value: Any, cfg: CfgNode) -> None:
    cfg.TRAINER.NAME = "Own"
    refuse_unread(cfg)
    merge_opts(cfg, [key, value])
    with pytest.raises(ValueError, match=f"{key} has no effect with TRAINER.NAME Own; got {value!r}"):
        refuse_unread(cfg)


def test_unread_keys_are_keys_or_groups() -> None:
    leaves = flatten(get_cfg_default())
    assert all(any(f"{key}.".startswith(f"{name}.") for key in leaves) for name in check.UNREAD_KEYS)


def test_existing_file_and_run_folder(tmp_path: Path, cfg: CfgNode, check_one: Callable[[str, str], None]) -> None:
    check_one("MODEL.INIT_WEIGHTS", __file__)
    for folder in ("/gone", str(tmp_path), __file__):
        with pytest.raises(ValueError, match="RESUME must be empty or the folder of a run with a checkpoint"):
            check_one("RESUME", folder)
    (tmp_path / "learner").mkdir()
    (tmp_path / "learner" / "model.pth.tar-2").touch()
    check_one("RESUME", str(tmp_path))


@pytest.fixture
def check_one(cfg: CfgNode) -> Callable[[str, str], None]:
    def run(key: str, value: str) -> None:
        merge_opts(cfg, [key, value])
        check_values(cfg, RULES)

    return run

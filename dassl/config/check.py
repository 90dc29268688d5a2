"""What the value of a key may be: rules beside the keys, checked at once, before anything is read or built.

A method says the rules of its keys in its own file, under the name RULES, as `dassl.config.rules` does for the
engine's; `trainers.keys.declare` makes it from keys that have default and rule side by side:

    RULES = {
        "TRAINER.GOPRO.VARIANT": one_of("paper", "released"),
        "TRAINER.GOPRO.TEMPERATURE": positive,
        "TRAINER.GOPRO.AUGMIX.DEPTH": one_of(-1) | at_least(1),
        "TRAINER.GOPRO.MOCO.SCALE": interval(0, 1),
        "TRAINER.GOPRO.MOCO.JITTER": each(at_least(0), count=4),
        "TRAINER.GOPRO.CTX_INIT": empty | text,
        "TRAINER.ZSCLIP.TEMPLATE": one_of("auto") | Rule("a text with one {}", lambda value: value.count("{}") == 1),
    }

`trainers.RULES` joins those of all methods, and `train.build_config` checks them together with the engine's. A key
without a rule (a bool, a key of a foreign trainer) may be anything sane: finite, at most 64 bits, no null character.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from yacs.config import CfgNode

from dassl.names import did_you_mean

from .defaults import get_cfg_default
from .merge import flatten


@dataclass(frozen=True)
class Rule:
    """What a value may be. `a | b` allows what one of the two allows.

    Attributes:
        allowed: Ends the sentence "KEY must be ...".
        accepts: Whether a value of the default's type is allowed; it may raise TypeError for odd elements.
        names: What a wrong word is compared with, for "did you mean".
    """

    allowed: str
    accepts: Callable[[Any], bool]
    names: tuple[str, ...] = ()

    def __or__(self, other: Rule) -> Rule:
        return Rule(
            f"{self.allowed} or {other.allowed}",
            lambda value: self.accepts(value) or other.accepts(value),
            self.names + other.names,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def at_least(low: float) -> Rule:
    """Numbers from `low` on."""
    return Rule(f"at least {low}", lambda value: _is_number(value) and value >= low)


def between(low: float, high: float) -> Rule:
    """Numbers from `low` to `high`, both allowed."""
    return Rule(f"from {low} to {high}", lambda value: _is_number(value) and low <= value <= high)


def whole(low: int) -> Rule:
    """Integers from `low` on; for elements of a list, which have no default to take the type from."""
    return Rule(f"a whole number of at least {low}", lambda value: type(value) is int and value >= low)


def one_of(*values: Any) -> Rule:
    """One of the given values."""
    shown = f"one of {', '.join(map(str, values))}" if len(values) > 1 else str(values[0])
    return Rule(shown, lambda value: value in values, tuple(map(str, values)))


def each(rule: Rule, count: int | None = None) -> Rule:
    """Lists whose elements follow a rule, all of one length where `count` is given."""
    size = "a list" if count is None else f"{count} values"
    return Rule(
        f"{size}, each {rule.allowed}",
        lambda value: (count is None or len(value) == count) and all(map(rule.accepts, value)),
        rule.names,
    )


def interval(low: float, high: float) -> Rule:
    """Pairs (a, b) with low <= a <= b <= high."""
    ends = between(low, high)
    return Rule(
        f"two numbers (a, b) with {low} <= a <= b <= {high}",
        lambda value: len(value) == 2 and all(map(ends.accepts, value)) and value[0] <= value[1],
    )


positive = Rule("positive", lambda value: _is_number(value) and value > 0)
share = between(0, 1)
number = Rule("a number", _is_number)
empty = Rule("empty", lambda value: len(value) == 0)
text = Rule("a text that is not blank", lambda value: isinstance(value, str) and bool(value.strip()))
existing_file = Rule("a file that exists", os.path.isfile)
_ANYTHING = Rule("anything", lambda value: True)

# Dassl's keys for other kinds of trainers: with heads, with unlabelled data, with several copies of an image.
UNREAD_KEYS = (
    "DATASET.NUM_LABELED",
    "DATASET.VAL_PERCENT",
    "DATASET.ALL_AS_UNLABELED",
    "DATALOADER.K_TRANSFORMS",
    "DATALOADER.RETURN_IMG0",
    "DATALOADER.TRAIN_U",
    "MODEL.HEAD",
    "TRAIN.COUNT_ITER",
)


def refuse_unread(cfg: CfgNode) -> None:
    """For the `check_cfg` of a trainer that reads none of `UNREAD_KEYS` (keys, or groups of them).

    Raises:
        ValueError: Names a key of those that was changed.
    """
    given, defaults = flatten(cfg), flatten(get_cfg_default())
    for key, default in defaults.items():
        unread = any(key == name or key.startswith(f"{name}.") for name in UNREAD_KEYS)
        if unread and given.get(key, default) != default:
            raise ValueError(f"{key} has no effect with TRAINER.NAME {cfg.TRAINER.NAME}; got {given[key]!r}")


def check_values(cfg: CfgNode, rules: Mapping[str, Rule]) -> None:
    """Check every value.

    Args:
        cfg: The config.
        rules: By dotted key; those of keys that the config lacks are not asked.

    Raises:
        ValueError: Names the first key that breaks its rule, its value and what is allowed.
    """
    for key, value in flatten(cfg).items():
        if not _is_sane(value):
            raise ValueError(f"{key} must hold finite numbers of at most 64 bits, no null characters; got {value!r}")
        rule = rules.get(key, _ANYTHING)
        try:
            follows = rule.accepts(value)
        except (TypeError, AttributeError):  # an element of another type than the rule is made for
            follows = False
        if not follows:
            words = value if isinstance(value, list | tuple) else [value]
            wrong = [word for word in words if isinstance(word, str) and word not in rule.names]
            hint = "".join(did_you_mean(word, rule.names) for word in wrong)
            raise ValueError(f"{key} must be {rule.allowed}, got {value!r}.{hint}")


def _is_sane(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_sane, value))
    if isinstance(value, str):
        return "\0" not in value
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, float) or isfinite(value)

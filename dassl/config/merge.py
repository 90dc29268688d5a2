"""Merging into a config: every mistake is one error that names the key, the value and what is allowed."""

from __future__ import annotations

import os
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from dassl.names import did_you_mean

from .defaults import get_cfg_default

BASE_KEY = "_BASE_"  # as in detectron2's files
WHEN_KEY, SET_KEY = "_WHEN_", "SET"
CONDITIONS = ("DATASET.NAME", "DATASET.NUM_SHOTS")  # what a recipe may depend on
# Lists of names, in which a number, e.g. a year, is a name too.
NAME_LISTS = ("DATASET.SOURCE_DOMAINS", "DATASET.TARGET_DOMAINS", "OPTIM.NEW_LAYERS")
_DEFAULTS = "__defaults__"  # attribute of a config that was merged into


def flatten(cfg: dict[str, Any]) -> dict[str, Any]:
    """All leaves of a config, or of its plain tree, by dotted name, e.g. {"OPTIM.LR": 0.002}."""
    return dict(_leaves(cfg))


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def declared_defaults(cfg: CfgNode) -> CfgNode:
    """The config as it was before anything was merged into it; the engine's defaults where that is not known."""
    found: CfgNode = cfg.__dict__.get(_DEFAULTS) or get_cfg_default()
    return found


@dataclass(frozen=True)
class Recipe:
    """An entry of a file's _WHEN_: values for the runs of which its conditions hold.

    Attributes:
        path: The file.
        facts: The config's values of the keys that are conditions.
        settings: The values by dotted key.
        applied: Whether all conditions hold.
    """

    path: str
    facts: dict[str, Any]
    settings: dict[str, Any]
    applied: bool

    def told(self, cfg: CfgNode) -> str:
        """A line for the log, which says too what came later and won."""
        now = flatten(cfg)
        settings = [
            f"{key} {value}" + (f" (overridden by {now[key]})" if now[key] != value else "")
            for key, value in self.settings.items()
        ]
        reasons = [f"{key} {value}" for key, value in self.facts.items()]
        return f"recipe: {', '.join(settings)} ({', '.join([*reasons, self.path])})"


def merge_file(cfg: CfgNode, path: str, facts: Mapping[str, Any] | None = None) -> list[Recipe]:
    """Merge a YAML file, in UTF-8 or UTF-16; first the file that its key _BASE_ names, relative to its own folder.

    Its key _WHEN_ is a list of recipes, which change the file's own values where their conditions hold; of those that
    do, the later wins:

        _WHEN_:
          - {DATASET.NUM_SHOTS: [2, 4], SET: {OPTIM: {MAX_EPOCH: 100}}}
          - {DATASET.NAME: ImageNet, SET: {OPTIM: {MAX_EPOCH: 50}}}

    Args:
        cfg: The config to change.
        path: The file.
        facts: Values by dotted key of what conditions may name; default: those of `cfg` after the file's own values.

    Returns:
        All recipes of the file and those it is based on, applied or not.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not YAML, not a mapping, files that are each other's _BASE_, an unknown key, a wrong type, or a
            recipe that is none, whether its conditions hold or not.
    """
    recipes: list[Recipe] = []
    for origin, tree in _layers(path):
        when = tree.pop(WHEN_KEY, [])
        if not isinstance(when, list):
            raise ValueError(
                f"{WHEN_KEY} in {origin} must be a list of entries, each conditions and {SET_KEY}, got {when!r}"
            )
        _merge_tree(cfg, tree, origin)
        known = facts or flatten(cfg)
        recipes += [_merge_recipe(cfg, entry, origin, number, known) for number, entry in enumerate(when, 1)]
    return recipes


def composed_tree(path: str) -> dict[str, Any]:
    """What a YAML file sets with the files that it starts from (_BASE_), as a plain tree: no recipes, values as is.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not YAML, not a mapping, or files that are each other's _BASE_.
    """
    composed: dict[str, Any] = {}
    for _, tree in _layers(path):
        _overlay(composed, {key: value for key, value in tree.items() if key != WHEN_KEY})
    return composed


def _layers(path: str, _from: tuple[Path, ...] = ()) -> list[tuple[str, dict[str, Any]]]:
    """The trees to merge one after the other, with the file of each: the _BASE_ of all first, `path` last."""
    origin = f"_BASE_ {path} of {_from[-1]}" if _from else f"config file {path}"
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{origin} does not exist")
    if any(file.samefile(other) for other in _from):
        raise ValueError(f"{BASE_KEY} goes in a circle: {' -> '.join(map(str, (*_from, path)))}")
    tree = _read_yaml(file)
    if BASE_KEY not in tree:
        return [(path, tree)]
    base = tree.pop(BASE_KEY)
    if not isinstance(base, str):
        raise ValueError(f"{BASE_KEY} in {path} must be the path of a file, got {base!r}")
    return [*_layers(str(file.parent / Path(base).expanduser()), (*_from, file)), (path, tree)]


def _overlay(tree: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _overlay(tree[key], value)
        else:
            tree[key] = value


def _merge_recipe(cfg: CfgNode, entry: Any, path: str, number: int, facts: Mapping[str, Any]) -> Recipe:
    """Check an entry of _WHEN_, and merge its SET if its conditions hold."""
    origin = f"entry {number} of {WHEN_KEY} in {path}"
    if not isinstance(entry, dict) or SET_KEY not in entry:
        raise ValueError(f"{origin} must hold conditions and {SET_KEY}, got {entry!r}")
    conditions = {str(key): value for key, value in entry.items() if key != SET_KEY}
    if odd := [key for key in conditions if key not in CONDITIONS]:
        raise ValueError(
            f"{odd[0]} in {origin} is no condition; allowed: {', '.join(CONDITIONS)}, and beside them {SET_KEY}."
            f"{did_you_mean(odd[0], CONDITIONS)}"
        )
    if not conditions:
        raise ValueError(f"{origin} has no condition ({', '.join(CONDITIONS)}); what always holds needs no {WHEN_KEY}")
    tree = entry[SET_KEY]
    if not isinstance(tree, dict):
        raise ValueError(f"{SET_KEY} in {origin} must hold KEY: VALUE pairs, got {tree!r}")
    tried = cfg.clone()
    _merge_tree(tried, tree, origin)  # a mistake shows in runs of which the conditions do not hold, too
    settings = {key: flatten(tried)[key] for key in flatten(tree)}
    if not settings:
        raise ValueError(f"{SET_KEY} in {origin} sets nothing")
    if facts_set := [key for key in settings if key in CONDITIONS]:
        raise ValueError(f"{SET_KEY} in {origin} must not set {facts_set[0]}, which conditions ask for")
    allowed = {key: _values(cfg, key, value, origin) for key, value in conditions.items()}
    holds = all(facts[key] in values for key, values in allowed.items())
    if holds:
        _merge_tree(cfg, tree, origin)
    return Recipe(path, {key: facts[key] for key in conditions}, settings, holds)


def _values(cfg: CfgNode, key: str, value: Any, origin: str) -> list[Any]:
    """The values of a key that meet a condition."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError(f"{key} in {origin} must be a value or a list of some, got []")
    return [_coerce(key, one, flatten(cfg)[key], origin) for one in values]


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML's safe loader, which would keep the last of two equal keys in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands here twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)  # type: ignore[no-any-return]


def _read_yaml(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        tree = yaml.load(content, _Loader)
    except yaml.reader.ReaderError as error:
        line = content[: error.position].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8 ({error.reason})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that does not exist
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict | None):
        raise ValueError(f"{path} must hold KEY: VALUE pairs, got a {type(tree).__name__}")
    return tree or {}


def merge_opts(cfg: CfgNode, opts: Sequence[Any]) -> None:
    """Merge KEY VALUE pairs, e.g. ["OPTIM.LR", "0.002"]; the values are strings as typed, or values.

    Raises:
        ValueError: A key without a value, an unknown key, or a wrong type.
    """
    if len(opts) % 2:
        raise ValueError(f"overrides must be KEY VALUE pairs, got {len(opts)} words: {' '.join(map(str, opts))}")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _set(cfg, str(key), value, "the command line")


def _merge_tree(cfg: CfgNode, tree: dict[str, Any], origin: str) -> None:
    for key, value in _leaves(tree):
        _set(cfg, key, value, origin)


def _set(cfg: CfgNode, key: str, value: Any, origin: str) -> None:
    leaves = flatten(cfg)
    if key not in leaves:
        inside = [leaf for leaf in leaves if leaf.startswith(f"{key}.")]
        if inside:
            raise ValueError(f"{key} in {origin} is a group of keys, not one; it holds {', '.join(inside)}")
        last = key.upper().rpartition(".")[2]
        same = [leaf for leaf in leaves if leaf.rpartition(".")[2] == last]
        hint = did_you_mean(key, same or leaves) or f" It may be of {', '.join(same or cfg)}."
        raise ValueError(f"unknown config key {key} in {origin}.{hint}")
    if cfg.is_frozen():  # item assignment below would not notice
        raise AttributeError(f"{key} cannot be set from {origin}: the config is frozen")
    if _DEFAULTS not in cfg.__dict__:
        cfg.__dict__[_DEFAULTS] = cfg.clone()
    *path, leaf = key.split(".")
    node = cfg
    for part in path:
        node = node[part]
    node[leaf] = _coerce(key, value, node[leaf], origin)


def _coerce(key: str, value: Any, current: Any, origin: str) -> Any:
    given = value
    if isinstance(value, str):
        try:
            value = literal_eval(value)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = {"true": True, "false": False}.get(value.lower(), value)
        if isinstance(current, str) and not isinstance(value, str):
            value = given  # a name that reads like a number stays a name
    if isinstance(value, str) and value.startswith("~/"):  # the shell leaves it in --root=~/data, YAML does always
        value = os.path.expanduser(value)
    if isinstance(current, bool) or isinstance(value, bool):
        fits = isinstance(current, bool) and isinstance(value, bool)
    elif isinstance(current, float):
        fits = isinstance(value, int | float)
        value = float(str(value)) if fits else value  # of a string, since a huge integer is then infinite, no error
    elif isinstance(current, tuple | list):
        fits = isinstance(value, tuple | list)
        if fits and key in NAME_LISTS:
            value = [str(name) if type(name) is int else name for name in value]
        value = type(current)(value) if fits else value
    else:
        fits = current is None or isinstance(value, type(current))
    if not fits:
        kind = "tuple or list" if isinstance(current, tuple | list) else type(current).__name__
        raise ValueError(
            f"{key} in {origin} must be of type {kind} (default {current!r}), got {given!r} "
            f"of type {type(value).__name__}"
        )
    return value

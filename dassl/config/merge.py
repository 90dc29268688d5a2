"""Merging into a config: every mistake is one error that names the key, the value and what is allowed."""

from __future__ import annotations

import difflib
from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode


def flatten(cfg: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """All leaves of a config, or of its plain tree, by dotted name, e.g. {"OPTIM.LR": 0.002}."""
    leaves: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, dict):
            leaves.update(flatten(value, f"{prefix}{key}."))
        else:
            leaves[prefix + key] = value
    return leaves


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file.

    Args:
        cfg: The config to change.
        path: The file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a mapping, an unknown key, or a wrong type.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"config file {path} does not exist")
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if tree is not None and not isinstance(tree, dict):
        raise ValueError(f"{path} must hold KEY: VALUE pairs, got a {type(tree).__name__}")
    _merge_tree(cfg, tree or {}, "", path)


def merge_opts(cfg: CfgNode, opts: Sequence[Any]) -> None:
    """Merge KEY VALUE pairs, e.g. ["OPTIM.LR", "0.002"].

    Args:
        cfg: The config to change.
        opts: Alternating dotted keys and values (strings as typed, or values).

    Raises:
        ValueError: A key without a value, an unknown key, or a wrong type.
    """
    if len(opts) % 2:
        raise ValueError(f"overrides must be KEY VALUE pairs, got {len(opts)} words: {' '.join(map(str, opts))}")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _set(cfg, str(key), value, "the command line")


def _merge_tree(cfg: CfgNode, tree: dict[str, Any], prefix: str, origin: str) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _merge_tree(cfg, value, f"{prefix}{key}.", origin)
        else:
            _set(cfg, f"{prefix}{key}", value, origin)


def _set(cfg: CfgNode, key: str, value: Any, origin: str) -> None:
    leaves = flatten(cfg)
    if key not in leaves:
        inside = [leaf for leaf in leaves if leaf.startswith(f"{key}.")]
        if inside:
            raise ValueError(f"{key} in {origin} is a group of keys, not one; it holds {', '.join(inside)}")
        close = difflib.get_close_matches(key.upper(), leaves, n=3, cutoff=0.6)
        last = key.upper().rpartition(".")[2]
        close += [leaf for leaf in leaves if leaf.rpartition(".")[2] == last and leaf not in close][:2]
        hint = f"; did you mean {', '.join(close)}?" if close else f"; groups: {', '.join(cfg)}"
        raise ValueError(f"unknown config key {key} in {origin}{hint}")
    if cfg.is_frozen():  # item assignment below would not notice
        raise AttributeError(f"{key} cannot be set from {origin}: the config is frozen")
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
        except (ValueError, SyntaxError, TypeError):
            value = {"true": True, "false": False}.get(value.lower(), value)
        if isinstance(current, str) and not isinstance(value, str):
            value = given  # a name that reads like a number stays a name
    if isinstance(current, bool) or isinstance(value, bool):
        fits = isinstance(current, bool) and isinstance(value, bool)
    elif isinstance(current, float):
        fits = isinstance(value, int | float)
        value = float(value) if fits else value
    elif isinstance(current, tuple | list):
        fits = isinstance(value, tuple | list)
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

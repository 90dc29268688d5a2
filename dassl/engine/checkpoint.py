"""What a checkpoint holds beside the weights, and when a run may go on from it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import yaml
from yacs.config import CfgNode

from dassl.config.free_keys import FREE_KEYS


class OtherConfigError(ValueError):
    """A run of another config lies in the folder; it stays as it is."""


def plain_config(cfg: CfgNode) -> dict[str, Any]:
    """The config as nested plain values."""
    tree: dict[str, Any] = yaml.safe_load(cfg.dump())
    return tree


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def check_same_config(saved: dict[str, Any], cfg: CfgNode, where: str) -> None:
    """Refuse to continue a run under a config that would change its results.

    Args:
        saved: Config in the checkpoint.
        cfg: Config of this process.
        where: The checkpoint's folder.

    Raises:
        OtherConfigError: A ValueError that lists the keys that differ with both values.
    """
    old, new = _leaves(saved), _leaves(plain_config(cfg))
    different = [
        f"{key} ({old.get(key, 'not set')!r} in the checkpoint, {new.get(key, 'not set')!r} now)"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key not in FREE_KEYS
    ]
    if different:
        raise OtherConfigError(
            f"{where} holds a run with another config, which cannot be continued: {'; '.join(different)}. "
            "Use another --output-dir, or remove that folder to start over"
        )


def rng_states() -> dict[str, Any]:
    """States of all generators as tensors and plain values."""
    state: Any = np.random.get_state()
    name, keys, pos, has_gauss, cached = state
    return {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(pos), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_rng_states(states: dict[str, Any]) -> None:
    """Put the generators back."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
        torch.cuda.set_rng_state_all(states["cuda"])

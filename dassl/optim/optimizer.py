"""Optimisers by Dassl's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

AVAI_OPTIMS = ("adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw")


def _staged(model: nn.Module, optim_cfg: CfgNode) -> list[dict[str, Any]]:
    new = (optim_cfg.NEW_LAYERS,) if isinstance(optim_cfg.NEW_LAYERS, str) else tuple(optim_cfg.NEW_LAYERS)
    children = dict(model.named_children())
    missing = [name for name in new if name not in children]
    if missing or not new:
        raise ValueError(f"OPTIM.NEW_LAYERS must name children of the model {list(children)}, got {new}")
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, child in children.items():
        groups[name in new] += [p for p in child.parameters() if p.requires_grad]
    return [{"params": groups[False], "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": groups[True]}]


def build_optimizer(
    model: nn.Module | Iterable[Any], optim_cfg: CfgNode, param_groups: list[Any] | None = None
) -> torch.optim.Optimizer:
    """Optimiser of the parameters that require a gradient.

    Args:
        model: A module, or parameters or parameter groups.
        optim_cfg: The node OPTIM.
        param_groups: Parameter groups to use instead of the model's parameters.

    Raises:
        ValueError: Unknown OPTIM.NAME, values that do not go together, or nothing to optimise.
    """
    if optim_cfg.NAME not in AVAI_OPTIMS:
        raise ValueError(f"OPTIM.NAME must be one of {AVAI_OPTIMS}, got {optim_cfg.NAME!r}")
    if optim_cfg.LR <= 0:
        raise ValueError(f"OPTIM.LR must be positive, got {optim_cfg.LR}")
    if param_groups is not None:
        params = param_groups
    elif isinstance(model, nn.Module):
        trained = [p for p in model.parameters() if p.requires_grad]
        params = _staged(model, optim_cfg) if optim_cfg.STAGED_LR else trained
    else:
        params = list(model)
    if not params:
        raise ValueError("no parameter requires a gradient: nothing to optimise")
    if optim_cfg.SGD_NESTEROV and optim_cfg.NAME == "sgd" and (optim_cfg.MOMENTUM <= 0 or optim_cfg.SGD_DAMPNING != 0):
        raise ValueError(
            "OPTIM.SGD_NESTEROV needs OPTIM.MOMENTUM above 0 and OPTIM.SGD_DAMPNING 0, got "
            f"{optim_cfg.MOMENTUM} and {optim_cfg.SGD_DAMPNING}"
        )
    sgd = {"momentum": optim_cfg.MOMENTUM, "dampening": optim_cfg.SGD_DAMPNING, "nesterov": optim_cfg.SGD_NESTEROV}
    common = {"lr": optim_cfg.LR, "weight_decay": optim_cfg.WEIGHT_DECAY}
    adams = {"betas": (optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2), "eps": optim_cfg.ADAM_EPS}
    if optim_cfg.NAME == "sgd":
        return torch.optim.SGD(params, **sgd, **common)
    if optim_cfg.NAME == "rmsprop":
        return torch.optim.RMSprop(params, momentum=optim_cfg.MOMENTUM, alpha=optim_cfg.RMSPROP_ALPHA, **common)
    if optim_cfg.NAME in ("adam", "amsgrad"):
        return torch.optim.Adam(params, amsgrad=optim_cfg.NAME == "amsgrad", **adams, **common)
    kind = torch.optim.RAdam if optim_cfg.NAME == "radam" else torch.optim.AdamW
    return kind(params, **adams, **common)

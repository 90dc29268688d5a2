"""The mean of a model's weights over the epochs of its training.

The Gaussian weights are the "Gaussian weighted prompt aggregation" of Khattak et al., "Self-regulating Prompts:
Foundational Model Adaptation without Forgetting", ICCV 2023 (PromptSRC), section 3.2.2.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode

AVAI_AVERAGES = ("gaussian", "uniform")


def epoch_weights(kind: str, epochs: int, mean: float, std: float) -> list[float]:
    """How much each of some epochs counts; the sum is 1.

    Args:
        kind: gaussian or uniform.
        epochs: Their number.
        mean: Of the Gaussian, in epochs counted from 1.
        std: Of the Gaussian, in epochs, above 0.

    Raises:
        ValueError: Another kind.
    """
    if kind not in AVAI_AVERAGES:
        raise ValueError(f"OPTIM.AVERAGE must be empty or one of {AVAI_AVERAGES}, got {kind!r}")
    if kind == "uniform":
        return [1 / epochs] * epochs
    distances = [abs(epoch - mean) for epoch in range(1, epochs + 1)]
    nearest = min(distances)  # the densities relative to the largest, which may itself be too small for a float
    exponents = [0.0 if d == nearest else (d - nearest) / std * ((d + nearest) / std) / 2 for d in distances]
    densities = [math.exp(-exponent) for exponent in exponents]
    return [density / sum(densities) for density in densities]


class WeightAverage:
    """Running weighted sums of models' state dicts, in fp32; only floating-point entries are summed.

    Args:
        optim_cfg: The node OPTIM.
        epochs: Epochs of the whole training.
    """

    def __init__(self, optim_cfg: CfgNode, epochs: int) -> None:
        self.kind = optim_cfg.AVERAGE
        self.weights = epoch_weights(self.kind, epochs, optim_cfg.AVERAGE_MEAN, optim_cfg.AVERAGE_STD)
        self._sums: dict[str, dict[str, torch.Tensor]] = {}

    @torch.no_grad()
    def add(self, name: str, model: nn.Module, epoch: int) -> None:
        """Add the weights that model `name` has after an epoch, counted from 0."""
        sums, weight = self._sums.setdefault(name, {}), self.weights[epoch]
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                part = value.float() * weight
                sums[key] = sums[key] + part if key in sums else part

    def apply(self, name: str, model: nn.Module) -> None:
        """Give model `name` the sums; entries that are no floating-point numbers keep their last value."""
        own = model.state_dict()
        model.load_state_dict({**own, **{key: value.to(own[key].dtype) for key, value in self._sums[name].items()}})

    def state_dict(self, name: str) -> dict[str, torch.Tensor]:
        """The sums of model `name`."""
        return self._sums.get(name, {})

    def load_state_dict(self, name: str, model: nn.Module, state: dict[str, Any]) -> None:
        """Go on from the sums of model `name`, beside its weights."""
        own = model.state_dict()
        self._sums[name] = {key: value.to(own[key].device) for key, value in state.items()}

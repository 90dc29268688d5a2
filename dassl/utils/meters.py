"""Running averages."""

from __future__ import annotations

from collections.abc import Mapping

import torch


class AverageMeter:
    """Last value, sum, count and average of a figure."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: float, n: int = 1) -> None:
        """Add a value that stands for n observations."""
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.sum / self.count


class MetricMeter:
    """An `AverageMeter` per name.

    Args:
        delimiter: Between the figures when printed.
    """

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: dict[str, AverageMeter] = {}
        self.delimiter = delimiter

    def update(self, input_dict: Mapping[str, float | torch.Tensor]) -> None:
        """Add one value per name; tensors must be scalars."""
        for name, value in input_dict.items():
            number = value.item() if isinstance(value, torch.Tensor) else value
            self.meters.setdefault(name, AverageMeter()).update(float(number))

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {m.val:.4f} ({m.avg:.4f})" for name, m in self.meters.items())

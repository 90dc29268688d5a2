"""Features of some test images for TensorBoard's projector, with their classes and small pictures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

_THUMBNAIL = 32  # pixels a side


class Projector:
    """Collects the features while a set is tested.

    Args:
        wanted: Images at most.
        total: Images of the set; the ones that are taken are spread evenly over it, which is sorted by class.
    """

    def __init__(self, wanted: int, total: int) -> None:
        self._wanted, self._total, self._seen = min(wanted, total), total, 0
        self._features: list[torch.Tensor] = []
        self._pictures: list[torch.Tensor] = []
        self._labels: list[tuple[int, int]] = []

    def rows(self, count: int) -> list[int]:
        """Which of the next `count` images to take."""
        first, self._seen = self._seen, self._seen + count
        share = self._wanted / max(self._total, 1)
        return [i for i in range(count) if int((first + i + 1) * share + 1e-9) > int((first + i) * share + 1e-9)]

    def add(
        self, features: torch.Tensor, label: torch.Tensor, predicted: torch.Tensor, images: torch.Tensor | None
    ) -> None:
        """Keep images that `rows` named.

        Args:
            features: [B, E].
            label: Long [B].
            predicted: Long [B].
            images: [B, 3, H, W] from 0 to 1; None where there are no pixels.
        """
        self._features.append(features.float().cpu())
        self._labels += zip(label.tolist(), predicted.tolist(), strict=True)
        if images is not None:
            small = F.interpolate(images.float().cpu(), (_THUMBNAIL, _THUMBNAIL), mode="area")
            self._pictures.append(small.clamp(0, 1))

    def write(self, board: Any, tag: str, step: int, names: Sequence[str]) -> None:
        """Give them to TensorBoard, with class names by label; what an earlier start gave of this step goes."""
        shutil.rmtree(Path(board.log_dir, f"{step:05d}", tag), ignore_errors=True)
        plain = [" ".join(name.split()) for name in names]  # a tab or a line feed would be another column or row
        board.add_embedding(
            torch.cat(self._features),
            metadata=[[plain[true], plain[predicted]] for true, predicted in self._labels],
            metadata_header=["class", "predicted"],
            label_img=torch.cat(self._pictures) if self._pictures else None,
            global_step=step,
            tag=tag,
        )

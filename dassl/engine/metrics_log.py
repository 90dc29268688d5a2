"""The run's figures: the same values go to TensorBoard and, one JSON object a line, to metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dassl.utils import write_text


class MetricsLog:
    """Writer of both files.

    Args:
        folder: The run's folder; metrics.jsonl lies there.
        board_dir: TensorBoard's folder.
        start_step: Training steps done before; figures from that step on, of a run that was killed, are dropped.
            None keeps all.
    """

    def __init__(self, folder: str, board_dir: str, start_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        path = Path(folder, "metrics.jsonl")
        if path.is_file() and start_step is not None:
            kept = [line + "\n" for line in path.read_text().splitlines() if _belongs(line, start_step)]
            write_text("".join(kept), path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", buffering=1)  # noqa: SIM115  lives as long as the run
        self.board: Any = SummaryWriter(board_dir, purge_step=start_step)

    def add(self, split: str, epoch: int, step: int, values: Mapping[str, float], **extra: int) -> None:
        """Figures of one training step, or of one evaluation after `epoch` epochs."""
        record = {"split": split, "epoch": epoch, "step": step, **extra, **values}
        self._file.write(json.dumps(record) + "\n")
        for name, value in values.items():
            self.board.add_scalar(f"{split}/{name}", value, step)

    def flush(self) -> None:
        """Bring everything to the disk, so that it is not lost if the process is killed."""
        self._file.flush()
        self.board.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self.board.close()


def _belongs(line: str, start_step: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:  # the line that was being written when the run was killed
        return False
    return bool(record["step"] < start_step)

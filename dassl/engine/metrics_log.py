"""The run's figures: the same values go to TensorBoard and, one JSON object a line, to metrics.jsonl.

TensorBoard alone gets what is no figure (texts, pictures, the charts' layout, hyperparameters), and what is another one
in every run (speed).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from dassl.utils import write_text

_ABOUT = ("split", "epoch", "step", "batch")  # what a record says of its figures
_TEXT = "/text_summary"  # how a text's tag ends
# TensorBoard's custom scalars: charts of several figures, each named by a pattern.
_LAYOUT = {
    "training": {
        "loss and its parts": ["Multiline", ["train/.*loss"]],
        "accuracy (%)": ["Multiline", ["(train/acc|val/accuracy|test/accuracy)$"]],
    }
}


class MetricsLog:
    """Writer of both files.

    Where a run goes on, metrics.jsonl keeps the records before `start_step`; lines that are no records (the one being
    written at a kill, or an editor's) are dropped and counted. What TensorBoard's files lack of the kept records, since
    a crash cut them off, is written anew.

    Args:
        folder: The run's folder; metrics.jsonl lies there.
        board_dir: TensorBoard's folder.
        start_step: Training steps done before; figures from that step on, of a run that was killed, are dropped.
            None keeps all.
        texts: Markdown by name for TensorBoard, written where it does not show the same already.
    """

    def __init__(
        self, folder: str, board_dir: str, start_step: int | None, texts: Mapping[str, str] | None = None
    ) -> None:
        self._path, self._board_dir, self._start_step = Path(folder, "metrics.jsonl"), board_dir, start_step
        self._texts = texts or {}
        self._file: TextIO | None = None

    @cached_property
    def _kept(self) -> list[dict[str, Any]]:
        """The records that stay when a run goes on."""
        start = self._start_step
        return [] if start is None else [record for record in _read(self._path) if record["step"] < start]

    @cached_property
    def board(self) -> Any:
        """TensorBoard's writer, opened when it is needed."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        start = self._start_step
        shown = _on_board(self._board_dir) if start != 0 else {}
        if start is not None:
            shown = {(tag, step): text for (tag, step), text in shown.items() if step < start}
        board = SummaryWriter(self._board_dir, purge_step=start)
        scalars = [(tag, value, record["step"]) for record in self._kept for tag, value in _scalars(record)]
        lacking = [scalar for scalar in scalars if (scalar[0], scalar[2]) not in shown]
        for scalar in lacking:
            board.add_scalar(*scalar)
        if lacking:
            print(f"{self._board_dir} lacked {len(lacking)} figures of metrics.jsonl: written anew")
        newest = {tag: shown[tag, step] for tag, step in sorted(shown)}
        for name, text in self._texts.items():
            if newest.get(name + _TEXT) != text:
                board.add_text(name, text, start)
        if start is not None and "custom_scalars__config__" not in newest:
            board.add_custom_scalars(_LAYOUT)
        return board

    def add(self, split: str, epoch: int, step: int, values: Mapping[str, float], **extra: int) -> None:
        """Figures of one training step, or of one evaluation after `epoch` epochs."""
        record = {"split": split, "epoch": epoch, "step": step, **extra, **values}
        lines = [record]
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._start_step is not None:  # what is dropped goes in the same step in which the new record comes
                write_text("".join(json.dumps(line) + "\n" for line in (*self._kept, record)), self._path)
                lines = []
            self._file = open(self._path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115  lives as long as the run
        self._file.writelines(json.dumps(line) + "\n" for line in lines)
        for tag, value in _scalars(record):
            self.board.add_scalar(tag, value, step)

    def add_hyperparameters(self, values: Mapping[str, Any]) -> None:
        """A row of TensorBoard's HPARAMS table, whose metrics are this run's figures.

        The summary that would name the table's columns is left out: TensorBoard takes one run's for all runs, which
        would hide the keys of other methods; without it, the columns are those of all runs together.
        """
        from torch.utils.tensorboard.summary import hparams

        plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in values.items()}
        # SummaryWriter.add_hparams would make a run of its own of it.
        for summary in hparams(plain, {})[1:]:  # type: ignore[no-untyped-call]
            self.board.file_writer.add_summary(summary)

    def flush(self) -> None:
        """Bring everything to the disk, so that it is not lost if the process is killed."""
        for writer in (self._file, self.__dict__.get("board")):
            if writer is not None:
                writer.flush()

    def close(self) -> None:
        """Flush and close."""
        for writer in (self._file, self.__dict__.get("board")):
            if writer is not None:
                writer.close()


def _read(path: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl; says how many lines are none."""
    if not path.is_file():
        return []
    records, odd = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            if not isinstance(record["step"], int) or not isinstance(record["split"], str):
                raise ValueError
            records.append(record)
        except (ValueError, TypeError, KeyError):
            odd += 1
    if odd:
        print(f"{path}: {odd} line(s) that are no records are dropped")
    return records


def _scalars(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    return [(f"{record['split']}/{name}", value) for name, value in record.items() if name not in _ABOUT]


def _on_board(folder: str) -> dict[tuple[str, int], str]:
    """Tag and step of everything that TensorBoard can read in a folder; of texts with the newest content."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    files = sorted(Path(folder).glob("events.out.tfevents.*"))
    events = (event for file in files for event in EventFileLoader(str(file)).Load())
    return {
        (value.tag, event.step): b"".join(value.tensor.string_val).decode() if value.tag.endswith(_TEXT) else ""
        for event in events
        for value in event.summary.value
    }

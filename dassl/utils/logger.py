"""Console output that is kept in a file too."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class Tee:
    """A stdout that writes to a log file as well; `close` gives the old stdout back.

    Args:
        path: The log file, appended to; without one, the text is kept until `open` names it.
    """

    def __init__(self, path: str = "") -> None:
        self.console: TextIO = sys.stdout
        self.file: TextIO = io.StringIO()
        if path:
            self.open(path)
        sys.stdout = self

    def open(self, path: str) -> None:
        """Write what was kept, and all from now on, to a file."""
        kept = self.file.getvalue() if isinstance(self.file, io.StringIO) else ""
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115  lives as long as the run
        self.file.write(kept)

    def write(self, text: str) -> int:
        """Write to both."""
        self.console.write(text)
        return self.file.write(text)

    def write_file(self, text: str) -> None:
        """Write to the file alone."""
        self.file.write(text)

    def flush(self) -> None:
        """Flush both."""
        self.console.flush()
        self.file.flush()

    def isatty(self) -> bool:
        """As the console."""
        return self.console.isatty()

    def close(self) -> None:
        """Restore stdout and close the file."""
        if sys.stdout is self:
            sys.stdout = self.console
        self.file.close()


def setup_logger(output: str | None = None) -> Tee | None:
    """Copy everything printed from now on into a file ending in .txt or .log, or into log.txt in a folder.

    Returns:
        The tee, to be closed at the end of the run; None without an output.
    """
    if not output:
        return None
    return Tee(output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt"))

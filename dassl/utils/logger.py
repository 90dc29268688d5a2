"""Console output that is kept in a file too."""

from __future__ import annotations

import os
import sys
from typing import TextIO


class Tee:
    """A stdout that writes to a log file as well; `close` gives the old stdout back.

    Args:
        path: The log file; appended to.
    """

    def __init__(self, path: str) -> None:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        self.console: TextIO = sys.stdout
        self.file = open(path, "a", buffering=1)  # noqa: SIM115  lives as long as the run; a kill loses no line
        sys.stdout = self

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
    """Copy everything printed from now on into a file.

    Args:
        output: A folder (log.txt is made in it) or a file ending in .txt or .log; None does nothing.

    Returns:
        The tee, to be closed at the end of the run, or None.
    """
    if not output:
        return None
    return Tee(output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt"))

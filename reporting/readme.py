"""Sections of Markdown files that programs write, between <!-- NAME:begin ... --> and <!-- NAME:end -->."""

from __future__ import annotations

import re
from pathlib import Path


def put(text: str, name: str, content: str) -> str:
    """A file's text with the content of a section replaced; the markers stay as they are.

    Raises:
        ValueError: the markers are not there, or more than once.
    """
    section = re.compile(rf"(<!-- {re.escape(name)}:begin[^\n]*-->\n).*?(<!-- {re.escape(name)}:end -->)", re.DOTALL)
    if len(section.findall(text)) != 1 or text.count(f"<!-- {name}:") != 2:
        raise ValueError(f"the file must hold <!-- {name}:begin --> and, after it, <!-- {name}:end --> once")
    return section.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def update(file: Path, name: str, content: str, write: bool) -> bool:
    """Whether a section of the file has this content, which it gets with `write`.

    Raises:
        ValueError: the markers are not there, or more than once.
        OSError: the file cannot be read or written.
    """
    old = file.read_text(encoding="utf-8")
    new = put(old, name, content)
    if write and new != old:
        from dassl.utils import write_text  # only here, because it takes seconds

        write_text(new, file)
    return write or new == old

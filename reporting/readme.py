"""Sections of a README that programs write, between <!-- NAME:begin ... --> and <!-- NAME:end -->."""

from __future__ import annotations

import re


def put(text: str, name: str, content: str) -> str:
    """A README with the content of a section replaced; the markers stay as they are.

    Raises:
        ValueError: the markers are not there, or more than once.
    """
    section = re.compile(rf"(<!-- {re.escape(name)}:begin[^\n]*-->\n).*?(<!-- {re.escape(name)}:end -->)", re.DOTALL)
    if len(section.findall(text)) != 1 or text.count(f"<!-- {name}:") != 2:
        raise ValueError(f"the file must hold <!-- {name}:begin --> and, after it, <!-- {name}:end --> once")
    return section.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)

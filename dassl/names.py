"""Names that people type: what is close to a wrong one, and which are allowed. Imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Words like PACS, VOC2007 or 2019 are no config keys: of those without a dot there are only these.
_KEY = re.compile(r"[A-Z]\w*(\.[A-Z]\w*)+(\.\w+)*|OUTPUT_DIR|RECIPE|RESUME|SEED|USE_CUDA|VERBOSE|VERSION")


def is_config_key(word: str) -> bool:
    """Whether a word on a command line is the key of a KEY VALUE pair, known or mistyped."""
    return _KEY.fullmatch(word) is not None


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """For an error message: " Did you mean a, b?" with the closest of the allowed names, "" where none is close.

    Upper and lower case count as equal.
    """
    import difflib  # few commands go wrong

    by_lower: dict[str, str] = {}
    for name in allowed:
        by_lower.setdefault(name.lower(), name)
    close = difflib.get_close_matches(word.lower(), by_lower, cutoff=0.5)
    return f" Did you mean {', '.join(by_lower[name] for name in close)}?" if close else ""


def choose(value: str, allowed: Iterable[str], what: str) -> str:
    """The value, if it is allowed; `what` it names is for the error, e.g. "TRAINER.GOPRO.VARIANT".

    Raises:
        ValueError: It is not; names what came, what is close and what is allowed.
    """
    allowed = list(allowed)
    if value in allowed:
        return value
    raise ValueError(
        f"unknown {what}: {value!r}.{did_you_mean(value, allowed)} Allowed: {', '.join(allowed) or 'none'}"
    )

"""MATLAB 5 files, in which two data sets and ImageNet's devkit keep their labels, as plain Python values."""

from typing import Any

import numpy as np


def read_mat(path: str) -> dict[str, Any]:
    """Read the variables of a MATLAB 5 file.

    Args:
        path: the file.

    Returns:
        By name: numeric arrays as flat lists in column order, text as str, cells as lists, structs as lists
        of dicts.

    Raises:
        ValueError: not a MATLAB 5 file, or damaged.
    """
    from scipy.io import loadmat  # slow to import

    with open(path, "rb") as f:
        if f.read(128)[126:] not in (b"IM", b"MI"):
            raise ValueError(f"{path} is no MATLAB 5 file.")
    try:
        content = loadmat(path, appendmat=False)
        return {name: _plain(value) for name, value in content.items() if not name.startswith("__")}
    except Exception as e:  # scipy raises whatever a damaged file makes it stumble over
        raise ValueError(f"{path} is damaged ({type(e).__name__}: {e}).") from e


def _plain(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    flat = value.flatten("F")
    if value.dtype.names:
        return [{name: _plain(row[name]) for name in value.dtype.names} for row in flat]
    if value.dtype.kind == "U":
        return "".join(flat)
    return [_plain(item) for item in flat] if value.dtype == object else flat.tolist()

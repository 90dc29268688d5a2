"""A reader for the MATLAB 5 files that two data sets keep their labels in (numbers, text, cells, structs)."""

import struct
import zlib
from typing import Any

COMPRESSED, MATRIX = 15, 14  # element types
CELL, STRUCT, CHAR = 1, 2, 4  # array classes; 6 to 15 are numeric
FORMATS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
ENCODINGS = {2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def read_mat(path: str) -> dict[str, Any]:
    """Read the variables of a MATLAB 5 file (https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf).

    Args:
        path: the file.

    Returns:
        By name: numeric arrays as flat lists in column order, text as str, cells as lists, structs as lists
        of dicts.

    Raises:
        ValueError: not a MATLAB 5 file, damaged, or with contents of another kind.
    """
    with open(path, "rb") as f:
        data = f.read()
    if data[126:128] not in (b"IM", b"MI"):
        raise ValueError(f"{path} is no MATLAB 5 file.")
    order = "<" if data[126:128] == b"IM" else ">"
    try:
        return dict(_matrix(body, order) for kind, body in _elements(data[128:], order) if kind == MATRIX)
    except (struct.error, zlib.error, IndexError, KeyError, UnicodeDecodeError) as e:
        raise ValueError(f"{path} is damaged, or holds what this reader does not know ({e!r}).") from e


def _elements(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Split a byte string into (type, contents); compressed elements are unpacked."""
    found, at = [], 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind >> 16:  # short form: size and type share four bytes, the contents take the next four
            found.append((kind & 0xFFFF, data[at + 4 : at + 4 + (kind >> 16)]))
            at += 8
            continue
        body = data[at + 8 : at + 8 + size]
        if len(body) < size:
            raise IndexError("the file ends too early")
        if kind == COMPRESSED:
            found.extend(_elements(zlib.decompress(body), order))
            at += 8 + size
        else:
            found.append((kind, body))
            at += 8 + size + -size % 8
    return found


def _matrix(body: bytes, order: str) -> tuple[str, Any]:
    """Name and value of one array."""
    if not body:
        return "", []
    (_, flags), (_, dims), (_, name), *rest = _elements(body, order)
    array_class = struct.unpack_from(order + "I", flags)[0] & 0xFF
    title = name.decode("latin-1")
    if array_class == CELL:
        return title, [_matrix(b, order)[1] for _, b in rest]
    if array_class == STRUCT:
        width = struct.unpack_from(order + "i", rest[0][1])[0]
        raw = rest[1][1]
        fields = [raw[i : i + width].split(b"\0")[0].decode("latin-1") for i in range(0, len(raw), width)]
        values = [_matrix(b, order)[1] for _, b in rest[2:]]
        step = len(fields)
        return title, [dict(zip(fields, values[i : i + step], strict=True)) for i in range(0, len(values), step)]
    kind, raw = rest[0]
    if array_class == CHAR:
        encoding = ENCODINGS[kind]
        if encoding in ("utf-16", "utf-32"):
            encoding += "-le" if order == "<" else "-be"
        return title, raw.decode(encoding)
    form = FORMATS[kind]
    return title, list(struct.unpack(f"{order}{len(raw) // struct.calcsize(form)}{form}", raw))

"""Files of the data sets: listing, checking what is there, writing JSON in one step."""

import contextlib
import errno
import inspect
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

_frozen = False  # while True, write_json writes nothing

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")


def data_root(cfg: Any) -> str:
    """Absolute path of ``DATASET.ROOT`` with ``~`` expanded."""
    return os.path.abspath(os.path.expanduser(cfg.DATASET.ROOT))


def list_folders(path: str) -> list[str]:
    """Names of the visible folders in ``path``, sorted so that the order is the same on every system."""
    return sorted(e.name for e in os.scandir(path) if e.is_dir() and not e.name.startswith("."))


def list_images(path: str) -> list[str]:
    """Names of the visible image files in ``path`` (by ``IMAGE_EXTENSIONS``, any case), sorted."""
    names = (n for n in os.listdir(path) if not n.startswith("."))
    return sorted(n for n in names if n.lower().endswith(IMAGE_EXTENSIONS))


def require(reader: Any, *paths: str) -> None:
    """Check that what a reader is about to read is there.

    Args:
        reader: the data set (class or instance); its docstring holds an ``Expected tree::`` block.
        paths: files or folders that must exist.

    Raises:
        FileNotFoundError: names the first missing path, the expected tree and the command that fetches it.
    """
    for path in paths:
        if not os.path.exists(path):
            cls = reader if inspect.isclass(reader) else type(reader)
            stem = cls.__module__.rpartition(".")[2]
            tree = expected_tree(cls)
            raise FileNotFoundError(
                f"{cls.__name__}: {path} is missing."
                + (f" Expected below DATASET.ROOT:\n{tree}" if tree else "")
                + f"\nGet it with: python -m datasets.prepare {stem} --root <DATASET.ROOT>"
            )


def expected_tree(cls: type) -> str:
    """The block after ``Expected tree::`` in a reader's docstring; empty when there is none."""
    _, found, rest = (inspect.getdoc(cls) or "").partition("Expected tree::\n\n")
    if not found:
        return ""
    lines = []
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        lines.append(line)
    return "\n".join(lines).rstrip()


def find_missing(paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that do not exist; fast on many images, as each folder is listed once."""
    seen: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in seen:
            seen[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in seen[folder]:
            missing.append(path)
    return missing


def require_images(paths: Sequence[str], source: str) -> None:
    """Check that images exist that a list names.

    Args:
        paths: the images.
        source: the list, for the error.

    Raises:
        FileNotFoundError: names some of those that are missing.
    """
    missing = find_missing(paths)
    if missing:
        raise FileNotFoundError(
            f"{source} names {len(missing)} of {len(paths)} images that are not there: "
            + ", ".join(missing[:3])
            + (", ..." if len(missing) > 3 else "")
            + ". Put the images back, or use the split that belongs to this folder."
        )


def write_json(obj: dict[str, Any], path: str, what: str, keep_existing: bool = False) -> bool:
    """Write a JSON file in one step, so that no reader ever sees half of it.

    Args:
        obj: a dict; its lists are written one element a line.
        path: the file; its folder is made when it is missing.
        what: words for the one line that is printed when the file cannot be written.
        keep_existing: leave a file alone that another process wrote in the meantime.

    Returns:
        False when the folder cannot be written to (read-only, full): then only a line is printed.
    """
    if _frozen:
        return False
    fields = []
    for key, value in obj.items():
        text = json.dumps(value)
        if isinstance(value, list) and value:
            text = "[\n" + ",\n".join(json.dumps(v) for v in value) + "\n]"
        fields.append(f"{json.dumps(key)}: {text}")
    temporary = ""
    try:
        respect_read_only(os.path.dirname(path))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=os.path.dirname(path))
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write("{\n" + ",\n".join(fields) + "\n}\n")
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would lock out the others on a shared disk
        if keep_existing and _link_exclusively(temporary, path):
            return True
        os.replace(temporary, path)
    except OSError as e:
        print(f"{what} not saved to {path}: {e.strerror or e}")
        return False
    finally:
        if temporary and os.path.exists(temporary):
            os.remove(temporary)
    return True


@contextlib.contextmanager
def nothing_written() -> Iterator[None]:
    """Let readers read without keeping splits, picks or listings, for tools that only look."""
    global _frozen
    _frozen = True
    try:
        yield
    finally:
        _frozen = False


def respect_read_only(folder: str) -> None:
    """Refuse folders that nobody may write to; without this check root, as in containers, would."""
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not os.stat(folder).st_mode & 0o222:
        raise PermissionError(errno.EACCES, "the folder is read-only", folder)


def _link_exclusively(temporary: str, path: str) -> bool:
    """True when ``path`` now exists (made by us or before us); False where hard links do not work."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


def read_lines(path: str) -> list[str]:
    """The non-empty lines of a text file, stripped."""
    with open(path, encoding="utf-8") as f:
        return [line.strip() for line in f if line.strip()]


@contextlib.contextmanager
def parsing(place: str, form: str) -> Iterator[None]:
    """Say where, and what was expected, when the block fails to take apart what a file holds.

    Args:
        place: the file, or one line of it.
        form: what it should hold.

    Raises:
        ValueError: in place of what the block raised.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError) as e:
        reason = f"{e.args[0]!r} is unknown" if isinstance(e, KeyError) else e
        raise ValueError(f"{place}: {reason}. Expected {form}.") from e


def read_classnames(text_file: str) -> dict[str, str]:
    """Read lines ``<folder> <class name>`` (a space or a tab between them) in the order of the file.

    Raises:
        ValueError: a line without a name, or a folder that comes twice.
    """
    names: dict[str, str] = {}
    for line in read_lines(text_file):
        folder, _, name = line.partition("\t" if "\t" in line else " ")
        folder, name = folder.strip(), name.strip()
        if not name or folder in names:
            problem = f"lists {folder!r} twice" if folder in names else f"has no class name in {line!r}"
            raise ValueError(f"{text_file} {problem}. Expected one line per folder: <folder> <class name>.")
        names[folder] = name
    return names


def relative(path: str, prefix: str) -> str:
    """``path`` relative to the folder ``prefix``, with forward slashes; unchanged when it lies elsewhere."""
    prefix = prefix.rstrip("/\\") + os.sep
    return (path[len(prefix) :] if path.startswith(prefix) else path).replace(os.sep, "/")

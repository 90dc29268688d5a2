"""Files of the data sets: listing, reading, checking what is there, writing JSON in one step."""

import contextlib
import errno
import functools
import inspect
import itertools
import json
import os
import tempfile
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from dassl.utils import read_text, write_text
from dassl.utils.images import LITTER, is_image
from dassl.utils.tools import existing_folder

T = TypeVar("T")
_frozen = False  # while True, write_json writes nothing


def absolute(path: str) -> str:
    """Absolute path with ``~`` expanded."""
    return os.path.abspath(os.path.expanduser(path))


def data_root(cfg: Any) -> str:
    """Absolute path of ``DATASET.ROOT``.

    Raises:
        ValueError: it is empty; the current folder has to be asked for.
    """
    if not cfg.DATASET.ROOT:
        raise ValueError(
            "DATASET.ROOT (--root) is empty. It names the folder that holds the data sets' folders, such as dtd/, or "
            "the image folder itself for ImageFolder; '.' is the current folder."
        )
    return absolute(cfg.DATASET.ROOT)


def composed(name: str) -> str:
    """The composed form (NFC) of a name; macOS hands out the decomposed one, which looks the same."""
    return unicodedata.normalize("NFC", name)


def list_folders(path: str) -> list[str]:
    """Names of the visible folders in ``path``, sorted so that the order is the same on every system."""
    with os.scandir(path) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".") and e.name not in LITTER]
    return sorted(names, key=composed)


def list_files(path: str) -> tuple[list[str], list[str]]:
    """Names of the visible image files in ``path`` (what Pillow reads), and of the other files, both sorted."""
    with os.scandir(path) as entries:
        names = sorted((e.name for e in entries if not e.name.startswith(".") and not e.is_dir()), key=composed)
    images = [n for n in names if is_image(os.path.join(path, n))]
    return images, sorted(set(names) - set(images))


def list_images(path: str) -> list[str]:
    """Names of the visible image files in ``path``, sorted."""
    return list_files(path)[0]


def class_images(folder: str) -> tuple[list[str], list[str]]:
    """Paths of the images of a class, and of the other files in its folder, both sorted.

    Raises:
        ValueError: no images; says what there is instead.
    """
    images, others = list_files(folder)
    if not images:
        deeper = list_folders(folder)
        if deeper:
            raise ValueError(f"Too deep: {folder} holds the folder {deeper[0]!r} where class images are expected.")
        held = f", only {len(others)} other files such as {others[0]}" if others else ""
        raise ValueError(f"The class folder {folder} holds no images that Pillow reads{held}.")
    return [os.path.join(folder, n) for n in images], [os.path.join(folder, n) for n in others]


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
    _, _, rest = (inspect.getdoc(cls) or "").partition("Expected tree::\n\n")
    return "\n".join(itertools.takewhile(lambda line: line[:1] in ("", " "), rest.splitlines())).rstrip()


def locate(paths: Iterable[str]) -> dict[str, str]:
    """Where the files are that a list names; fast on many, as each folder is listed once.

    What is not there as written is looked for with / for each back-slash (Windows) and in the other normal form of
    Unicode (macOS).

    Returns:
        The existing file for each path; without those that are nowhere.
    """

    @functools.cache
    def listing(folder: str) -> dict[str, str]:
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return {composed(n): n for n in names} | {n: n for n in names}

    def find(path: str) -> str:
        folder, name = os.path.split(path)
        names = listing(folder)
        if not names and name and not os.path.isdir(folder):
            folder = find(folder)
            names = listing(folder) if folder else {}
        found = names.get(name) or names.get(composed(name))
        return os.path.join(folder, found) if found else ""

    found = {path: find(path) or ("\\" in path and find(path.replace("\\", "/"))) for path in paths}
    return {path: place for path, place in found.items() if place}


def require_images(paths: Sequence[str], source: str) -> dict[str, str]:
    """Where the images are that the list `source` names, see `locate`.

    Raises:
        FileNotFoundError: names some of those that are missing.
    """
    found = locate(paths)
    missing = [path for path in paths if path not in found]
    if missing:
        raise FileNotFoundError(
            f"{source} names {len(missing)} of {len(paths)} images that are not there: "
            + ", ".join(missing[:3])
            + (", ..." if len(missing) > 3 else "")
            + ". Put the images back, or use the split that belongs to this folder."
        )
    return found


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
    text = "{\n" + ",\n".join(fields) + "\n}\n"
    try:
        respect_read_only(os.path.dirname(path))
        if keep_existing:
            _write_if_first(text, path)
        else:
            write_text(text, path)
    except OSError as e:
        print(f"{what} not saved to {path}: {e.strerror or e}")
        return False
    return True


def _write_if_first(text: str, path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=os.path.dirname(path)) as scratch:
        own = os.path.join(scratch, "file")
        write_text(text, own)
        try:
            os.link(own, path)
        except FileExistsError:  # another process was faster
            pass
        except OSError:  # a file system without hard links
            os.replace(own, path)


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
    place = existing_folder(folder)
    if not place.stat().st_mode & 0o222:
        raise PermissionError(errno.EACCES, "the folder is read-only", str(place))


def read_lines(path: str) -> list[str]:
    """The non-empty lines of a text file of any system, stripped; names in them are composed (NFC)."""
    return [line.strip() for line in composed(read_text(path)).split("\n") if line.strip()]


def parse_lines(reader: Any, path: str, form: str, parse: Callable[[str], T]) -> list[T]:
    """What `parse` makes of each line of a list that a reader needs; `form` says what a line should hold.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: a line of another form; names the file and the line.
    """
    require(reader, path)
    items = []
    for line in read_lines(path):
        with parsing(f"{path}, {line!r}", form):
            items.append(parse(line))
    return items


@contextlib.contextmanager
def parsing(place: str, form: str) -> Iterator[None]:
    """Say where, and what was expected, in a ValueError when the block fails to take apart what a file holds."""
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

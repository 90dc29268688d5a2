"""Finding image files, and decoding them: as the published code does, or as people see them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import numpy as np
from PIL import ExifTags, Image, ImageOps

WHITE_LEVELS = (255, 4095, 65535)  # of 8, 12 and 16 bits; far apart, so that dark images stay dark beside bright ones
OPENED_MAX = 20_000  # images that are opened before a run: seconds on a local disk
THREADS = 16  # they wait for the disk, or for the network
LITTER = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information"}  # folders that systems leave behind
NO_PICTURES = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow knows them, but needs other programs to draw them


class ImageReadError(OSError):
    """An image file that cannot be decoded; its message stays one line when a worker process raised it."""

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().rpartition("ImageReadError: ")[2])


def read_image(path: str, as_people_see: bool = False) -> Image.Image:
    """Decode an image file to RGB.

    Args:
        path: The file.
        as_people_see: Turn the image upright (EXIF), put transparent parts on white, and scale values of more than
            8 bits; otherwise the pixels are those of Pillow's ``convert("RGB")``, which published numbers rest on.

    Raises:
        ImageReadError: Missing, truncated or not an image; names the file.
    """
    with _opened(path) as image:
        return to_rgb(image, as_people_see)


def to_rgb(image: Image.Image, as_people_see: bool = False) -> Image.Image:
    """An opened image -> what `read_image` gives of its file; may turn `image` itself upright."""
    if as_people_see:
        ImageOps.exif_transpose(image, in_place=True)
        if _is_deep(image):
            image = _to_8_bits(image)
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def is_image(path: str) -> bool:
    """Whether a file is an image by its extension, in any case, or, where it has none, by its first bytes."""
    extension = os.path.splitext(path)[1].lower()
    if extension:
        return extension in image_extensions()
    with suppress(Exception), Image.open(path):  # whatever Pillow's many readers stumble over
        return True
    return False


@functools.cache
def image_extensions() -> frozenset[str]:
    """Extensions of the pictures that the installed Pillow reads, in small letters."""
    known = Image.registered_extensions()
    return frozenset(ext for ext, kind in known.items() if kind in Image.OPEN and kind not in NO_PICTURES)


def find_images(folder: str, failed: Callable[[OSError], None], _inside: tuple[str, ...] = ()) -> Iterator[str]:
    """Paths of the images in a folder and those below it, found as they are asked for, sorted by name.

    No more than the names in the folders on the way to an image are held at once. Hidden files and folders do not
    count, nor do folders that systems leave behind, nor a link to a folder that it lies in. `failed` gets the error of
    each folder that cannot be listed.
    """
    inside = (*_inside, os.path.realpath(folder))
    try:
        with os.scandir(folder) as entries:
            visible = sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        failed(error)
        return
    for name, is_folder in visible:
        path = os.path.join(folder, name)
        if is_folder:
            if name not in LITTER and os.path.realpath(path) not in inside:
                yield from find_images(path, failed, inside)
        elif is_image(path):
            yield path


def special_pixels(path: str) -> list[str]:
    """What of an image `read_image` shows otherwise with ``as_people_see`` than without, and further frames.

    Raises:
        ImageReadError: As `read_image`.
    """
    with _opened(path) as image:
        kinds = {
            "lie on their side (EXIF)": image.getexif().get(ExifTags.Base.Orientation, 1) != 1,
            "have transparent parts": image.has_transparency_data,
            "have more than 8 bits a channel": _is_deep(image),
            "have further frames (the first counts)": image.format != "MPO" and getattr(image, "n_frames", 1) > 1,
        }
    return [kind for kind, present in kinds.items() if present]


def require_readable(paths: Sequence[str]) -> None:
    """Open image files without decoding them, so that a run ends before its first step and not after its last.

    Of more than `OPENED_MAX` every second, third, ... is opened.

    Raises:
        ImageReadError: Files that cannot be opened; counts them and names some.
    """
    paths = list(dict.fromkeys(paths))
    paths = paths[:: -(-len(paths) // OPENED_MAX) or 1]
    with ThreadPoolExecutor(THREADS) as pool:
        broken = [(path, why) for path, why in zip(paths, pool.map(_why_unreadable, paths), strict=True) if why]
    if broken:
        others = f" (and {len(broken) - 1} more images, such as {broken[1][0]})" if len(broken) > 1 else ""
        raise ImageReadError(broken[0][1] + others)


def _why_unreadable(path: str) -> str:
    try:
        with _opened(path):
            return ""
    except ImageReadError as error:
        return str(error)


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        raise ImageReadError(f"cannot read image {path}: {' '.join(str(error).split())}") from error


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Black is 0; white is the first usual level that no value exceeds (1 too for floats), else the largest value."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
    levels = (1, *WHITE_LEVELS) if image.mode == "F" else WHITE_LEVELS
    white = next((level for level in levels if values.max() <= level), values.max())
    return Image.fromarray((values.clip(0) / white * 255).round().astype(np.uint8))

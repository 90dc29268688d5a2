"""Pixels: those of the published code, bit for bit, or what a person sees; and files that do not open."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dassl.utils import images, read_image, require_readable
from dassl.utils.images import ImageReadError, find_images, special_pixels

RAMP = np.linspace(0, 1, 12).reshape(3, 4)


def pixels(path: Path, as_people_see: bool = True) -> Any:
    return np.asarray(read_image(str(path), as_people_see))


def saved(path: Path, values: Any, **options: Any) -> Path:
    image = values if isinstance(values, Image.Image) else Image.fromarray(np.asarray(values))
    image.save(path, **options)
    return path


def noise(mode: str) -> Image.Image:
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    return rgb.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "CMYK", "YCbCr", "RGBA", "LA", "I;16", "I", "F"])
def test_published_pixels_are_those_of_pillows_conversion(mode: str, tmp_path: Path) -> None:
    path = saved(tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr", "F", "I") else "a.png"), noise(mode))
    with Image.open(path) as image:
        assert image.mode == mode
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels(path, as_people_see=False), expected)
    if mode in ("RGB", "L", "P", "1", "CMYK", "YCbCr"):  # nothing special about them
        assert np.array_equal(pixels(path), expected)
        assert special_pixels(str(path)) == []


@pytest.mark.parametrize(
    ("values", "white"),
    [
        ((RAMP * 65535).astype(np.uint16), 65535),
        ((RAMP * 4095).astype(np.uint16), 4095),
        ((RAMP * 255).astype(np.uint16), 255),
        ((RAMP * 20000).astype(np.uint16), 65535),  # a dark one stays dark
        ((RAMP * 65535).astype(np.int32), 65535),
        ((RAMP * 4095).astype(np.int32), 4095),
        ((RAMP * 2e9).astype(np.int32), 2e9),
        (RAMP.astype(np.float32), 1),
        ((RAMP * 0.25).astype(np.float32), 1),
        ((RAMP * 255).astype(np.float32), 255),
        ((RAMP * 1e9).astype(np.float32), np.float32(1e9)),
        ((RAMP * 300 - 100).astype(np.float32), 255),  # below 0 is black
        (np.zeros((3, 4), np.uint16), 255),
        (np.zeros((3, 4), np.float32), 1),
    ],
)
def test_deep_greys_are_scaled(values: Any, white: float, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", values)
    expected = np.rint(np.clip(values.astype(np.float64), 0, None) / white * 255)
    assert np.abs(pixels(path) - expected[..., None]).max() <= 0
    assert special_pixels(str(path)) == ["have more than 8 bits a channel"]


def test_deep_grey_png_and_big_endian_tiff(tmp_path: Path) -> None:
    values = (RAMP * 65535).astype(np.uint16)
    expected = np.rint(RAMP * 255)
    assert np.abs(pixels(saved(tmp_path / "a.png", values))[..., 0] - expected).max() <= 1
    swapped = Image.frombytes("I;16B", (4, 3), values.astype(">u2").tobytes())
    assert np.abs(pixels(saved(tmp_path / "b.tif", swapped))[..., 0] - expected).max() <= 1


def test_floats_that_are_no_numbers_are_black(tmp_path: Path) -> None:
    values = np.array([[0.5, np.nan], [np.inf, 1]], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pixels(saved(tmp_path / "a.tif", values))[..., 0].tolist() == [[128, 0], [0, 255]]


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparent_parts_are_white(suffix: str, tmp_path: Path) -> None:
    values = np.zeros((2, 2, 4), np.uint8)
    values[0, 0] = (0, 0, 0, 255)
    values[0, 1] = (255, 0, 0, 128)
    values[1, 1] = (90, 90, 90, 0)  # a hidden colour
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", values, **options)
    assert pixels(path).tolist() == [[[0, 0, 0], [255, 127, 127]], [[255, 255, 255], [255, 255, 255]]]
    assert pixels(path, as_people_see=False)[1, 0].tolist() == [0, 0, 0]
    assert special_pixels(str(path)) == ["have transparent parts"]


@pytest.mark.parametrize("mode", ["P", "L", "RGB", "LA"])
def test_transparency_of_every_mode(mode: str, tmp_path: Path) -> None:
    image = Image.new(mode, (2, 1))
    image.putpixel((1, 0), {"P": 1, "L": 9, "RGB": (9, 9, 9), "LA": (9, 255)}[mode])
    options = {} if mode == "LA" else {"transparency": (0, 0, 0) if mode == "RGB" else 0}
    if mode == "P":
        image.putpalette([0, 0, 0, 9, 9, 9])
    assert pixels(saved(tmp_path / "a.png", image, **options))[0].tolist() == [[255] * 3, [9] * 3]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_photos_are_turned_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8], upright[:8, 24:], upright[8:, :8] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    # How a camera stores the scene: what its orientation's name says has to be undone.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"a.{suffix}", np.ascontiguousarray(stored), exif=exif.tobytes(), lossless=True)
    got = pixels(path)
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright)[::4, ::4].max() <= (120 if suffix == "jpg" else 0)  # JPEG blurs the edges
    if suffix != "tif":  # Pillow turns these upright itself
        assert pixels(path, as_people_see=False).shape == stored.shape
    assert special_pixels(str(path)) == (["lie on their side (EXIF)"] if orientation > 1 else [])


def test_damaged_exif_leaves_the_photo_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", np.full((4, 6, 3), 7, np.uint8), exif=b"Exif\0\0nonsense")
    assert pixels(path).shape == (4, 6, 3)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_of_several_frames_counts(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert pixels(path)[0, 0].tolist() == [255, 0, 0]
    assert special_pixels(str(path)) == ["have further frames (the first counts)"]


class TestRequireReadable:
    def test_all_open(self, tmp_path: Path) -> None:
        require_readable([str(saved(tmp_path / f"{i}.png", noise("L"))) for i in range(3)])
        require_readable([])

    def test_those_that_do_not_are_named_and_counted(self, tmp_path: Path) -> None:
        good = saved(tmp_path / "good.png", noise("RGB"))
        (tmp_path / "page.jpg").write_text("<html>")
        (tmp_path / "empty.jpg").touch()
        paths = [str(good), str(tmp_path / "page.jpg"), str(tmp_path / "gone.jpg"), str(tmp_path / "empty.jpg")]
        with pytest.raises(
            ImageReadError, match=r"cannot read image .*page\.jpg: .*2 more images, such as .*gone\.jpg"
        ):
            require_readable(paths)

    def test_of_many_a_part_is_opened(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        opened: list[str] = []
        monkeypatch.setattr(images, "_why_unreadable", lambda path: opened.append(path) or "")
        monkeypatch.setattr(images, "OPENED_MAX", 10)
        require_readable([str(i) for i in range(25)])
        assert sorted(opened, key=int) == [str(i) for i in range(0, 25, 3)]


class TestFindImages:
    def test_all_below_a_folder_by_name_without_what_is_hidden(self, tmp_path: Path) -> None:
        for name in (
            "b.png",
            "a/2.JPEG",
            "a/10.png",
            "a/notes.txt",
            ".x.png",
            ".git/x.png",
            "__MACOSX/x.png",
            "c/d/e.webp",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        saved(tmp_path / "c" / "scan", noise("L"), format="PNG")  # no extension: the first bytes count
        (tmp_path / "c" / "Makefile").write_text("all:")
        (tmp_path / "c" / "up").symlink_to(tmp_path)  # would have no end
        (tmp_path / "z").symlink_to(tmp_path / "a")
        found = [str(Path(path).relative_to(tmp_path)) for path in find_images(str(tmp_path), pytest.fail)]
        assert found == ["a/10.png", "a/2.JPEG", "b.png", "c/d/e.webp", "c/scan", "z/10.png", "z/2.JPEG"]

    def test_folders_that_cannot_be_listed_are_told_and_the_rest_goes_on(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").touch()
        told: list[OSError] = []
        assert list(find_images(str(tmp_path / "gone"), told.append)) == []
        assert [type(error) for error in told] == [FileNotFoundError]

    def test_folders_are_listed_when_their_images_are_asked_for(self, tmp_path: Path, monkeypatch: Any) -> None:
        for folder in "abc":
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "1.png").touch()
        listed, scandir = [], os.scandir
        monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path).name) or scandir(path))
        found = find_images(str(tmp_path), pytest.fail)
        next(found)
        assert listed == [tmp_path.name, "a"]
        next(found)
        assert listed == [tmp_path.name, "a", "b"]

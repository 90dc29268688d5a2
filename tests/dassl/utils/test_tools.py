"""Files, seeds, images and the environment."""

import io
import json
import os
import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features

from dassl.utils import (
    check_isfile,
    collect_env_info,
    listdir_nohidden,
    mkdir_if_missing,
    read_image,
    read_json,
    read_text,
    seeded,
    set_random_seed,
    tolist_if_not,
    write_json,
    write_text,
)
from dassl.utils.images import ImageReadError
from dassl.utils.tools import map_ahead, versions


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), torch.rand(()).item()]


# Seeds --------------------------------------------------------------------------------------------------------------


def test_seed_fixes_all_generators_and_zero_is_one() -> None:
    draws = []
    for seed in (0, 0, 1):
        set_random_seed(seed)
        draws.append(draw())
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[0], draws[2], strict=True))


@pytest.mark.parametrize("seed", [2**32, 2**63 - 1])
def test_large_seeds_are_accepted(seed: int) -> None:
    set_random_seed(seed)
    first = draw()
    set_random_seed(seed)
    assert draw() == first


def test_seeded_draws_depend_on_the_key_alone_and_leave_the_generators_alone() -> None:
    set_random_seed(3)
    expected = draw()
    inside = []
    for outer in (3, 4):
        set_random_seed(outer)
        with seeded(1, 2, 3):
            inside.append(draw())
    assert inside[0] == inside[1]
    set_random_seed(3)
    with seeded(1, 2, 3):
        draw()
    assert draw() == expected


def test_seeded_differs_for_every_key() -> None:
    keys = [(1, 0, 1), (1, 1, 0), (0, 1, 1), (1, 0, 2), (2, 0, 1), (1, 11), (11, 1)]
    drawn = set()
    for key in keys:
        with seeded(*key):
            drawn.add(tuple(draw()))
    assert len(drawn) == len(keys)


def test_seeded_restores_after_an_error() -> None:
    set_random_seed(5)
    expected = draw()
    set_random_seed(5)
    with pytest.raises(KeyError), seeded(1):
        draw()
        raise KeyError
    assert draw() == expected


# Files --------------------------------------------------------------------------------------------------------------


def test_json_round_trip_makes_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    write_json({"a": [1, 2.5, None, "ä"]}, path)
    assert read_json(str(path)) == {"a": [1, 2.5, None, "ä"]}
    assert path.read_text().endswith("}\n")
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=f"{tmp_path}/a.json is not valid JSON"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_and_json_of_other_systems(encoding: str, end: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(f'{{{end}"a": "café"{end}}}{end}'.encode(encoding))
    assert read_text(path) == '{\n"a": "café"\n}\n'
    assert read_json(path) == {"a": "café"}


def test_text_of_an_unknown_encoding_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "classnames.txt"
    path.write_bytes(b"n01 tench\r\nn02 caf\xe9\r\n")
    for read in (read_text, read_json):
        with pytest.raises(ValueError, match=r"classnames\.txt, line 2: after 'n02 caf' .*not utf-8.*Save .* as UTF-8"):
            read(path)


def test_empty_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert read_text(tmp_path / "a.txt") == ""


def test_old_file_survives_a_failure_to_write_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text("old", path)
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_text("new", path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_folders_and_lists(tmp_path: Path) -> None:
    mkdir_if_missing(str(tmp_path / "b" / "c"))
    mkdir_if_missing(str(tmp_path / "b" / "c"))
    mkdir_if_missing("")
    (tmp_path / ".hidden").touch()
    (tmp_path / "a").touch()
    assert listdir_nohidden(str(tmp_path), sort=True) == ["a", "b"]
    assert sorted(listdir_nohidden(str(tmp_path))) == ["a", "b"]
    assert (tolist_if_not(1), tolist_if_not([1]), tolist_if_not((1,))) == ([1], [1], [(1,)])


def test_missing_file_warns(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert check_isfile(str(tmp_path / "a"))
    with pytest.warns(UserWarning, match=f"no file found at {tmp_path}/b"):
        assert not check_isfile(str(tmp_path / "b"))


def test_environment_names_versions_and_hardware() -> None:
    assert versions()["torch"] == torch.__version__.partition("+")[0] or versions()["torch"] == torch.__version__
    line = collect_env_info()
    assert f"torch {versions()['torch']}" in line and "\n" not in line
    assert json.loads(json.dumps(versions())) == versions()


# Images -------------------------------------------------------------------------------------------------------------


def encoded(file_format: str) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_every_kind_of_image_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = str(tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png"))
    Image.new(mode, (3, 2)).save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (3, 2))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "AVIF"])
def test_every_damage_to_a_file_is_an_image_read_error_or_none_at_all(
    file_format: str, tmp_path: Path, recwarn: Any
) -> None:
    if file_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    whole, path = encoded(file_format), tmp_path / "image"
    cuts = [whole[:length] for length in range(0, len(whole), max(1, len(whole) // 60))]
    rng = random.Random(0)
    flips = []
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        flips.append(bytes(damaged))
    refused = 0
    for content in cuts + flips:
        path.write_bytes(content)
        try:
            assert read_image(str(path)).mode == "RGB"
        except ImageReadError as error:
            refused += 1
            assert str(error).startswith(f"cannot read image {path}: ")
            assert len(str(error).splitlines()) == 1
    assert refused >= 40
    path.write_bytes(whole)
    assert read_image(str(path)).size == (7, 9)


def test_image_that_would_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    Image.new("RGB", (30, 30)).save(tmp_path / "big.png")
    with pytest.raises(ImageReadError, match="big.png.*exceeds limit"):
        read_image(str(tmp_path / "big.png"))


def test_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageReadError, match=f"cannot read image {tmp_path}"):
        read_image(str(tmp_path))


class TestMapAhead:
    def test_results_come_in_order(self) -> None:
        assert list(map_ahead(str, range(50), threads=4, ahead=3)) == [str(i) for i in range(50)]
        assert list(map_ahead(str, [], threads=1, ahead=1)) == []

    def test_no_more_are_begun_than_asked_for_and_ahead(self) -> None:
        taken: list[int] = []
        results = map_ahead(str, (taken.append(i) or i for i in range(100)), threads=2, ahead=5)
        assert next(results) == "0" and len(taken) == 6
        assert next(results) == "1" and len(taken) == 7
        results.close()
        assert len(taken) == 7

    def test_they_run_beside_each_other(self) -> None:
        barrier = threading.Barrier(3)  # passes when three are there at once
        assert sorted(map_ahead(lambda i: barrier.wait(30) * 0 + i, range(3), threads=3, ahead=3)) == [0, 1, 2]

    def test_an_error_comes_where_its_result_would(self) -> None:
        results = map_ahead(lambda x: 1 // x, [1, 0, 1], threads=2, ahead=2)
        assert next(results) == 1
        with pytest.raises(ZeroDivisionError):
            next(results)

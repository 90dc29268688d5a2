"""The MATLAB reader, against files that SciPy wrote (`mat_samples.json`, base 85)."""

import base64
import json
import struct
from pathlib import Path

import pytest

from datasets.fetch.matfile import read_mat

SAMPLES = json.loads((Path(__file__).parents[1] / "mat_samples.json").read_text())


@pytest.fixture
def sample(tmp_path):
    def write(name, change=lambda data: data):
        path = tmp_path / f"{name}.mat"
        path.write_bytes(change(base64.b85decode(SAMPLES[name])))
        return str(path)

    return write


def test_compressed_structs(sample):
    rows = read_mat(sample("CARS_TEST"))["annotations"]
    assert len(rows) == 6
    assert rows[4] == {"bbox_x1": [304], "class": [2], "fname": "00005.jpg"}


def test_compressed_cells_and_numbers(sample):
    assert read_mat(sample("CARS_META"))["class_names"][2] == "Ram C/V Cargo Van Minivan 2012"
    assert read_mat(sample("FLOWERS")) == {"labels": [2] * 7 + [1] * 10 + [3] * 5 + [1] * 3}


def test_uncompressed(sample):
    content = read_mat(sample("PLAIN"))
    assert content["labels"] == [1.5, -2.0]
    assert content["name"] == "café"
    assert content["none"] == []
    assert content["cell"][0] == "AM General Hummer SUV 2000"


def test_big_endian(tmp_path):
    flags = struct.pack(">IIII", 6, 8, 6, 0)
    dims = struct.pack(">IIii", 5, 8, 1, 2)
    name = struct.pack(">HHcxxx", 1, 1, b"x")
    numbers = struct.pack(">II2d", 9, 16, 3.0, 4.5)
    body = flags + dims + name + numbers
    path = tmp_path / "big.mat"
    path.write_bytes(b" " * 124 + struct.pack(">H", 0x0100) + b"MI" + struct.pack(">II", 14, len(body)) + body)
    assert read_mat(str(path)) == {"x": [3.0, 4.5]}


@pytest.mark.parametrize("change", [lambda d: d[:-30], lambda d: d[:140] + b"\xff" * 40 + d[180:]])
def test_damaged(sample, change):
    with pytest.raises(ValueError, match="damaged"):
        read_mat(sample("CARS_TRAIN", change))


@pytest.mark.parametrize("data", [b"", b"MATLAB 7.3", b"\x89HDF" * 100])
def test_other_files(tmp_path, data):
    (tmp_path / "x.mat").write_bytes(data)
    with pytest.raises(ValueError, match="no MATLAB 5 file"):
        read_mat(str(tmp_path / "x.mat"))

"""Listing, reading and writing, with files of other systems."""

import errno
import json
import os

import pytest

from datasets import files


class TestFiles:
    def test_a_full_disk_leaves_the_old_file(self, tmp_path, monkeypatch, capsys):
        path = tmp_path / "x.json"
        assert files.write_json({"a": [1]}, str(path), "It")

        def full(*_args):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files.os, "replace", full)
        assert not files.write_json({"a": [2]}, str(path), "It")
        assert json.loads(path.read_text()) == {"a": [1]}
        assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
        assert "It not saved" in capsys.readouterr().out

    def test_write_is_readable_by_all(self, tmp_path):
        files.write_json({"a": []}, str(tmp_path / "new" / "x.json"), "It")
        assert (tmp_path / "new" / "x.json").stat().st_mode & 0o777 == 0o644

    def test_listing(self, tmp_path, touch):
        touch(tmp_path, ["b.JPG", "a.png", ".hidden.jpg", "notes.txt", "B.jpeg", "sub/x.jpg", ".git/x.jpg"])
        assert files.list_images(str(tmp_path)) == ["B.jpeg", "a.png", "b.JPG"]
        assert files.list_folders(str(tmp_path)) == ["sub"]

    def test_classnames(self, tmp_path):
        path = tmp_path / "classnames.txt"
        path.write_text("n02 great white shark\nn01\ttench\nodd name\tOdd one\n\n")
        assert list(files.read_classnames(str(path)).items()) == [
            ("n02", "great white shark"), ("n01", "tench"), ("odd name", "Odd one"),
        ]  # fmt: skip
        path.write_text("n01 tench\nn02\n")
        with pytest.raises(ValueError, match="no class name in 'n02'"):
            files.read_classnames(str(path))
        path.write_text("n01 tench\nn01 shark\n")
        with pytest.raises(ValueError, match="'n01' twice"):
            files.read_classnames(str(path))

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

    def test_locate_prefers_what_is_written(self, tmp_path, touch):
        written = touch(tmp_path, ["a\\b.jpg", "a/b.jpg", "\u00e9.jpg", "e\u0301.jpg"])
        gone = [str(tmp_path / name) for name in ("a/c.jpg", "c/b.jpg", "a\\c.jpg")]
        assert files.locate(written + gone) == dict(zip(written, written, strict=True))

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
    def test_lists_of_other_systems(self, tmp_path, encoding):
        path = tmp_path / "classnames.txt"
        path.write_bytes("n01 tench\r\n\r\nn02 cafe\u0301 \r\n".encode(encoding))
        assert files.read_lines(str(path)) == ["n01 tench", "n02 caf\u00e9"]
        assert files.read_classnames(str(path)) == {"n01": "tench", "n02": "caf\u00e9"}

    def test_order_does_not_depend_on_the_form_of_unicode(self, tmp_path, touch):
        touch(tmp_path, ["e\u0301a.jpg", "eb.jpg", "f.jpg"])
        touch(tmp_path / "other", ["\u00e9a.jpg", "eb.jpg", "f.jpg"])
        assert files.list_images(str(tmp_path)) == ["eb.jpg", "f.jpg", "e\u0301a.jpg"]
        assert files.list_images(str(tmp_path / "other")) == ["eb.jpg", "f.jpg", "\u00e9a.jpg"]

    def test_pictures_only(self, tmp_path, touch):
        names = ["a.avif", "a.jp2", "a.jfif", "a.JPE", "a.tga"]
        touch(tmp_path, [*names, "a.mpg", "a.h5", "a.pdf", "a.eps", "a.heic", "a.mp4", "a.txt", "Makefile"])
        assert files.list_images(str(tmp_path)) == sorted(names)

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

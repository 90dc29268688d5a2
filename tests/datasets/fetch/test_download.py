"""Downloads from a server that breaks off, and archives that try to leave their folder."""

import contextlib
import errno
import gzip
import hashlib
import io
import os
import random
import socket
import tarfile
import threading
import tracemalloc
import zipfile
from types import SimpleNamespace

import pytest

from datasets.fetch import download as module
from datasets.fetch.download import DownloadError, UnpackError, download, unpack

DATA = bytes(range(256)) * 4000  # 1 MB


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_SEC", 0.0)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "folder" / "file.bin"


def left(target):
    return sorted(p.name for p in target.parent.iterdir())


class TestDownload:
    def test_whole_file(self, web, target):
        web.files["/f"] = DATA
        download(f"{web.url}/f", str(target), md5=hashlib.md5(DATA).hexdigest())
        assert target.read_bytes() == DATA
        assert left(target) == ["file.bin"]

    def test_goes_on_after_broken_connections(self, web, target):
        web.files["/f"], web.cuts["/f"] = DATA, [300_000, 0, 200_000]
        download(f"{web.url}/f", str(target), sha256=hashlib.sha256(DATA).hexdigest())
        assert target.read_bytes() == DATA
        assert [r for _, r in web.asked] == ["", "bytes=300000-", "bytes=300000-", "bytes=500000-"]
        assert web.sent == len(DATA)

    def test_gives_up_and_the_next_call_goes_on(self, web, target):
        web.files["/f"], web.cuts["/f"] = DATA, [400_000, 0, 0]
        with pytest.raises(DownloadError, match=r"ended after 400,000 of 1,024,000 bytes \(3 tries\)"):
            download(f"{web.url}/f", str(target))
        assert left(target) == ["file.bin.part", "file.bin.part.tag"]
        download(f"{web.url}/f", str(target))
        assert target.read_bytes() == DATA
        assert web.sent == len(DATA)

    def test_many_breaks_with_progress_are_no_failure(self, web, target):
        web.files["/f"], web.cuts["/f"] = DATA, [100_000] * 8
        download(f"{web.url}/f", str(target))
        assert target.read_bytes() == DATA

    def test_another_version_of_the_file_starts_anew(self, web, target):
        web.files["/f"], web.cuts["/f"] = DATA, [400_000, 0, 0]
        with pytest.raises(DownloadError):
            download(f"{web.url}/f", str(target))
        web.files["/f"] = DATA[::-1]
        download(f"{web.url}/f", str(target))
        assert target.read_bytes() == DATA[::-1]

    def test_server_without_ranges(self, web, target):
        web.files["/f"], web.cuts["/f"], web.ranges = DATA, [400_000], False
        download(f"{web.url}/f", str(target))
        assert target.read_bytes() == DATA

    def test_wrong_checksum(self, web, target):
        web.files["/f"] = DATA
        with pytest.raises(DownloadError, match=f"MD5 is {hashlib.md5(DATA).hexdigest()}, published is 0123"):
            download(f"{web.url}/f", str(target), md5="0123" * 8)
        assert left(target) == []
        assert len(web.asked) == 1

    def test_bad_beginning_from_an_earlier_call(self, web, target):
        web.files["/f"] = DATA
        target.parent.mkdir()
        (target.parent / "file.bin.part").write_bytes(b"x" * 1000)
        download(f"{web.url}/f", str(target), md5=hashlib.md5(DATA).hexdigest())
        assert target.read_bytes() == DATA

    @pytest.mark.parametrize("size", [len(DATA), len(DATA) + 5])
    def test_all_of_it_or_more_is_here_already(self, web, target, size):
        web.files["/f"] = DATA
        target.parent.mkdir()
        (target.parent / "file.bin.part").write_bytes((DATA + b"12345")[:size])
        download(f"{web.url}/f", str(target))
        assert target.read_bytes() == DATA

    def test_refusals_are_not_tried_again(self, web, target):
        with pytest.raises(DownloadError, match="404"):
            download(f"{web.url}/nothing", str(target))
        assert len(web.asked) == 1

    def test_overload_is_tried_again(self, web, target):
        web.files["/f"], web.codes["/f"] = DATA, [503, 429]
        download(f"{web.url}/f", str(target))
        assert target.read_bytes() == DATA

    def test_web_page_instead_of_the_file(self, web, target):
        web.files["/f"], web.types["/f"] = b"<html>Quota exceeded</html>", "text/html; charset=utf-8"
        with pytest.raises(DownloadError, match="web page came instead"):
            download(f"{web.url}/f", str(target))
        assert left(target) == []

    def test_no_server(self, target):
        with pytest.raises(DownloadError, match="refused"):
            download("http://127.0.0.1:9/f", str(target))

    @pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/f"])
    def test_other_schemes(self, target, url):
        with pytest.raises(DownloadError, match="only http and https"):
            download(url, str(target))

    def test_too_little_space_is_said_before(self, web, target, monkeypatch):
        web.files["/f"] = DATA
        monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        with pytest.raises(OSError, match="No space left") as e:
            download(f"{web.url}/f", str(target))
        assert e.value.errno == errno.ENOSPC

    def test_full_disk_keeps_what_has_arrived(self, web, target, monkeypatch):
        web.files["/f"] = DATA
        monkeypatch.setattr(module, "open", full_after(600_000), raising=False)
        with pytest.raises(OSError, match="No space left"):
            download(f"{web.url}/f", str(target))
        have = os.path.getsize(f"{target}.part")
        assert 0 < have <= 600_000
        monkeypatch.undo()
        download(f"{web.url}/f", str(target))
        assert target.read_bytes() == DATA
        assert web.asked[-1][1] == f"bytes={have}-"


def full_after(room):
    """An `open` whose files take `room` bytes in all, then say that the disk is full."""
    space = [room]

    def fake(path, mode="r", **options):
        f = open(path, mode, **options)  # noqa: SIM115  the caller closes it
        if "b" in mode and "r" not in mode:
            write = f.write

            def limited(data):
                if len(data) > space[0]:
                    raise OSError(errno.ENOSPC, "No space left on device", str(path))
                space[0] -= len(data)
                return write(data)

            wrapped = io.BytesIO()  # only its methods are replaced
            wrapped.write, wrapped.close = limited, f.close
            return wrapped
        return f

    return fake


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content
                archive.addfile(info)


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if not isinstance(content, bytes):
                info.external_attr, content = 0o120777 << 16, content[1].encode()
            archive.writestr(info, content)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(params=["x.zip", "x.tar", "x.tar.gz", "x.tgz"])
def pack(request, tmp_path):
    def build(members):
        path = str(tmp_path / request.param)
        if path.endswith(".zip"):
            make_zip(path, members)
        else:
            tar(path, members, "w:gz" if "gz" in request.param else "w")
        return path

    return build


class TestUnpack:
    def test_files(self, pack, tmp_path):
        members = {"a/b/1.txt": b"one", "./a/2.txt": b"two" * 1000, "3.txt": b""}
        unpack(pack(members), str(tmp_path / "out"))
        assert contents(tmp_path / "out") == {"a/b/1.txt": b"one", "a/2.txt": b"two" * 1000, "3.txt": b""}

    def test_some(self, pack, tmp_path):
        members = {"top/images/1": b"1", "top/images/2": b"2", "top/masks/1": b"", "top/s.json": b"{}", "s.jsonx": b""}
        unpack(pack(members), str(tmp_path / "out"), only=["images", "s.json"])
        assert sorted(contents(tmp_path / "out")) == ["top/images/1", "top/images/2", "top/s.json"]

    @pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "C:/evil", "..\\evil", "a/b/../../../evil"])
    def test_names_that_leave_the_folder(self, pack, tmp_path, name):
        archive = pack({"good": b"1", name: b"2"})
        with pytest.raises(UnpackError, match="would leave the folder"):
            unpack(archive, str(tmp_path / "deep" / "out"))
        assert not list(tmp_path.rglob("evil"))

    def test_links_are_left_out(self, pack, tmp_path, capsys):
        (tmp_path / "outside").mkdir()
        link = (tarfile.SYMTYPE, str(tmp_path / "outside"))
        unpack(pack({"door": link, "1": b"1"}), str(tmp_path / "out"))
        assert contents(tmp_path / "out") == {"1": b"1"}
        assert "Left out 1 links" in capsys.readouterr().out
        unpack(pack({"door": link, "door/evil": b"2"}), str(tmp_path / "out2"))
        assert list((tmp_path / "outside").iterdir()) == []

    def test_devices_and_hard_links_are_left_out(self, tmp_path):
        members = {"null": (tarfile.CHRTYPE, ""), "pipe": (tarfile.FIFOTYPE, ""),
                   "hard": (tarfile.LNKTYPE, "/etc/hostname"), "ok": b"1"}  # fmt: skip
        tar(tmp_path / "x.tar", members)
        unpack(str(tmp_path / "x.tar"), str(tmp_path / "out"))
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["ok"]

    def test_side_files_of_macos_are_left_out(self, pack, tmp_path):
        unpack(pack({"__MACOSX/1": b"", "a/._1.jpg": b"", "a/1.jpg": b"1"}), str(tmp_path / "out"))
        assert contents(tmp_path / "out") == {"a/1.jpg": b"1"}

    @pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"nonsense" * 200])
    def test_damaged(self, pack, tmp_path, damage):
        path = pack({f"{i}": os.urandom(5000) for i in range(10)})
        with open(path, "rb") as f:
            data = f.read()
        with open(path, "wb") as f:
            f.write(damage(data))
        with pytest.raises(UnpackError, match="is damaged"):
            unpack(path, str(tmp_path / "out"))

    def test_changed_contents_of_a_zip(self, tmp_path):
        make_zip(tmp_path / "x.zip", {"1": os.urandom(5000)})
        data = bytearray((tmp_path / "x.zip").read_bytes())
        data[2000] ^= 255
        (tmp_path / "x.zip").write_bytes(data)
        with pytest.raises(UnpackError, match="is damaged"):
            unpack(str(tmp_path / "x.zip"), str(tmp_path / "out"))

    def test_file_and_folder_of_one_name(self, pack, tmp_path):
        with pytest.raises(UnpackError, match="file and a folder of the same name"):
            unpack(pack({"a": b"1", "a/b": b"2"}), str(tmp_path / "out"))

    def test_full_disk(self, pack, tmp_path, monkeypatch):
        path = pack({"1": b"1" * 1000, "2": b"2" * 1000})
        (tmp_path / "out").mkdir()
        fake = full_after(1500)
        monkeypatch.setattr(module, "open", lambda p, m="r", **o: fake(p, m, **o), raising=False)
        with pytest.raises(OSError, match="No space left"):
            unpack(path, str(tmp_path / "out"))


class TestFloods:
    """Archives that would fill the disk or the memory: stopped at once, whatever the kind."""

    def sparse(self, path, size):
        """A tar of 512 bytes whose one member is `size` bytes of nothing."""
        info = tarfile.TarInfo("hole")
        info.size, info.type = size, tarfile.GNUTYPE_SPARSE
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT)[:512])
        header[483:495] = b"\x80" + size.to_bytes(11, "big")  # the real size; no pieces of data
        header[124:136] = b"00000000000\0"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        path.write_bytes(bytes(header) + bytes(1024))

    def test_a_sparse_file_of_a_terabyte(self, tmp_path):
        self.sparse(tmp_path / "x.tar", 1 << 40)
        with pytest.raises(UnpackError, match=r"x.tar would unpack to 1,099.51 GB or more, and"):
            unpack(str(tmp_path / "x.tar"), str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    def test_more_than_the_limit(self, pack, tmp_path):
        archive = pack({f"{i}": bytes(100_000) for i in range(20)})
        with pytest.raises(UnpackError, match="would unpack to 0.00 GB or more, and 0.00 GB are the most"):
            unpack(archive, str(tmp_path / "out"), limit_bytes=1_000_000)
        assert len(contents(tmp_path / "out")) <= 10

    def test_many_empty_files_count_too(self, pack, tmp_path):
        with pytest.raises(UnpackError, match="the most for it"):
            unpack(pack({f"{i}": b"" for i in range(300)}), str(tmp_path / "out"), limit_bytes=1_000_000)

    @pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE])
    @pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
    def test_a_header_of_gigabytes_takes_no_memory(self, tmp_path, kind, name):
        info = tarfile.TarInfo("long")
        info.type, info.size = kind, 4 << 30
        with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "wb") as f:
            f.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))
        tracemalloc.start()
        with pytest.raises(UnpackError, match="a header of 4,294,96"):
            unpack(str(tmp_path / name), str(tmp_path / "out"))
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()

    def test_a_sparse_map_of_nonsense_is_damage(self, tmp_path):
        with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            info = tarfile.TarInfo("hole")
            info.size = 512
            info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99"}
            archive.addfile(info, io.BytesIO(b"nonsense\n".ljust(512, b"x")))
        with pytest.raises(UnpackError, match="x.tar is damaged"):
            unpack(str(tmp_path / "x.tar"), str(tmp_path / "out"))

    def test_a_zip_that_lies_about_its_sizes(self, tmp_path):
        make_zip(tmp_path / "x.zip", {"a": bytes(5_000_000)})
        data = (tmp_path / "x.zip").read_bytes()
        (tmp_path / "x.zip").write_bytes(data.replace((5_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
        with pytest.raises(UnpackError, match="x.zip is damaged"):
            unpack(str(tmp_path / "x.zip"), str(tmp_path / "out"))
        assert sum(map(len, contents(tmp_path / "out").values())) < 1_000_000

    def refused(self, tmp_path, name, message, data=None, only=()):
        """An error that names the archive, and neither much memory nor anything beyond the limit of 1 MB."""
        if data is not None:
            (tmp_path / name).write_bytes(data)
        tracemalloc.start()
        try:
            with pytest.raises(UnpackError, match=f"{name} .*{message}"):
                unpack(str(tmp_path / name), str(tmp_path / "out"), only=only, limit_bytes=1_000_000)
            assert tracemalloc.get_traced_memory()[1] < 30e6
        finally:
            tracemalloc.stop()
        assert sum(map(len, contents(tmp_path / "out").values())) <= 1_000_000

    @staticmethod
    def header(size, kind=b"0", sparse=b""):
        raw = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT)[:512])
        raw[124:136], raw[156:157] = tarfile.itn(size, 12, tarfile.GNU_FORMAT), kind
        raw[386 : 386 + len(sparse)] = sparse
        raw[148:156] = b" " * 8
        raw[148:155] = b"%06o\0" % sum(raw)
        return bytes(raw)

    def test_a_negative_size(self, tmp_path):
        self.refused(tmp_path, "x.tar", "a member of -512 bytes", self.header(-512) * 3)

    def test_a_map_of_holes_without_end(self, tmp_path):
        more = (b"1".rjust(11, b"0") + b"\0") * 42 + b"\1" + bytes(7)
        bomb = self.header(0, b"S", sparse=(b"%011o\0" % 0) * 8 + b"\1") + more * 50_000
        self.refused(tmp_path, "x.tar.gz", "a header of", gzip.compress(bomb))

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_a_zip_whose_compression_has_no_bound(self, tmp_path, method):
        with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
            archive.writestr("zeros", bytes(100_000))
        self.refused(tmp_path, "x.zip", "compression")

    def test_a_zip_with_a_directory_too_large_for_the_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "DIRECTORY_BYTES", 10_000)
        make_zip(tmp_path / "x.zip", {f"{i:04}": b"" for i in range(200)})
        self.refused(tmp_path, "x.zip", "a header of")

    def test_what_is_not_wanted_counts_too(self, pack, tmp_path):
        archive = pack({"much": bytes(2_000_000), "ok": b"1"})
        self.refused(tmp_path, os.path.basename(archive), "the most for it", only=["ok"])

    @pytest.mark.parametrize("name", ["{}/", "{}" + "/a" * 80, "__MACOSX/{}"])
    def test_folders_and_side_files_count_too(self, pack, tmp_path, name):
        archive = pack({name.format(i): b"" for i in range(300)})
        self.refused(tmp_path, os.path.basename(archive), "the most for it")

    @pytest.mark.parametrize("name", ["n" * 300, "n" * 5000, "d/" * 2500 + "n"])
    def test_names_that_no_disk_takes(self, pack, tmp_path, monkeypatch, name):
        monkeypatch.setattr(module, "MEMBER_BYTES", 0)
        self.refused(tmp_path, os.path.basename(pack({name: b"1"})), "is damaged")

    @pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz", "x.zip"])
    def test_any_byte_changed(self, tmp_path, name):
        """An archive is read, or an UnpackError says why not; nothing else comes out."""
        members, rng = {f"f/{i}": bytes([i]) * 2000 for i in range(5)}, random.Random(0)
        if name == "x.zip":
            make_zip(tmp_path / name, members)
        else:
            tar(tmp_path / name, members, "w" + name[5:].replace(".", ":"))
        good, read = (tmp_path / name).read_bytes(), 0
        for i in range(150):
            data = bytearray(good)
            for _ in range(rng.choice((1, 4))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            (tmp_path / name).write_bytes(data)
            with contextlib.suppress(UnpackError):
                unpack(str(tmp_path / name), str(tmp_path / f"out{i}"), limit_bytes=1e6)
                read += 1
        assert read < 150

    def test_a_download_larger_than_it_can_be(self, web, target):
        web.files["/f"] = DATA
        with pytest.raises(DownloadError, match="/f: more than 0.00 GB came, far more than published"):
            download(f"{web.url}/f", str(target), limit_bytes=10_000)
        assert left(target) == []


class TestSlowServers:
    """Servers that never refuse and never end; `talk` gets the connection after a request's head."""

    @pytest.fixture
    def server(self, monkeypatch):
        monkeypatch.setattr(module, "TIMEOUT_SEC", 0.4)
        listener = socket.create_server(("127.0.0.1", 0))
        connections, stop = [], threading.Event()

        def start(talk):
            def serve():
                while not stop.is_set():
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    connections.append(connection)
                    with contextlib.suppress(OSError), connection:
                        connection.recv(65536)
                        talk(connection, stop)

            thread.append(threading.Thread(target=serve, daemon=True))
            thread[0].start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}/f"

        thread: list[threading.Thread] = []
        yield start, connections
        stop.set()
        listener.close()
        thread[0].join(5)

    HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

    def test_a_redirect_to_ftp(self, server, target):
        url = server[0](lambda c, stop: c.sendall(b"HTTP/1.1 302 Found\r\nLocation: ftp://127.0.0.1:9/f\r\n\r\n"))
        with pytest.raises(DownloadError, match="only http and https"):
            download(url, str(target))

    def test_a_length_that_is_no_number(self, server, target):
        download(server[0](lambda c, stop: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab")), str(target))
        assert target.read_bytes() == b"ab"

    @pytest.mark.parametrize(
        ("talk", "message"),
        [
            (lambda c, stop: c.sendall(TestSlowServers.HEAD + b"x"), "the connection ended after"),
            (lambda c, stop: TestSlowServers.drip(c, stop, TestSlowServers.HEAD, b"x"), "bytes in .* s: too slow"),
            (lambda c, stop: TestSlowServers.drip(c, stop, b"", b"HTTP/1.1 100 Continue\r\n\r\n"), r"\(3 tries\)"),
            (lambda c, stop: TestSlowServers.drip(c, stop, b"HTTP/1.1 200 OK\r\nX-", b"a"), r"\(3 tries\)"),
            (lambda c, stop: TestSlowServers.drip(c, stop, TestSlowServers.CHUNKED, b"0"), r"\(3 tries\)"),
            (
                lambda c, stop: TestSlowServers.drip(c, stop, TestSlowServers.CHUNKED + b"0\r\n", b"A: b\r\n"),
                "too slow",
            ),
        ],
        ids=[
            "a byte a connection",
            "a byte at a time",
            "100 Continue for ever",
            "a head that never ends",
            "a chunk's size that never ends",
            "trailers that never end",
        ],
    )
    def test_they_are_left_after_three_tries_and_named(self, server, target, talk, message):
        start, connections = server
        url = start(talk)
        with pytest.raises(DownloadError, match=f"{url}: .*{message}"):
            download(url, str(target))
        assert len(connections) == 3

    @staticmethod
    def drip(connection, stop, head, piece):
        connection.sendall(head)
        for _ in range(500):  # at most 10 s
            if stop.wait(0.02):
                return
            connection.sendall(piece)

"""Downloads that resume and do not wait for ever; unpacking that cannot leave its folder or fill the disk."""

import bz2
import errno
import gzip
import hashlib
import http.client
import io
import lzma
import math
import os
import re
import shutil
import ssl
import struct
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from tqdm import tqdm

from dassl.utils.tools import existing_folder

CHUNK_BYTES = 1 << 18
TIMEOUT_SEC = 60.0  # for an answer's head, and between two pieces of its body
SLOWEST_BYTES_PER_SEC = 1000  # over TIMEOUT_SEC; a slower server is left
PROGRESS_BYTES = 1 << 16  # a connection that gave less has failed
PAUSE_SEC = 2.0  # before the second try; the third waits twice as long
AGENT = "Mozilla/5.0 (datasets.prepare)"  # some servers refuse Python's own name
BROKEN = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, EOFError,
    NotImplementedError, RuntimeError, ValueError, LookupError, OverflowError, struct.error,
)  # fmt: skip


class DownloadError(Exception):
    """A file that this address does not give, or not as it was published."""


class UnpackError(Exception):
    """An archive that is damaged, or that tries to write outside its folder."""


class _Paced(io.RawIOBase):
    """A connection left when too little of the file came in TIMEOUT_SEC; heads and trailers count as nothing."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw, self.useful, self.before, self.since = raw, 0, 0, time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if (now := time.monotonic()) - self.since >= TIMEOUT_SEC:
            came = self.useful - self.before
            if came < SLOWEST_BYTES_PER_SEC * TIMEOUT_SEC:
                raise http.client.HTTPException(f"{came:,} bytes in {now - self.since:.0f} s: too slow")
            self.before, self.since = self.useful, now
        return self.raw.readinto(buffer)

    def close(self) -> None:
        self.raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.paced = _Paced(self.fp.detach())
        self.fp = io.BufferedReader(self.paced)


class _Connection(http.client.HTTPConnection):
    response_class = _Answer


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Answer


class _Http(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    handler_order = 400  # before urllib's own, whose FTP has no pace

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Connection, req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_SecureConnection, req, context=ssl.create_default_context())

    def ftp_open(self, req: urllib.request.Request) -> Any:
        raise DownloadError(f"{req.full_url}: only http and https addresses are read.")


def download(
    url: str, path: str, md5: str = "", sha256: str = "", tries: int = 3, limit_bytes: float = math.inf
) -> None:
    """Download a file; what an interrupted call left is completed by the next one.

    Args:
        url: an http or https address.
        path: the file; until it is complete and checked, it is called ``<path>.part``.
        md5: published checksum, or "".
        sha256: published checksum, or "".
        tries: attempts after connections that gave next to nothing, from 1.
        limit_bytes: the most that the file may have.

    Raises:
        DownloadError: the server refuses, keeps breaking off, is too slow, or gives another or a larger file than
            the published one.
        OSError: the disk is full or cannot be written to; what has arrived stays for the next call.
    """
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: only http and https addresses are read.")
    partial = path + ".part"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    failures, furthest = 0, 0
    from_earlier = os.path.exists(partial)
    while True:
        try:
            _fetch(url, partial, limit_bytes)
        except BROKEN as e:
            if isinstance(e, urllib.error.HTTPError) and e.code < 500 and e.code != 429:
                raise DownloadError(f"{url}: the server says {e.code} {e.reason}.") from e
            size = os.path.getsize(partial) if os.path.exists(partial) else 0
            failures = 1 if size >= furthest + PROGRESS_BYTES else failures + 1  # a slow advance is no failure
            furthest = max(size, furthest)
            if failures >= tries:
                raise DownloadError(f"{url}: {e or type(e).__name__} ({tries} tries).") from e
            time.sleep(PAUSE_SEC * failures)
            continue
        wrong = _wrong_sum(partial, md5, sha256)
        if not wrong:
            break
        _forget(partial)
        if not from_earlier:
            raise DownloadError(f"{url}: {wrong}.")
        from_earlier = False  # perhaps an earlier call got another version of the file: once from the start
    os.replace(partial, path)
    _forget(partial)


def _fetch(url: str, partial: str, limit_bytes: float) -> None:
    """Append to `partial` until the file is complete; a connection that ends too early raises."""
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    have = os.path.getsize(partial) if os.path.exists(partial) else 0
    if have:
        headers["Range"] = f"bytes={have}-"
        if os.path.exists(partial + ".tag"):
            with open(partial + ".tag", encoding="utf-8") as f:
                headers["If-Range"] = f.read()
    try:
        opener = urllib.request.build_opener(_Http)
        answer = opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SEC)
    except urllib.error.HTTPError as e:
        if e.code != 416 or not have:
            raise
        if e.headers.get("Content-Range", "") == f"bytes */{have}":
            return  # an earlier call got all of it
        _forget(partial)
        raise http.client.HTTPException("the file has become shorter than what is here") from e
    with answer:
        if "text/html" in answer.headers.get("Content-Type", "") and not url.endswith(".html"):
            raise DownloadError(f"{url}: a web page came instead of the file (a login or a used-up quota).")
        resumed = answer.status == 206 and f"bytes {have}-" in answer.headers.get("Content-Range", "")
        if answer.status == 206 and not resumed:
            raise http.client.HTTPException("the server sent another piece of the file than was asked for")
        have = have if resumed else 0
        total = None if answer.length is None else have + answer.length
        tag = answer.headers.get("ETag", "")
        tag = answer.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
        if tag:
            with open(partial + ".tag", "w", encoding="utf-8") as f:
                f.write(tag)
        title = os.path.basename(partial).removesuffix(".part")
        free = shutil.disk_usage(os.path.dirname(partial)).free
        if total and total - have > free:
            needed = f"{(total - have) / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free"
            raise OSError(errno.ENOSPC, f"No space left on device ({needed})", partial)
        with (
            open(partial, "ab" if have else "wb") as f,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=title) as bar,
        ):
            while chunk := answer.read1(CHUNK_BYTES):  # what has come; `read` would wait for all of a chunk
                f.write(chunk)
                have += len(chunk)
                answer.paced.useful += len(chunk)
                bar.update(len(chunk))
                if have > limit_bytes:
                    _forget(partial)
                    raise DownloadError(f"{url}: more than {limit_bytes / 1e9:.2f} GB came, far more than published.")
    if total and have < total:
        raise http.client.HTTPException(f"the connection ended after {have:,} of {total:,} bytes")


def _forget(partial: str) -> None:
    for path in (partial, partial + ".tag"):
        if os.path.exists(path):
            os.remove(path)


def _wrong_sum(path: str, md5: str, sha256: str) -> str:
    for name, expected in (("md5", md5), ("sha256", sha256)):
        if expected and (found := checksum(path, name)) != expected.lower():
            return f"the {name.upper()} is {found}, published is {expected.lower()}"
    return ""


def checksum(path: str, name: str) -> str:
    """The ``md5`` or ``sha256`` of a file, as hex digits."""
    digest = hashlib.new(name, usedforsecurity=False)
    with open(path, "rb") as f, tqdm(total=os.path.getsize(path), unit="B", unit_scale=True,
                                     desc=f"Checking {os.path.basename(path)}", leave=False) as bar:  # fmt: skip
        while chunk := f.read(1 << 20):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def is_archive(path: str) -> bool:
    """Whether the name is that of an archive that `unpack` reads."""
    return path.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))


MEMBER_BYTES = 4096  # what a file or folder takes on the disk at least: a million empty ones are not nothing
HEADER_BYTES = 1 << 20  # the most that tarfile may read before a member: it keeps headers in memory
DIRECTORY_BYTES = 1 << 26  # the most that zipfile may read at first: 600,000 files need that

Member = tuple[str, int, IO[bytes] | None]  # name (ends in / for folders), bytes, contents (None if no regular file)


class _Pieces:
    """A stream for tarfile or zipfile that refuses to read more than `left` bytes until that is set anew."""

    def __init__(self, stream: IO[bytes], left: float) -> None:
        self.stream, self.left = stream, left
        self.seek, self.tell, self.seekable = stream.seek, stream.tell, stream.seekable

    def read(self, size: int = -1) -> bytes:
        size = 1 << 17 if size == -1 else size  # zipfile, at the end of the file: a comment of at most 64 KiB
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        data = self.stream.read(size)
        self.left -= len(data)
        return data


def unpack(
    archive: str, folder: str, only: Sequence[str] = (), bar: bool = True, limit_bytes: float = math.inf
) -> None:
    """Unpack the regular files of an archive; links and devices are left out.

    Args:
        archive: a zip or tar file.
        folder: a new, empty folder, to be thrown away by the caller after an error.
        only: files or folders to unpack, at any depth of the archive; all when empty.
        bar: show the progress.
        limit_bytes: the most that may come out.

    Raises:
        UnpackError: the archive is damaged, a name in it would leave the folder, or more than `limit_bytes`, or than
            the disk has room for, would come out.
        OSError: the disk is full or cannot be written to.
    """
    left_out, written = 0, 0
    room = shutil.disk_usage(existing_folder(folder)).free
    title = f"Unpacking {os.path.basename(archive)}"
    try:
        with tqdm(total=os.path.getsize(archive), unit="B", unit_scale=True, desc=title, disable=not bar) as shown:
            members = _zip_members if archive.endswith(".zip") else tar_members
            for name, size, source in members(archive, shown):
                if size < 0:  # tarfile would go back by it, for ever
                    raise tarfile.ReadError(f"a member of {size} bytes")
                written += size + MEMBER_BYTES * (1 + name.count("/"))  # as the archive says, before any is written
                if written > limit_bytes or size > room:
                    raise UnpackError(
                        f"{archive} would unpack to {written / 1e9:,.2f} GB or more, and "
                        f"{min(limit_bytes, room) / 1e9:,.2f} GB are the most for it: it is not the published archive, "
                        "or the disk is too small. Nothing of it was kept."
                    )
                if source is None:
                    left_out += not name.endswith("/")
                    continue
                target = _safe_path(folder, name)
                if not target or (only and not any(f"/{part}/" in f"/{name}/" for part in only)):
                    continue
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with source, open(target, "wb") as f:
                    while chunk := source.read(CHUNK_BYTES):
                        f.write(chunk)
                        size -= len(chunk)
                        if size < 0:
                            raise zipfile.BadZipFile(f"{name} is longer than the archive says")
    except DAMAGED as e:
        raise UnpackError(f"{archive} is damaged ({type(e).__name__}: {e}).") from e
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as e:
        raise UnpackError(f"{archive} holds a file and a folder of the same name ({e.filename}).") from e
    except OSError as e:
        if e.errno not in (None, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):  # bz2's errors have no number
            raise
        raise UnpackError(f"{archive} is damaged, or holds a name that this disk refuses ({str(e)[:200]}).") from e
    if left_out:
        print(f"Left out {left_out} links or devices of {os.path.basename(archive)}.")


def _safe_path(folder: str, name: str) -> str:
    """Where a member of an archive belongs, or "" for the side files that macOS adds."""
    parts = [p for p in name.replace("\\", "/").split("/") if p not in ("", ".")]
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) or ".." in parts or "\0" in name or not parts:
        raise UnpackError(f"The archive holds {name!r}, which would leave the folder. Nothing of it was kept.")
    return "" if "__MACOSX" in parts or parts[-1].startswith("._") else os.path.join(folder, *parts)


def _zip_members(path: str, bar: Any) -> Iterator[Member]:
    with open(path, "rb") as raw:
        pieces: Any = _Pieces(raw, DIRECTORY_BYTES)
        with zipfile.ZipFile(pieces) as archive:
            pieces.left = math.inf
            for info in archive.infolist():
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile sets them no bound
                    raise NotImplementedError(f"compression {info.compress_type} of {info.filename[:80]!r}")
                kind = (info.external_attr >> 16) & 0o170000  # 0 where the archive was not made on Unix
                regular = kind in (0, 0o100000) and not info.is_dir()
                yield info.filename, info.file_size, archive.open(info) if regular else None
                bar.update(info.compress_size)


def tar_members(path: str, bar: Any) -> Iterator[Member]:
    """Members of a tar file.

    Args:
        path: the archive; its first bytes say how it is compressed.
        bar: gets the progress, in bytes of the file.

    Raises:
        tarfile.TarError: the archive is damaged, or has a header too large for the memory.
    """
    with open(path, "rb") as raw:
        start = raw.read(6)
        raw.seek(0)
        openers: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
        stream: Any = openers[start[:2]](raw) if start[:2] in openers else raw
        pieces: Any = _Pieces(stream, HEADER_BYTES)
        with tarfile.open(fileobj=pieces, mode="r:") as archive:
            for member in archive:
                pieces.left = math.inf
                source = archive.extractfile(member) if member.isreg() else None
                yield member.name + "/" * member.isdir(), member.size, source
                pieces.left = HEADER_BYTES
                archive.members = []  # type: ignore[attr-defined]  # tarfile would keep a million of them in memory
                bar.update(raw.tell() - bar.n)

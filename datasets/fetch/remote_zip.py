"""Small files out of a big zip archive on a server, without downloading the rest of it."""

import http.client
import io
import os
import shutil
import urllib.error
import urllib.request
import zipfile

from .download import AGENT, BROKEN, CHUNK_BYTES, DAMAGED, TIMEOUT_SEC, DownloadError


class NoRangesError(DownloadError):
    """The server only gives whole files."""


class RemoteFile(io.RawIOBase):
    """A file on a server that can be read at any place, by range requests.

    Args:
        url: an http or https address of a server that answers range requests.

    Raises:
        NoRangesError: the server does not answer them.
    """

    def __init__(self, url: str) -> None:
        self.url, self.at, self.size = url, 0, 0
        with self._ask(0, 0) as answer:
            self.size = int(answer.headers["Content-Range"].rpartition("/")[2])

    def _ask(self, first: int, last: int) -> http.client.HTTPResponse:
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity", "Range": f"bytes={first}-{last}"}
        answer: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT_SEC
        )
        if answer.status != 206:
            answer.close()
            raise NoRangesError(f"{self.url}: the server does not give parts of the file.")
        return answer

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position in bytes."""
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, as in any file."""
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer from the position on."""
        last = min(self.at + len(buffer), self.size) - 1
        if last < self.at:
            return 0
        with self._ask(self.at, last) as answer:
            data = answer.read()
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)


def fetch_member(url: str, name: str, path: str) -> None:
    """Get one file out of a zip archive on a server.

    Args:
        url: address of the archive.
        name: how the path of the wanted file ends in the archive.
        path: where to write it; until it is complete it is called ``<path>.part``.

    Raises:
        DownloadError: the server does not answer, or the archive does not hold the file.
        NoRangesError: the server only gives the whole archive.
        OSError: the disk is full or cannot be written to.
    """
    try:
        with zipfile.ZipFile(io.BufferedReader(RemoteFile(url), 1 << 20)) as archive:  # type: ignore[arg-type]
            found = [n for n in archive.namelist() if ("/" + n).endswith("/" + name)]
            if not found:
                raise DownloadError(f"{url} does not hold {name}.")
            with archive.open(min(found, key=len)) as source, open(path + ".part", "wb") as f:
                shutil.copyfileobj(source, f, CHUNK_BYTES)
    except (*BROKEN, *DAMAGED) as e:
        if isinstance(e, urllib.error.HTTPError):
            raise DownloadError(f"{url}: the server says {e.code} {e.reason}.") from e
        raise DownloadError(f"{url}: {e or type(e).__name__}.") from e
    os.replace(path + ".part", path)

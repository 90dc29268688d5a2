"""A server on the loopback interface that resumes, breaks off and lies as real ones do."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Web:
    """Serves `files` (bytes by path).

    Attributes:
        files: contents by path.
        asked: (path, Range header) of every request.
        cuts: by path, how many bytes to send in each coming answer before breaking off.
        codes: by path, status codes to answer with before anything is served.
        types: by path, content types.
        ranges: whether parts of files are given.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.cuts: dict[str, list[int]] = {}
        self.codes: dict[str, list[int]] = {}
        self.types: dict[str, str] = {}
        self.sent = 0
        self.ranges = True
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.answer(self)

            def log_message(self, *_args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, wanted = request.path, request.headers.get("Range", "")
        self.asked.append((path, wanted))
        if self.codes.get(path):
            request.send_error(self.codes[path].pop(0))
            return
        if path not in self.files:
            request.send_error(404)
            return
        data, tag = self.files[path], f'"{hash(self.files[path])}"'
        first, last, status = 0, len(data) - 1, 200
        unchanged = request.headers.get("If-Range", tag) == tag
        if wanted and self.ranges and unchanged:
            found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
            assert found
            first, last, status = int(found[1]), min(int(found[2] or last), last), 206
            if first >= len(data):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(data)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
        body = data[first : last + 1]
        request.send_response(status)
        request.send_header("Content-Type", self.types.get(path, "application/octet-stream"))
        request.send_header("Content-Length", str(len(body)))
        request.send_header("ETag", tag)
        if status == 206:
            request.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        request.end_headers()
        if self.cuts.get(path):
            body = body[: self.cuts[path].pop(0)]
        self.sent += len(body)
        request.wfile.write(body)
        request.close_connection = True

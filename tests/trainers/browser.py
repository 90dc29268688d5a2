"""A headless Chromium, driven by the DevTools protocol through a pipe, and a TensorBoard; both end with a block."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
# All text of a page, that of shadow roots and frames among it, and the values of its fields.
PAGE_TEXT = """
(function read(node) {
  if (node.nodeName == 'SCRIPT' || node.nodeName == 'STYLE') return '';
  if (node.nodeName == 'IFRAME' && node.contentDocument) return read(node.contentDocument);
  if (node.nodeType == Node.TEXT_NODE) return node.data + ' ';
  const inside = [...(node.shadowRoot ? node.shadowRoot.childNodes : []), ...node.childNodes];
  return inside.map(read).join('');
})(document)
"""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started, which is of its own group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait(10)


class Browser:
    """One page of a Chromium.

    Args:
        profile: Folder for its files.
    """

    def __init__(self, profile: Path) -> None:
        (ours, theirs), (answers, out) = os.pipe()[::-1], os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --remote-debugging-pipe"
        command = f'exec "$0" {flags} --user-data-dir="$1" --window-size=1280,900 3<&{theirs} 4>&{out}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, str(profile)],
            pass_fds=(theirs, out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
            start_new_session=True,
        )
        os.close(theirs)
        os.close(out)
        self._to, self._from, self._buffer, self._number = ours, answers, b"", 0
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.call("Page.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A method's result; raises RuntimeError for an error, and TimeoutError after a minute without an answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + 60
        while True:
            *messages, self._buffer = self._buffer.split(b"\0")
            for i, text in enumerate(messages):
                answer = json.loads(text)
                if answer.get("id") == self._number:
                    self._buffer = b"\0".join([*messages[i + 1 :], self._buffer])
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']}")
                    result: dict[str, Any] = answer["result"]
                    return result
            if not select.select([self._from], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"{method}: no answer")
            chunk = os.read(self._from, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium ended")
            self._buffer += chunk

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        self.call("Page.navigate", url="about:blank")  # else another #fragment would not load the page anew
        self.call("Page.navigate", url=url)

    def text(self) -> str:
        """All text of the page."""
        return str(self.evaluate(PAGE_TEXT) or "")

    def wait_for(self, *words: str, seconds: float = 60) -> str:
        """The page's text as soon as it holds all words; fails with those it lacks."""
        return wait(self.text, lambda text: [word for word in words if word not in text], seconds)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        _end(self.process)
        os.close(self._to)
        os.close(self._from)


def wait(read: Callable[[], str], lacks: Callable[[str], list[str]], seconds: float = 60) -> str:
    """What `read` gives as soon as it lacks nothing."""
    deadline = time.monotonic() + seconds
    while missing := lacks(text := read()):
        assert time.monotonic() < deadline, f"not there: {missing}; there is: {' '.join(text.split())[:3000]}"
        time.sleep(0.3)
    return text


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    page = Browser(profile)
    try:
        yield page
    finally:
        page.close()


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """The address of a server on a folder, once it has read it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", port, "--reload_interval", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"

    def runs() -> str:
        assert process.poll() is None, "TensorBoard ended"
        try:
            with urllib.request.urlopen(f"{address}/data/runs", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    try:
        wait(runs, lambda text: [] if text.strip() not in ("", "[]") else ["runs"])
        yield address
    finally:
        _end(process)

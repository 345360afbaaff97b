"""Real Chromium, headless, steered over its DevTools pipe (one JSON message after another, NUL between)."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here to open the page with")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip
AS_3_AND_4 = """
import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""  # the ends where Chromium looks for them; `os.dup` above has made them larger numbers than these
TIMEOUT_SECONDS = 60.0  # seconds


class Tab:
    """One page; what goes wrong in it is collected in `trouble`, what it asks the network for in `loaded`."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back, self.buffer = to, back, b""
        self.numbers = itertools.count(1)
        self.session: str | None = None
        self.trouble: list[str] = []
        self.loaded: list[str] = []
        self.session = self.attach()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def attach(self) -> str:
        """A new tab's session."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session: str = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return session

    def call(self, method: str, **params: Any) -> Any:
        """Send a command, wait for its answer."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while (answer := self.read()).get("id") != number:
            self.note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def read(self) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self.buffer:
            more = os.read(self.back, 1 << 16)
            assert more, "Chromium is gone"
            self.buffer += more
        raw, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message

    def note(self, event: dict[str, Any]) -> None:
        """Keep what matters of an event."""
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.trouble.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.trouble.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.trouble.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.loaded.append(params["request"]["url"])

    def open(self, address: str) -> None:
        """Go there and wait until it is drawn."""
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait for an expression to become true."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while not self.run(condition):
            assert time.monotonic() < end, f"never: {condition}; {self.run('document.body.innerText')}; {self.trouble}"
            time.sleep(0.05)

    def text(self, id: str) -> str:
        """What an element shows."""
        shown: str = self.run(f"document.getElementById({id!r}).textContent")
        return shown

    def fill(self, id: str, value: str) -> None:
        """Write into a field."""
        self.run(f"document.getElementById({id!r}).value = {json.dumps(value)}")

    def click(self, id: str) -> None:
        """Press it."""
        self.run(f"document.getElementById({id!r}).click()")

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, and which colors the user prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        """What it looks like: a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])


@contextmanager
def browser(profile: Path) -> Iterator[Tab]:
    """Chromium with an empty profile, ended afterwards."""
    hear, to = os.pipe()
    back, speak = os.pipe()
    child = [os.dup(end) for end in (hear, speak)]
    command = [sys.executable, "-c", AS_3_AND_4, *map(str, child), str(CHROMIUM), f"--user-data-dir={profile}", *FLAGS]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, pass_fds=child, stdout=quiet, stderr=quiet) as process:
        for end in (hear, speak, *child):
            os.close(end)
        try:
            tab = Tab(to, back)
            yield tab
            tab.session = None
            tab.call("Browser.close")
        finally:
            os.close(to)
            os.close(back)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

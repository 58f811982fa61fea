"""Chromium without a window, driven by the DevTools protocol over a pipe."""

from __future__ import annotations

import json
import os
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

#: Longest silence of the browser that is waited for, s.
PATIENCE_S = 60.0

_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
    "--enable-unsafe-swiftshader",
)  # fmt: skip

#: Events that a page which is in order does not cause.
_COMPLAINTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")

_KEYS = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    " ": (32, " "),
    "ArrowRight": (39, ""),
}


class Browser:
    """A running Chromium."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._pending, self._number = b"", 0
        self.events: list[dict[str, Any]] = []

    def call(
        self, method: str, *, session: str | None = None, **parameters: Any
    ) -> dict[str, Any]:
        """Send a command; return its result. What happens meanwhile is kept in `events`."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def wait_for(self, event: str, session: str, *, after: int = 0) -> None:
        """Wait until an event has happened, one after the first `after` of `events`."""
        seen = after
        while True:
            for entry in self.events[seen:]:
                if entry.get("method") == event and entry.get("sessionId") == session:
                    return
            seen = len(self.events)
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            ready, _, _ = select([self._reader], [], [], PATIENCE_S)
            assert ready, "the browser says nothing"
            self._pending += (chunk := os.read(self._reader, 1 << 20))
            assert chunk, "the browser has ended"
        message, _, self._pending = self._pending.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, *, width: int = 1300, height: int = 900, **media: str) -> Page:
        """Open a file; `media` are features such as `prefers_color_scheme="dark"`."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        page.emulate(**media)
        address = path.resolve().as_uri().replace("%23", "#")
        page.call("Page.navigate", url=address)
        self.wait_for("Page.loadEventFired", session)
        return page


class Page:
    """A page in the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session, self._clicked_at = browser, session, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, session=self._session, **parameters)

    def emulate(self, medium: str = "", **features: str) -> None:
        """Take the page as another medium (`print`), or with media features."""
        named = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        self.call("Emulation.setEmulatedMedia", media=medium, features=named)

    def _events(self, *methods: str) -> Iterator[dict[str, Any]]:
        for event in self._browser.events:
            if event.get("sessionId") == self._session and event["method"] in methods:
                yield event["params"]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """Errors and messages on the console."""
        return list(self._events(*_COMPLAINTS))

    @property
    def requests(self) -> list[str]:
        """Addresses that were asked for."""
        return [e["request"]["url"] for e in self._events("Network.requestWillBeSent")]

    @property
    def address(self) -> str:
        return self.run("location.href")

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def _to_front(self) -> None:
        """Show the page: one behind another is neither drawn nor gets keys."""
        self.call("Page.bringToFront")

    def move(self, x: float, y: float) -> None:
        self._to_front()
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float) -> None:
        self._to_front()
        self._clicked_at = len(self._browser.events)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def wait_for_load(self) -> None:
        """Wait until the page that a click has asked for is there."""
        self._browser.wait_for("Page.loadEventFired", self._session, after=self._clicked_at)

    def press(self, key: str, *, times: int = 1) -> None:
        self._to_front()
        code, text = _KEYS[key]
        named = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        for _ in range(times):
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
            self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def shoot(self, path: Path | None = None, *, whole: bool = False) -> bytes:
        """Return a picture (PNG) of the window or the whole page, and write it to a path."""
        self._to_front()
        content = b64decode(
            self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        )
        if path is not None:
            path.write_bytes(content)
        return content

    def print_pdf(self) -> bytes:
        return b64decode(self.call("Page.printToPDF", printBackground=True)["data"])


@contextmanager
def open_browser(program: str, profile: Path) -> Iterator[Browser]:
    """Start a browser and end it.

    Parameters
    ----------
    program
        Path of Chromium.
    profile
        Empty folder for its files.
    """
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    redirected = f'exec "$@" 3<&{from_us} 4>&{to_us}'
    folder = f"--user-data-dir={profile}"
    command = ["bash", "-c", redirected, "bash", program, *_OPTIONS, folder, "about:blank"]
    process = subprocess.Popen(
        command, pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(from_us)
    os.close(to_us)
    try:
        yield Browser(from_browser, to_browser)
    finally:
        os.close(to_browser)  # Chromium ends with its pipe.
        process.wait(timeout=PATIENCE_S)
        os.close(from_browser)

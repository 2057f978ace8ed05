"""A headless chromium for tests, driven through its own pipe: no library, no port, nothing to install.

Messages of the DevTools protocol are JSON ended by a zero byte, written to the browser's file descriptor 3
and read from 4 (`--remote-debugging-pipe`).
"""

from __future__ import annotations

import base64
import json
import os
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip
# Puts the pipe's ends at 3 and 4, by way of copies that are neither, and becomes the browser.
LAUNCH = """
import os, sys
ends = [int(text) for text in sys.argv[1:3]]
while min(ends) < 10:
    ends = [os.dup(end) for end in ends]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 120.0  # seconds for one answer: a test machine may be busy


def find() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One browser with one page; every message that it sends of its own is kept in `events`."""

    def __init__(self, program: str) -> None:
        self.profile = tempfile.mkdtemp(prefix="browser-")
        to_it, from_us = os.pipe()
        to_us, from_it = os.pipe()

        start = [sys.executable, "-ISc", LAUNCH, str(to_it), str(from_it), program, *FLAGS]
        self.process = subprocess.Popen(
            [*start, f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(to_it, from_it), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (to_it, from_it):
            os.close(end)
        self.write, self.read = from_us, to_us
        self.buffer, self.number = b"", 0
        self.events: list[dict[str, Any]] = []
        self.session: str | None = None
        (target,) = [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        told = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = told["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one command; raises RuntimeError with the browser's words when it refuses."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as ready:
            ready.register(self.read, selectors.EVENT_READ)
            while b"\0" not in self.buffer:
                if not ready.select(max(until - time.monotonic(), 0)):
                    raise TimeoutError(f"the browser did not answer within {PATIENCE:.0f} s")
                part = os.read(self.read, 1 << 20)
                if not part:
                    raise RuntimeError("the browser closed its pipe")
                self.buffer += part
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, path: Path, width: int = 1000, height: int = 900, dark: bool = False) -> None:
        """Load a file at this size; what is loaded, said and complained of from here on is in `events`."""
        self.events.clear()
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 500)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def run(self, script: str) -> Any:
        """The value of an expression, awaited and copied out of the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description", "the script failed"))
        return found["result"].get("value")

    def press(self, key: str) -> None:
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39, "ArrowLeft": 37, "Escape": 27}
        text = {"Enter": "\r", " ": " "}.get(key, "")
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **common)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def move(self, x: float, y: float) -> None:
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path, **options: Any) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", **options)["data"]))

    def complaints(self) -> list[str]:
        """Errors, warnings and uncaught exceptions of the page since it was opened."""
        self.run("0")  # everything said so far has come
        said = []
        for event in self.events:
            params = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                said.append(str(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                said.append(params["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled":
                said.append(f"console: {params['args']}")
        return said

    def requests(self) -> list[str]:
        """Every address that the page asked for since it was opened, its own among them."""
        return [
            e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"
        ]

    def close(self) -> None:
        for end in (self.write, self.read):
            os.close(end)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

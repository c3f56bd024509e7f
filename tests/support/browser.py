"""Drives a real browser over its debugging pipe, without a driver or a port."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CHROME = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
"""The path of Chromium or Chrome; None if neither is installed. Debian has `chromium`."""

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)

# The browser expects its pipe as descriptors 3 and 4, either of which may be in use here.
_WITH_PIPE = """
import fcntl, os, sys
pipe = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(pipe[0], 3)
os.dup2(pipe[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """A headless browser with one page.

    Args:
        directory: the directory of its profile, which must be new.
    """

    def __init__(self, directory: Path) -> None:
        their_in, our_out = os.pipe()
        our_in, their_out = os.pipe()
        pipe = (str(their_in), str(their_out))
        flags = (*_FLAGS, f"--user-data-dir={directory}", "about:blank")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WITH_PIPE, *pipe, CHROME or "", *flags],
            pass_fds=(their_in, their_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self._in, self._out = our_in, our_out
        self._numbers = itertools.count(1)
        self._rest = b""
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        page = next(
            each for each in self.ask("Target.getTargets")["targetInfos"] if each["type"] == "page"
        )
        attached = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        """Kill the browser."""
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait()

    def ask(self, method: str, **parameters: Any) -> Any:
        """Send one command of the debugging protocol, and return the result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (response := self._read()).get("id") != number:
            self.events.append(response)
        assert "error" not in response, response
        return response["result"]

    def _read(self) -> dict[str, Any]:
        parts = [self._rest]
        while b"\0" not in parts[-1]:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            parts.append(part)
        message, _, self._rest = b"".join(parts).partition(b"\0")
        response: dict[str, Any] = json.loads(message)
        return response

    def open(
        self,
        path: Path,
        fragment: str = "",
        *,
        width: int = 1440,
        scheme: str = "light",
        scale: float = 1,
    ) -> None:
        """Open a report, and wait until it is drawn.

        Args:
            path: the page's file.
            fragment: the fragment of its address, with `#`.
            width: the width of the window in CSS pixels; below 500 the browser emulates a phone.
            scheme: `light` or `dark`.
            scale: device pixels for each CSS pixel.
        """
        # A blank page comes first, because a mere change of the fragment would load nothing.
        self.ask("Page.navigate", url="about:blank")
        self.events.clear()
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.ask("Emulation.setEmulatedMedia", media="", features=[feature])
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=scale,
            mobile=width < 500,
        )
        self.ask("Page.navigate", url=path.as_uri() + fragment)
        self.wait("document.readyState == 'complete' && page.dataset.ready")

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page, and return its value."""
        response = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in response, response
        return response["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 30.0) -> None:
        """Wait until an expression holds in the page."""
        until = time.monotonic() + seconds
        asked = f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()"
        while not self.run(asked):
            assert time.monotonic() < until, condition
            time.sleep(0.01)

    def mouse(self, kind: str, x: float, y: float, *, pressed: bool = False) -> None:
        """Move, press or release the mouse."""
        button = "left" if pressed or kind == "mouseReleased" else "none"
        self.ask(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button=button,
            buttons=int(pressed),
            clickCount=int(kind != "mouseMoved"),
        )

    def press(self, key: str, *, text: str = "", code: int = 0) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if kind == "keyDown" and text else {}
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                **typed,
            )

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """Scroll an element into view, and return its left, top, width and height."""
        x, y, width, height = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        return x, y, width, height

    def drag(self, selector: str) -> None:
        """Drag over a picture, from 30 % to 50 % of its width."""
        x, y, width, height = self.place(selector)
        middle = y + height / 2
        self.mouse("mouseMoved", x + width * 0.3, middle)
        self.mouse("mousePressed", x + width * 0.3, middle, pressed=True)
        self.mouse("mouseMoved", x + width * 0.4, middle, pressed=True)
        self.mouse("mouseMoved", x + width * 0.5, middle, pressed=True)
        self.mouse("mouseReleased", x + width * 0.5, middle)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write the visible part of the page, or the whole page, as a PNG file."""
        taken = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def problems(self) -> list[dict[str, Any]]:
        """Return the errors and log messages since the page was opened.

        Violations of its content security policy are among them.
        """
        kinds = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
        return [event for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Return the URLs that the page has requested since it was opened."""
        sent = [each for each in self.events if each["method"] == "Network.requestWillBeSent"]
        return [each["params"]["request"]["url"] for each in sent]

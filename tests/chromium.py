"""A headless Chromium that tests drive by the DevTools protocol, over a pipe: no port and no further package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: WebGL2 is drawn in software (SwiftShader), so that the tests need no GPU and give the same pixels everywhere.
FLAGS = [
    "--headless", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-default-apps", "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
]  # fmt: skip
BUTTONS = {"left": 1, "right": 2, "middle": 4}


class Chromium:
    """One page in a headless Chromium.

    Parameters
    ----------
    width, height : int
        Of the page, in CSS pixels.
    scale : float
        Device pixels per CSS pixel.
    touch : bool
        The page sees a touch screen.
    """

    def __init__(self, width: int = 1440, height: int = 900, scale: float = 1.0, touch: bool = False) -> None:
        if CHROMIUM is None:
            pytest.skip("no Chromium here: the page is not tried in a browser")
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={self._profile.name}", "--remote-debugging-pipe", "about:blank"]
        # Chromium reads commands from descriptor 3 and writes answers to 4.
        launch = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", launch, CHROMIUM, *flags],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._numbers, self._rest, self._session = itertools.count(1), b"", ""
        self.failures: list[str] = []
        self.requests: list[str] = []
        (target,) = (
            info["targetId"] for info in self.call("Target.getTargets")["targetInfos"] if info["type"] == "page"
        )
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(width, height, scale)
        if touch:
            self.call("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=5)

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser that this object started."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, 15)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, 9)
                self._process.wait(10)
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def call(self, method: str, timeout_s: float = 60, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events that come meanwhile are noted."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + timeout_s
        while True:
            answer = self._next(end, method)
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _next(self, end: float, waiting_for: str) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._read], [], [], max(0, end - time.monotonic()))[0], (
                f"{waiting_for}: no answer"
            )
            part = os.read(self._read, 1 << 20)
            assert part, f"{waiting_for}: Chromium ended"
            self._rest += part
        text, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, event: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.failures.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.failures.append(f"{event['entry']['text']} {event['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])

    def open(self, address: str, before: str = "") -> None:
        """Load a page; ``before`` is JavaScript that runs in it before its own."""
        if before:
            self.call("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str, timeout_s: float = 60) -> Any:
        """Value of a JavaScript expression; a promise is awaited."""
        done = self.call(
            "Runtime.evaluate", timeout_s, expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str, timeout_s: float = 60) -> None:
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + timeout_s
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"{condition}: did not come true; {self.failures}"
            time.sleep(0.02)

    def resize(self, width: int, height: int, scale: float = 1.0) -> None:
        """Size of the page, in CSS pixels, and device pixels for each."""
        mobile = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **mobile)

    def middle(self, selector: str) -> tuple[float, float]:
        """Centre of an element, in CSS pixels."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.run(f"(({{ x, y, width, height }}) => [x + width / 2, y + height / 2])({box})")
        return x, y

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A real mouse event; ``kind`` is mousePressed, mouseMoved, mouseReleased or mouseWheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def wheel(self, x: float, y: float, notches: int, **more: Any) -> None:
        """Turn the wheel, one event a notch; positive is towards the reader."""
        for _ in range(abs(notches)):
            self.mouse("mouseWheel", x, y, deltaX=0, deltaY=120 if notches > 0 else -120, **more)

    def drag(
        self, start: tuple[float, float], end: tuple[float, float], button: str = "left", steps: int = 6
    ) -> None:
        """Press at ``start``, move to ``end``, release."""
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, button=button, buttons=BUTTONS[button], clickCount=1)
        for step in range(1, steps + 1):
            x, y = (a + (b - a) * step / steps for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y, button=button, buttons=BUTTONS[button])
        self.mouse("mouseReleased", *end, button=button, clickCount=1)

    def click(self, x: float, y: float, count: int = 1) -> None:
        """Click with the left button."""
        for number in range(1, count + 1):
            self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=number)
            self.mouse("mouseReleased", x, y, button="left", clickCount=number)

    def key(self, key: str, **more: Any) -> None:
        """Press and release a key."""
        text = {"text": key} if len(key) == 1 else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **more)

    def screenshot(self, path: Path | None = None) -> bytes:
        """The page as a PNG."""
        png = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(png)
        return png

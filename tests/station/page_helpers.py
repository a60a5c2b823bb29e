"""What the tests of the page share: its sizes, opening views, sending parts, measuring how it looks."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from pathlib import Path
from typing import Any

from station_helpers import Server, free_port, png

from flawmap.station.client import Client

PANEL = {"width": 1280, "height": 800}
PATIENCE_MS = 30_000  # the machine may have other work
TABS = ["live", "review", "parts", "threshold", "train", "report"]
DEFECTIVE, GOOD = 7, 107  # numbers of drawn parts
LOOKS = Path(__file__).with_name("looks.js").read_text(encoding="utf-8")

# Refused requests and a lost connection are what some tests are about; the browser logs each.
EXPECTED = re.compile(r"Failed to load resource: (the server responded with a status of [45]|net::ERR_)|ERR_CONNECTION")


def send(server: Server, *numbers: int, label: str = "", **query: Any) -> list[dict[str, Any]]:
    """Parts, inspected one after the other."""
    with Client(server.url) as client:
        return [client.inspect(png(number), label=f"{label}{number}", **query) for number in numbers]


def expect(locator: Any) -> Any:
    """Playwright's `expect`, more patient."""
    from playwright.sync_api import expect as expected

    expected.set_options(timeout=PATIENCE_MS)
    return expected(locator)


def open_view(page: Any, server: Server, view: str) -> None:
    """Go to a view; it may still be loading what it shows."""
    page.goto(f"{server.url}/#{view}")
    expect(page.locator("nav a[aria-current]")).to_have_attribute("href", f"#{view}")


def looks(page: Any, call: str) -> Any:
    """What looks.js measures in the page as it is now."""
    page.evaluate(f"() => {{ if (!window.looks) {{ {LOOKS} }} }}")
    return page.evaluate(f"looks.{call}()")


def looked_at(page: Any, where: str) -> dict[str, float]:
    """The lowest contrasts and the smallest target of what is shown, after they were found to be large enough."""
    lowest = {}
    for scheme in ("dark", "light"):  # the page has one scheme; a system that wants another must not break it
        page.emulate_media(color_scheme=scheme)
        for what in ("texts", "edges", "targets"):
            found = looks(page, what)
            low = [one for one in found if one["value"] < one["least"] - 0.005]
            assert not low, (where, low)
            if found:
                lowest[what] = min(one["value"] for one in found)
    assert lowest["texts"], where
    assert looks(page, "mute") == [], f"{where}: a verdict told by its colour alone"
    assert looks(page, "cut") == [], where
    assert looks(page, "wide") <= page.viewport_size["width"], where
    return lowest


def tabbed_through(page: Any, where: str) -> None:
    """Tab goes from one control to the next, in the order of the document, and each one shows that it has the focus."""
    controls = looks(page, "order")
    page.evaluate("looks.begin()")
    seen = []
    for _ in range(2 * len(controls) + 4):  # between the last and the first may be the browser's own
        page.keyboard.press("Tab")
        at = looks(page, "at")
        if at >= 0 and at not in seen:
            seen.append(at)
            mark = looks(page, "focus")
            assert mark["value"] >= mark["least"], (where, mark)
        if len(seen) == len(controls):
            break
    assert [controls[at] for at in seen] == controls, where


class Cable:
    """Between browser and station, to be cut: a connection that is lost while the station works on."""

    def __init__(self, url: str) -> None:
        self._station = int(url.rpartition(":")[2])
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._ends: list[socket.socket] = []
        self.mend()

    def mend(self) -> None:
        """Let connections through."""
        self._listening = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def cut(self) -> None:
        """End all connections, and let none through."""
        for end in (self._listening, *self._ends):
            with contextlib.suppress(OSError):  # it had ended
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._ends.clear()

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._station))
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it was cut

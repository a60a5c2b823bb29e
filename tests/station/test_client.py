"""`flawmap.Client` and `flawmap watch --server` at stations that are not simply there."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import pytest
from station_helpers import Server, certify, free_port, png, wait_until
from typer.testing import CliRunner

from flawmap import cli
from flawmap.errors import StationAwayError, StationError
from flawmap.station.client import Client
from flawmap.station.serve import _bind


class Answers(http.server.BaseHTTPRequestHandler):
    """Stands for a station where only the line to it matters; a proxy has it under /line3."""

    def do_GET(self) -> None:
        self._answer(200, {"alive": True}) if self.path == "/line3/healthz" else self._answer(404, "Not Found")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/moved/api/parts":
            self.send_response(301)
            self.send_header("Location", "https://station.local/")
            self.end_headers()
        elif self.path == "/line3/api/parts":
            self._answer(422, "the station refuses")
        else:
            self._answer(405, "Method Not Allowed")

    def _answer(self, status: int, told: Any) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps({"error": told} if isinstance(told, str) else told).encode())

    def log_message(self, *given: Any) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[Callable[..., int]]:
    """Starts a server, with a certificate if one is given, and gives its port."""
    started = []

    def start(certificate: Path | None = None, key: Path | None = None) -> int:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        server.handle_error = lambda *given: None  # type: ignore[method-assign]
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return int(server.server_address[1])

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def why(url: str, **options: Any) -> str:
    """The one line in which an image is refused, at once."""
    with Client(url, **options) as client, pytest.raises(StationError) as raised:
        client.inspect(b"image")
    assert not isinstance(raised.value, StationAwayError) and "\n" not in str(raised.value)
    return str(raised.value)


def test_the_wrong_scheme_is_told(answers: Callable[..., int], tmp_path: Path) -> None:
    plain, safe = answers(), answers(*certify(tmp_path))
    assert f"speaks http; give its address as http://127.0.0.1:{plain}" in why(f"https://127.0.0.1:{plain}")
    assert f"speaks https alone; give its address as https://127.0.0.1:{safe}" in why(f"http://127.0.0.1:{safe}")


def test_a_certificate_for_another_name_or_of_another_time_is_told_from_one_not_trusted(
    answers: Callable[..., int], tmp_path: Path
) -> None:
    found = {}
    for name, names, days in (("other", "DNS:station.local,IP:192.168.0.5", 2), ("old", "IP:127.0.0.1", -1)):
        (tmp_path / name).mkdir()
        certificate, key = certify(tmp_path / name, names, days)
        found[name] = (certificate, f"https://127.0.0.1:{answers(certificate, key)}")
    (other, at), (old, old_at) = found["other"], found["old"]
    told = why(at, ca=other)
    assert "is for station.local, 192.168.0.5, not for 127.0.0.1; ask by a name that it holds" in told
    assert "not trusted" not in told
    assert f"is not trusted by {old}" in why(at, ca=old)
    assert "has expired; give the station a new one" in why(old_at, ca=old)


def test_an_address_with_a_path_is_a_proxys_or_told(answers: Callable[..., int]) -> None:
    url = f"http://127.0.0.1:{answers()}"
    assert why(f"{url}/line3") == "the station refuses"
    assert "is no flawmap station; leave out /api, unless a proxy has" in why(f"{url}/api")
    assert why(url).endswith("is no flawmap station")
    assert "sends to https://station.local/" in why(f"{url}/moved")


def test_a_token_that_is_missing_or_refused_is_told_with_how_to_give_one(
    guarded: tuple[Server, dict[str, str]], tmp_path: Path
) -> None:
    server, tokens = guarded
    assert "asks for a token; give one as token=, or to flawmap watch as --token or in FLAWMAP_TOKEN" in why(server.url)
    assert "does not know this token; give one as token=" in why(server.url, token="fm-wrong-one")
    with Client(server.url, f"{tokens['camera']}\n") as client:  # as read from a file
        assert client.inspect(png(1))["by"] == "camera-1"


def test_a_stations_own_certificate_is_trusted_when_its_file_is_given(models: Path, tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    words = ["--certificate", str(certificate), "--key", str(key)]
    server = Server(models, tmp_path / "data", *words, wait=False)
    assert server.url.startswith("https://")
    with Client(server.url, ca=certificate) as client:
        wait_until(client.ready)
        assert client.inspect(png(1))["verdict"] in ("pass", "reject")
    with Client(server.url) as client, pytest.raises(StationError, match=r"not trusted \(self-signed.* ca= or --ca"):
        client.inspect(png(2))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "3.png").write_bytes(png(3))
    words = ["watch", str(folder), "--server", server.url, "--once"]
    assert "is not trusted" in CliRunner().invoke(cli.app, words).stderr
    done = CliRunner().invoke(cli.app, [*words, "--ca", str(certificate)])
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "1 files inspected")
    assert server.stop() == 0


def test_a_certificate_and_a_key_that_do_not_belong_together_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (certificate, key), (_, other) = certify(tmp_path), certify(tmp_path / "other")
    words = ["serve", "--models", str(tmp_path), "--data", str(tmp_path / "data"), "--port", "0"]
    for pair in ((certificate, other), (key, certificate)):
        done = CliRunner().invoke(cli.app, [*words, "--certificate", str(pair[0]), "--key", str(pair[1])])
        assert done.exit_code == 2 and "are no certificate and its key" in done.stderr, done.stderr
        assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(("name", "why"), [("none.pem", "No such file"), ("text.pem", "holds no certificate")])
def test_a_file_that_is_no_certificate_is_told_in_one_line(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(StationError, match=why) as raised:
        Client("https://127.0.0.1:1", ca=tmp_path / name)
    assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


def test_an_image_waits_for_a_station_that_is_started_later(models: Path, tmp_path: Path) -> None:
    port = free_port()
    found: list[dict[str, Any]] = []

    def send() -> None:
        with Client(f"http://127.0.0.1:{port}") as client:
            found.append(client.inspect(png(1)))

    thread = threading.Thread(target=send)
    thread.start()
    time.sleep(3)
    server = Server(models, tmp_path / "data", "--port", str(port), wait=False)
    thread.join()
    assert found[0]["verdict"] in ("pass", "reject")
    with Client(server.url) as client:
        assert [part["id"] for part in client.parts()] == [found[0]["id"]]
    assert server.stop() == 0


def test_who_connects_before_the_station_is_there_is_not_refused() -> None:
    with _bind("127.0.0.1", 0) as taken, socket.create_connection(taken.getsockname(), timeout=5):
        pass


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client sleeps, on a clock that nothing else moves."""
    slept: list[float] = []
    clock = SimpleNamespace(sleep=slept.append, monotonic=lambda: sum(slept))
    monkeypatch.setattr("flawmap.station.client.time", clock)
    return slept


def answered_by(answer: Callable[[httpx.Request], httpx.Response], **options: Any) -> Client:
    client = Client("http://127.0.0.1:1", **options)
    client._http = httpx.Client(base_url=client.url, transport=httpx.MockTransport(answer))
    return client


def test_waits_grow_and_are_as_long_as_the_station_says(waits: list[float]) -> None:
    keys = []

    def answer(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) <= 6:
            raise httpx.ConnectError("refused")
        if len(keys) == 7:
            return httpx.Response(503, headers={"Retry-After": "7"}, json={"error": "loading"})
        return httpx.Response(201, json={"verdict": "pass"})

    said: list[str] = []
    with answered_by(answer, say=said.append) as client:
        assert client.inspect(b"image") == {"verdict": "pass"}
    assert waits == [0.5, 1, 2, 4, 5, 5, 7]
    assert len(set(keys)) == 1
    place = "the station http://127.0.0.1:1 cannot be reached (refused); is it running?"
    assert said == [f"{place}; waiting, 90 seconds at most"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"timeout": 10.0}, [0.5, 1, 2, 4, 2.5]), ({"retries": 2}, [0.5, 1]), ({"retries": 0}, [])],
)
def test_the_client_gives_up_at_its_timeout(waits: list[float], options: Any, expected: list[float]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with answered_by(answer, **options) as client, pytest.raises(StationAwayError, match="cannot be reached"):
        client.inspect(b"image")
    assert waits == expected


@pytest.mark.parametrize("status", [200, 401, 422])
def test_what_does_not_pass_is_told_at_once(waits: list[float], status: int) -> None:
    with answered_by(lambda request: httpx.Response(status)) as client, pytest.raises(StationError):
        client.inspect(b"image")
    assert waits == []


class Parts(http.server.BaseHTTPRequestHandler):
    """Keeps the bodies it is sent."""

    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"parts": []}')

    def log_message(self, *given: Any) -> None:
        pass


def test_an_image_in_memory_is_sent_as_a_png_of_the_same_pixels(tmp_path: Path) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from flawmap.data.images import decode_pixels
    from flawmap.errors import ImageError

    bgr = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    rgb = bgr[:, :, ::-1].copy()
    (tmp_path / "part.png").write_bytes(png(1))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Parts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            client.inspect(bgr)
            client.inspect(rgb, order="rgb")
            client.inspect(torch.from_numpy(rgb).permute(2, 0, 1), order="rgb")
            client.inspect(Image.fromarray(rgb))
            client.inspect((bgr / 255).astype(np.float32))
            client.inspect(bgr.astype(np.uint16) * 257)
            client.inspect(bgr[:, :, 0])
            client.inspect(str(tmp_path / "part.png"))
            client.inspect(bytearray(png(2)))
            with pytest.raises(ImageError, match="full scale"):
                client.inspect(bgr.astype(np.int64))
            client.inspect_batch([bgr, str(tmp_path / "part.png")])
            with pytest.raises(StationError, match="give a list"):
                client.inspect_batch("part.png")
    finally:
        server.shutdown()
        server.server_close()
    *single, batch = Parts.bodies
    found = [decode_pixels(body, "sent") for body in single[:7]]
    assert all(np.array_equal(pixels, bgr) for pixels in found[:4])
    assert all(np.array_equal(pixels, bgr.astype(np.uint16) * 257) for pixels in found[4:6])
    assert found[6].strides[2] == 0 and np.array_equal(found[6][:, :, 0], bgr[:, :, 0])
    assert single[7:] == [png(1), png(2)]
    assert batch.count(b"\x89PNG") == 2 and b'filename="part.png"' in batch

"""Connections that say nothing, or too much, or too slowly, are closed; whoever is known gets through."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from station_helpers import Server, certify, png, run_async, wait_until
from uvicorn.server import ServerState

from flawmap.station import connections
from flawmap.station.connections import Acceptor, Connection, most_connections

GET = b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /known HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body; /known trusts the connection, /slow takes its time."""
    if scope["path"] == "/known":
        scope[connections.CONNECTION].trusted = True
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    body = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(most: int = 100, body_s: float = 30.0, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a server of `app` in this loop."""
    config = uvicorn.Config(app, http=Connection, log_config=None, lifespan="off")
    config.load()
    state, listening = ServerState(), socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor(listening, lambda: Connection(config, state, {}), context, most, body_s, state.connections)
    try:
        yield listening.getsockname()[1]
    finally:
        acceptor.close()
        await acceptor.wait_closed()
        for each in list(state.connections):
            each.transport.abort()
        listening.close()
        await asyncio.sleep(0.05)


async def ask(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """All that is answered to some bytes until the server closes, or has answered once; b"" where it hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = b""
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        found = await asyncio.wait_for(reader.read(1 << 16), 60)
    except ConnectionError:
        pass
    finally:
        writer.close()
    return found


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.5)


def test_a_connection_without_a_whole_head_is_closed_in_time(short: None) -> None:
    async def work() -> None:
        async with serving() as port:
            silent, half, whole = await asyncio.gather(ask(port), ask(port, GET[:-2]), ask(port, GET))
            assert (silent, half[:12], whole[:12]) == (b"", b"HTTP/1.1 408", b"HTTP/1.1 200")
            # A byte now and then does not help.
            assert (await ask(port, *(GET[at : at + 1] for at in range(20)), pause=0.15))[:12] in (b"", b"HTTP/1.1 408")

    run_async(work())


def test_a_body_that_comes_too_slowly_is_given_up_and_one_that_comes_is_not(short: None) -> None:
    async def work() -> None:
        async with serving(body_s=0.5) as port:
            assert (await ask(port, POST, b"01234"))[:12] == b"HTTP/1.1 408"
            assert (await ask(port, POST, b"01234", b"56789"))[-2:] == b"10"
            head = b"POST /known HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n"
            steady = await ask(port, head, *([bytes(100_000)] * 10), pause=0.2)  # two seconds: as fast as it must be
            assert steady[-7:] == b"1000000"

    run_async(work())


def test_an_answer_may_take_longer_than_a_head(short: None) -> None:
    async def work() -> None:
        async with serving() as port:
            slow = GET.replace(b"/open", b"/slow")
            assert (await ask(port, slow))[:12] == b"HTTP/1.1 200"
            assert (await ask(port, slow + GET, pause=3))[:12] == b"HTTP/1.1 200"

    run_async(work())


@pytest.mark.parametrize(
    "piece",
    [b"X: " + b"x" * 200_000 + b"\r\n", b"X: y\r\n" * 20_000, b"A" * 70_000],
    ids=["one long", "many", "never a colon"],
)
def test_a_head_beyond_its_bytes_is_refused(piece: bytes) -> None:
    async def work() -> None:
        async with serving() as port:
            assert (await ask(port, GET[:-2], piece, b"\r\n"))[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")
            assert (await ask(port, b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n"))[:12] in (b"HTTP/1.1 431", b"")
            fits = b"X: " + b"x" * 30_000 + b"\r\n\r\n"
            assert (await ask(port, GET[:-2], fits))[:12] == b"HTTP/1.1 200"

    run_async(work())


def test_trailers_and_chunk_extensions_beyond_their_bytes_end_the_connection() -> None:
    head = b"POST /known HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def work() -> None:
        async with serving() as port:
            assert (await ask(port, head + b"3\r\nabc\r\n0\r\n\r\n"))[-1:] == b"3"
            trailers = [b"T: " + b"t" * 60_000 + b"\r\n"] * 10
            assert (await ask(port, head + b"3\r\nabc\r\n0\r\n", *trailers, pause=0.02))[:12] != b"HTTP/1.1 200"
            extension = [b"3;" + b"e" * 60_000, *[b"e" * 60_000] * 10]
            assert (await ask(port, head, *extension, pause=0.02))[:12] != b"HTTP/1.1 200"

    run_async(work())


def test_the_oldest_that_says_nothing_makes_room_and_whoever_is_known_or_at_work_stays() -> None:
    async def work() -> None:
        async with serving(most=20) as port:
            known = await asyncio.open_connection("127.0.0.1", port)
            known[1].write(POST + b"0123456789")
            assert (await known[0].read(100))[:12] == b"HTTP/1.1 200"
            known[1].write(POST + b"01234")  # half a body
            await asyncio.sleep(0.1)
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
            for _ in range(5):
                assert (await ask(port, GET))[:12] == b"HTTP/1.1 200"
            ended = [reader.at_eof() or reader.exception() is not None for reader, _ in idle]
            known[1].write(b"56789")
            assert (await known[0].read(100))[:12] == b"HTTP/1.1 200"
            assert sum(ended) >= 40 and all(ended[:40]) and not any(ended[-5:])
            for _, writer in (known, *idle):
                writer.close()

    run_async(work())


def test_handshakes_that_never_come_keep_nobody_out(tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))

    async def work() -> None:
        async with serving(most=20, context=context) as port:
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
            writer.write(GET)
            assert (await reader.read(100))[:12] == b"HTTP/1.1 200"
            for _, each in idle:
                each.close()
            writer.close()

    run_async(work())


@pytest.mark.parametrize(
    ("soft", "hard", "most"),
    [(1024, 1_000_000, 1000), (1024, 1024, 854), (300, 300, 130), (64, 64, 16), (-1, -1, 1000)],
)
def test_connections_stay_below_the_file_limit(
    soft: int, hard: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(connections.resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(connections.resource, "setrlimit", lambda which, both: raised.append(both))
    monkeypatch.setattr(connections, "_open_files", lambda: 20)
    assert most_connections(1000) == most
    assert raised == ([(16_384, 1_000_000)] if hard == 1_000_000 else [])


def test_a_camera_gets_through_while_hundreds_hold_connections_and_say_nothing(models: Path, tmp_path: Path) -> None:
    few = ("sh", "-c", 'ulimit -n 320; exec "$@"', "sh")
    server = Server(models, tmp_path / "data", before=few)
    port, held = int(server.url.rpartition(":")[2]), []
    try:
        for number in range(400):
            one = socket.create_connection(("127.0.0.1", port))
            one.sendall((b"", GET[:20], POST)[number % 3])
            held.append(one)
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            for number in range(5):
                assert http.post("/api/parts", content=png(number)).status_code == 201
                assert http.get("/healthz").status_code == 200
    finally:
        for one in held:
            one.close()
    assert server.stop() == 0
    log = server.log.read_text()
    assert "connections at most" in log and "Traceback" not in log and "no connection can be taken" not in log


def test_a_body_that_ends_early_leaves_one_line_in_the_log(models: Path, tmp_path: Path) -> None:
    """Closed by the station, as it was too slow, or by its sender; whatever the body was to be."""
    server = Server(models, tmp_path / "data", "--set", "limits.body_s=1", wait=False)
    port = int(server.url.rpartition(":")[2])
    form = b"multipart/form-data; boundary=b"
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n\x89PNG'
    requests = [
        (path, kind, body)
        for path, kind, body in (
            (b"/api/parts", b"image/png", b"\x89PNG"), (b"/api/parts", form, part), (b"/api/parts/batch", form, part),
            (b"/api/session", b"application/json", b'{"tok'), (b"/api/test", b"application/json", b'{"on":'),
        )
    ]  # fmt: skip
    opened = []
    for path, kind, body in requests:
        for closes in (False, True):
            one = socket.create_connection(("127.0.0.1", port))
            head = b"POST " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: " + kind
            one.sendall(head + b"\r\nContent-Length: 100000\r\n\r\n" + body)
            if closes:
                one.close()
            else:
                opened.append(one)
    for one in opened:
        one.settimeout(60)
        assert one.recv(100).startswith(b"HTTP/1.1 408")
        one.close()
    wait_until(lambda: server.log.read_text().count("POST /api/") == 2 * len(requests))
    assert server.stop() == 0
    log = server.log.read_text()
    assert "Traceback" not in log and "ERROR" not in log
    answered = [re.search(r"POST (\S+) (\d+) ", line) for line in log.splitlines()]
    slow = sorted(found[1] for found in answered if found is not None and found[2] == "408")
    assert slow == sorted(path.decode() for path, _, _ in requests), "the log says what was answered"

"""Connections within bounds: whoever holds some and says nothing keeps no camera out.

uvicorn bounds the time between two requests of a connection alone: one that never sends a head, or a body a byte at a
time, it holds for ever, takes a head of any size, and accepts until the process has no file handles left. Here
- a head has HEAD_S seconds and HEAD_BYTES, trailers and chunk extensions no more; a TLS handshake has HEAD_S, too;
- a body has `limits.body_s`, and a second more for each SLOWEST bytes that came of it;
- an answer of which nothing could be written for WRITE_S seconds is given up;
- there are as many connections as leave file handles for the rest. When one more comes, the oldest of those that do
  least is closed for it: first ones that wait and never brought a valid token, then others of these, then ones that
  wait at all. A part under way, its sender known, is never cut off for another connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger("flawmap.station")
HEAD_S = 10.0
HEAD_BYTES = 64 << 10
SLOWEST = 50_000  # bytes a second of a body that takes longer than its time
WRITE_S = 60.0
RESERVE = 150  # file handles for pictures, the record, workers and a training
WISHED = 16_384  # file handles, where the system allows so many
FEWEST = 16  # connections, however few file handles there are
PAUSE_S = 0.2  # before the next connection is taken, where there is no file handle for it
CONNECTION = "flawmap.connection"  # in a request's scope


class Connection(HttpToolsProtocol):
    """One connection. trusted: it brought a valid token, or is this machine's where none is asked for."""

    trusted = False
    refused = 0  # the status that it was closed with before its request was whole
    since = 0.0  # of the monotonic clock: when it began to wait for a head, or the head came
    _head = True  # whether a head is waited for
    _sent = 0  # bytes since then
    _idle = 0  # of these, since the last of a body
    _stalled = 0.0  # since when nothing can be written; 0: it can

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It is there, after its handshake."""
        self.since = time.monotonic()
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, a body, or what follows them."""
        self._sent += len(data)
        self._idle += len(data)
        super().data_received(data)
        if self.parser is not None and self._idle > HEAD_BYTES + len(data) * (not self._head):
            self._refuse(431, "the request's head is too large")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        """A head is whole."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        self._head, self.since, self._sent, self._idle = False, time.monotonic(), 0, 0
        if size > HEAD_BYTES:
            self._refuse(431, "the request's head is too large")
        elif not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of a body."""
        self._idle = 0
        if self.cycle is not None and not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._head, self.since, self._sent, self._idle = True, time.monotonic(), 0, 0
        if self.cycle is not None and not self.transport.is_closing():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is whole."""
        if self._head and not self._sent:
            self.since = time.monotonic()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Whoever reads is slow."""
        self._stalled = time.monotonic()
        super().pause_writing()

    def resume_writing(self) -> None:
        """They have caught up."""
        self._stalled = 0.0
        super().resume_writing()

    @property
    def answering(self) -> bool:
        """Whether a request came of which the answer is not complete."""
        return self.cycle is not None and not self.cycle.response_complete

    def spare(self) -> int | None:
        """How soon it is closed for another connection: 0 first; None: never, its request is being answered."""
        if not self.trusted:
            return 0 if self._head and not self.answering else 1
        return 2 if self._head and not self.answering else None

    def look(self, body_s: float) -> None:
        """Close it where it takes too long."""
        now = time.monotonic()
        if self._stalled and now - self._stalled > WRITE_S:
            self.transport.abort()
        elif self._head:
            if not self.answering and now - self.since > HEAD_S:
                self._refuse(408, f"no request came within {HEAD_S:g} seconds")
        elif now - self.since > body_s + self._sent / SLOWEST:
            self._refuse(408, f"the request's body did not come within {body_s:g} seconds")

    def drop(self) -> None:
        """Close it for another connection."""
        self.transport.abort()

    def _refuse(self, status: int, why: str) -> None:
        """Close it; with an answer where something was sent and no other is under way."""
        if self.transport.is_closing():
            return
        begun = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not begun and (self._sent or not self._head):
            body = f'{{"error": "{why}"}}'.encode()
            head = f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.refused = status
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        if self.answering:  # whoever reads this request is told that it ended
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


REASONS = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


class Acceptor:
    """Takes connections, as an asyncio server does, but within a bound. `make`: makes a protocol."""

    def __init__(
        self, listening: socket.socket, make: Callable[[], asyncio.Protocol], context: ssl.SSLContext | None,
        most: int, body_s: float, held: set[Any],
    ) -> None:  # fmt: skip
        self.listening, self.make, self.context = listening, make, context
        self.most, self.body_s, self.held = most, body_s, held  # held: uvicorn's, as it keeps them
        self._greeting: dict[asyncio.Task[None], socket.socket] = {}  # in the order they came
        self._tasks = [asyncio.ensure_future(self._accept()), asyncio.ensure_future(self._look())]

    def close(self) -> None:
        """Take no more."""
        for task in (*self._tasks, *self._greeting):
            task.cancel()

    async def wait_closed(self) -> None:
        """Until it takes no more."""
        await asyncio.gather(*self._tasks, *self._greeting, return_exceptions=True)

    async def _accept(self) -> None:
        self.listening.setblocking(False)
        loop, told = asyncio.get_running_loop(), 0.0
        while True:
            try:
                taken, _ = await loop.sock_accept(self.listening)
            except OSError as problem:  # no file handle, say: the ones there are will be free again
                if time.monotonic() - told > HEAD_S:
                    told = time.monotonic()
                    log.error("no connection can be taken: %s", problem.strerror)
                await asyncio.sleep(PAUSE_S)
                continue
            if not self._room():
                taken.close()
                continue
            task = asyncio.ensure_future(self._greet(taken))
            self._greeting[task] = taken
            task.add_done_callback(lambda task: self._greeting.pop(task, None))

    def _room(self) -> bool:
        """Whether one more can be taken, after closing one that does least where that is needed."""
        if len(self.held) + len(self._greeting) < self.most:
            return True
        if len(self._greeting) > self.most // 2:  # handshakes that never end
            task = next(iter(self._greeting))
            del self._greeting[task]
            task.cancel()
            return True
        each = [(rank, one.since, one) for one in self.held if (rank := one.spare()) is not None]
        if not each:
            return False
        _, _, first = min(each, key=lambda one: one[:2])
        self.held.discard(first)
        first.drop()
        return True

    async def _greet(self, taken: socket.socket) -> None:
        """Make a connection of a socket, with its handshake where there is one."""
        wait = {} if self.context is None else {"ssl_handshake_timeout": HEAD_S}
        try:
            taken.setblocking(False)
            with contextlib.suppress(OSError):
                taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(self.make, taken, ssl=self.context, **wait)
        except (OSError, asyncio.CancelledError):  # gone, or no handshake; ssl.SSLError is an OSError
            taken.close()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            for one in list(self.held):
                one.look(self.body_s)


def most_connections(wished: int) -> int:
    """How many connections there may be: `wished`, or as many as the file handles allow, raised as far as possible."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WISHED if hard == resource.RLIM_INFINITY else min(hard, WISHED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    if soft == resource.RLIM_INFINITY:
        return wished
    most = max(FEWEST, min(wished, soft - _open_files() - RESERVE))
    if most < wished:
        log.warning("%d connections at most, as the process may open %d files (LimitNOFILE, ulimit -n)", most, soft)
    return most


def _open_files() -> int:
    with contextlib.suppress(OSError):
        return len(os.listdir("/dev/fd"))
    return 64

"""What happens, told at once to everyone who watches: server-sent events (HTML Living Standard, 9.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

WAITING = 1000  # events that a slow reader may be behind
PING_S = 15.0  # a comment line that often, so that a lost connection is noticed


def event(name: str, data: Any, seq: int | None = None) -> str:
    """One event as it is sent; `seq` is what a reader asks to go on after."""
    head = f"event: {name}\n" if seq is None else f"event: {name}\nid: {seq}\n"
    return f"{head}data: {json.dumps(data)}\n\n"


class Hub:
    """Spreads events to readers. `publish` may be called from any thread, the rest from the event loop's."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: set[asyncio.Queue[str | None]] = set()
        self._closed = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop that readers live in."""
        self._loop = loop

    def publish(self, name: str, data: Any, seq: int | None = None) -> None:
        """Tell everyone."""
        if self._loop is not None and not self._loop.is_closed() and self._readers:
            self._loop.call_soon_threadsafe(self._spread, event(name, data, seq))

    def close(self) -> None:
        """End all readers' streams, from any thread: a server that stops waits for its connections."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    async def read(self, missed: Callable[[], list[str]]) -> AsyncIterator[str]:
        """Events as they come, after those `missed` gives, which is called in a thread once no new one can be lost."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(WAITING)
        self._readers.add(queue)
        try:
            yield ": hello\n\n"
            for text in await asyncio.to_thread(missed):
                yield text
            while not self._closed:
                try:
                    text_or_end = await asyncio.wait_for(queue.get(), PING_S)
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                if text_or_end is None:
                    return
                yield text_or_end
        finally:
            self._readers.discard(queue)

    def _spread(self, text: str) -> None:
        for queue in self._readers:
            try:
                queue.put_nowait(text)
            except asyncio.QueueFull:
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(event("lag", {}))

    def _end(self) -> None:
        self._closed = True
        for queue in self._readers:
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(None)

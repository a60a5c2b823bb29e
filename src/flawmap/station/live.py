"""What happens, told at once to everyone who watches: server-sent events (HTML Living Standard, 9.2).

Readers must not slow the line, which shares their event loop: a reader gets what came since it was last given something
in one piece, and after a pause that grows with the number of readers, so that all of them together take a bounded share
of the loop. One that is far behind loses what it was behind by, and is told so.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flawmap.errors import StationError

WAITING = 1000  # events that a slow reader may be behind
PING_S = 15.0  # a comment line that often, so that a lost connection is noticed
PAUSE_S, PAUSE_EACH_S = 0.02, 0.004  # between two pieces for a reader, and for each reader there is
CATCHING_UP = 2  # readers at a time whose missed events are read from the record


def event(name: str, data: Any, seq: int | None = None) -> str:
    """One event as it is sent; `seq` is what a reader asks to go on after."""
    head = f"event: {name}\n" if seq is None else f"event: {name}\nid: {seq}\n"
    return f"{head}data: {json.dumps(data)}\n\n"


class _Reader:
    """Who watches: the events that wait for them."""

    def __init__(self) -> None:
        self.waiting: deque[str] = deque()
        self.more = asyncio.Event()

    def give(self, text: str) -> None:
        """One more event."""
        if len(self.waiting) >= WAITING:
            self.waiting.clear()
            self.waiting.append(event("lag", {}))
        else:
            self.waiting.append(text)
        self.more.set()

    async def take(self) -> str:
        """All that waits, in one piece; a comment after PING_S without anything."""
        if not self.waiting:
            try:
                await asyncio.wait_for(self.more.wait(), PING_S)
            except TimeoutError:
                return ": still here\n\n"
        self.more.clear()
        texts = "".join(self.waiting)
        self.waiting.clear()
        return texts


class Hub:
    """Spreads events to `most` readers. `publish` may be called from any thread, the rest from the event loop's."""

    def __init__(self, most: int = 200) -> None:
        self.most = most
        self._loop: asyncio.AbstractEventLoop | None = None
        self._readers: set[_Reader] = set()
        self._closed = False
        self._catching_up = ThreadPoolExecutor(CATCHING_UP, "catching-up")

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

    def check_room(self) -> None:
        """Raises StationError (429) where there are as many readers as there may be."""
        if len(self._readers) >= self.most:
            text = f"{self.most} pages or programs read the live events already; close some (limits.readers)"
            raise StationError(text, 429, 5.0, "too-many-readers", limit=self.most)

    async def read(self, missed: Callable[[], list[str]]) -> AsyncIterator[str]:
        """Events as they come, after those `missed` gives, which is called in a thread once no new one can be lost."""
        reader = _Reader()
        self._readers.add(reader)
        try:
            yield ": hello\n\n"
            if self._closed:
                return
            earlier = await asyncio.get_running_loop().run_in_executor(self._catching_up, self._unless_closed, missed)
            yield "".join(earlier)
            while not self._closed:
                if texts := await reader.take():
                    yield texts
                await asyncio.sleep(PAUSE_S + PAUSE_EACH_S * len(self._readers))
        finally:
            self._readers.discard(reader)

    def _unless_closed(self, missed: Callable[[], list[str]]) -> list[str]:
        return [] if self._closed else missed()

    def _spread(self, text: str) -> None:
        for reader in self._readers:
            reader.give(text)

    def _end(self) -> None:
        self._closed = True
        for reader in self._readers:
            reader.waiting.clear()
            reader.more.set()

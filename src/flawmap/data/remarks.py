"""What decoding remarks on a file without refusing it, collected for one image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_COLLECTED: ContextVar[list[str] | None] = ContextVar("remarks", default=None)


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect what is remarked on files that are read within, in this thread: each remark once, in order."""
    found: list[str] = []
    before = _COLLECTED.set(found)
    try:
        yield found
    finally:
        _COLLECTED.reset(before)


def collect(remark: str) -> None:
    """Add a remark to those that are being collected, if any are."""
    found = _COLLECTED.get()
    if found is not None and remark not in found:
        found.append(remark)

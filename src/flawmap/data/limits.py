"""What one image file may cost, what counts as damage, and what is remarked on files without refusing them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flawmap.data.formats import Damage
from flawmap.data.remarks import collect
from flawmap.errors import ImageError

MAX_PIXELS = 200_000_000
MAX_BYTES = 1_500_000_000  # the most that decoding one file may take, its result included
DAMAGED = "FLAWMAP_DAMAGED"  # in the environment, so that processes started from here hold to it too
TRAILING = "bytes after the end of the picture were passed over"
PADDING = "padding before the end of the picture was passed over"
HIDDEN = 0.01  # of full scale: an alpha that exceeds it nowhere shows nothing; 1 where 255 or 65535 is meant is one
UNHIDDEN = "alpha that hides the whole picture was left out"
NOTHING = "its alpha hides the whole picture, and nothing lies under it; save it without alpha"

_REMARKS: dict[str, tuple[str, set[str]]] = {}  # remark: the first file, and all
_REMARKS_LOCK = threading.Lock()


def accept_damaged(accept: bool) -> None:
    """Read damaged images too from now on, here and in processes started from here: what is missing is grey or black.

    What was read so is told by `remarks`.
    """
    os.environ[DAMAGED] = "accept" if accept else "refuse"


def remarks() -> list[str]:
    """What was remarked on files read since the last call, a line for each kind of remark with a file that had it."""
    with _REMARKS_LOCK:
        lines = [
            f"{first}: {remark}" if len(names) == 1 else f"{remark}: {len(names)} files, such as {first}"
            for remark, (first, names) in _REMARKS.items()
        ]
        _REMARKS.clear()
    return lines


def remark(name: str, words: str) -> None:
    """Note what is to be said of a file that is read all the same."""
    collect(words)
    with _REMARKS_LOCK:
        names = _REMARKS.setdefault(words, (name, set()))[1] if len(_REMARKS) < 1000 else {name}
        if len(names) < 100_000:
            names.add(name)


@contextmanager
def heard(name: str) -> Iterator[None]:
    """Let damage pass as a remark where it is accepted; it is refused otherwise."""
    try:
        yield
    except Damage as problem:
        if os.environ.get(DAMAGED) != "accept":
            raise
        remark(name, f"damaged and read all the same ({problem})")


@contextmanager
def memory(name: str) -> Iterator[None]:
    """One image that memory does not hold is one image that cannot be used."""
    try:
        yield
    except MemoryError as problem:
        raise ImageError(f"{name}: it does not fit into this machine's memory; cut it into smaller images") from problem


def fits(name: str, width: int, height: int, bytes_each: float = 0, data: bytes = b"") -> None:
    """Refuse more than MAX_PIXELS, or than MAX_BYTES at so many bytes a pixel and the file itself twice."""
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} is over the limit of {MAX_PIXELS} pixels; cut it into smaller images"
        )
    if width <= 0 or height <= 0:
        raise Damage("it states no size")
    needed = width * height * bytes_each + 2 * len(data)
    if needed > MAX_BYTES:
        raise ImageError(
            f"{name}: {width}x{height} takes {needed / 1e9:.1f} GB to decode, over the limit of "
            f"{MAX_BYTES / 1e9:.1f}; cut it into smaller images"
        )

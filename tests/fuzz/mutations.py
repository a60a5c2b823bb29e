"""Damage that the fuzz tests share: to bytes, to text, to JSON; how much of it, and what must hold under it.

FLAWMAP_FUZZ is the number of mutations in all (`make fuzz`: 20 000), parted over the kinds of input as in USUAL, which
is tried without it. A mutation is made from its number alone, by which a failure is named.
"""

from __future__ import annotations

import copy
import json
import os
import random
import re
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from flawmap.errors import FlawmapError

USUAL = {
    "images": 300, "masks": 300, "bundles": 600, "tables": 300, "recipes": 300, "labels": 400, "api": 400,
}  # fmt: skip
HANG_S = 10  # of the process's own time, so that a busy machine is no hang
MEMORY = 1_500_000_000  # bytes above idle for any one input
STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 70_000, 9_999_999, 10**9, 10**19, -(10**400), 0.5, 1.5, -0.0, 1e300, float("nan"),
    float("inf"), "", "0.5", "two\nlines", "x" * 2000, "\ud800", "\x00", [], [[]], [None], [True, "a"], {},
    {"count": []}, {"score": {}}, [1] * 50,
]  # fmt: skip
NUMBERS = (
    "0", "-1", "1", "2", "0.5", "70000", "9999999", "-9999999", "4294967296", "1e308", "1e999", "-0", "nan", "inf",
    "9" * 12, "9" * 30, "9" * 5000, "0x10", "1_0", "", "True", "٣", "1,5", "²",
)  # fmt: skip
WORDS = (
    "", " ", "\x00", "\u2028", "é", "\U0001f600", '"', "'", ",", ";", "\t", "\r", "\n", "=", "[", "]", "{", "}", "<",
    ">", "&amp;", "&#10;", "&#0;", "../../etc/passwd", "/dev/zero", "/", "CON", "x" * 5000, "null", "true", "[[[[",
    "%00", "\\",
)  # fmt: skip


def mutations(kind: str, parts: int = 1) -> int:
    """How many mutations each of `parts` tests of this kind tries, at least one."""
    total = os.environ.get("FLAWMAP_FUZZ")
    count = USUAL[kind] if total is None else int(total) * USUAL[kind] // sum(USUAL.values())
    return max(count // parts, 1)


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """One to three changes: bits, bytes, zeros, pieces cut out or put in, an early end, large numbers."""
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        size = len(changed)
        at = chance.randrange(size if chance.random() < 0.6 else min(size, 400))
        length = chance.randrange(1, max(2, min(300, size)))
        match chance.randrange(7):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at] = chance.randrange(256)
            case 2:
                changed[at : at + length] = bytes(len(changed[at : at + length]))
            case 3:
                del changed[at : at + length]
            case 4:
                del changed[at:]
            case 5:
                changed[at:at] = chance.randbytes(length)
            case _:
                changed[at : at + 4] = b"\xff" * len(changed[at : at + 4])
        changed = changed or bytearray(b"x")
    return bytes(changed)


def changed_text(text: str, chance: random.Random) -> bytes:
    """The file with one to three changes, of bytes, of numbers, of words or of lines."""
    data = text.encode()
    for _ in range(chance.randrange(1, 4)):
        data = _once(data, chance)
    return data


def _once(data: bytes, chance: random.Random) -> bytes:
    way = chance.randrange(7)
    if way < 2 or not data:
        return changed_bytes(data or b"x", chance)
    if way == 2:  # a number
        return _replaced(data, rb"-?\d+(\.\d+)?", chance.choice(NUMBERS), chance)
    if way == 3:  # a word or what is in quotes
        return _replaced(data, rb"\w+|(?<=\")[^\"\n]*(?=\")", chance.choice(WORDS), chance)
    lines = data.splitlines(keepends=True)
    at, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    if way == 4:
        del lines[at]
    elif way == 5:
        lines.insert(other, lines[at])
    else:
        place = chance.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + chance.choice(WORDS).encode() + lines[at][place:]
    return b"".join(lines)


def _replaced(data: bytes, pattern: bytes, by: str, chance: random.Random) -> bytes:
    found = list(re.finditer(pattern, data))
    if not found:
        return data
    one = chance.choice(found)
    return data[: one.start()] + by.encode() + data[one.end() :]


def places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Each (object or list, key or number) in `value`."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        found.append((value, key))
        places(value[key], found)
    return found


def changed_value(note: Any, chance: random.Random) -> str:
    """The JSON of a value with one part of it replaced, changed, wrapped or taken out."""
    note = copy.deepcopy(note)
    holder, key = chance.choice(places(note, []) or [([note], 0)])
    way = chance.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * chance.choice([-1, 10, 1.0000001, 0.5])
    elif way == 2:
        holder[key] = chance.choice([[holder[key]], {"a": holder[key]}, str(holder[key])])
    else:
        holder[key] = chance.choice(STRANGE)
    return json.dumps(note)


class Hang(BaseException):
    """An input kept the process busy for longer than HANG_S."""


@contextmanager
def held_to_bounds(name: str) -> Iterator[None]:
    """Within: a FlawmapError of one line or none, no other exception, no hang, memory within MEMORY above idle."""

    def rings(number: int, frame: FrameType | None) -> None:
        raise Hang(f"{name}: longer than {HANG_S} s")

    idle = peak_memory()
    before = signal.signal(signal.SIGPROF, rings)
    signal.setitimer(signal.ITIMER_PROF, HANG_S)
    try:
        yield
    except FlawmapError as problem:
        assert "\n" not in str(problem) and "\r" not in str(problem), f"{name}: {problem!r}"
    except AssertionError:
        raise
    except Exception as problem:
        raise AssertionError(f"{name}: {type(problem).__name__}: {problem}") from problem
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert peak_memory() < idle + MEMORY, f"{name}: {peak_memory() / 1e9:.1f} GB"


def peak_memory() -> int:
    """Bytes of memory that this process held at its peak."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

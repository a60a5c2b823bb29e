"""What the public functions are given: text and Path for places, numbers that are none by accident. Mistakes are one
line that says what to give."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

from flawmap.errors import ConfigError, DataError, FlawmapError


def place_given(given: object, what: str, error: type[FlawmapError] = DataError) -> Path:
    """A place as text or Path; `what` it is begins the message of `error`, for anything else and an impossible name."""
    if not isinstance(given, str | os.PathLike) or isinstance(name := os.fspath(given), bytes):
        raise error(f"{what} is given as text or Path, not {type(given).__name__}")
    try:
        os.stat(name)
    except OSError as problem:
        if problem.errno == errno.ENAMETOOLONG:
            raise error(
                f"{name[:60]}…: there is no such file or folder; the name is longer than names can be"
            ) from None
    except ValueError:  # a NUL
        raise error(f"{name!r} is not the name of a file or folder") from None
    return Path(given)


def refuse_odd_number(name: str, given: object, least: float = -math.inf, *, whole: bool = True) -> None:
    """Raises ConfigError for True and False, texts, NaN, numbers below `least` and, where it is `whole`, parts."""
    kind = int if whole else int | float
    if isinstance(given, bool) or not isinstance(given, kind) or not math.isfinite(given) or given < least:
        least_words = "" if math.isinf(least) else f" of {least:g} or more"
        raise ConfigError(f"{name}={given!r}: expected a {'whole ' if whole else ''}number{least_words}")

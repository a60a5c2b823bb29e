"""Settle at the start of a training what is full white in its photos with 16 bits, and note how bright photos are."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flawmap.config import ImageSettings
from flawmap.data.filekinds import special
from flawmap.data.images import Brightness, brightness_of
from flawmap.data.white import FAR, FULL, HEAD, LEVELS, White, likely_white, may_be_deep
from flawmap.errors import ImageError

FEW = 0.1  # of the photos: when so few decide on the level, it is said
SHALLOW_READ = 32  # photos without 16 bits that tell how bright photos are; their level is known without decoding

Facts = dict[str, Any]


def settled_white(
    settings: ImageSettings,
    good: Sequence[Path],
    others: Sequence[Path] = (),
    say: Callable[[str], object] = lambda line: None,
) -> tuple[ImageSettings, Facts]:
    """`settings` with `white` settled by the photos `good` and `others`, and what a bundle keeps of it.

    Facts: level; photos, with 16 bits that state no level; largest, of their pixels; reach, the share of full white
    that bright pixels of every good photo reach. Without such photos `auto` stays, and full scale is meant. `say` is
    told of 16 bits in one line, and of photos that seem to be at another level. Broken photos are left to who reads
    them next.
    """
    deep, shallow = [path for path in good if _deep(path)], [path for path in good if not _deep(path)]
    shallow = shallow[:: max(-(-len(shallow) // SHALLOW_READ), 1)]
    seen = [_brightness(path) for path in (*deep, *shallow)]
    defects = [path for path in others if _deep(path)]
    found = [*seen, *(_brightness(path) for path in defects)]
    unknown = [one.largest for one in found if one.largest is not None]
    largest = max(unknown, default=0)
    asked = settings.white
    level = White.of(settings).level if asked != "auto" or not unknown else likely_white(largest)
    if unknown:
        say(_line(asked, level, largest, len(unknown)))
        settings = settings.model_copy(update={"white": level})
    named = zip((*deep, *shallow, *defects), found, strict=True)
    reached = {path: one.largest for path, one in named if one.largest is not None}
    if asked == "auto" and (line := _few_above(reached, level)):
        say(line)
    shares = [one.bright / (level if one.largest is not None else 1) for one in seen]
    reach = min(shares, default=0.0)
    usual = statistics.median(shares) if shares else 0.0
    dark = [
        path.name
        for path, one, share in zip((*deep, *shallow), seen, shares, strict=True)
        if one.largest is not None and one.largest <= LEVELS[-1] and share < usual / FAR
    ]
    if dark:
        say(
            f"{len(dark)} of the photos with 16 bits, as {dark[0]}, are less than half as bright as most: if they are "
            "at another level than the others, store all photos at one and train again"
        )
    return settings, {
        "level": level, "photos": len(unknown), "largest": largest, "reach": round(min(reach, 1.0), 4),
    }  # fmt: skip


def brightnesses(paths: Sequence[Path]) -> dict[Path, Brightness]:
    """How bright each photo is, as `settled_white` sees it; of those without 16 bits only some are decoded, and the
    others taken for as bright as these."""
    deep, shallow = [path for path in paths if _deep(path)], [path for path in paths if not _deep(path)]
    some = {path: _brightness(path) for path in shallow[:: max(-(-len(shallow) // SHALLOW_READ), 1)]}
    usual = statistics.median(one.bright for one in some.values()) if some else 1.0
    return {path: _brightness(path) for path in deep} | {
        path: some.get(path, Brightness(None, usual)) for path in shallow
    }


def _line(asked: int | str, level: int, largest: int, count: int) -> str:
    photos = f"{count} photo{'s have' if count > 1 else ' has'} 16 bits"
    dark = f"{photos} and no pixel above {largest}"
    if asked != "auto":
        hint = f": if {_bits(largest)}, set image.white to that" if 2 * largest < level else ""
        return f"{dark}; full white is {level} (image.white){hint}"
    if level < FULL:
        return f"{dark}: taken for {round(math.log2(level + 1))} bits, full white is {level} (image.white)"
    if largest > LEVELS[-1]:
        return f"{dark}: full white is {level} (image.white)"
    return f"{dark}, too dark to tell their level: full white is {level}; if {_bits(largest)}, set image.white to that"


def _few_above(largest: dict[Path, int], level: int) -> str:
    """What to say where at most FEW of the photos keep the others from a lower level; "" where it is not so."""
    for lower in (each for each in LEVELS if each < level):
        fit = [each for each in largest.values() if each <= lower]
        above = [path for path, each in largest.items() if each > lower]
        if fit and above and len(above) <= FEW * len(largest) and 2 * max(fit) >= lower:
            first = max(above, key=lambda path: largest[path])
            alone = f"{first.name} alone reaches {largest[first]}"
            others = alone if len(above) == 1 else f"{len(above)} reach more, as {first.name} {largest[first]}"
            return (
                f"{len(fit)} of {len(largest)} photos with 16 bits stay below {lower + 1}; {others} (a dead pixel, "
                f"burnt-in text?): if they hold {round(math.log2(lower + 1))} bits, correct or remove it and train "
                f"again, or set image.white={lower}, which refuses such photos"
            )
    return ""


def _bits(largest: int) -> str:
    level = next((level for level in (255, *LEVELS) if largest <= level), FULL)
    return f"they hold {round(math.log2(level + 1))} bits, as 0 to {level}"


def _deep(path: Path) -> bool:
    """Whether a photo may hold more than 8 bits."""
    if special(path) is not None:
        return True
    try:
        with path.open("rb") as file:
            start = file.read(HEAD)
            return may_be_deep(start + file.read() if start[:2] in (b"II", b"MM") else start)
    except (OSError, ValueError):
        return True


def _brightness(path: Path) -> Brightness:
    try:
        return brightness_of(path.read_bytes(), str(path)) if special(path) is None else Brightness(None, 1.0)
    except (OSError, ValueError, ImageError):  # it is read again, and what is wrong with it told then
        return Brightness(None, 1.0)

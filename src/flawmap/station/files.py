"""Pictures on disk: originals and maps under generated ids, written whole or not at all, thinned by age and by size.

A file written here is on the disk when the call returns, its name in its folder too, unless that is asked not to be: a
verdict that is recorded afterwards does not point at an empty picture when the power fails.

Folders made here are for the station's user alone, and so are files, whatever the folder's mode and the umask: photos
of parts are nobody else's business.

No name from outside reaches the file system: an id is 32 hexadecimal digits made here, and is checked to be so. The map
is kept at the network's size, which is all that is known of it; the one at the image's size, the heat and the overlay
are drawn from it when they are asked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flawmap.errors import StationError
from flawmap.station.settings import KeepSettings

ID = re.compile(r"[0-9a-f]{32}")
SUFFIXES = {  # by the kinds of data.images.Header
    "PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "PNM": ".pnm",
    "JPEG2000": ".jp2", "DICOM": ".dcm",
}  # fmt: skip
MEDIA = {
    ".png": "image/png", ".jpg": "image/jpeg", ".bmp": "image/bmp", ".tif": "image/tiff", ".webp": "image/webp",
    ".pnm": "image/x-portable-anymap", ".jp2": "image/jp2", ".dcm": "application/dicom",
}  # fmt: skip
MAP = ".map.png"  # ends the name of a map
LEFT_S = 3600  # seconds after which a file without a record was left by a killed process
DAY = 24 * 60 * 60


def new_id() -> str:
    """An id: random, so that nobody can guess the next one."""
    return uuid.uuid4().hex


def is_id(text: str) -> bool:
    """Whether it is what `new_id` gives."""
    return ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Kept:
    """The pictures of one part: their id, time of the original in seconds, bytes."""

    ident: str
    time: float
    bytes: int


class Leap(Protocol):
    """A leap of the clock, as retention.py notes it."""

    @property
    def seq(self) -> int:
        """The record's last row then."""

    @property
    def seconds(self) -> float:
        """By so many it went further than time."""


class Pictures:
    """The pictures of parts in one folder, by the first two digits of their ids. Threads may share it.

    `sync`: whether a picture is on the disk, and not just on its way there, when it counts as written.
    """

    def __init__(self, folder: Path, sync: bool = True) -> None:
        self.folder, self.sync = folder, sync
        try:
            private(folder)
        except OSError as problem:
            raise StationError(f"cannot write to {folder}: {problem.strerror}") from problem

    def write_original(self, ident: str, data: bytes, kind: str) -> None:
        """Keep an original, of a `kind` in SUFFIXES. Raises StationError (503) when the disk will not."""
        self._write(ident, SUFFIXES[kind], data)

    def write_map(self, ident: str, map_png: bytes) -> None:
        """Keep a map. Raises StationError (503) when the disk will not."""
        self._write(ident, MAP, map_png)

    def _write(self, ident: str, ending: str, data: bytes) -> None:
        place = self._place(ident)
        try:
            if not place.is_dir():
                private(place)
                if self.sync:
                    to_disk(self.folder)
            write_whole(place / f"{ident}{ending}", data, self.sync)
        except OSError as problem:
            raise StationError(
                f"cannot keep pictures in {self.folder}: {problem.strerror}; make room or change its permissions",
                503,
                code="disk",
            ) from problem

    def original(self, ident: str) -> Path | None:
        """The file of an original, None when it is not kept."""
        place = self._place(ident)
        return next((file for suffix in MEDIA if (file := place / f"{ident}{suffix}").is_file()), None)

    def keeps(self, ident: str, kind: str) -> bool:
        """Whether an original of a kind in SUFFIXES is kept; asked for every part of a report, and so quick."""
        return os.path.isfile(f"{self.folder}/{ident[:2]}/{ident}{SUFFIXES[kind]}")

    def map(self, ident: str) -> Path | None:
        """The file of a map at the network's size, None when it is not kept."""
        file = self._place(ident) / f"{ident}{MAP}"
        return file if file.is_file() else None

    def remove(self, ident: str) -> None:
        """Forget the pictures of a part."""
        place = self._place(ident)
        for suffix in (*MEDIA, MAP):
            with contextlib.suppress(OSError):
                (place / f"{ident}{suffix}").unlink()

    def kept(self) -> Iterator[Kept]:
        """What is kept, in no order."""
        for place in self.folder.iterdir():
            if len(place.name) != 2 or not place.is_dir():
                continue
            sizes: dict[str, tuple[float, int]] = {}
            for file in os.scandir(place):
                with contextlib.suppress(OSError):
                    found = file.stat()
                    if is_id(ident := file.name[:32]):
                        before = sizes.get(ident, (found.st_mtime, 0))
                        sizes[ident] = (min(before[0], found.st_mtime), before[1] + found.st_size)
                    elif time.time() - found.st_mtime > LEFT_S:  # half a file that a killed process left
                        os.unlink(file.path)
            for ident, (at, size) in sizes.items():
                yield Kept(ident, at, size)

    def _place(self, ident: str) -> Path:
        assert is_id(ident), "an id is made by the station"
        return self.folder / ident[:2]


def thin(
    pictures: Pictures, settings: KeepSettings, ranks: Callable[[list[str]], dict[str, int]], at: float | None = None,
    leaps: Sequence[Leap] = (), seqs: Callable[[list[str]], dict[str, int]] = lambda idents: {},
) -> list[str]:  # fmt: skip
    """Remove pictures that are too old, then, while all are too large, good ones and at last rejected ones, oldest
    first. Returns the ids removed.

    `ranks`: for ids, 0 for a part that passed, 1 for one rejected, doubtful or overruled; an id that it leaves out has
    no record. `at`: the time in seconds; `leaps`: by which that clock was wrong (retention.py); `seqs`: for ids, their
    place in the record, which is what order and leaps go by.
    """
    at = time.time() if at is None else at
    kept = sorted(pictures.kept(), key=lambda one: one.time)
    oldest = max(0.0, *(-sum(leap.seconds for leap in leaps[start:]) for start in range(len(leaps)))) if leaps else 0.0
    days = {0: settings.good_days * DAY, 1: settings.rejected_days * DAY}
    limit = settings.gigabytes * 1e9
    too_large = sum(one.bytes for one in kept) > limit

    def doubtful(age: float) -> bool:
        """Whether the record must be asked. Pictures without one show within a day; later it is not asked for long."""
        return too_large or age > min(days.values()) or LEFT_S < age <= DAY

    asked = [one.ident for one in kept if doubtful(at - one.time) or doubtful(at - one.time + oldest)]
    may_go = set(asked)
    known, order = ranks(asked), seqs(asked)

    def age_of(one: Kept) -> float:
        """Seconds that were worked since. What has no record may be on its way there: the last leap is not its age."""
        if one.ident not in known:
            return at - one.time - max([0.0, *(leap.seconds for leap in leaps[-1:])])
        return at - one.time - sum(leap.seconds for leap in leaps if order.get(one.ident, 0) <= leap.seq)

    removed: list[Kept] = []
    stays: list[Kept] = []
    for one in kept:
        age = age_of(one)
        too_old = one.ident in may_go and doubtful(age) and age > days.get(known.get(one.ident, -1), LEFT_S)
        (removed if too_old else stays).append(one)
    total = sum(one.bytes for one in stays)
    for one in sorted(stays, key=lambda one: (known.get(one.ident, 1), order.get(one.ident, 0), one.time)):
        if total <= limit:
            break
        if one.ident in known:  # else it is being written
            removed.append(one)
            total -= one.bytes
    for one in removed:
        pictures.remove(one.ident)
    return [one.ident for one in removed]


def write_whole(file: Path, data: bytes, sync: bool = True) -> None:
    """Write a file so that nobody sees half of it. `sync`: on return it is on the disk, under its name."""
    saving = file.with_name(f".{file.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with open(os.open(saving, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            os.fchmod(stream.fileno(), 0o600)  # also with an umask that takes the owner's bits
            stream.write(data)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        saving.replace(file)
        if sync:
            to_disk(file.parent)
    except OSError:
        with contextlib.suppress(OSError):
            saving.unlink()
        raise


def private(folder: Path) -> None:
    """Make a folder for this user alone, or make one that is there so, if it is ours. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & 0o777 != 0o700:
        with contextlib.suppress(PermissionError):  # a disk of the network, say: the files in it are ours alone
            folder.chmod(0o700)


def private_file(file: Path) -> None:
    """Make a file for this user alone, or make one that is there so. Raises OSError."""
    opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.fstat(opened).st_mode & 0o777 != 0o600:
            os.fchmod(opened, 0o600)
    finally:
        os.close(opened)


def link(file: Path, place: Path) -> None:
    """The same file under another name, or a copy where the disk will not; for files that are never written to again"""
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)


def to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk as they are here."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

"""Watch a folder that a camera writes to: each new complete file is inspected once, exactly once across restarts.

A file is complete when its size and time of change stayed the same from one look to the next and it decodes;
half-written ones are waited for. Files are taken in the order of their times, then names. What was done is kept in a
small SQLite of its own (seen.py): a file is `begun` before it is inspected, `found` with its result before that is
handed over, and `done` after it was. A file that was begun when the watch was killed is taken up again: the service
knows it by its key and answers what it recorded; the csv is looked through for it; MQTT may tell it a second time, with
the same key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, Protocol

from flawmap.data.filekinds import FileKind, kind_of
from flawmap.data.remarks import collected
from flawmap.errors import ImageError, StationError
from flawmap.station.record import now
from flawmap.station.seen import Arrived, Result, Seen
from flawmap.station.station import verdict_of

if TYPE_CHECKING:
    from flawmap.station.client import Client

STATE = ".flawmap-watch.sqlite"
FOLDERS = ("pass", "reject", "doubt", "test", "failed")
SETTLE_S = 0.3  # between two looks at a folder
DAMAGED_S = 30.0  # a file that stays the same for so long and still is no whole image has failed
PATIENCE_S = 150.0  # for a station that is away or busy
AT_ONCE = 64  # files between two looks


Inspect = Callable[[Arrived, bytes], Result]


class _Stopped(BaseException):
    """A stop came while a verdict, or somebody who takes it, was waited for; no problem of either."""


class Sink(Protocol):
    """Where results go."""

    def give(self, result: Result) -> None:
        """Hand over a result; when this returns, it is safe. May be given one again after a kill or a stop."""

    def close(self) -> None:
        """No more results come."""


class Watch:
    """One watched folder. `say` is told a line for each file. `failed` counts those done that were no usable image.

    A file is an image by its suffix or its first bytes. passed_over: how many others there were, each told once, of
    those that are no images the first; hidden_images: images among them.
    """

    def __init__(
        self,
        folder: Path,
        inspect: Inspect,
        sinks: Sequence[Sink],
        *,
        out: Path | None = None,
        move: bool = False,
        state: Path | None = None,
        say: Callable[[str], object] = print,
        settle_s: float = SETTLE_S,
        damaged_s: float = DAMAGED_S,
    ) -> None:
        if not folder.is_dir():
            raise StationError(f"there is no folder {folder} to watch")
        self.folder, self.inspect, self.sinks, self.out, self.move = folder, inspect, sinks, out, move
        self.say, self.settle_s, self.damaged_s = say, settle_s, damaged_s
        self.seen = Seen(state or folder / STATE)
        self.stopping, self.failed = threading.Event(), 0
        self.passed_over, self.hidden_images = 0, list[Path]()
        self._told: set[str] = set()  # names, and kinds of files that are no images
        self._kinds: dict[str, tuple[int, int, FileKind]] = {}  # by name: size, time of change, what it is
        self._left: list[tuple[Path, str, os.stat_result, FileKind]] = []  # files that are not inspected
        self._others: dict[str, tuple[int, int, float]] = {}  # as _looks, of these
        self._yields = False  # whether what is being done may be cut short
        self._done: dict[str, tuple[int, int]] = {}  # by name: size and time of change; saves asking `seen`
        self._looks: dict[str, tuple[int, int, float]] = {}  # by name: size, time of change, since when

    def run(self, once: bool = False) -> int:
        """Watch until `stopping` is set, or, `once`, until nothing is left to do; how many files were done."""
        done = 0
        while not self.stopping.is_set():
            arrived = list(islice(self._arrived(), AT_ONCE))
            for each in arrived:
                if self.stopping.is_set():
                    break
                with contextlib.suppress(_Stopped):
                    done += self._do(each)
            if once and not arrived and not self._looks:
                self._tell_others(self._left, at_once=True)
                break
            if len(arrived) < AT_ONCE:
                self.stopping.wait(self.settle_s)
        return done

    def stop(self) -> None:
        """End soon, called by a signal: what waits, maybe for minutes, is cut short, and its file the next watch's."""
        self.stopping.set()
        if self._yields:
            self._yields = False
            raise _Stopped

    @contextlib.contextmanager
    def _yielding(self) -> Iterator[None]:
        """What `stop` may cut short; a kill may, too, and so nothing is lost or done twice by it."""
        self._yields = True
        try:
            if self.stopping.is_set():
                raise _Stopped
            yield
        finally:
            self._yields = False

    def close(self) -> None:
        """Let go of what was done; the sinks are their maker's."""
        self.seen.close()

    def _arrived(self) -> Iterator[Arrived]:
        """Complete files that are not done, in the order of their times and names."""
        from flawmap.data.images import SUFFIXES

        found: list[tuple[int, str, Path, int]] = []
        self._left = []
        with contextlib.suppress(FileNotFoundError):  # the folder may be on a share that comes and goes
            for path, hidden in self._files():
                with contextlib.suppress(OSError):
                    stat, name = path.stat(), path.relative_to(self.folder).as_posix()
                    known = path.suffix.lower() in SUFFIXES and not hidden and S_ISREG(stat.st_mode)
                    kind = None if known else self._kind(path, name, stat)
                    if kind is None or (kind.group == "image" and not hidden):
                        found.append((stat.st_mtime_ns, name, path, stat.st_size))
                    else:
                        self._left.append((path, name, stat, kind))
        self._tell_others(self._left)
        at, before, self._looks = time.monotonic(), self._looks, {}
        settled = []
        for changed, name, path, size in sorted(found):
            if self._done.get(name) == (size, changed):
                continue
            arrived = Arrived(path, name, size, changed)
            if self.seen.state(arrived.key) == "done":
                self._done[name] = (size, changed)
                continue
            last = before.get(name)
            alike = last is not None and last[:2] == (size, changed)
            self._looks[name] = last if last is not None and alike else (size, changed, at)
            if alike:
                settled.append(arrived)
        for arrived in settled:
            waited = at - self._looks[arrived.name][2]
            if (arrived.size and self._is_whole(arrived.path)) or waited > self.damaged_s:
                yield arrived

    def _files(self) -> Iterator[tuple[Path, bool]]:
        """Yield all files, and whether each is hidden; not what a watch keeps, nor what one sorted before."""
        from flawmap.data.layouts.tree import is_cache

        for place, folders, names in os.walk(self.folder):
            here = Path(place)
            theirs = FOLDERS if here in (self.folder, self.out) else ()
            folders[:] = [name for name in folders if name not in theirs and not is_cache(name)]
            below = any(part.startswith(".") for part in here.relative_to(self.folder).parts)
            for name in names:
                hidden = name.startswith(".")
                if not (hidden and (name.startswith(STATE) or name.endswith(".saving"))):
                    yield here / name, hidden or below

    def _kind(self, path: Path, name: str, stat: os.stat_result) -> FileKind:
        """What a file is, looked at again when it changed."""
        known = self._kinds.get(name)
        if known is None or known[:2] != (stat.st_size, stat.st_mtime_ns):
            known = self._kinds[name] = (stat.st_size, stat.st_mtime_ns, kind_of(path))
        return known[2]

    def _tell_others(self, others: list[tuple[Path, str, os.stat_result, FileKind]], at_once: bool = False) -> None:
        """Count files that are not inspected once they rest, hidden ones after a while: they may be renamed yet."""
        at, before, self._others = time.monotonic(), self._others, {}
        for path, name, stat, kind in others:
            look = (stat.st_size, stat.st_mtime_ns)
            last = before.get(name)
            alike = last is not None and last[:2] == look
            self._others[name] = last if last is not None and alike else (*look, at)
            hidden = any(part.startswith(".") for part in Path(name).parts)
            rests = alike and (not hidden or at - self._others[name][2] > self.damaged_s)
            if name in self._told or not (rests or at_once):
                continue
            self._told.add(name)
            self.passed_over += 1
            if kind.group == "image":
                self.hidden_images.append(path)
            elif kind.words in self._told:
                continue
            self._told.add(kind.words)
            self.say(f"passed over      {name} ({'hidden ' if hidden else ''}{kind.words})")

    def _is_whole(self, path: Path) -> bool:
        from flawmap.data.images import read_pixels

        try:
            read_pixels(path)
        except (ImageError, OSError):
            return False
        return True

    def _do(self, arrived: Arrived) -> bool:
        """Inspect one file and hand its result over; whether that was done."""
        try:
            data = arrived.path.read_bytes()
        except FileNotFoundError:  # somebody took it away
            return False
        except OSError as problem:
            raise StationError(f"{arrived.path} cannot be read: {problem.strerror}") from problem
        result = self.seen.result(arrived.key)
        if result is None:
            self.seen.note(arrived, "begun")
            with self._yielding():
                result = self._result(arrived, data)
            self.seen.note(arrived, "found", result)
        for sink in self.sinks:
            with self._yielding():
                sink.give(result)
        if self.out is not None:
            self._sort(arrived, result["verdict"] or "failed")
        self.seen.note(arrived, "done")
        self.failed += result["verdict"] is None
        self._looks.pop(arrived.name, None)
        score = "" if result["score"] is None else f"{result['score']:.4f}"
        remarks = "; ".join(result.get("remarks", []))
        self.say(f"{result['verdict'] or 'failed':<8} {score:<7} {arrived.name} {result['error'] or remarks}".rstrip())
        return True

    def _result(self, arrived: Arrived, data: bytes) -> Result:
        known = {"file": arrived.name.encode("utf-8", "backslashreplace").decode(), "key": arrived.key, "time": now()}
        known["sha256"] = hashlib.sha256(data).hexdigest()
        empty = dict.fromkeys(("verdict", "score", "threshold", "p_value", "model", "regions", "id"))
        try:
            return {**empty, "error": "", **self.inspect(arrived, data), **known}
        except ImageError as problem:
            return {**empty, **known, "error": str(problem).removeprefix(f"{arrived.name}: ")}
        except StationError as problem:
            if problem.status not in (413, 415, 422):  # of the image; anything else is no fault of it
                raise
            return {**empty, **known, "error": str(problem)}

    def _sort(self, arrived: Arrived, verdict: str) -> None:
        """Move or copy the file to the folder of its verdict, in one step; nothing there is replaced."""
        assert self.out is not None
        place = self.out / verdict / arrived.name
        if place.exists() and not _same(place, arrived):  # an earlier part of the same name
            place = place.with_name(f"{place.stem}-{arrived.key[:8]}{place.suffix}")
        saving = place.with_name(f".{place.name}.saving")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if self.move:
                with contextlib.suppress(OSError):
                    arrived.path.rename(place)
                    return
            if not place.exists():
                shutil.copy2(arrived.path, saving)
                saving.replace(place)
            if self.move:
                arrived.path.unlink()
        except OSError as problem:
            raise StationError(f"cannot sort {arrived.path} into {self.out}: {problem.strerror}") from problem


def by_bundle(bundle: Path, runtime: str, device: str, doubt: float, say: Callable[[str], object]) -> Inspect:
    """Inspect in this process. Raises StationError for a bundle without a threshold."""
    from flawmap.deploy.inspector import load

    inspector = load(bundle, device, runtime=runtime, say=say)
    if inspector.bundle.threshold is None:
        raise StationError(f"{bundle} has no threshold; set one with: flawmap threshold {bundle}")

    def inspect(arrived: Arrived, data: bytes) -> Result:
        with collected() as remarks:
            pixels = inspector.decode(data, arrived.name)
        found = inspector.inspect_read([pixels])[0]
        assert found.threshold is not None
        return {
            "verdict": verdict_of(found.score, found.threshold, doubt),
            "score": found.score,
            "threshold": found.threshold,
            "p_value": found.p_value,
            "model": bundle.name,
            "regions": [region.box for region in found.regions],
            "remarks": remarks,
        }

    return inspect


def by_server(client: Client, lot: str | None) -> Inspect:
    """Have a station inspect. How long one that is away, or busy, is waited for is the client's business."""

    def inspect(arrived: Arrived, data: bytes) -> Result:
        label = arrived.name[-100:].encode("utf-8", "backslashreplace").decode()[-100:]
        label = "".join(letter for letter in label if letter.isprintable())
        part = client.inspect(data, label=label, lot=lot, key=arrived.key)
        chosen = {name: part[name] for name in ("verdict", "score", "threshold", "p_value", "id")}
        chosen["verdict"] = part["verdict"] or "test"  # a station in its test mode tells no verdict
        chosen["remarks"] = part.get("remarks", [])  # one of an older flawmap tells none
        return {**chosen, "model": part["model"]["ref"], "regions": [region["box"] for region in part["regions"]]}

    return inspect


@contextlib.contextmanager
def stopped_by_signals(watch: Watch) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the watch; a file in hand is finished, or left to the next one."""

    def stop(number: int, frame: Any) -> None:
        watch.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _same(place: Path, arrived: Arrived) -> bool:
    """Whether a file is the copy that was made of another before a kill."""
    found = place.stat()
    return (found.st_size, found.st_mtime_ns) == (arrived.size, arrived.changed)

"""The station without its web side: from the bytes of an image to a recorded verdict, and everything that needs.

The order of an inspection: the header is looked at, the image waits, a worker inspects it, pictures are written, the
verdict is recorded, and only then is it answered. So a verdict that was answered is in the record, whatever happens,
and so are its pictures. The original is written while a worker inspects, since a disk takes its time.
"""

from __future__ import annotations

import asyncio
import datetime
import fcntl
import hashlib
import logging
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy.exc import SQLAlchemyError

from flawmap import __version__
from flawmap.data.images import header_of
from flawmap.errors import FlawmapError, ImageError, StationError
from flawmap.station.access import Access, Rate, Who
from flawmap.station.datasets import DataSets, Problem, problem, too_many_pixels
from flawmap.station.drift import DriftWatch
from flawmap.station.escape import UNCHECKED, escape_of
from flawmap.station.files import Pictures, new_id, thin
from flawmap.station.inspecting import Outcome, Unlike
from flawmap.station.live import Hub
from flawmap.station.metrics import Metrics
from flawmap.station.models import NONE_USED, Models, Version, change_of
from flawmap.station.promise import UNKNOWN, promise_now
from flawmap.station.record import Entry, Record, Row, now, reason, stamp, url_of
from flawmap.station.results import TEST, Query, Results, decision_of
from flawmap.station.settings import ShiftSettings, StationSettings
from flawmap.station.testing import last_mode, record_mode
from flawmap.station.training import Trainings
from flawmap.station.workers import Job, Pool

log = logging.getLogger("flawmap.station")
TELL_S = 5.0  # between two events `station`
CHECK_S = 120.0  # for a photo that is checked, behind the line's parts
GRACE_S = 1.0  # a worker's own word on a deadline is waited for so long
LOADING_S = 5.0  # until a sender may try again while there is no model
PARTS = 4096  # the last ones, of which a worker may still tell something
LOADING = ("the model is being loaded", "loading")


@dataclass(frozen=True)
class Request:
    """What a sender says of an image. key: by which a request sent again is known; test: the part does not count."""

    model: str | None = None
    label: str | None = None
    lot: str | None = None
    camera: str | None = None
    deadline_s: float | None = None
    key: str | None = None
    test: bool = False


class Station:
    """Everything a station is, but its web side. `start` before use, `close` after it."""

    def __init__(self, models: Path, data: Path, database: str | None, settings: StationSettings) -> None:
        self.settings, data = settings, data.absolute()  # a training has a working folder of its own
        self._lock = _locked(data)
        try:
            self.record = Record(url_of(data, database))
        except BaseException:
            self._lock.close()
            raise
        self.data = data
        self.access = Access(self.record)
        limits = settings.limits
        self.rate = Rate(limits.rate, limits.burst)
        self.failures = Rate(limits.failures / 60, limits.failures)
        self.pictures = Pictures(data / "pictures", settings.keep.sync)
        self.results = Results(self.record, self.pictures)
        self.hub = Hub()
        self.drift = DriftWatch(settings.drift.parts)
        self.promise: dict[str, Any] = UNKNOWN
        self._parts: dict[int, str] = {}  # ids of the last parts, by the numbers of their tasks
        self.pool = Pool(settings.workers, settings.queue, self.drift.add, settings.verdict.pixels, self._unlike)
        self.models = Models(models, self.record, self.pool)
        self.models.told = self._tell_model
        self.escape: dict[str, Any] = UNCHECKED  # of the running shift
        self.metrics = Metrics(self.pool.load_now, lambda: float(self.drift.last()["figure"]), lambda: self.escape)
        self.started, self.last_part = now(), self.results.last_time()
        self.test = last_mode(self.record)
        self.why = LOADING
        self.datasets = DataSets(data / "datasets", limits)
        self.datasets.suspect = self._suspect
        self.trainings = Trainings(data / "trainings", self.datasets, self.models, self.results)
        self.trainings.verdict = lambda score, limit: verdict_of(score, limit, settings.verdict.doubt)
        self.trainings.told = lambda training: self.hub.publish("training", training)
        self._count = 0
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the workers and what goes on by itself; the model is loaded meanwhile."""
        self.hub.attach(asyncio.get_running_loop())
        self.pool.start()
        self.trainings.go_on()
        for part in (self._open_model, self._look_after):
            threading.Thread(target=part, name=part.__name__, daemon=True).start()

    def close(self) -> None:
        """Finish what was taken, and stop."""
        self._stopping.set()
        self.trainings.close()
        self.pool.close(self.settings.queue.drain_s)
        self.record.close()
        self._lock.close()

    def ready(self) -> tuple[bool, tuple[str, str]]:
        """Whether a part would be inspected now, and if not, why: in words, and the code of these words."""
        current = self.models.current
        if current is None:
            return False, self.why
        if not self.pool.holds(current.ref):
            return False, ("the workers are being started", "workers-starting")
        return True, ("", "")

    async def inspect(self, data: bytes, asked: Request, who: Who, patient: bool = False) -> dict[str, Any]:
        """The recorded verdict on an image, a part as the API tells it. Raises StationError.

        `patient`: where the queue is full, wait for a place in it up to the deadline.
        """
        try:
            return await self._inspect(data, asked, who, patient)
        except StationError as problem:
            self.metrics.refused.labels(str(problem.status)).inc()
            raise

    async def _inspect(self, data: bytes, asked: Request, who: Who, patient: bool) -> dict[str, Any]:
        began = time.monotonic()
        kind = self._checked(data)
        once = None if asked.key is None else f"{who.name}:{asked.key}"
        if once is not None and (known := await asyncio.to_thread(self.results.by_key, once)) is not None:
            return known
        if asked.model is None and self.models.current is None:  # it may be on its way: then nobody is to train one
            why, code = self.why
            raise StationError(why, 503, LOADING_S, code)
        version = self.models.for_request(asked.model)
        deadline = min(asked.deadline_s or self.settings.queue.deadline_s, self.settings.queue.max_deadline_s)
        ident, mode = new_id(), self.test
        test = mode.on or asked.test
        job = await self._queued(version, data, began + deadline, patient, test)
        self._parts[job.task.number] = ident
        self._parts.pop(job.task.number - PARTS, None)
        writing = asyncio.create_task(asyncio.to_thread(self._keep, ident, data, kind))
        try:
            found = await self._found(job, began + deadline, deadline)
            if found.threshold is None or found.defective is None:
                raise StationError(f"the model {version.ref} has no threshold", 409)
            digest = await writing
            await asyncio.to_thread(self.pictures.write_map, ident, found.map_png)
            verdict = verdict_of(found.score, found.threshold, self.settings.verdict.doubt)
            body = {
                "defective": found.defective,
                "p_value": found.p_value,
                "good_parts": found.good_parts,
                "smallest": found.smallest,
                "doubt": self.settings.verdict.doubt,
                "model": version.short(),
                "regions": found.regions,
                "image": {"width": found.width, "height": found.height, "bytes": len(data), "kind": kind.lower()},
                "duration_ms": round(1000 * (time.monotonic() - began), 1),
            }
            if test:  # who says of a part that it is a test wants to know what comes of it
                body["withheld"] = not (asked.test or mode.verdicts)
            entry = Entry(
                TEST if test else "verdict", body, part=ident, verdict=verdict, score=found.score,
                threshold=found.threshold, model=version.ref, image_sha256=digest, who=who.name,
                camera=asked.camera or who.name, label=asked.label, lot=asked.lot, once=once,
            )  # fmt: skip
            row = await asyncio.wrap_future(self.record.submit(entry))
        except Exception:  # what was not recorded leaves no pictures; a request cut off may be recorded still
            await asyncio.wait([writing])
            writing.exception()  # told by the first problem, or it is that
            await asyncio.to_thread(self.pictures.remove, ident)
            raise
        if row["part"] != ident:  # the same request, sent twice at a time
            await asyncio.to_thread(self.pictures.remove, ident)
            return await asyncio.to_thread(self.results.part, str(row["part"]))
        part = self.results.fresh(row)
        self.last_part = row["time"]
        if test:
            self.metrics.tests.inc()
        else:
            self.metrics.verdicts.labels(verdict, version.ref).inc()
        self.metrics.seconds.observe(time.monotonic() - began)
        self.metrics.computing.observe(found.seconds)
        self.hub.publish(str(row["kind"]), part, row["seq"])
        return part

    def _checked(self, data: bytes) -> str:
        """The kind of an image by its content. Raises StationError for what is none, or is too large."""
        if len(data) > self.settings.limits.bytes:
            raise too_large(self.settings.limits.bytes)
        if not data:
            text = "there is no image in the request; send its bytes, or a form with the field image"
            raise StationError(text, 400, code="no-image")
        try:
            header = header_of(data, "image")
        except ImageError as problem:
            raise StationError(str(problem).removeprefix("image: "), 415, code="no-image") from problem
        if header.width * header.height > self.settings.limits.pixels:
            raise too_many_pixels(header.width, header.height, self.settings.limits.pixels)
        return header.kind

    def _keep(self, ident: str, data: bytes, kind: str) -> str:
        """Write the original; its SHA-256."""
        self.pictures.write_original(ident, data, kind)
        return hashlib.sha256(data).hexdigest()

    async def _queued(self, version: Version, data: bytes, ends: float, patient: bool, test: bool) -> Job:
        while True:
            self._count += not test
            measure = not test and self._count % self.settings.drift.every == 0
            try:
                left, single = ends - time.monotonic(), self.settings.drift.single
                return self.pool.submit(version.ref, data, left, measure, single=single)
            except StationError as problem:
                if problem.status != 429 or not patient or time.monotonic() > ends:
                    raise
            await asyncio.sleep(0.02)

    async def _found(self, job: Job, ends: float, deadline_s: float) -> Outcome:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.done), ends - time.monotonic() + GRACE_S)
        except TimeoutError:
            text = f"no verdict within {deadline_s:g} seconds; send fewer at a time, or allow more"
            raise StationError(text, 504, code="deadline") from None

    def decide(self, ident: str, verdict: str | None, note: str, who: Who) -> dict[str, Any]:
        """Record what an operator says of a part, None to take back what was said; the part as it then is.

        Raises StationError: 404 where there is no such part, 409 where there is nothing to take back, and for a test.
        """
        part = self.results.part(ident)
        if part["test"]:
            raise StationError("this part was a test and does not count; there is nothing to decide", 409, code="test")
        if verdict is None:
            decision = "withdraw"
            if part["decision"] is None:
                raise StationError("nobody has decided this part; there is nothing to take back", 409)
        else:
            decision = "confirm" if (verdict == "reject") == part["defective"] else "overrule"
        body = {"decision": decision, "note": note, "of": part["hash"]}
        entry = Entry("decision", body, part=ident, verdict=verdict, model=part["model"]["ref"], who=who.name)
        (row,) = self.record.append([entry])
        self.metrics.decisions.labels(decision).inc()
        decided = self.results.part(ident)
        self.hub.publish("decision", {"part": decided, "decision": decision_of(row)}, row["seq"])
        return decided

    def switch_test(self, on: bool, verdicts: bool, note: str, who: Who) -> dict[str, Any]:
        """Begin or end the test mode; the mode as it then is."""
        self.test = record_mode(self.record, on, verdicts, note, who.name)
        self.hub.publish("station", self.state())
        return self.test.facts()

    def state(self) -> dict[str, Any]:
        """What the top of the page shows."""
        current, load, (ready, (why, code)) = self.models.current, self.pool.load_now(), self.ready()
        since = shift_start(self.settings.shift)
        shift = Query(since=stamp(since))
        counts = self.results.counts(shift)
        hour_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        per_hour = self.results.count(Query(since=stamp(hour_ago)))
        silent = None if self.last_part is None else _seconds_since(self.last_part)
        limits = self.settings.limits
        return {
            "flawmap": __version__,
            "name": self.settings.name,
            "time": now(),
            "started": self.started,
            "ready": ready,
            "why": why,
            "why_code": code,
            "model": None
            if current is None or current.threshold is None
            else {
                "ref": current.ref,
                "name": current.name,
                "version": current.version,
                "threshold": current.threshold.score,
            },
            "queue": {
                "waiting": load.waiting,
                "running": load.running,
                "limit": load.limit,
                "workers": load.workers,
                "workers_alive": load.alive,
                "workers_replaced": load.replaced,
            },
            "counts": {"since": stamp(since), **counts, "per_hour": per_hour},
            "escape": escape_of(counts, self.results.decided(shift)).facts(),
            "last_part": self.last_part,
            "silent_s": None if silent is None else round(silent, 1),
            "silent": self._silent(),
            "drift": self.drift.last(),
            "promise": self.promise,
            "limits": {
                "bytes": limits.bytes,
                "pixels": limits.pixels,
                "batch": limits.batch,
                "deadline_s": self.settings.queue.deadline_s,
                "max_deadline_s": self.settings.queue.max_deadline_s,
            },
            "doubt": self.settings.verdict.doubt,
            "training": self.trainings.running,
            "test": self.test.facts(),
        }

    def _silent(self) -> bool:
        """Whether the camera gives nothing: once a part has come, and counted from the station's start on."""
        if self.last_part is None:
            return False
        return _seconds_since(max(self.last_part, self.started)) > self.settings.shift.silent_s

    def _suspect(self, name: str, data: bytes) -> Problem | None:
        """That a photo taken for good looks defective to the model in use; None where it does not, or is of others."""
        current = self.models.current
        if current is None or current.name != name:
            return None
        found = self.pool.submit(current.ref, data, CHECK_S, later=True).done.result(CHECK_S)
        if not found.defective or found.threshold is None:
            return None
        text = f"looks defective to {current.ref}: score {found.score:.3f}, threshold {found.threshold:.3f}"
        return problem("outlier", text, "defective", ref=current.ref, score=found.score, threshold=found.threshold)

    def _unlike(self, number: int, found: list[Unlike]) -> None:
        """Record and tell in what a part is unlike the good photos. Its verdict is on its way, or was answered."""
        ident = self._parts.get(number)
        if ident is None:  # a photo that was checked, and is no part
            return

        def tell(done: Future[Row]) -> None:
            if not done.cancelled() and done.exception() is None:
                row = done.result()
                self.hub.publish("unlike", {"part": ident, "unlike": found}, row["seq"])

        self.record.submit(Entry("unlike", {"unlike": found}, part=ident)).add_done_callback(tell)

    def _tell_model(self, row: Row) -> None:
        self.hub.publish("model", change_of(row), row["seq"])

    def _open_model(self) -> None:
        try:
            self.drift.prepare()
            self.models.start()
            self.why = (NONE_USED, "no-model")
        except FlawmapError as problem:
            self.why = (str(problem), "model-failed")
            log.error("no model: %s", problem)
        except Exception:  # the station serves its record and page without a model, and says why it is not ready
            self.why = ("the model could not be loaded; the log says more", "model-failed")
            log.exception("no model")

    def _look_after(self) -> None:
        """Tell the state every few seconds, watch the drift of the model in use, thin the pictures."""
        thinned = time.monotonic()
        while not self._stopping.wait(TELL_S):
            try:
                if (current := self.models.current) is not None:
                    self.drift.watch(current.ref, current.path)
                    self.drift.look()
                    self.promise = promise_now(self.results, current, stamp(shift_start(self.settings.shift)))
                state = self.state()
                self.escape = state["escape"]
                self.hub.publish("station", state)
                if time.monotonic() - thinned > self.settings.keep.every_s:
                    thinned = time.monotonic()
                    self.thin()
            except SQLAlchemyError as problem:  # a database that is away; it is tried again
                log.error("the record: %s", reason(problem))
            except Exception:  # a full disk, say, must not end this thread: it is tried again, and the log has it all
                log.exception("looking after the station")

    def thin(self) -> int:
        """Remove pictures that need not be kept; how many parts lost theirs."""
        gone = thin(self.pictures, self.settings.keep, self.results.ranks)
        if gone:
            log.info("pictures of %d parts removed", len(gone))
        return len(gone)


def verdict_of(score: float, threshold: float, doubt: float) -> str:
    """`doubt` within that of the threshold, else `reject` above it and `pass` up to it."""
    if doubt > 0 and abs(score - threshold) <= doubt:
        return "doubt"
    return "reject" if score > threshold else "pass"


def too_large(limit: int) -> StationError:
    """What is answered to more than `limit` bytes."""
    return StationError(f"the image has more than {limit} bytes, which is the limit", 413, code="bytes", limit=limit)


def shift_start(settings: ShiftSettings, at: datetime.datetime | None = None) -> datetime.datetime:
    """When the shift began that runs `at` a time."""
    zone = ZoneInfo(settings.zone)
    at = (at or datetime.datetime.now(datetime.UTC)).astimezone(zone)
    starts = [
        datetime.datetime.combine(at.date() - datetime.timedelta(days=days), datetime.time.fromisoformat(start), zone)
        for days in (1, 0)
        for start in settings.starts
    ]
    # In UTC: times of one zone are compared by the clock on the wall, which an hour is shown twice by in autumn.
    known = [start.astimezone(datetime.UTC) for start in starts]
    return max(start for start in known if start <= at).astimezone(zone)


def _seconds_since(time_: str) -> float:
    then = datetime.datetime.strptime(time_, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=datetime.UTC)
    return max(0.0, (datetime.datetime.now(datetime.UTC) - then).total_seconds())


def _locked(data: Path) -> Any:
    """The folder `data`, made, for this process alone. Raises StationError."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o750)
        file = (data / "lock").open("w")
    except OSError as problem:
        raise StationError(f"cannot write to {data}: {problem.strerror}; choose another --data") from problem
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        file.close()
        raise StationError(f"another station works with {data}; stop it, or choose another --data") from problem
    return file

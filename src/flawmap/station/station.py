"""The station without its web side: from the bytes of an image to a recorded verdict, and everything that needs.

The order of an inspection: the header is looked at, the image waits, a worker inspects it, pictures are written, the
verdict is recorded, and only then is it answered. So a verdict that was answered is in the record, whatever happens,
and so are its pictures. The original is written while a worker inspects, since a disk takes its time.

Each of these steps ends at the image's deadline. What is late then is answered as late, and is in the record as such (a
row of kind `late`), not as a verdict that nobody got. Threads and connections of the line are its own: readers of the
page, however many, keep no part waiting for one.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import fcntl
import hashlib
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
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
from flawmap.station.models import NONE_USED, WHITE, Models, Version, change_of
from flawmap.station.promise import UNKNOWN, promise_now
from flawmap.station.record import Entry, Record, Row, now, reason, stamp, url_of
from flawmap.station.repeats import BATCHES, once_of, refusal, refused_body
from flawmap.station.results import Query, Results, decision_of
from flawmap.station.retention import Clock
from flawmap.station.settings import ShiftSettings, StationSettings
from flawmap.station.testing import KINDS, last_mode, record_mode
from flawmap.station.training import Trainings
from flawmap.station.workers import Job, Pool, late

log = logging.getLogger("flawmap.station")
TELL_S = 5.0  # between two events `station`
CHECK_S = 120.0  # for a photo that is checked, behind the line's parts
GRACE_S = 0.2  # a worker's own word on a deadline is waited for so long
COMMIT_S = 0.5  # after a deadline, a verdict that is being written by then is waited for so long
SETTLE_S = 5.0  # for what is noted of images answered as late, when the station stops
TOKENS_S = 3.0  # the tokens are waited for so long, where the database does not answer
STATE_S = 1.0
LINE, ASKING = 16, 4  # threads of the line: for pictures and hashes, for questions to the record
T = TypeVar("T")
LOADING_S = 5.0  # until a sender may try again while there is no model
FAIL_S = 20.0  # in which a station that gave up ends by itself
LOAD_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0  # before a model is loaded again that could not be, doubling
PARTS = 4096  # the last ones, of which a worker may still tell something
LOADING = ("the model is being loaded", "loading")


@dataclass(frozen=True)
class Request:
    """What a sender says of an image.

    key: by which a request sent again is known; place: the image's in a batch with a key, else None; began: when it
    came, of the monotonic clock, 0: now; test: the part does not count
    """

    model: str | None = None
    label: str | None = None
    lot: str | None = None
    camera: str | None = None
    deadline_s: float | None = None
    key: str | None = None
    began: float = 0.0
    test: bool = False
    place: int | None = None


@dataclass
class _Run:
    """An image on its way.

    step: what it is at; digest: its SHA-256; test: it does not count; withheld: nor is its verdict answered; pending:
    the verdict that is being recorded
    """

    asked: Request
    who: Who
    ident: str
    once: str | None
    began: float
    allowed_s: float
    digest: asyncio.Future[str]
    test: bool
    withheld: bool
    step: str = "queue"
    model: str | None = None
    found: dict[str, Any] = field(default_factory=dict)
    pending: Future[Row] | None = None

    @property
    def ends(self) -> float:
        """The deadline, of the monotonic clock."""
        return self.began + self.allowed_s

    def kind(self, of: str) -> str:
        """The kind of a row about this image: `of`, or that of a test."""
        return KINDS[of] if self.test else of

    def late(self, digest: str | None) -> Entry:
        """What is recorded where the deadline passed."""
        seconds = round(time.monotonic() - self.began, 3)
        body = {"deadline_s": self.allowed_s, "after_s": seconds, "step": self.step, "found": self.found}
        return self.entry("late", body | {"key": self.asked.key}, digest)

    def entry(self, of: str, body: dict[str, Any], digest: str | None, **more: Any) -> Entry:
        """A row about this image; `of`: its kind, were it no test."""
        asked = self.asked
        return Entry(
            self.kind(of), body, part=self.ident, model=self.model, image_sha256=digest, who=self.who.name,
            camera=asked.camera or self.who.name, label=asked.label, lot=asked.lot, **more,
        )  # fmt: skip


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
        self.clock = Clock(self.record, data)
        self.hub = Hub(limits.readers)
        self.drift = DriftWatch(settings.drift.parts)
        self.promise: dict[str, Any] = UNKNOWN
        self._parts: dict[int, Future[str]] = {}  # by the last tasks: the part's id, once recorded
        self.pool = Pool(settings.workers, settings.queue, self.drift.add, settings.verdict.pixels, self._unlike)
        self.failed = ""  # why the station cannot go on and must be started anew
        self.pool.lost = self._fail
        self.models = Models(models, self.record, self.pool)
        self.models.told, self.models.smallest = self._tell_model, settings.verdict.pixels
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
        self._stating = threading.Lock()
        self._state: tuple[float, dict[str, Any] | None] = (0.0, None)
        self._line = ThreadPoolExecutor(LINE, "line")
        self._asking = ThreadPoolExecutor(ASKING, "asking")
        self._noting: set[asyncio.Task[None]] = set()  # else they would be collected before they end
        self._tokens_read: asyncio.Future[None] | None = None
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
        self.pool.close(0.0 if self.failed else self.settings.queue.drain_s)
        self.record.close()
        for threads in (self._line, self._asking):
            threads.shutdown(wait=False, cancel_futures=True)
        self._lock.close()

    async def settle(self) -> None:
        """Before `close`: let what nobody waits for be handed to the record."""
        if self._noting:
            await asyncio.wait(self._noting, timeout=SETTLE_S)

    async def know_tokens(self) -> None:
        """Read the tokens anew where they are old, without keeping the event loop. Raises StationError (503)."""
        if not self.access.old():
            return
        reading = self._tokens_read
        if reading is None or reading.done():  # one reads for all who ask
            loop = asyncio.get_running_loop()
            reading = self._tokens_read = loop.run_in_executor(self._asking, self.access.refresh)
            reading.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may come after all left
        try:
            await asyncio.wait_for(asyncio.shield(reading), TOKENS_S)
        except TimeoutError:
            text = f"the record cannot be read: it does not answer within {TOKENS_S:g} seconds"
            raise StationError(text, 503, LOADING_S, "record") from None

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
        kind = self._checked(data)
        deadline = self.deadline_of(asked)
        hashing = asyncio.ensure_future(self._in_line(_sha256, data))
        mode = self.test
        test = mode.on or asked.test
        once = None if asked.key is None else once_of(who.name, asked.key, test, asked.place)
        withheld = test and not (asked.test or mode.verdicts)  # who says it is a test wants to know what comes of it
        began = asked.began or time.monotonic()
        run = _Run(asked, who, new_id(), once, began, deadline, hashing, test, withheld)
        try:
            return await self._run(run, data, kind, patient)
        except StationError as problem:
            if problem.status == 504:
                self._note(self._note_late(run))
            raise

    async def _run(self, run: _Run, data: bytes, kind: str, patient: bool) -> dict[str, Any]:
        asked, ident = run.asked, run.ident
        if run.once is not None:
            run.step = "record"
            known = await self._by(run, self._ask(self.results.by_key, run.once))
            if known is not None:
                return await self._same(run, known)
            run.step = "queue"
        if asked.model is None and self.models.current is None:  # it may be on its way: then nobody is to train one
            why, code = self.why
            raise StationError(why, 503, LOADING_S, code)
        version = self.models.for_request(asked.model)
        run.model = version.ref
        job = await self._queued(version, data, run.ends, patient, run.test)
        recorded: Future[str] = Future()
        self._parts[job.task.number] = recorded
        self._parts.pop(job.task.number - PARTS, None)
        run.step = "inspection"
        writing = asyncio.ensure_future(self._in_line(self.pictures.write_original, ident, data, kind))
        try:
            found = await self._found(job, run, version)
            if found.threshold is None or found.defective is None:
                raise StationError(f"the model {version.ref} has no threshold", 409)
            verdict = verdict_of(found.score, found.threshold, self.settings.verdict.doubt)
            run.found = {"verdict": verdict, "score": found.score, "threshold": found.threshold}
            run.step = "pictures"
            digest = await self._by(run, run.digest)
            await self._by(run, writing)
            await self._by(run, self._in_line(self.pictures.write_map, ident, found.map_png))
            run.step = "record"
            body: dict[str, Any] = {
                "defective": found.defective,
                "p_value": found.p_value,
                "good_parts": found.good_parts,
                "smallest": found.smallest,
                "doubt": self.settings.verdict.doubt,
                "model": version.short(),
                "regions": found.regions,
                "image": {"width": found.width, "height": found.height, "bytes": len(data), "kind": kind.lower()},
                "duration_ms": round(1000 * (time.monotonic() - run.began), 1),
            }
            if run.test:
                body["withheld"] = run.withheld
            if found.remarks:
                body["remarks"] = list(found.remarks)
            entry = run.entry(
                "verdict", body, digest, verdict=verdict, score=found.score, threshold=found.threshold, once=run.once
            )
            run.pending = self.record.submit(entry, run.ends, partial(run.late, digest))
            row = await self._by(run, asyncio.wrap_future(run.pending), COMMIT_S)
            if row["kind"] == run.kind("late"):
                raise late(run.allowed_s, run.step)
        except Exception:  # what was not recorded leaves no pictures; a request cut off may be recorded still
            self._parts.pop(job.task.number, None)
            await self._forgotten(run, writing)
            raise
        if row["part"] != ident:  # the same request, sent twice at a time
            await self._forgotten(run, writing)
            return await self._same(run, row)
        if found.remarks:
            about = f"part {ident} of {run.asked.camera or run.who.name}, label {run.asked.label!r}"
            log.warning("remarks on %s: %s", about, "; ".join(found.remarks))
        part = self.results.fresh(row)
        self.last_part = row["time"]
        if run.test:
            self.metrics.tests.inc()
        else:
            self.metrics.verdicts.labels(verdict, version.ref).inc()
        self.metrics.seconds.observe(time.monotonic() - run.began)
        self.metrics.computing.observe(found.seconds)
        self.hub.publish(str(row["kind"]), part, row["seq"])
        recorded.set_result(ident)
        return part

    async def _in_line(self, does: Callable[..., T], *given: Any) -> T:
        """In a thread of the line, for pictures and hashes."""
        return await asyncio.get_running_loop().run_in_executor(self._line, partial(does, *given))

    async def _ask(self, does: Callable[..., T], *given: Any) -> T:
        """In a thread of the line, for questions to the record."""
        return await asyncio.get_running_loop().run_in_executor(self._asking, partial(does, *given))

    async def _by(self, run: _Run, awaited: Awaitable[T], grace_s: float = 0.0) -> T:
        """What is awaited, if it comes before the deadline. Raises StationError (504); what is under way goes on."""
        left = run.ends + grace_s - time.monotonic()
        try:
            return await asyncio.wait_for(asyncio.shield(awaited), left)
        except TimeoutError:
            raise late(run.allowed_s, run.step) from None

    async def _same(self, run: _Run, first: Row) -> dict[str, Any]:
        """The part recorded under a key, where this is the same request. Raises StationError (422), recorded too."""
        asked, digest = run.asked, await self._by(run, run.digest, COMMIT_S)
        if first["kind"] in BATCHES:
            other = ["request"]
        else:
            (known,) = await self._by(run, self._ask(self.results.parts, [first]), COMMIT_S)
            model = (known["model"]["ref"], known["model"]["name"])
            differs = {
                "image": known["image"]["sha256"] != digest,
                "model": asked.model is not None and asked.model not in model,
                "label": asked.label != known["label"],
            }
            other = [name for name, differs_ in differs.items() if differs_]
            if not other:
                return known
        recorded = self.record_surely(run.entry("refused", refused_body(asked.key, first, other), digest))
        with contextlib.suppress(StationError):  # it is recorded in any case, later then
            await self._by(run, asyncio.wrap_future(recorded))
        raise refusal(asked.key, first, other)

    async def _forget(self, run: _Run, writing: asyncio.Future[None]) -> None:
        """Remove the pictures of what was not recorded, once they are written."""
        await asyncio.wait([writing])
        if not writing.cancelled():
            writing.exception()  # told by the first problem, or it is that
        if (pending := run.pending) is not None and not pending.cancel():
            with contextlib.suppress(Exception):
                row = await asyncio.wrap_future(pending)
                if row["kind"] == run.kind("verdict") and row["part"] == run.ident:
                    return  # it is recorded after all
        await self._in_line(self.pictures.remove, run.ident)

    async def _note_late(self, run: _Run) -> None:
        """Record that an image was answered as late, unless the record has that already."""
        about = f"image {run.ident} of {run.asked.camera or run.who.name}, label {run.asked.label!r}"
        log.warning("late: %s, no verdict within %g seconds (%s)", about, run.allowed_s, run.step)
        digest, recorded = await run.digest, None
        entry = run.late(digest)
        if (pending := run.pending) is not None and not pending.cancel():
            with contextlib.suppress(Exception):
                row = await asyncio.wrap_future(pending)
                if row["kind"] == run.kind("late"):
                    return
                recorded = row["seq"]  # the verdict was being written when the answer had to be given
        self.record_surely(replace(entry, body=entry.body | {"recorded": recorded}))

    def record_surely(self, entry: Entry) -> Future[Row]:
        """Record something, also where the database is away for a while."""
        done = self.record.submit(entry, must=True)
        done.add_done_callback(lambda done: done.cancelled() or done.exception())
        return done

    async def _forgotten(self, run: _Run, writing: asyncio.Future[None]) -> None:
        """The same, waited for until the deadline; it goes on after it."""
        with contextlib.suppress(StationError):
            await self._by(run, self._note(self._forget(run, writing)))

    def _note(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have something done that goes on whether somebody waits for it or not."""
        task = asyncio.ensure_future(work)
        self._noting.add(task)
        task.add_done_callback(self._noted)
        return task

    def _noted(self, task: asyncio.Task[None]) -> None:
        self._noting.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            log.error("after an image: %s", problem)

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

    async def _found(self, job: Job, run: _Run, version: Version) -> Outcome:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.done), run.ends - time.monotonic() + GRACE_S)
        except StationError as problem:
            if not WHITE.search(str(problem)):
                raise
            text = await self._by(run, self._ask(self.models.advised, version, str(problem)))
            raise StationError(text, problem.status, code=problem.code) from problem
        except TimeoutError:
            raise late(run.allowed_s, run.step) from None

    def deadline_of(self, asked: Request) -> float:
        """Seconds that a verdict may take."""
        return min(asked.deadline_s or self.settings.queue.deadline_s, self.settings.queue.max_deadline_s)

    async def digest_of(self, file: Any) -> str:
        """The SHA-256 of a file that was sent; it is at its beginning again afterwards."""

        def look() -> str:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            return digest

        return await self._in_line(look)

    def state_soon(self) -> dict[str, Any]:
        """The state, at most STATE_S old: when many readers come at a time it is found once."""
        with self._stating:
            at, found = self._state
            if found is None or time.monotonic() - at > STATE_S:
                found = self.state()
                self._state = (time.monotonic(), found)
            return found

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
        with self._stating:
            self._state = (0.0, None)  # who comes now is told the mode as it is
        self.hub.publish("station", self.state())
        return self.test.facts()

    def state(self) -> dict[str, Any]:
        """What the top of the page shows."""
        current, load, (ready, (why, code)) = self.models.current, self.pool.load_now(), self.ready()
        since = shift_start(self.settings.shift)
        shift = Query(since=stamp(since))
        counts = self.results.counts(shift)
        hour_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        late = self.results.unanswered(Query(since=stamp(since)), 0)[0]["late"]
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
                "white": current.white,
            },
            "queue": {
                "waiting": load.waiting,
                "running": load.running,
                "limit": load.limit,
                "workers": load.workers,
                "workers_alive": load.alive,
                "workers_replaced": load.replaced,
            },
            "counts": {"since": stamp(since), **counts, "late": late, "per_hour": per_hour},
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
        """Record and tell in what a part is unlike the good ones, after its verdict, which may be on its way still."""
        recorded = self._parts.get(number)
        if recorded is None:  # a photo that was checked, or was late, and is no part
            return

        def note(recorded: Future[str]) -> None:
            ident = recorded.result()

            def tell(done: Future[Row]) -> None:
                if not done.cancelled() and done.exception() is None:
                    row = done.result()
                    self.hub.publish("unlike", {"part": ident, "unlike": found}, row["seq"])

            self.record.submit(Entry("unlike", {"unlike": found}, part=ident)).add_done_callback(tell)

        recorded.add_done_callback(note)

    def _tell_model(self, row: Row) -> None:
        self.hub.publish("model", change_of(row), row["seq"])

    def _fail(self, why: str) -> None:
        """Give up: the server ends (serve.py), and if it cannot, for want of file handles say, the process does."""
        log.error("%s; the station ends, so that it can be started anew", why)
        self.failed = why
        try:
            ends = threading.Timer(FAIL_S, os._exit, (2,))
            ends.daemon = True
            ends.start()
        except RuntimeError:  # no thread any more
            os._exit(2)

    def _open_model(self) -> None:
        """Load the model in use; again after a pause where that failed for a reason that may pass."""
        pause = LOAD_PAUSE_S
        while not self._stopping.is_set():
            try:
                self.drift.prepare()
                self.models.start()
                self.why = (NONE_USED, "no-model")
                return
            except FlawmapError as problem:
                self.why = (str(problem), "model-failed")
                log.error("no model: %s", problem)
                if not isinstance(problem, StationError) or problem.status != 503:
                    return
            except Exception:  # the station serves its record and page without a model, and says why it is not ready
                self.why = ("the model could not be loaded; the log says more", "model-failed")
                log.exception("no model")
            if self._stopping.wait(pause) or self.models.current is not None:  # an engineer took another meanwhile
                return
            pause = min(2 * pause, LONGEST_PAUSE_S)

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
        leaps = self.clock.look()
        gone = thin(self.pictures, self.settings.keep, self.results.ranks, leaps=leaps, seqs=self.results.seqs)
        if gone:
            log.info("pictures of %d parts removed", len(gone))
        return len(gone)


def verdict_of(score: float, threshold: float, doubt: float) -> str:
    """`doubt` within that of the threshold, else `reject` above it and `pass` up to it."""
    if doubt > 0 and abs(score - threshold) <= doubt:
        return "doubt"
    return "reject" if score > threshold else "pass"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


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
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (data / "lock").open("w")
    except OSError as problem:
        raise StationError(f"cannot write to {data}: {problem.strerror}; choose another --data") from problem
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        file.close()
        raise StationError(f"another station works with {data}; stop it, or choose another --data") from problem
    return file

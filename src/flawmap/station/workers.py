"""Worker processes and the queue before them: bounded, with deadlines, and a worker that dies is replaced.

Two threads a worker: one hands it work, at most AHEAD batches at a time; the other takes its answers, starts it, and
starts it anew when it is gone. What a dead worker held is answered with an error; what waits goes to the others.

A worker that cannot be started, for want of file handles, processes or memory, is tried again after pauses that double.
Where none could be started for `workers.give_up_s` seconds, the pool says so once (`lost`), so that the station ends
and whoever supervises it starts it anew.
"""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from flawmap.errors import StationError
from flawmap.station.inspecting import Orders, Outcome, Task, Unlike, work
from flawmap.station.settings import QueueSettings, WorkerSettings

AHEAD = 2  # batches that a worker holds: one inspected, one decoded
LOOK_S = 0.5  # between two looks whether a worker is stuck
MOST = 4  # workers that are started unasked: each takes some 500 MB
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # before a worker that died while it started is started again, doubling
LATE = {  # why there was none, and what to do
    "queue": "the image waited for a worker; send fewer at a time, or allow more",
    "inspection": "it was not inspected in time; send fewer at a time, or allow more",
    "pictures": "the disk did not take its pictures in time; see to the disk, and send it again",
    "record": "the record did not answer in time, as it is locked or slow; see to the database, and send it again",
}
CODES = {422: "unreadable", 504: "deadline"}  # of what a worker refuses, by its status (errors.py, StationError)

Figures = Callable[[str, list[float] | None], object]
Told = Callable[[int, list[Unlike]], object]
log = logging.getLogger("flawmap.station")


def late(deadline_s: float, step: str) -> StationError:
    """What is answered where there is no verdict within the deadline. step: what was waited for (`_Run.step`)."""
    text = f"no verdict within {deadline_s:g} seconds: {LATE.get(step, LATE['queue'])}"
    return StationError(text, 504, code="deadline", step=step)


class Load(NamedTuple):
    """How much there is to do. replaced: workers that died and were started anew."""

    waiting: int
    running: int
    limit: int
    workers: int
    alive: int
    replaced: int


class Job:
    """One image on its way. `done` has its Outcome, or a StationError with a status of HTTP."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.done: Future[Outcome] = Future()

    def finish(self, outcome: Outcome | StationError) -> None:
        """Answer, unless whoever asked has given up."""
        if self.done.set_running_or_notify_cancel():
            if isinstance(outcome, StationError):
                self.done.set_exception(outcome)
            else:
                self.done.set_result(outcome)


class _Slot:
    """The place of one worker.

    sent: what it holds; since: when it last answered, or was given the first of these; down: since when no process
    could be started here, None while one runs
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: BaseProcess | None = None
        self.pipe: Connection | None = None
        self.sending = threading.Lock()
        self.sent: dict[int, Job] = {}
        self.loaded: dict[str, int] = {}  # by ref, the images that go together
        self.since = 0.0
        self.down: float | None = None

    def send(self, message: Any) -> None:
        """Hand something to the worker; where it is gone, `_attend` finds out."""
        pipe = self.pipe
        if pipe is not None:
            with self.sending, contextlib.suppress(OSError, ValueError):
                pipe.send(message)


class Pool:
    """Workers that inspect. `figures` is told the figures of measured photos, by model. Threads may share it.

    `smallest`: the smallest area of a place in pixels, None for each model's own; `unlike`: is told, by the number of
    its task, in what a photo is unlike the good ones.
    """

    def __init__(
        self,
        workers: WorkerSettings,
        queue: QueueSettings,
        figures: Figures = lambda ref, values: None,
        smallest: int | None = None,
        unlike: Told = lambda number, found: None,
    ) -> None:
        self.limits, self.figures, self.unlike = queue, figures, unlike
        self.give_up_s = workers.give_up_s
        self.lost: Callable[[str], object] = lambda why: None  # told once, when no worker can be started any more
        self.count = workers.count or _usual_count(workers)
        threads = workers.threads or max(1, _cores() // self.count)
        self.orders = Orders(workers.runtime, workers.precision, workers.device, threads, workers.batch, smallest)
        self.models: dict[str, Path] = {}
        self.replaced = 0
        self._loading: dict[str, tuple[Path, Future[None]]] = {}
        self._number = 0
        self._usual_s = 0.1  # seconds an image takes, a running mean, for Retry-After
        self._queue: deque[Job] = deque()
        self._later: deque[Job] = deque()  # served when nothing else waits
        self._changed = threading.Condition()
        self._closing = self._stopped = self._given_up = False
        self._slots = [_Slot(number) for number in range(self.count)]
        self._threads = [
            threading.Thread(target=part, args=(slot,), name=f"worker {slot.number}", daemon=True)
            for slot in self._slots
            for part in (self._attend, self._feed)
        ]

    def start(self) -> None:
        """Start the workers."""
        for thread in self._threads:
            thread.start()

    def load_now(self) -> Load:
        """How much there is to do."""
        with self._changed:
            running = sum(len(slot.sent) for slot in self._slots)
            alive = sum(bool(slot.loaded) for slot in self._slots)
            return Load(len(self._queue), running, self.limits.size, len(self._slots), alive, self.replaced)

    def check_room(self) -> None:
        """Raises StationError (429) when the queue is full: before an image is read that would be refused."""
        with self._changed:
            self._room()

    def _room(self) -> None:
        if len(self._queue) >= self.limits.size:
            self._queue = deque(job for job in self._queue if not job.done.cancelled())
        if len(self._queue) >= self.limits.size:
            wait = max(1, math.ceil(len(self._queue) * self._usual_s / len(self._slots)))
            raise StationError("the queue is full; send images more slowly", 429, float(wait), "queue-full")

    def holds(self, ref: str) -> bool:
        """Whether some worker can inspect by this model now."""
        with self._changed:
            return any(ref in slot.loaded for slot in self._slots)

    def submit(
        self, ref: str, data: bytes, deadline_s: float, measure: bool = False, later: bool = False, single: bool = False
    ) -> Job:
        """Queue an image. `later`: served when nothing else waits, and outside the limit; measure, single: as of Task.

        Raises StationError: 429 when the queue is full, 409 when the model is not loaded, 503 when the pool closes.
        """
        with self._changed:
            if self._closing:
                raise StationError("the station is stopping; try again when it is back", 503, 5.0, "stopping")
            if ref not in self.models:
                raise StationError(f"the model {ref} is not loaded; load it first", 409)
            if not later:
                self._room()
            self._number += 1
            job = Job(Task(self._number, ref, data, time.monotonic() + deadline_s, measure, single))
            (self._later if later else self._queue).append(job)
            self._changed.notify_all()
            return job

    def load(self, ref: str, path: Path) -> Future[None]:
        """Load and warm up a model in every worker; the future fails with StationError when one refuses it."""
        with self._changed:
            if ref in self._loading:
                return self._loading[ref][1]
            done: Future[None] = Future()
            if ref in self.models:
                done.set_result(None)
                return done
            self._loading[ref] = (path, done)
        for slot in self._slots:  # one that is not up yet is told when it is; without the lock, as a pipe may be full
            slot.send(("load", ref, str(path)))
        return done

    def unload(self, ref: str) -> None:
        """Let go of a model. What waits for it still is answered with an error."""
        with self._changed:
            self.models.pop(ref, None)
            stay: deque[Job] = deque()
            for job in self._queue:
                if job.task.ref == ref:
                    job.finish(StationError(f"the model {ref} was unloaded", 409))
                else:
                    stay.append(job)
            self._queue = stay
        self._forget(ref)

    def close(self, drain_s: float = 0.0) -> None:
        """Take nothing more, finish what was taken for up to `drain_s`, answer the rest with an error, and stop."""
        with self._changed:
            self._closing = True
            self._changed.wait_for(
                lambda: not self._queue and not any(slot.sent for slot in self._slots), timeout=drain_s
            )
            self._stopped = True
            self._changed.notify_all()
            left = [*self._queue, *self._later, *(job for slot in self._slots for job in slot.sent.values())]
            for _, loading in self._loading.values():
                if not loading.done():
                    loading.set_exception(StationError("the station stopped", 503))
        for job in left:
            job.finish(StationError("the station stopped before the image was inspected", 503, 5.0, "stopping"))
        for slot in self._slots:
            slot.send(("stop",))
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _forget(self, ref: str) -> None:
        with self._changed:
            for slot in self._slots:
                slot.loaded.pop(ref, None)
        for slot in self._slots:
            slot.send(("unload", ref))

    def _feed(self, slot: _Slot) -> None:
        """Hand work to a worker as long as it does not hold enough."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._next(slot) is not None)
                if self._stopped:
                    return
                waiting = self._next(slot)
                assert waiting is not None
                queue, job = waiting
                queue.remove(job)
                if job.done.cancelled():
                    self._changed.notify_all()
                    continue
                if time.monotonic() > job.task.deadline:
                    text = "the deadline passed while the image waited; send fewer at a time"
                    job.finish(StationError(text, 504, code="deadline"))
                    self._changed.notify_all()
                    continue
                if not slot.sent:
                    slot.since = time.monotonic()
                slot.sent[job.task.number] = job
            slot.send(job.task)

    def _next(self, slot: _Slot) -> tuple[deque[Job], Job] | None:
        """The next job that this worker can take, and the queue it is in."""
        if slot.pipe is None or len(slot.sent) >= AHEAD * max(slot.loaded.values(), default=1):
            return None
        for queue in (self._queue, self._later):
            for job in queue:
                if job.task.ref in slot.loaded:
                    return queue, job
        return None

    def _attend(self, slot: _Slot) -> None:
        """Keep a worker running and take its answers."""
        pause = PAUSE_S
        while not self._stopped:
            up = False  # it answered, and so it was started
            try:
                self._start(slot)
                assert slot.pipe is not None
                while True:
                    if slot.pipe.poll(LOOK_S):
                        message = slot.pipe.recv()
                        up, slot.down = True, None
                        self._answer(slot, message)
                        if message[0] != "up":
                            pause = PAUSE_S
                    elif self._stopped or (slot.sent and time.monotonic() - slot.since > self.limits.stuck_s):
                        break
                why = "it was stuck, or is told to stop"
            except EOFError:
                why = "it ended before it could work"
            except Exception as problem:  # no file handles, no memory: this thread must live, or nobody tries again
                why = str(problem) or type(problem).__name__
                if not isinstance(problem, OSError):
                    log.exception("worker %d", slot.number)
            self._bury(slot)
            with self._changed:
                if not self._closing:
                    self.replaced += up
                    if not up and not self._stopped:
                        self._not_started(slot, why, pause)
                    self._changed.wait_for(lambda: self._stopped, timeout=pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _not_started(self, slot: _Slot, why: str, pause: float) -> None:
        """Note that a worker could not be started, and give up where none could for too long."""
        if slot.down is None:
            slot.down = time.monotonic()
        log.error("worker %d cannot be started (%s); tried again in %g s", slot.number, why, pause)
        since = [each.down for each in self._slots]
        if any(each is None for each in since) or self._given_up:
            return
        if time.monotonic() - max(each for each in since if each is not None) >= self.give_up_s:
            self._given_up = True
            self.lost(f"no worker could be started for {self.give_up_s:g} seconds: {why}")

    def _start(self, slot: _Slot) -> None:
        """Start a process. Raises OSError, RuntimeError and whatever else a system without room comes up with."""
        context = multiprocessing.get_context("spawn")  # a fork would share threads' locks, and CUDA forbids it
        ours, theirs = context.Pipe()
        try:
            process = context.Process(
                target=work, args=(theirs, self.orders), name=f"flawmap-{slot.number}", daemon=True
            )
            process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        with self._changed:
            slot.process, slot.pipe, slot.since = process, ours, time.monotonic()
            wanted = self.models | {ref: path for ref, (path, _) in self._loading.items()}
            for ref, path in wanted.items():
                slot.send(("load", ref, str(path)))

    def _bury(self, slot: _Slot) -> None:
        """End a worker's process, and answer what it held."""
        if slot.process is not None:
            with contextlib.suppress(OSError):
                slot.process.kill()
            slot.process.join()
        with self._changed:
            if slot.pipe is not None:
                slot.pipe.close()
            slot.pipe, slot.process, slot.loaded = None, None, {}
            lost, slot.sent = list(slot.sent.values()), {}
            self._changed.notify_all()
        for job in lost:
            text = "the worker stopped while it inspected this image; send it again"
            job.finish(StationError(text, 503, 1.0, "worker-stopped"))

    def _answer(self, slot: _Slot, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind in ("done", "failed"):
            outcome: Outcome | StationError = message[2]
            with self._changed:
                job = slot.sent.pop(message[1], None)
                slot.since = time.monotonic()
                if kind == "done":
                    self._usual_s += 0.1 * (message[2].seconds - self._usual_s)
                else:
                    outcome = StationError(message[2], message[3], code=CODES.get(message[3], ""))
                self._changed.notify_all()
            if job is not None:
                job.finish(outcome)
        elif kind == "figures":
            self.figures(message[2], message[3])
            if message[4]:
                self.unlike(message[1], message[4])
        elif kind == "loaded":
            self._loaded(slot, message[1], message[2])
        elif kind == "refused":
            with self._changed:
                _, loading = self._loading.pop(message[1], (None, None))
            if loading is not None:
                self._forget(message[1])
                loading.set_exception(StationError(message[2], message[3]))

    def _loaded(self, slot: _Slot, ref: str, batch: int) -> None:
        with self._changed:
            if ref not in self._loading and ref not in self.models:  # unloaded, or refused by another, meanwhile
                return
            slot.loaded[ref] = batch
            finished = None
            if ref in self._loading and all(ref in each.loaded for each in self._slots):
                path, finished = self._loading.pop(ref)
                self.models[ref] = path
            self._changed.notify_all()
        if finished is not None:
            finished.set_result(None)


def _usual_count(workers: WorkerSettings) -> int:
    """One worker a core: two of one thread each inspect half as much again as one of two. A GPU is kept busy by one."""
    if workers.runtime in ("torch", "auto"):
        from flawmap.devices import pick_device

        if pick_device(workers.device).type != "cpu":
            return 1
    return min(_cores(), MOST)


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""What a worker process does: it holds models, decodes, inspects what waits together, and answers through its pipe.

Three threads: one takes messages and decodes images ahead, one loads models, so that inspection goes on meanwhile, and
the main one inspects. When the station is gone, the pipe ends, and so does the worker.

Messages to it: ("load", ref, path) · ("unload", ref) · Task · ("stop",). From it: ("loaded", ref, batch) ·
("refused", ref, why, status) · ("done", task, Outcome) · ("failed", task, why, status) ·
("figures", task, ref, figures, unlike) · ("up",) once it has started.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import deque
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flawmap.data.remarks import collected
from flawmap.errors import FlawmapError, ImageError

if TYPE_CHECKING:
    from flawmap.data.images import Stored
    from flawmap.deploy.inspector import Inspection, Inspector

log = logging.getLogger("flawmap.station")
Unlike = dict[str, str]  # code: of the page's words; text
MOST_UNLIKE = 3  # ways in which a part is unlike, told of it
WARM = 2  # inspections before a model counts as loaded: the first ones allocate


@dataclass(frozen=True)
class Task:
    """An image to inspect. deadline: of the monotonic clock, which all processes share.

    measure: for the drift; single: whether it is unlike the good photos by itself, where nothing else waits
    """

    number: int
    ref: str
    data: bytes
    deadline: float
    measure: bool = False
    single: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was found in one image; all plain.

    good_parts: good photos whose scores `p_value` is from; smallest: the smallest area of a region; map_png: the map at
    the network's size; seconds: of its batch; remarks: what decoding remarked on the file
    """

    score: float
    threshold: float | None
    defective: bool | None
    p_value: float | None
    good_parts: int
    smallest: int
    regions: list[dict[str, Any]]
    map_png: bytes
    height: int
    width: int
    seconds: float
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Orders:
    """How a worker is to work: of `WorkerSettings`, with the threads and the batch that come out of them.

    smallest: the smallest area of a place, in pixels, None for each model's own
    """

    runtime: str
    precision: str
    device: str
    threads: int
    batch: int
    smallest: int | None = None


def work(pipe: Connection, orders: Orders) -> None:
    """The life of a worker process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C and systemd reach every process; the station drains first
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(1)  # those who answer come before those who compute
    # Threads that wait for each other sleep instead of spinning: on a busy machine spinning costs ten times the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported
    _Worker(pipe, orders).run()


class _Read(NamedTuple):
    """An image that was decoded, and what was remarked on it."""

    task: Task
    pixels: Stored
    remarks: list[str]


class _Worker:
    def __init__(self, pipe: Connection, orders: Orders) -> None:
        self.pipe, self.orders = pipe, orders
        self.models: dict[str, Inspector] = {}
        self.ready: deque[_Read] = deque()
        self.loads: deque[tuple[str, str]] = deque()
        self.changed = threading.Condition()
        self.sending = threading.Lock()
        self.stopping = False

    def run(self) -> None:
        import torch

        torch.set_num_threads(self.orders.threads)  # OpenMP keeps it for each thread: in this one, which inspects
        self._send("up")
        for part in (self._take, self._load_all):
            threading.Thread(target=part, daemon=True).start()
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.ready or self.stopping)
                if not self.ready:
                    return
                batch = self._batch()
            self._inspect(batch)

    def _batch(self) -> list[_Read]:
        """The next images that go together: of one model, as many as suit it."""
        ref = self.ready[0].task.ref
        most = self._most(ref)
        batch: list[_Read] = []
        while self.ready and len(batch) < most and self.ready[0].task.ref == ref:
            batch.append(self.ready.popleft())
        return batch

    def _most(self, ref: str) -> int:
        """Images that go together by this model, at most."""
        inspector = self.models.get(ref)
        if inspector is None or inspector.tiled:
            return 1
        return self.orders.batch or inspector.usual_batch

    def _send(self, *message: Any) -> None:
        with self.sending:
            self.pipe.send(message)

    def _take(self) -> None:
        """Messages, as they come; the pipe's end is the station's."""
        try:
            while True:
                message = self.pipe.recv()
                if isinstance(message, Task):
                    inspector = self.models.get(message.ref)
                    if inspector is None:
                        self._send("failed", message.number, f"the model {message.ref} is not loaded", 409)
                        continue
                    try:
                        with collected() as remarks:
                            pixels = inspector.decode(message.data, "image")
                    except ImageError as problem:
                        self._send("failed", message.number, str(problem).removeprefix("image: "), 422)
                        continue
                    with self.changed:
                        self.ready.append(_Read(message, pixels, remarks))
                        self.changed.notify_all()
                elif message[0] == "load":
                    with self.changed:
                        self.loads.append((message[1], message[2]))
                        self.changed.notify_all()
                elif message[0] == "unload":
                    self.models.pop(message[1], None)
                else:
                    with self.changed:
                        self.stopping = True
                        self.changed.notify_all()
        except (EOFError, OSError):
            os._exit(0)

    def _load_all(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.loads)
                ref, path = self.loads.popleft()
            try:
                self.models[ref] = self._open(Path(path))
            except FlawmapError as problem:
                self._send("refused", ref, str(problem), 409)
            except Exception as problem:  # want of memory, say: this thread must live, or nothing is loaded any more
                log.exception("the model %s", ref)
                first = (str(problem).splitlines() or [""])[0]
                passes = isinstance(problem, (OSError, MemoryError, RuntimeError))  # it may, and is tried again
                why = f"the model cannot be loaded: {type(problem).__name__}: {first[:200]}"
                self._send("refused", ref, why, 503 if passes else 409)
            else:
                with self.changed:
                    self._send("loaded", ref, self._most(ref))

    def _open(self, path: Path) -> Inspector:
        import numpy as np

        from flawmap.deploy.inspector import load

        orders = self.orders
        inspector = load(
            path, orders.device, orders.threads, runtime=orders.runtime, precision=orders.precision,
            smallest=orders.smallest,
        )  # fmt: skip
        sizes = inspector.bundle.recipe.image
        shape = inspector.bundle.ignore.shape if inspector.bundle.ignore is not None else (sizes.height, sizes.width)
        grey = np.full((*shape, 3), 127, np.uint8)
        for _ in range(WARM):
            inspector.inspect(grey)
        return inspector

    def _inspect(self, batch: list[_Read]) -> None:
        late = [read.task for read in batch if time.monotonic() > read.task.deadline]
        for task in late:
            self._send("failed", task.number, "the deadline passed before it was inspected", 504)
        batch = [read for read in batch if read.task not in late]
        if not batch:
            return
        inspector = self.models.get(batch[0].task.ref)
        if inspector is None:
            for task, _, _ in batch:
                self._send("failed", task.number, f"the model {task.ref} is not loaded", 409)
            return
        started = time.monotonic()
        remarks = [read.remarks for read in batch]
        found = inspector.inspect_read_or_error([read.pixels for read in batch], len(batch), remarks=remarks)
        for (task, pixels, _), one in zip(batch, found, strict=True):
            if isinstance(one, ImageError):
                self._send("failed", task.number, str(one), 422)
            else:
                self._send("done", task.number, _outcome(one, pixels, inspector, time.monotonic() - started))
        for task, pixels, _ in batch:
            if task.measure or (task.single and not self.ready):
                try:
                    figures, unlike = _figures(inspector, pixels)
                except MemoryError:  # it has its verdict, and the next one is measured
                    log.warning("a photo for %s was not measured, for want of memory", task.ref)
                    continue
                self._send("figures", task.number, task.ref, figures if task.measure else None, unlike)


def _outcome(found: Inspection, pixels: Stored, inspector: Inspector, seconds: float) -> Outcome:
    from flawmap.data.images import encode_png, to_uint8

    return Outcome(
        score=found.score,
        threshold=found.threshold,
        defective=found.defective,
        p_value=found.p_value,
        good_parts=len(inspector.good_scores),
        smallest=inspector.smallest,
        regions=[asdict(region) for region in found.regions],
        map_png=encode_png(to_uint8(found.network_map)),
        height=pixels.shape[0],
        width=pixels.shape[1],
        seconds=seconds,
        remarks=found.remarks,
    )


def _figures(inspector: Inspector, pixels: Stored) -> tuple[list[float] | None, list[Unlike]]:
    """What a photo is like (measure/photos.py), and in what it is unlike the good ones, the farthest first.

    None and nothing where the bundle does not know its good photos.
    """
    import torch

    from flawmap.data.pictures import pictures_in
    from flawmap.measure.photos import TILES, oddities, take

    bundle = inspector.bundle
    if bundle.photos is None:
        return None, []
    device = next(bundle.model.parameters()).device if inspector.runtime.name == "torch" else torch.device("cpu")
    pictures = pictures_in(pixels, "image", bundle.recipe.image, inspector.scope, TILES)
    raw = take(pictures, bundle.model.discrete, device, bundle.model.reduction)
    figures = bundle.photos.measure(raw)
    found = [
        {"code": f"{odd.name.replace(' ', '-')}-{'more' if odd.deviations > 0 else 'less'}", "text": str(odd)}
        for odd in oddities(bundle.photos, figures)
    ]
    return [float(value) for value in figures], found[:MOST_UNLIKE]

"""Trainings from the page: `flawmap train` as a process of its own, watched by its metrics; compared, then promoted.

A training outlives the station: what a stop, a kill or a loss of power interrupts goes on from its last checkpoint when
the station starts again, to the weights it would have had. It learns from links to the photos as they were when it
began. One that stops twice and gets no further in between has failed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flawmap.bundle_facts import read_facts
from flawmap.data.images import decode_pixels, encode_jpeg, overlay, pixels_to_show, resize_map, to_float
from flawmap.errors import BundleError, ConfigError, FlawmapError, StationError
from flawmap.measure.smallest import smallest_of
from flawmap.station import comparing, course
from flawmap.station.datasets import GENTLY, KINDS, DataSets
from flawmap.station.files import is_id, link, new_id, private, write_whole
from flawmap.station.models import FOLDER, LOAD_S, NAMED, Models, Version
from flawmap.station.record import now
from flawmap.station.results import Results

log = logging.getLogger("flawmap.station")
NOTE, LOG, PHOTOS = "training.json", "log.txt", "photos"
LOOK_S = 0.5
END_S = 10.0  # for a training that is told to stop, before it is killed
TRIES = 2  # stops without getting further, and it has failed
FIRST = 6  # photos shown with the new model's maps
SETTING = re.compile(r"(?P<key>[a-z]+\.[a-z_0-9]+)=(?P<value>[A-Za-z0-9_.,\[\]\" -]{0,200})")
STORED = re.compile(
    rf"\S*/{PHOTOS}/(good|defective)/(?P<id>[0-9a-f]{{32}})(_mask_\d+)?\.\w+"
)  # where a training finds a photo
PATHS = ("image.ignore", "model.prior")  # settings that name files: none comes from a request
DERIVED = ("stage", "step", "steps", "progress", "losses", "metrics")  # read from its files, not noted
OWN = ("stops", "furthest", "paused")  # noted for the station alone

Training = dict[str, Any]


class Trainings:
    """Trainings in one folder, one at a time. Threads may share it. `told` hears of every change of one.

    `verdict`: of a score and a threshold, for comparisons.
    """

    def __init__(self, folder: Path, datasets: DataSets, models: Models, results: Results) -> None:
        self.folder, self.datasets, self.models, self.results = folder.absolute(), datasets, models, results
        self.told: Callable[[Training], object] = lambda training: None
        self.verdict: Callable[[float, float], str] = lambda score, limit: "reject" if score > limit else "pass"
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._running: str | None = None
        self._closing = False
        _end_left(self.folder)
        for training in self.all():
            if (training["comparison"] or {}).get("state") == "running":
                why = "the station stopped while it compared; compare again"
                self._note(training["id"], comparison={**training["comparison"], "state": "failed", "why": why})
            if training["state"] != "running":
                self._tidy(training["id"])

    @property
    def running(self) -> str | None:
        """The id of the training that runs."""
        return self._running

    def all(self) -> list[Training]:
        """All trainings without their metrics, newest first."""
        found = []
        for file in self.folder.glob(f"*/{NOTE}") if self.folder.is_dir() else ():
            with contextlib.suppress(StationError):
                found.append(self.get(file.parent.name, metrics=False))
        return sorted(found, key=lambda one: one["created"], reverse=True)

    def get(self, ident: str, metrics: bool = True) -> Training:
        """A training. Raises StationError (404)."""
        training = self._read(ident)
        lines = course.metrics(self.bundle(ident))
        known = {name: value for name, value in training.items() if name not in OWN}
        known |= course.progress(self.bundle(ident), lines, training["state"] == "done")
        return {**known, "metrics": lines} if metrics else known

    def start(self, dataset: str, name: str, recipe: str, settings: list[str], who: str) -> Training:
        """Train on a data set. Raises StationError: 400 for what cannot be, 409 while another one runs."""
        from flawmap.config import load_recipe, shipped_recipes, training_recipes

        if recipe not in training_recipes():
            what = "is for `flawmap pretrain` and gives no model" if recipe in shipped_recipes() else "is not known"
            raise StationError(f"the recipe {recipe[:40]!r} {what}; there are: {', '.join(training_recipes())}", 400)
        match = FOLDER.fullmatch(name)
        if match is None or match["version"] is not None or name.startswith("."):
            raise StationError(NAMED, 400, code="name")
        for setting in settings:
            found = SETTING.fullmatch(setting)
            if found is None or found["key"] in PATHS:
                text = f"{setting[:60]!r} cannot be set here; expected section.name=value, no file"
                raise StationError(text, 400, code="setting", setting=setting[:60])
        try:
            load_recipe(recipe, settings)
        except ConfigError as problem:
            raise _setting_refused(str(problem), recipe, settings) from problem
        known = self.datasets.get(dataset)
        if known["good"] == 0:
            raise StationError("the data set has no good photos; add some first", 409, code="no-good-photos")
        with self._lock:
            if self._running is not None:
                raise StationError("a training runs already; wait for it, or cancel it", 409, code="training-runs")
            ident = new_id()
            private(self.folder)
            private(self.folder / ident)
            training: Training = {
                "id": ident, "name": name, "dataset": dataset, "recipe": recipe, "settings": settings, "by": who,
                "state": "running", "why": "", "why_code": "", "created": now(), "started": now(), "ended": None,
                "resumed": 0, "first": 0, "model": None, "threshold": None, "size": None, "smallest": None,
                "comparison": None, "stops": 0, "furthest": -1, "paused": False,
            }  # fmt: skip
            for kind in KINDS:
                (self.folder / ident / PHOTOS / kind).mkdir(parents=True)
            for place, file in self.datasets.files(dataset).items():
                link(file, self.folder / ident / PHOTOS / place)
            self._write(training)
            self._launch(ident)
        return self.get(ident)

    def go_on(self) -> None:
        """Take up what was running when the station stopped, or was killed."""
        for training in self.all():
            if training["state"] == "running":
                with self._lock:
                    if self.bundle(training["id"]).is_dir():  # it ended after the station did
                        self._finish(training["id"])
                    elif self._running is None:
                        self._again(training["id"])

    def cancel(self, ident: str) -> Training:
        """Stop a training. Raises StationError (409) when it does not run."""
        with self._lock:
            training = self.get(ident)
            if self._running != ident or self._process is None or training["state"] != "running":
                raise StationError("this training does not run", 409)
            why = f"cancelled at step {training['step']}"
            self._note(ident, state="cancelled", why=why, why_code="cancelled", ended=now())
            self._process.terminate()
        return self.get(ident)

    def close(self) -> None:
        """Stop what runs; it goes on when the station starts again."""
        with self._lock:
            self._closing = True
            if self._running is None or self._process is None:
                return
            with contextlib.suppress(StationError, OSError):
                self._note(self._running, paused=True)
            process = self._process
        process.terminate()
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def bundle(self, ident: str) -> Path:
        """Where a training's bundle is, or will be."""
        return self.folder / ident / "new.bundle"

    def first(self, ident: str, number: int) -> Path:
        """The picture of one of the first maps. Raises StationError (404)."""
        self.get(ident, metrics=False)
        file = self.folder / ident / f"first-{number:d}.jpg"
        if not file.is_file():
            raise StationError("there is no such picture", 404)
        return file

    def promote(self, ident: str, use: bool, who: str, note: str) -> Version:
        """Make a training's bundle the newest version of its name. Raises StationError."""
        training = self.get(ident, metrics=False)
        if training["state"] != "done":
            raise StationError("only a training that is done can be promoted", 409)
        version = self.models.add(self.bundle(ident), training["name"], who, f"training {ident}", note)
        if use:
            version = self.models.use(version.ref, who, note)
        self._note(ident, model=version.ref)
        self.models.pool.unload(f"training {ident}")
        return version

    def compare(self, ident: str, parts: int, decided_only: bool) -> None:
        """Inspect recorded parts by the new model and the one in use, in the background. Raises StationError."""
        current = self.models.for_request(None)
        if self.get(ident, metrics=False)["state"] != "done":
            raise StationError("only a training that is done can be compared", 409)
        chosen = list(comparing.recorded(self.results, parts, decided_only))
        if not chosen:
            raise StationError("there are no recorded parts whose pictures are kept", 409, code="no-parts")
        sums = comparing.begun(len(chosen), current.ref)
        with self._lock:
            if (self.get(ident, metrics=False)["comparison"] or {}).get("state") == "running":
                raise StationError("the comparison runs already", 409)
            self._note(ident, comparison=sums)
        threading.Thread(target=self._compare, args=(ident, current, chosen, sums), daemon=True).start()

    def _compare(self, ident: str, current: Version, parts: list[dict[str, Any]], sums: comparing.Sums) -> None:
        def tell(sums: comparing.Sums) -> None:
            with contextlib.suppress(StationError):
                self._note(ident, comparison=sums)

        pool, ref = self.models.pool, f"training {ident}"
        try:
            pool.load(ref, self.bundle(ident)).result(LOAD_S)
        except (StationError, TimeoutError) as problem:
            tell({**sums, "state": "failed", "why": str(problem) or "the model was not loaded in time"})
            return
        comparing.compare(pool, self.results, (current.ref, ref), parts, self.verdict, sums, tell)

    def _launch(self, ident: str, resume: bool = False) -> None:
        """Start the process of a training, and watch it. Raises StationError (503). With the lock held."""
        training, photos = self._read(ident), self.folder / ident / PHOTOS
        words = [*GENTLY, sys.executable, "-m", "flawmap", "train", str(photos / "good")]
        words += ["--out", str(self.bundle(ident)), "--config", training["recipe"], "--quiet"]
        words += [word for setting in training["settings"] for word in ("--set", setting)]
        if any((photos / "defective").iterdir()):
            words += ["--defects", str(photos / "defective")]
        words += ["--resume"] if resume else []
        try:
            with (self.folder / ident / LOG).open("ab") as written:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=written, stderr=written, cwd=self.folder / ident,
                    start_new_session=True,
                )  # fmt: skip
        except OSError as problem:
            self._end(ident, "failed", f"it could not be started: {problem.strerror}")
            raise StationError(f"the training could not be started: {problem.strerror}", 503) from problem
        self._running = ident
        threading.Thread(target=self._follow, args=(ident, self._process), daemon=True).start()

    def _again(self, ident: str) -> None:
        """Go on with a training that stopped, unless it stopped too often where it is. With the lock held."""
        training, step = self._read(ident), self.get(ident, metrics=False)["step"]
        if not training["paused"]:
            stops = training["stops"] + 1 if step <= training["furthest"] else 1
            self._note(ident, stops=stops, furthest=max(step, training["furthest"]))
            if stops >= TRIES:
                why = f"it was killed {stops} times and got no further than step {training['furthest']}"
                text = f"{why}; start it anew, with fewer or smaller photos if memory was short"
                self._end(ident, "failed", text, code="killed")
                return
        self._note(ident, paused=False, resumed=training["resumed"] + 1)
        log.info("the training %s goes on at step %d", ident, step)
        with contextlib.suppress(StationError):  # then it has failed, and says so
            self._launch(ident, resume=True)

    def _follow(self, ident: str, process: subprocess.Popen[bytes]) -> None:
        """Watch a training until its process ends, and tell of its progress."""
        before = -1
        while process.poll() is None:
            time.sleep(LOOK_S)
            with contextlib.suppress(StationError):
                training = self.get(ident, metrics=False)
                if training["step"] != before:
                    before = training["step"]
                    self.told(training)
        try:
            self._ended(ident, process.returncode)
        except (StationError, OSError) as problem:  # its folder is gone, or the disk is full
            log.error("the training %s: %s", ident, problem)

    def _ended(self, ident: str, code: int) -> None:
        """What follows when the process of a training has ended."""
        with self._lock:
            if self._closing:
                return
            self._process, self._running = None, None
            if self._read(ident)["state"] != "running":
                self._tidy(ident)
            elif code == 0:
                self._finish(ident)
            elif code < 0:  # by a signal: for want of memory, say
                self._again(ident)
            else:
                why = self._by_name(ident, course.last_words(self.folder / ident / LOG, self.folder.parent))
                self._end(ident, "failed", why or f"it ended with code {code}")

    def _by_name(self, ident: str, text: str) -> str:
        """The text with photos called as whoever sent them calls them."""
        with contextlib.suppress(StationError):  # the data set may have been removed
            names = {one["id"]: one["name"] for one in self.datasets.get(self._read(ident)["dataset"])["photos"]}
            return STORED.sub(lambda found: names.get(found["id"]) or found[0], text)
        return text

    def _finish(self, ident: str) -> None:
        """What follows when the bundle is there, in the background: a few maps, then it is done."""

        def finish() -> None:
            try:
                note = read_facts(self.bundle(ident))
                self._note(ident, threshold=note["threshold"], **_measured(note))
                self._draw_first(ident)
                self._end(ident, "done", "")
            except (StationError, BundleError, OSError, LookupError, ValueError) as problem:
                log.error("the training %s: %s", ident, problem)
                with contextlib.suppress(StationError, OSError):
                    self._end(ident, "failed", "its bundle cannot be read")

        threading.Thread(target=finish, daemon=True).start()

    def _draw_first(self, ident: str) -> None:
        """What the new model finds on a few of its photos, the defective ones first."""
        training = self.get(ident, metrics=False)
        photos = self.datasets.get(training["dataset"])["photos"]
        photos = [photo for photo in photos if photo["kind"] in KINDS]
        chosen = sorted(photos, key=lambda photo: photo["kind"])[:FIRST]
        ref, pool, drawn = f"training {ident}", self.models.pool, 0
        white = self.models.white_in(self.bundle(ident))
        try:
            pool.load(ref, self.bundle(ident)).result(LOAD_S)
            for photo in chosen:
                data = self.datasets.photo(training["dataset"], photo["id"]).read_bytes()
                deadline = comparing.DEADLINE_S
                found = pool.submit(ref, data, deadline, later=True).done.result(deadline)
                small = to_float(decode_pixels(found.map_png, "map"))[:, :, 0].copy()
                pixels = pixels_to_show(data, photo["name"], white)
                polygons = [region["polygon"] for region in found.regions]
                picture = overlay(pixels, resize_map(small, *pixels.shape[:2]), polygons)
                write_whole(self.folder / ident / f"first-{drawn}.jpg", encode_jpeg(picture))
                drawn += 1
        except (FlawmapError, OSError, TimeoutError):
            pass  # the training is good without pictures
        self._note(ident, first=drawn)

    def _read(self, ident: str) -> Training:
        """The note of a training. Raises StationError (404)."""
        try:
            if not is_id(ident):
                raise FileNotFoundError
            found: Training = json.loads((self.folder / ident / NOTE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise StationError("there is no such training", 404, code="gone") from problem
        # What a note of an older flawmap does not have.
        new: dict[str, Any] = {"why_code": "", "resumed": 0, "stops": 0, "furthest": -1, "paused": False}
        new |= {"size": None, "smallest": None}
        return new | found

    def _write(self, training: Training) -> None:
        known = {name: value for name, value in training.items() if name not in DERIVED}
        write_whole(self.folder / known["id"] / NOTE, json.dumps(known).encode())

    def _note(self, ident: str, **changes: Any) -> None:
        """Note changes of a training, and tell of them."""
        with self._lock:
            self._write(self._read(ident) | changes)
        self.told(self.get(ident, metrics=False))

    def _end(self, ident: str, state: str, why: str, code: str = "") -> None:
        self._note(ident, state=state, why=why, why_code=code, ended=now())
        self._tidy(ident)

    def _tidy(self, ident: str) -> None:
        """Remove what only a training that runs needs; its losses stay, to be looked at."""
        for left in (PHOTOS, f".{self.bundle(ident).name}.saving"):
            shutil.rmtree(self.folder / ident / left, ignore_errors=True)
        run = course.run_of(self.bundle(ident))
        for file in run.iterdir() if run.is_dir() else ():
            if file.name not in ("metrics.jsonl", "recipe.toml"):
                with contextlib.suppress(OSError):
                    file.unlink()


def _measured(note: dict[str, Any]) -> dict[str, Any]:
    """What a bundle's note says of the sizes of photos and of the smallest spot found; None for what it does not."""
    facts, limit = note["provenance"], note["threshold"]
    photo, network = facts.get("photo_size"), facts.get("inspected_at")
    smallest = smallest_of(facts, None if limit is None else limit["score"])
    return {
        "size": {"photo": photo, "network": network} if photo and network else None,
        "smallest": None if smallest is None else smallest.to_json(),
    }


def _setting_refused(text: str, recipe: str, settings: list[str]) -> StationError:
    """What is answered to a setting that a recipe does not take; whoever looks at the page has no docs/."""
    text = text.removesuffix("; see docs/settings.md").removeprefix(f"{recipe}: ")
    for asked in settings:
        if text.startswith(f"--set {asked}: "):
            text = text.removeprefix(f"--set {asked}: ")
            if text.startswith("expected "):  # no setting at all
                return StationError(text, 400, code="setting-value", setting=asked, why=text)
    if text.startswith("there is no setting "):
        return StationError(text, 400, code="no-setting", setting=text.rpartition(" ")[2])
    setting, colon, why = text.partition(": ")
    return StationError(text, 400, code="setting-value" if colon else "", setting=setting, why=why)


def _end_left(folder: Path) -> None:
    """End trainings of this folder that a killed station left behind: two must not work on the same files."""
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"train" in words and any(word.startswith(os.fsencode(f"{folder}/")) for word in words):
                os.kill(int(process.name), signal.SIGKILL)
                left.append(process / "cmdline")
    ends = time.monotonic() + END_S
    while any(_has_words(file) for file in left) and time.monotonic() < ends:
        time.sleep(0.02)


def _has_words(file: Path) -> bool:
    """Whether a process still runs: one that ended has no command line."""
    try:
        return bool(file.read_bytes())
    except OSError:
        return False

"""Trainings from the page: `flawmap train` as a process of its own, watched by its metrics; compared, then promoted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flawmap.data.images import decode_pixels, encode_jpeg, overlay, resize_map, to_float
from flawmap.errors import FlawmapError, StationError
from flawmap.station.datasets import GENTLY, DataSets
from flawmap.station.files import is_id, new_id, write_whole
from flawmap.station.inspecting import Outcome
from flawmap.station.models import FOLDER, LOAD_S, NAMED, Models, Version
from flawmap.station.record import now
from flawmap.station.results import Query, Results

NOTE, LOG = "training.json", "log.txt"
LOOK_S = 0.5
FIRST = 6  # photos shown with the new model's maps
SHOWN = 60  # parts of a comparison
STOPPED = {"state": "failed", "why": "the station stopped while it trained", "why_code": "station-stopped"}
DEADLINE_S = 600.0  # of an inspection that waits behind the line's
SETTING = re.compile(r"(?P<key>[a-z]+\.[a-z_0-9]+)=(?P<value>[A-Za-z0-9_.,\[\]\" -]{0,200})")
PATHS = ("image.ignore", "model.prior")  # settings that name files: none comes from a request

Training = dict[str, Any]


class Trainings:
    """Trainings in one folder, one at a time. Threads may share it. `told` hears of every change of one."""

    def __init__(self, folder: Path, datasets: DataSets, models: Models, results: Results) -> None:
        self.folder, self.datasets, self.models, self.results = folder, datasets, models, results
        self.told: Callable[[Training], object] = lambda training: None
        self.doubt = 0.0
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._running: str | None = None
        for training in self.all():  # what a killed station left
            if training["state"] == "running":
                _end_left(training.get("pid"), training["id"])
                self._note(training, **STOPPED, ended=now())

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
        try:
            if not is_id(ident):
                raise FileNotFoundError
            training: Training = json.loads((self.folder / ident / NOTE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as problem:
            raise StationError("there is no such training", 404, code="gone") from problem
        lines = self._metrics(training)
        return {**training, **self._progress(training, lines), **({"metrics": lines} if metrics else {})}

    def start(self, dataset: str, name: str, recipe: str, settings: list[str], who: str) -> Training:
        """Train on a data set. Raises StationError: 400 for what cannot be, 409 while another one runs."""
        from flawmap.config import load_recipe, shipped_recipes

        if recipe not in shipped_recipes():
            raise StationError(f"no recipe {recipe[:40]!r}; there are: {', '.join(shipped_recipes())}", 400)
        match = FOLDER.fullmatch(name)
        if match is None or match["version"] is not None or name.startswith("."):
            raise StationError(NAMED, 400, code="name")
        for setting in settings:
            found = SETTING.fullmatch(setting)
            if found is None or found["key"] in PATHS:
                text = f"{setting[:60]!r} cannot be set here; expected section.name=value, no file"
                raise StationError(text, 400, code="setting", setting=setting[:60])
        load_recipe(recipe, settings)
        known = self.datasets.get(dataset)
        if known["good"] == 0:
            raise StationError("the data set has no good photos; add some first", 409, code="no-good-photos")
        with self._lock:
            if self._running is not None:
                raise StationError("a training runs already; wait for it, or cancel it", 409, code="training-runs")
            ident = new_id()
            (self.folder / ident).mkdir(parents=True)
            training: Training = {
                "id": ident, "name": name, "dataset": dataset, "recipe": recipe, "settings": settings, "by": who,
                "state": "running", "why": "", "why_code": "", "created": now(), "started": now(), "ended": None,
                "first": 0, "model": None, "threshold": None, "comparison": None, "pid": None,
            }  # fmt: skip
            words = [*GENTLY, sys.executable, "-m", "flawmap", "train", str(self.datasets.place(dataset, "good"))]
            words += ["--out", str(self.bundle(ident)), "--config", recipe, "--quiet"]
            words += [word for setting in settings for word in ("--set", setting)]
            if known["defective"]:
                words += ["--defects", str(self.datasets.place(dataset, "defective"))]
            with (self.folder / ident / LOG).open("wb") as log:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder / ident,
                    start_new_session=True,
                )  # fmt: skip
            self._running = ident
            self._note(training, pid=self._process.pid)
        threading.Thread(target=self._follow, args=(ident,), daemon=True).start()
        return self.get(ident)

    def cancel(self, ident: str) -> Training:
        """Stop a training. Raises StationError (409) when it does not run."""
        with self._lock:
            training = self.get(ident)
            if self._running != ident or self._process is None:
                raise StationError("this training does not run", 409)
            why = f"cancelled at step {training['step']}"
            self._note(training, state="cancelled", why=why, why_code="cancelled", ended=now())
            self._process.terminate()
        return self.get(ident)

    def close(self) -> None:
        """Stop what runs."""
        with contextlib.suppress(StationError):
            if (ident := self._running) is not None:
                self._note(self.get(ident), **STOPPED, ended=now())
                if self._process is not None:
                    self._process.terminate()
                    self._process.wait()

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
        self._note(training, model=version.ref)
        self.models.pool.unload(f"training {ident}")
        return version

    def compare(self, ident: str, parts: int, decided_only: bool) -> None:
        """Inspect recorded parts by the new model and the one in use, in the background. Raises StationError."""
        training = self.get(ident, metrics=False)
        current = self.models.for_request(None)
        if training["state"] != "done":
            raise StationError("only a training that is done can be compared", 409)
        if (training["comparison"] or {}).get("state") == "running":
            raise StationError("the comparison runs already", 409)
        chosen = list(self._recorded(parts, decided_only))
        if not chosen:
            raise StationError("there are no recorded parts whose pictures are kept", 409, code="no-parts")
        begun = {
            "state": "running", "why": "", "done": 0, "total": len(chosen), "against": current.ref, "agree": 0,
            "changed": 0, "decided": 0, "right_new": 0, "right_current": 0, "new_rejects": 0, "new_passes": 0,
            "parts": [],
        }  # fmt: skip
        self._note(training, comparison=begun)
        threading.Thread(target=self._compare, args=(ident, current, chosen, begun), daemon=True).start()

    def _recorded(self, count: int, decided_only: bool) -> Iterator[dict[str, Any]]:
        """Recorded parts with their pictures, those that were decided first."""
        seen: set[str] = set()
        for decided in (True,) if decided_only else (True, None):
            after: int | None = None
            while len(seen) < count:
                page, after = self.results.page(Query(decided=decided), limit=min(count, 500), after=after)
                for part in page:
                    if part["kept"] and part["id"] not in seen and len(seen) < count:
                        seen.add(part["id"])
                        yield part
                if after is None:
                    break

    def _compare(self, ident: str, current: Version, parts: list[dict[str, Any]], sums: dict[str, Any]) -> None:
        from flawmap.station.station import verdict_of

        pool, ref = self.models.pool, f"training {ident}"
        try:
            pool.load(ref, self.bundle(ident)).result(LOAD_S)
            for part in parts:
                file = self.results.pictures.original(part["id"])
                if file is not None:
                    data = file.read_bytes()
                    jobs = [pool.submit(each, data, DEADLINE_S, later=True) for each in (current.ref, ref)]
                    old, new = (job.done.result(DEADLINE_S) for job in jobs)
                    verdicts = [verdict_of(one.score, one.threshold or 0.0, self.doubt) for one in (old, new)]
                    _count(sums, part, old, new, verdicts)
                sums["done"] += 1
                self._note(self.get(ident, metrics=False), comparison=sums)
            sums["state"] = "done"
        except (FlawmapError, OSError, TimeoutError) as problem:
            sums.update(state="failed", why=str(problem))
        with contextlib.suppress(StationError):
            self._note(self.get(ident, metrics=False), comparison=sums)

    def _follow(self, ident: str) -> None:
        """Watch a training until it ends, and tell of its progress."""
        process, before = self._process, -1
        assert process is not None
        while process.poll() is None:
            time.sleep(LOOK_S)
            with contextlib.suppress(StationError):
                training = self.get(ident, metrics=False)
                if training["step"] != before:
                    before = training["step"]
                    self.told(training)
        with self._lock:
            self._process, self._running = None, None
            with contextlib.suppress(StationError):
                training = self.get(ident, metrics=False)
                if training["state"] == "running":
                    if process.returncode == 0:
                        note = json.loads((self.bundle(ident) / "bundle.json").read_text(encoding="utf-8"))
                        self._note(training, threshold=note["threshold"])
                    else:
                        self._note(training, state="failed", why=self._why(ident), ended=now())
        if process.returncode == 0:
            with contextlib.suppress(StationError):
                self._draw_first(ident)
                self._note(self.get(ident, metrics=False), state="done", ended=now())

    def _draw_first(self, ident: str) -> None:
        """What the new model finds on a few of its photos, the defective ones first."""
        training = self.get(ident, metrics=False)
        photos = self.datasets.get(training["dataset"])["photos"]
        chosen = sorted(photos, key=lambda photo: photo["kind"])[:FIRST]
        ref, pool, drawn = f"training {ident}", self.models.pool, 0
        try:
            pool.load(ref, self.bundle(ident)).result(LOAD_S)
            for photo in chosen:
                data = self.datasets.photo(training["dataset"], photo["id"]).read_bytes()
                found = pool.submit(ref, data, DEADLINE_S, later=True).done.result(DEADLINE_S)
                small = to_float(decode_pixels(found.map_png, "map"))[:, :, 0].copy()
                pixels = decode_pixels(data, photo["name"])
                polygons = [region["polygon"] for region in found.regions]
                picture = overlay(pixels, resize_map(small, *pixels.shape[:2]), polygons)
                write_whole(self.folder / ident / f"first-{drawn}.jpg", encode_jpeg(picture))
                drawn += 1
        except (FlawmapError, OSError, TimeoutError):
            pass  # the training is good without pictures
        self._note(self.get(ident, metrics=False), first=drawn)

    def _metrics(self, training: Training) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, from the run or from the bundle."""
        bundle = self.bundle(training["id"])
        for file in (bundle / "metrics.jsonl", bundle.with_name(f"{bundle.name}.run") / "metrics.jsonl"):
            with contextlib.suppress(OSError):
                lines = []
                for line in file.read_text(encoding="utf-8").splitlines():
                    with contextlib.suppress(ValueError):  # a line that is being written
                        lines.append(json.loads(line))
                return lines
        return []

    def _progress(self, training: Training, lines: list[dict[str, Any]]) -> dict[str, Any]:
        steps = self._steps(training)
        total, last = sum(steps.values()), lines[-1] if lines else {}
        stage, step = str(last.get("stage", "")), int(last.get("step", 0))
        done = step + sum(count for name, count in steps.items() if list(steps).index(name) < _place(steps, stage))
        losses = {name: value for name, value in last.items() if name not in ("stage", "step")}
        share = 1.0 if training["state"] == "done" else min(1.0, done / total) if total else 0.0
        return {"stage": stage, "step": done, "steps": total, "progress": round(share, 4), "losses": losses}

    def _steps(self, training: Training) -> dict[str, int]:
        """Steps of each stage, of the recipe as it is used."""
        bundle = self.bundle(training["id"])
        for file in (bundle / "recipe.toml", bundle.with_name(f"{bundle.name}.run") / "recipe.toml"):
            with contextlib.suppress(OSError, KeyError, ValueError):
                recipe = tomllib.loads(file.read_text(encoding="utf-8"))
                return {stage: int(recipe[stage]["steps"]) for stage in ("detect", "refine")}
        return {}

    def _why(self, ident: str) -> str:
        """The last line that a failed training wrote."""
        with contextlib.suppress(OSError):
            lines = (self.folder / ident / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
            written = [line.strip() for line in lines if line.strip()]
            if written:
                return written[-1].removeprefix("flawmap: ").replace(str(self.folder.parent), "…")[:300]
        return "it was killed"

    def _note(self, training: Training, **changes: Any) -> None:
        """Write a training down with changes, and tell of them."""
        with self._lock:
            derived = ("stage", "step", "steps", "progress", "losses", "metrics")
            known = {name: value for name, value in (training | changes).items() if name not in derived}
            write_whole(self.folder / known["id"] / NOTE, json.dumps(known).encode())
        self.told(self.get(known["id"], metrics=False))


def _place(steps: dict[str, int], stage: str) -> int:
    return list(steps).index(stage) if stage in steps else 0


def _count(sums: dict[str, Any], part: dict[str, Any], old: Outcome, new: Outcome, verdicts: list[str]) -> None:
    """One more part of a comparison."""
    changed = old.defective != new.defective
    sums["changed" if changed else "agree"] += 1
    if changed:
        sums["new_rejects" if new.defective else "new_passes"] += 1
        if len(sums["parts"]) < SHOWN:
            scores = [
                {"score": one.score, "verdict": verdict} for one, verdict in zip((old, new), verdicts, strict=True)
            ]
            entry = {"id": part["id"], "final": part["final"], "current": scores[0], "new": scores[1]}
            sums["parts"].append({**entry, "links": part["links"]})
    if part["decision"] is not None:
        bad = part["final"] == "reject"
        sums["decided"] += 1
        sums["right_current"] += old.defective == bad
        sums["right_new"] += new.defective == bad


def _end_left(pid: int | None, ident: str) -> None:
    """End the process of a training that a killed station left behind, if it is still that one."""
    with contextlib.suppress(OSError, TypeError):
        if pid is not None and ident.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)

"""Models and their versions: bundles in one folder. A version never changes; a new threshold is a new version.

`part.bundle` is part@1, `part@3.bundle` is part@3. Which one is in use is told by the record, as every switch is a row
of it: `use` goes forward, `roll back` goes to what was used before. A switch loads and warms up the new version first,
so that no request waits for it; requests under way end with the version they began with.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shlex
import shutil
import threading
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import sqlalchemy as sa

from flawmap.bundle_facts import ABOUT, NOTE, check_texts, checked_facts, smallest_place, threshold_of
from flawmap.config import ImageSettings, PlaceSettings
from flawmap.data.filekinds import special
from flawmap.data.white import FULL, level_in
from flawmap.errors import BundleError, ConfigError, StationError
from flawmap.measure.threshold import Groups, Tail, Threshold, choose_threshold
from flawmap.station.files import link, to_disk
from flawmap.station.record import Entry, Record, Row, now, records
from flawmap.station.workers import Pool

log = logging.getLogger("flawmap.station")
FILES = {  # of a bundle, and what of its notes tells that there is one; "": always
    "weights.safetensors": "",
    "recipe.toml": "",
    "ignore.png": "ignore_sha256",
    "photos.safetensors": "photos_sha256",
    "evidence.safetensors": "evidence_sha256",
    "backbone.json": "backbone_json_sha256",
}
NAMED = "a model's name is 1 to 100 letters without @ and /, and does not begin with a dot"
WHITE = re.compile(r"flawmap white BUNDLE (\d+)")  # as data/white.py advises
FOLDER = re.compile(r"(?P<name>[^@/\x00-\x1f]{1,100}?)(@(?P<version>[1-9]\d{0,8}))?(\.bundle)?")
NONE_USED = "there is no model in use; train one, or copy a bundle to the models folder and use it (docs/station.md)"
CHANGED = "was changed after it was loaded, and goes on as it was loaded; make a new version, and use that"
LOAD_S = 900.0  # an export on first use takes minutes


Place: TypeAlias = "tuple[float | str, float | None]"  # its smallest area, and what a pixel measures, as they are given


@dataclass(frozen=True)
class Version:
    """One bundle. threshold None: it gives scores, and no verdicts. lacks: what is not there of it, or was changed."""

    ref: str
    name: str
    version: int
    path: Path
    sha256: str  # of bundle.json, which holds that of the weights, and the threshold
    weights_sha256: str
    threshold: Threshold | None
    created: str
    trained_on: int | None
    held_out_scores: tuple[float, ...]
    held_out_peaks: tuple[float, ...]
    held_out_folders: int
    set_aside: float
    groups: Groups
    tail: Tail
    origin: str
    by: str
    lacks: str
    white: int = FULL  # of photos with 16 bits
    smallest: int = 1  # pixels of a place

    def fault(self) -> StationError | None:
        """Why it cannot be used, None where it can."""
        if self.lacks:
            return StationError(f"{self.ref} is not whole: {self.lacks}; copy the bundle again", 409, code="incomplete")
        if self.threshold is None:
            text = f"{self.ref} has no threshold; set one with: flawmap threshold BUNDLE"
            return StationError(text, 409, code="no-threshold")
        return None

    def short(self) -> dict[str, Any]:
        """What a verdict says of it."""
        return {"ref": self.ref, "name": self.name, "version": self.version, "sha256": self.sha256}


class Models:
    """The versions in a folder, and which is in use. Threads may share it."""

    def __init__(self, folder: Path, record: Record, pool: Pool) -> None:
        self.folder, self.record, self.pool = folder, record, pool
        self.smallest: int | None = None  # of a place in pixels, where the station's settings say it for every model
        self.told: Callable[[Row], object] = lambda row: None  # of every switch and addition
        self._changing = threading.RLock()
        self._opened: dict[str, Version] = {}  # as they were when they were loaded
        self._used = used(record)

    def versions(self) -> list[Version]:
        """All that can be read, by name, the newest version first."""
        try:
            folders = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        except OSError as problem:
            raise StationError(f"the models folder {self.folder} cannot be read: {problem.strerror}") from problem
        found = [version for path in folders if (version := _read(path)) is not None]
        return sorted(found, key=lambda one: (one.name, -one.version))

    def find(self, wanted: str) -> Version:
        """A version by its ref, or the newest of a name. Raises StationError (404)."""
        for one in self.versions():
            if wanted in (one.ref, one.name):
                return self._opened.get(one.ref, one)
        raise StationError(f"no model {wanted[:120]!r}; see /api/models", 404)

    @property
    def current(self) -> Version | None:
        """The version in use, None before there is one."""
        return self._opened.get(self._used[-1]) if self._used else None

    @property
    def previous(self) -> str | None:
        """The ref that a roll back goes to."""
        return self._used[-2] if len(self._used) > 1 else None

    def for_request(self, wanted: str | None) -> Version:
        """The version that inspects: the one in use, or a loaded one by its name or ref. Raises StationError."""
        if wanted is None:
            if self.current is None:
                raise StationError(NONE_USED, 503, code="no-model")
            return self.current
        if self.current is not None and wanted in (self.current.ref, self.current.name):
            return self.current
        loaded = [one for one in self._opened.values() if wanted in (one.ref, one.name)]
        if not loaded:
            raise StationError(f"the model {wanted[:120]!r} is not loaded; an engineer loads it in /api/models", 409)
        return max(loaded, key=lambda one: one.version)

    def white_of(self, ref: str) -> int | None:
        """Full white of photos with 16 bits, by a version that is loaded; None for another."""
        version = self._opened.get(ref)
        return None if version is None else version.white

    def advised(self, version: Version, text: str) -> str:
        """What is said of a photo that a version refused, with advice that helps here: a version never changes."""
        number = 1 + max((one.version for one in self.versions() if one.name == version.name), default=version.version)
        while (place := self.folder / f"{version.name}@{number}.bundle").exists():  # one that cannot be read
            number += 1
        ref = f"{version.name}@{number}"
        bundle, out = shlex.quote(str(version.path)), shlex.quote(str(place))
        after = f"--out {out}, and use {ref} then (POST /api/models/{ref}/use)"
        return WHITE.sub(lambda found: f"flawmap white {bundle} {found[1]} {after}", text)

    def white_in(self, bundle: Path) -> int | None:
        """Full white of photos with 16 bits, by the notes of a bundle; None where they cannot be read."""
        try:
            facts = json.loads((bundle / NOTE).read_text(encoding="utf-8"))["provenance"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return _white(bundle, facts if isinstance(facts, dict) else {})

    def start(self) -> None:
        """Load what was in use when the station stopped, or the newest version there is."""
        there = {one.ref: one for one in self.versions() if one.fault() is None}
        last, known = self._used[-1] if self._used else "", [ref for ref in self._used if ref in there]
        self._used = [ref for ref, before in zip(known, ["", *known], strict=False) if ref != before]
        if self._used:
            version = self.load(self._used[-1])
            if version.ref != last:  # a switch as any other, and so it is in the record
                log.error("the model %s is gone or cannot be read; %s is used instead", last, version.ref)
                self._record("use", version, "station", f"{last} is gone or cannot be read")
        elif there:
            newest = max(there.values(), key=lambda one: (one.created, one.version))
            self.use(newest.ref, "station", "the first to be used")

    def load(self, ref: str) -> Version:
        """Load and warm up; returns when every worker has it. Raises StationError."""
        with self._changing:
            version = self.find(ref)
            if (fault := version.fault()) is not None:
                raise fault
            self.pool.load(version.ref, version.path).result(LOAD_S)
            self._opened[version.ref] = version
            return version

    def unload(self, ref: str) -> None:
        """Let go of a version. Raises StationError (409) for the one in use."""
        with self._changing:
            version = self.find(ref)
            if self._used and version.ref == self._used[-1]:
                raise StationError(f"{version.ref} is in use; switch to another first", 409)
            self._opened.pop(version.ref, None)
            self.pool.unload(version.ref)

    def use(self, ref: str, who: str, note: str = "") -> Version:
        """Switch. Raises StationError."""
        with self._changing:
            version = self.load(ref)
            if self._used and self._used[-1] == version.ref:
                return version
            self._switch("use", version, who, note)
            return version

    def roll_back(self, who: str, note: str = "") -> Version:
        """Switch to what was used before. Raises StationError (409) where that is nothing."""
        with self._changing:
            if self.previous is None:
                raise StationError("no other model was used before this one", 409, code="no-previous")
            version = self.load(self.previous)
            self._switch("roll back", version, who, note)
            return version

    def with_threshold(
        self, base: str, score: float | None, overkill: float | None, who: str, note: str, place: Place | None = None
    ) -> Version:
        """A new version of `base` with another threshold: a score, or for an overkill; or another smallest `place`.

        Raises StationError.
        """
        with self._changing:
            version = self.find(base)
            if version.lacks and (fault := version.fault()) is not None:
                raise fault
            if place is not None and self.smallest is not None:
                text = f"verdict.smallest of this station, {self.smallest} pixels, holds for every model; take it out"
                raise StationError(f"{text} of its settings first", 409, code="smallest-of-station")
            old, threshold = version.threshold, None
            if score is None and overkill is None:
                return self._add(version.path, version.name, who, f"smallest place of {version.ref}", note, None, place)
            if score is not None:
                pixel = old.pixel if old is not None else score
                share = old.overkill if old is not None else 0.01
                threshold = Threshold(score, pixel, share, held_out=0, supported=False, method="given", note="")
            else:
                assert overkill is not None
                if not version.held_out_scores:
                    raise StationError(f"{version.ref} knows no scores of good parts; give a score instead", 409)
                threshold = choose_threshold(
                    version.held_out_scores, version.held_out_peaks, overkill,
                    folders=version.held_out_folders, set_aside=version.set_aside,
                    groups=version.groups, tail=version.tail,
                )  # fmt: skip
            return self._add(version.path, version.name, who, f"threshold of {version.ref}", note, threshold, place)

    def add(self, bundle: Path, name: str, who: str, origin: str, note: str = "") -> Version:
        """Copy a bundle in as the newest version of `name`. Raises StationError."""
        with self._changing:
            return self._add(bundle, name, who, origin, note, None)

    def facts(self, version: Version) -> dict[str, Any]:
        """A version as the API tells it: as it was loaded, where it is."""
        fault, opened = version.fault(), self._opened.get(version.ref)
        usable = fault is None
        if fault is None and opened is not None:
            if opened.sha256 != version.sha256:
                fault = StationError(f"{version.ref} {CHANGED}", code="changed")
            version = opened
        return {
            **version.short(),
            "current": bool(self._used) and self._used[-1] == version.ref,
            "loaded": version.ref in self._opened,
            "usable": usable,
            "why": "" if fault is None else str(fault),
            "why_code": "" if fault is None else fault.code,
            "threshold": None if version.threshold is None else asdict(version.threshold),
            "weights_sha256": version.weights_sha256,
            "smallest": version.smallest if self.smallest is None else self.smallest,
            "white": version.white,
            "created": version.created,
            "trained_on": version.trained_on,
            "origin": version.origin,
            "by": version.by,
        }

    def _add(
        self, bundle: Path, name: str, who: str, origin: str, note: str, threshold: Threshold | None,
        place: Place | None = None,
    ) -> Version:  # fmt: skip
        match = FOLDER.fullmatch(name)
        if match is None or match["version"] is not None or name.startswith("."):
            raise StationError(NAMED, 400, code="name")
        number = 1 + max((one.version for one in self.versions() if one.name == name), default=0)
        folder = self.folder / (f"{name}.bundle" if number == 1 else f"{name}@{number}.bundle")
        saving = self.folder / f".{folder.name}.saving"
        try:
            shutil.rmtree(saving, ignore_errors=True)
            saving.mkdir()
            for file in bundle.iterdir():
                if file.is_file() and file.name not in (NOTE, ABOUT):
                    link(file, saving / file.name)
            shutil.copyfile(bundle / NOTE, saving / NOTE)
            if threshold is not None:
                from flawmap.bundle import update_threshold

                update_threshold(saving, threshold)
            if place is not None:
                from flawmap.bundle import update_smallest

                update_smallest(saving, *place)
            about = {"origin": origin, "by": who, "note": note, "at": now()}
            (saving / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            for file in saving.iterdir():
                to_disk(file)
            to_disk(saving)
            saving.rename(folder)
            to_disk(self.folder)  # the record will name it
        except (OSError, BundleError) as problem:
            shutil.rmtree(saving, ignore_errors=True)
            why = problem.strerror if isinstance(problem, OSError) else str(problem)
            raise StationError(f"cannot write a model to {self.folder}: {why}", 503) from problem
        except ConfigError as problem:
            shutil.rmtree(saving, ignore_errors=True)
            raise StationError(str(problem).partition("; see")[0], 400, code="area") from problem
        version = _read(folder)
        assert version is not None
        self._record("add", version, who, note)
        return version

    def _switch(self, action: str, version: Version, who: str, note: str) -> None:
        self._record(action, version, who, note)
        if action == "use":
            self._used.append(version.ref)
        else:
            self._used.pop()

    def _record(self, action: str, version: Version, who: str, note: str) -> None:
        body = {
            "action": action,
            "previous": self._used[-1] if self._used else None,
            "sha256": version.sha256,
            "origin": version.origin,
            "note": note,
        }
        limit = None if version.threshold is None else version.threshold.score
        (row,) = self.record.append([Entry("model", body, model=version.ref, threshold=limit, who=who)])
        self.told(row)


def used(record: Record) -> list[str]:
    """The refs used one after the other, what was rolled back left out."""
    found: list[str] = []
    with record.reading() as connection:
        chosen = sa.select(records.c.model, records.c.body).where(records.c.kind == "model")
        for row in connection.execute(chosen.order_by(records.c.seq)):
            action = json.loads(row.body)["action"]
            if action == "use":
                found.append(row.model)
            elif action == "roll back" and len(found) > 1:
                found.pop()
    return found


def last_switch(record: Record) -> str | None:
    """When the model in use came into use; None before there was one."""
    with record.reading() as connection:
        chosen = sa.select(records.c.time, records.c.body).where(records.c.kind == "model")
        for row in connection.execute(chosen.order_by(records.c.seq.desc())):
            if json.loads(row.body)["action"] != "add":
                return str(row.time)
    return None


def ref_of(folder: str) -> str | None:
    """The ref of a bundle by the name of its folder; None for no name of one."""
    match = FOLDER.fullmatch(folder)
    return None if match is None else f"{match['name']}@{match['version'] or 1}"


def change_of(row: Row) -> dict[str, Any]:
    """A row of kind `model` as the API tells it."""
    body = json.loads(row["body"])
    return {
        "seq": row["seq"],
        "time": row["time"],
        "who": row["who"],
        "action": body["action"],
        "ref": row["model"],
        "previous": body["previous"],
        "threshold": row["threshold"],
        "note": body["note"],
    }


def _read(path: Path) -> Version | None:
    """What a folder's notes say; None where it is no bundle that can be read."""
    match = FOLDER.fullmatch(path.name)
    try:
        if special(path / NOTE) is not None:
            raise OSError(f"{path / NOTE} is no file")
        data = (path / NOTE).read_bytes()
        note = json.loads(data.decode("utf-8-sig"))
        note, lacks = _checked(path, note, data.decode("utf-8-sig"))
        facts = note["provenance"]
        about = json.loads((path / ABOUT).read_text(encoding="utf-8")) if (path / ABOUT).is_file() else {}
        if match is None:
            return None
        version = int(match["version"] or 1)
        return Version(
            ref=f"{match['name']}@{version}",
            name=match["name"],
            version=version,
            path=path,
            sha256=hashlib.sha256(data).hexdigest(),
            weights_sha256=str(note["weights_sha256"]),
            threshold=threshold_of(note),
            created=str(about.get("at") or facts.get("created") or ""),
            trained_on=facts.get("trained_on"),
            held_out_scores=tuple(float(value) for value in facts.get("held_out_scores") or ()),
            held_out_peaks=tuple(float(value) for value in facts.get("held_out_peaks") or ()),
            held_out_folders=int(facts.get("held_out_folders") or 0),
            set_aside=float(facts.get("set_aside_share") or 0),
            groups=Groups.of(facts),
            tail=_tail(path) if Groups.of(facts).count else "observed",
            origin=str(about.get("origin", "copied to the models folder")),
            by=str(about.get("by", "")),
            lacks=lacks or _lacks(path, note),
            white=_white(path, facts),
            smallest=_smallest(path, facts),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _checked(path: Path, note: dict[str, Any], text: str) -> tuple[dict[str, Any], str]:
    """(what a bundle says of itself, ""), or nothing of what cannot be trusted, and why."""
    _ = note["provenance"], note["threshold"]  # without them it is no bundle
    try:
        found = checked_facts(text, path / NOTE)
        if (path / "recipe.toml").is_file():
            check_texts(found, path)
        return found, ""
    except BundleError as problem:
        why = str(problem).removeprefix(f"{path}/").partition(";")[0]
        return {"provenance": {}, "threshold": None, "weights_sha256": ""}, why


def _tail(path: Path) -> Tail:
    """How the bundle's recipe reads a threshold off scores."""
    return "estimated" if _settings(path, "threshold").get("tail") == "estimated" else "observed"


def _white(path: Path, facts: dict[str, Any]) -> int:
    """The pixel value that is full white in photos with 16 bits."""
    level = _settings(path, "image").get("white")
    return level_in(facts, ImageSettings(white=level) if level in range(255, FULL + 1) else ImageSettings())


def _smallest(path: Path, facts: dict[str, Any]) -> int:
    """The smallest area of a place, in pixels."""
    try:
        return smallest_place(facts, PlaceSettings.model_validate(_settings(path, "verdict")))
    except ValueError:
        return PlaceSettings().pixels


def _settings(path: Path, section: str) -> dict[str, Any]:
    """A section of the bundle's recipe."""
    try:
        found = tomllib.loads((path / "recipe.toml").read_text(encoding="utf-8")).get(section, {})
    except (OSError, ValueError, RecursionError):  # what is wrong with the recipe is said where the bundle is opened
        return {}
    return found if isinstance(found, dict) else {}


def _lacks(path: Path, note: dict[str, Any]) -> str:
    """Which file that the notes tell of is missing or cut short, as while a bundle is copied; hashes are not taken."""
    from safetensors import SafetensorError, safe_open

    for name, entry in FILES.items():
        if entry and note.get(entry) is None:
            continue
        if not (path / name).is_file():
            return f"it has no {name}"
        if name.endswith(".safetensors"):
            try:
                with safe_open(path / name, "numpy"):
                    pass
            except (OSError, SafetensorError):
                return f"{name} is cut short or damaged"
    return ""

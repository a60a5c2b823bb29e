"""bundle.json, what a bundle says of itself: read with types and bounds, and sealed by a hash of its own. No torch.

Every other file of a bundle has its SHA-256 in bundle.json, and `facts_sha256` is that of all else in bundle.json: one
digit of a threshold changed by a bad disk or by hand would let defects pass in silence. Values are hashed, not bytes,
so that a mark at a text's beginning or other line ends, which copying may add, change nothing. Bundles of an earlier
flawmap have no such hashes; they are read by types and bounds alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from flawmap.config import PlaceSettings, smallest_area
from flawmap.errors import BundleError, first_line
from flawmap.measure.threshold import Threshold

FORMAT = 2  # raised when an older flawmap could no longer read what a newer one writes
SEALED_FROM = 3  # the first format that always has its hashes: a bundle of it without them was changed
NOTE = "bundle.json"
ABOUT = "station.json"  # where a version comes from, as a station notes it
SEAL = "facts_sha256"
RECIPE = "recipe.toml"
TEXTS = {RECIPE: "recipe_sha256", "metrics.jsonl": "metrics_sha256"}  # hashed as text; the second may be missing
NUMBERS = 1e300  # in bundle.json: none is larger, and each can be computed with as a float
ROUNDING = 1e-6  # by which a score of tiles blended together may lie beyond [0, 1]

Count = Annotated[int, Field(ge=0, le=10**9)]
Score = Annotated[float, Field(ge=-ROUNDING, le=1 + ROUNDING)]
Share = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(ge=1, le=10**7)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")


class _Threshold(_Strict):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

    score: Share
    pixel: Share
    overkill: Share
    held_out: Count
    supported: bool
    method: str
    note: str


class _Groups(_Strict):
    count: Count | None = None
    by: str | None = None


class _Place(_Strict):
    smallest: float | str
    mm_per_pixel: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _an_area(self) -> _Place:
        smallest_area(self.smallest, self.mm_per_pixel)
        return self


class _Provenance(_Strict):
    """What is computed with, of what a training tells of itself; all of it may be missing, as in older bundles."""

    flawmap: str | None = None
    created: str | None = None
    trained_on: Count | None = None
    held_out: Count | None = None
    calibration: str | None = None
    held_out_folders: Count | None = None
    minutes: Annotated[float, Field(ge=0)] | None = None
    held_out_scores: list[Score] | None = None
    held_out_peaks: list[Score] | None = None
    groups: _Groups | None = None
    good_photos: list[str] | None = None
    set_aside: list[str] | None = None
    set_aside_scores: list[Score] | None = None
    set_aside_sha256: list[str] | None = None
    set_aside_share: Share | None = None
    real_defects: list[str] | None = None
    evidence: dict[str, float] | None = None
    photo_size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    inspected_at: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    reconstruction_detail: float | None = None
    orientation: dict[str, Any] | None = None
    smallest_found: dict[str, Any] | None = None
    place: _Place | None = None
    backbone: dict[str, Any] | None = None
    taken_in: list[dict[str, Any]] | None = None

    @model_validator(mode="after")
    def _as_many(self) -> _Provenance:
        of_good, of_others = (self.held_out_scores, self.held_out_peaks), (self.set_aside, self.set_aside_scores)
        for lists in (of_good, (*of_others, self.set_aside_sha256)):
            if len({len(each) for each in lists if each is not None}) > 1:
                raise ValueError("of photos it has more scores than peaks, names or hashes, or fewer")
        return self


class _Note(_Strict):
    format: int
    refinement: bool
    weights_sha256: str
    threshold: _Threshold | None
    provenance: _Provenance


def smallest_place(provenance: Mapping[str, Any], settings: PlaceSettings) -> int:
    """The smallest area of a place in pixels of the photo: as it was set after the training, else by the recipe."""
    noted = provenance.get("place")
    try:
        return settings.pixels if noted is None else smallest_area(noted["smallest"], noted.get("mm_per_pixel", 0.0))
    except (ValueError, TypeError, LookupError, AttributeError):  # refused where a bundle is read
        return settings.pixels


def read_facts(path: Path) -> dict[str, Any]:
    """Read bundle.json of the bundle at `path`: with the types and bounds that it is computed with, and its own hash.

    Raises BundleError when there is none, or it was written by a newer flawmap, is damaged, or was changed.
    """
    file = path / NOTE
    if not path.is_dir() or not file.is_file():
        raise BundleError(f"{path} is not a bundle, which is a folder with {NOTE} in it; make one with flawmap train")
    try:
        return checked_facts(file.read_text(encoding="utf-8-sig"), file)
    except (OSError, UnicodeDecodeError) as problem:
        raise BundleError(f"{file} cannot be read: {first_line(problem)}; copy the bundle again") from problem


def checked_facts(text: str, file: Path) -> dict[str, Any]:
    """What the `text` of a bundle.json says, checked as `read_facts` does; `file` is named in a BundleError."""
    try:
        note = json.loads(text)
        _check_numbers(note)
    except (ValueError, RecursionError) as problem:
        raise BundleError(f"{file} cannot be read: {first_line(problem)}; copy the bundle again") from problem
    if isinstance(note, dict) and type(note.get("format")) is int:
        check_format(note["format"], file)
    _validated(note, file)
    _check_sealed(note, file)
    if note.get(SEAL, seal_of(note)) != seal_of(note):
        raise BundleError(
            f"{file} was changed since flawmap wrote it (by hand, a faulty disk or an earlier flawmap), so its "
            "threshold cannot be trusted; copy the bundle again, or train it anew"
        )
    found: dict[str, Any] = note
    return found


def _check_sealed(note: Mapping[str, Any], file: Path) -> None:
    """Raises BundleError where hashes are missing of a format that always has them."""
    missing = [entry for entry in (SEAL, TEXTS[RECIPE]) if not isinstance(note.get(entry), str)]
    if note["format"] >= SEALED_FROM and missing:
        raise BundleError(
            f"{file} lacks {missing[0]}, which flawmap writes into every bundle of format {note['format']}, so its "
            "threshold cannot be trusted; copy the bundle again, or train it anew"
        )


def check_format(found: int, file: Path) -> None:
    """Raises BundleError for a format that this flawmap does not read."""
    if found > FORMAT:
        raise BundleError(f"{file} is of format {found}, and this flawmap reads up to {FORMAT}; update flawmap")
    if found < 1:
        raise BundleError(f"{file} does not say a format flawmap knows; it was not written by flawmap")


def sealed(note: Mapping[str, Any], folder: Path) -> str:
    """The text of bundle.json for `note`, with the hashes of the texts in the bundle's `folder` and its own.

    Raises BundleError when a text cannot be read, ValueError for a number that is not finite.
    """
    facts = {name: value for name, value in note.items() if name != SEAL}
    for name, entry in TEXTS.items():
        if (folder / name).is_file():
            facts.setdefault(entry, text_sha256(folder / name))
    facts[SEAL] = seal_of(facts)
    return json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def seal_of(note: Mapping[str, Any]) -> str:
    """SHA-256 of all values of `note` but the seal itself, whatever their order and the way they are written."""
    facts = {name: value for name, value in note.items() if name != SEAL}
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def text_sha256(file: Path) -> str:
    """SHA-256 of a text, which other line ends or a mark at its beginning do not change. Raises BundleError."""
    try:
        data = file.read_bytes()
    except OSError as problem:
        raise BundleError(f"{file} cannot be read: {first_line(problem)}; copy the bundle again") from problem
    return hashlib.sha256(data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")).hexdigest()


def check_texts(note: Mapping[str, Any], path: Path) -> None:
    """Raises BundleError when a text of the bundle at `path` is not the one that `note` has the hash of."""
    for name, entry in TEXTS.items():
        there = (path / name).is_file()
        if there and note["format"] >= SEALED_FROM and note.get(entry) is None:
            raise BundleError(f"{path / name} has no hash in {NOTE}, so it was added or changed; copy the bundle again")
        if note.get(entry) is not None and there and text_sha256(path / name) != note[entry]:
            raise BundleError(
                f"{path / name} was changed since flawmap wrote it; copy the bundle again, or train it anew"
            )


def threshold_of(note: Mapping[str, Any]) -> Threshold | None:
    """The threshold of what `read_facts` gives."""
    return None if note["threshold"] is None else Threshold(**note["threshold"])


def facts_of(threshold: Threshold | None) -> dict[str, Any] | None:
    """A threshold as it stands in bundle.json."""
    return None if threshold is None else dataclasses.asdict(threshold)


def _validated(note: Any, file: Path) -> None:
    try:
        _Note.model_validate(note)
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "what it holds"
        if first["loc"][:1] == ("threshold",) and first["type"] != "missing":
            why = f"has a threshold that is not understood ({where}: {first['msg']})"
            raise BundleError(f"{file} {why}; copy the bundle again, or train it anew") from problem
        why = f"lacks {where}" if first["type"] == "missing" else f"is damaged ({where}: {first['msg']})"
        raise BundleError(f"{file} {why}; copy the bundle again, or train it anew") from problem


def _check_numbers(value: Any, where: str = "") -> None:
    """Raises ValueError for a number that is not finite, or too large to compute with."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inside:
        _check_numbers(each, f"{where}.{name}" if where else str(name))
    if isinstance(value, int | float) and not (abs(value) <= NUMBERS and math.isfinite(value)):
        raise ValueError(f"{where} is no finite number, or too large")

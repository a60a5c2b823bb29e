"""Photos to train on, as somebody drops them: kept under generated ids, looked at for what is wrong with them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flawmap.data.images import decode_pixels, header_of
from flawmap.errors import ImageError, StationError
from flawmap.station.drawing import thumbnail_jpeg
from flawmap.station.files import SUFFIXES, is_id, new_id, private, write_whole
from flawmap.station.pairing import is_named_as_mask, look_of, masks_among
from flawmap.station.record import now
from flawmap.station.settings import LimitSettings

KINDS = ("good", "defective")  # as they are sent; among the defective ones are "mask" too
NOTE = "dataset.json"
GENTLY = ("nice", "-n", "10") if shutil.which("nice") else ()  # begins a command that must not delay the line
WORDS = {  # of a summary: one, several
    "duplicate": ("photo is there twice", "photos are there twice"),
    "size": ("photo has another size", "photos have another size"),
    "blurred": ("photo is blurred", "photos are blurred"),
    "exposure": ("photo is lit otherwise", "photos are lit otherwise"),
    "outlier": ("good photo looks unlike the others", "good photos look unlike the others"),
    "unreadable": ("photo cannot be read", "photos cannot be read"),
    "depth": ("photo is stored otherwise", "photos are stored otherwise"),
    "mask": ("mask has no photo", "masks have no photo"),
}

DataSet = dict[str, Any]
Problem = dict[str, Any]
Suspect = Callable[[str, bytes], Problem | None]


def problem(kind: str, text: str, code: str, **values: str | float) -> Problem:
    """What is wrong with a photo: in words, and as a code with its figures for a page in another language."""
    return {"kind": kind, "text": text, "code": code, "values": values}


class DataSets:
    """Data sets in one folder. Threads may share it. `suspect` says of a good photo of a
    part, by the data set's name, that it looks defective, or None."""

    def __init__(self, folder: Path, limits: LimitSettings) -> None:
        self.folder, self.limits = folder, limits
        self.suspect: Suspect = lambda name, data: None
        self._lock = threading.RLock()
        self._checking: set[str] = set()

    def all(self) -> list[DataSet]:
        """All data sets without their photos, newest first."""
        found = []
        for file in self.folder.glob(f"*/{NOTE}") if self.folder.is_dir() else ():
            with contextlib.suppress(StationError):
                found.append({name: value for name, value in self.get(file.parent.name).items() if name != "photos"})
        return sorted(found, key=lambda one: one["created"], reverse=True)

    def get(self, ident: str) -> DataSet:
        """A data set with its photos. Raises StationError (404)."""
        with self._lock:
            note = self._read(ident)
        photos = note["photos"]
        counts = Counter(photo["kind"] for photo in photos)
        problems = Counter(kind for photo in photos for kind in {problem["kind"] for problem in photo["problems"]})
        summary = [f"{count} {WORDS[kind][count > 1]}" for kind, count in sorted(problems.items())]
        known = {kind: counts[kind] for kind in KINDS} | {"masks": counts["mask"]}
        photos = [{name: value for name, value in photo.items() if name != "look"} for photo in photos]
        return {**note, **known, "checking": ident in self._checking, "summary": summary, "photos": photos}

    def make(self, name: str) -> DataSet:
        """A new, empty data set."""
        ident = new_id()
        for kind in KINDS:
            private(self.folder)
            private(self.folder / ident)
            private(self.folder / ident / kind)
        self._write({"id": ident, "name": name, "created": now(), "checked": False, "photos": []})
        return self.get(ident)

    def remove(self, ident: str) -> None:
        """Forget a data set."""
        with self._lock:
            self._read(ident)
            shutil.rmtree(self.folder / ident, ignore_errors=True)

    def add(self, ident: str, kind: str, name: str, data: bytes) -> dict[str, Any]:
        """Keep a photo, or a mask of a defective one, which its name and look tell. Raises StationError for what is
        neither, or cannot be read whole."""
        if len(data) > self.limits.bytes:
            raise StationError(f"more than {self.limits.bytes} bytes", 413, code="bytes", limit=self.limits.bytes)
        try:
            header = header_of(data, "photo")
        except ImageError as problem:
            raise StationError(str(problem).removeprefix("photo: "), 415, code="no-image") from problem
        if header.width * header.height > self.limits.pixels:
            raise too_many_pixels(header.width, header.height, self.limits.pixels)
        try:
            decode_pixels(data, "the photo")
        except ImageError as problem:  # a training would end at it
            raise StationError(str(problem).removeprefix("the photo: "), 422, code="unreadable") from problem
        photo = {
            "id": new_id(), "kind": kind, "name": name[-200:], "width": header.width, "height": header.height,
            "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "problems": [],
            "file": SUFFIXES[header.kind],
        }  # fmt: skip
        with self._lock:
            self._read(ident)
            file = self._file(ident, photo)
            write_whole(file, data)
        if kind != "good" or is_named_as_mask(photo):
            photo["look"] = look_of(file)
        with self._lock:
            note = self._read(ident)
            if kind == "good" and _is_mask_of_good(photo, note["photos"]):
                file.unlink()
                text = "a mask by its name and look; good photos need none, send it with the defective ones"
                raise StationError(text, 422, code="mask")
            photos = _with_masks([*note["photos"], photo])
            self._write({**note, "checked": False, "photos": photos})
        return {name: value for name, value in photos[-1].items() if name != "look"}

    def photo(self, ident: str, photo: str) -> Path:
        """The file of a photo. Raises StationError (404)."""
        found = next((one for one in self._read(ident)["photos"] if one["id"] == photo), None)
        if found is None:
            raise StationError("there is no such photo", 404, code="gone")
        return self._file(ident, found)

    def remove_photo(self, ident: str, photo: str) -> None:
        """Forget a photo. Raises StationError (404)."""
        with self._lock:
            file, note = self.photo(ident, photo), self._read(ident)
            self._write({**note, "photos": _with_masks(one for one in note["photos"] if one["id"] != photo)})
            file.unlink(missing_ok=True)

    def thumbnail(self, ident: str, photo: str) -> bytes:
        """A photo, small."""
        return thumbnail_jpeg(self.photo(ident, photo).read_bytes())

    def files(self, ident: str) -> dict[str, Path]:
        """Files to train on by where they go: good/ID.png, defective/ID.png, its masks as defective/ID_mask_1.png.

        Masks without a photo are none of them. Raises StationError (404).
        """
        photos = self._read(ident)["photos"]
        found = {}
        numbers: Counter[str] = Counter()
        for photo in photos:
            name = photo["id"]
            if photo["kind"] == "mask":
                if photo["of"] is None:
                    continue
                numbers[photo["of"]] += 1
                name = f"{photo['of']}_mask_{numbers[photo['of']]}"
            file = self._file(ident, photo)
            found[f"{file.parent.name}/{name}{photo['file']}"] = file
        return found

    def check(self, ident: str) -> None:
        """Find what is wrong with the photos, in the background. Raises StationError (409) while that goes on."""
        with self._lock:
            self._read(ident)
            if ident in self._checking:
                raise StationError("the photos are being checked already", 409, code="checking")
            self._checking.add(ident)
        threading.Thread(target=self._check, args=(ident,), daemon=True).start()

    def _check(self, ident: str) -> None:
        try:
            note = self._read(ident)
            found: dict[str, list[Problem]] = {photo["id"]: [] for photo in note["photos"]}
            _alike([photo for photo in note["photos"] if photo["kind"] != "mask"], found)
            for photo in note["photos"]:
                if photo["kind"] == "mask" and photo["of"] is None:
                    text = "a mask, but no defective photo has its name and size; it is not learnt from"
                    found[photo["id"]].append(problem("mask", text, "mask-alone"))
            for line in self._figures(ident, note):
                if line["photo"] in found:
                    found[line.pop("photo")].append(line)
            for photo in note["photos"]:
                if photo["kind"] == "good" and not any(one["kind"] == "unreadable" for one in found[photo["id"]]):
                    with contextlib.suppress(StationError, OSError):
                        if one := self.suspect(note["name"], self._file(ident, photo).read_bytes()):
                            found[photo["id"]].append(one)
            with self._lock:
                note = self._read(ident)  # photos may have come or gone
                photos = [{**photo, "problems": found.get(photo["id"], [])} for photo in note["photos"]]
                whole = all(photo["id"] in found for photo in note["photos"])
                self._write({**note, "checked": whole, "photos": photos})
        except StationError:
            pass  # it was removed meanwhile
        finally:
            self._checking.discard(ident)

    def _figures(self, ident: str, note: DataSet) -> list[Problem]:
        """What `flawmap.station.checking` says of the photos, in a process of its own."""
        words = [*GENTLY, sys.executable, "-m", "flawmap.station.checking", str(self.folder / ident / "good")]
        others = [str(self._file(ident, photo)) for photo in note["photos"] if photo["kind"] == "defective"]
        done = subprocess.run(words, input=json.dumps(others), capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def _file(self, ident: str, photo: dict[str, Any]) -> Path:
        kind = "good" if photo["kind"] == "good" else "defective"
        return self.folder / ident / kind / f"{photo['id']}{photo['file']}"

    def _read(self, ident: str) -> DataSet:
        try:
            if not is_id(ident):
                raise FileNotFoundError
            note: DataSet = json.loads((self.folder / ident / NOTE).read_text(encoding="utf-8"))
            return note
        except (OSError, ValueError) as problem:
            raise StationError("there is no such data set", 404, code="gone") from problem

    def _write(self, note: DataSet) -> None:
        write_whole(self.folder / note["id"] / NOTE, json.dumps(note).encode())


def too_many_pixels(width: int, height: int, limit: int) -> StationError:
    """What is answered to an image of more than `limit` pixels."""
    text = f"the image has {width}x{height} pixels, the limit is {limit}"
    return StationError(text, 413, code="pixels", width=width, height=height, limit=limit)


def _with_masks(photos: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The photos, the defective ones told from their masks anew: kind, and of a mask the id of its photo, or None."""
    photos = list(photos)
    masks = masks_among(photo for photo in photos if photo["kind"] != "good")
    plain = [{name: value for name, value in photo.items() if name != "of"} for photo in photos]
    return [
        {**photo, "kind": "mask", "of": masks[photo["id"]]}
        if photo["id"] in masks
        else {**photo, "kind": "good" if photo["kind"] == "good" else "defective"}
        for photo in plain
    ]


def _is_mask_of_good(photo: dict[str, Any], photos: list[dict[str, Any]]) -> bool:
    """Whether a picture sent as a good photo is a mask: named NAME_mask or NAME_gt, or as the mask of a good photo."""
    if photo.get("look", {"kind": "photo"})["kind"] == "photo":
        return False
    masks = masks_among([*(one for one in photos if one["kind"] == "good"), photo])
    alone = masks_among([{**photo, "look": {"kind": "even", "calm": 1.0}}])  # only a name that is sure tells then
    return masks.get(photo["id"]) is not None or photo["id"] in alone


def _alike(photos: list[dict[str, Any]], found: dict[str, list[Problem]]) -> None:
    """Photos that are there twice, and those of another size than most."""
    first: dict[str, str] = {}
    sizes = Counter((photo["width"], photo["height"]) for photo in photos)
    usual = sizes.most_common(1)[0][0] if sizes else (0, 0)
    for photo in photos:
        if photo["sha256"] in first:
            other = first[photo["sha256"]]
            found[photo["id"]].append(problem("duplicate", f"the same file as {other}", "duplicate", other=other))
        first.setdefault(photo["sha256"], photo["name"] or photo["id"])
        if (photo["width"], photo["height"]) != usual:
            size, most = f"{photo['width']}x{photo['height']}", f"{usual[0]}x{usual[1]}"
            text = f"{size} pixels, most have {most}"
            found[photo["id"]].append(problem("size", text, "size", size=size, most=most))

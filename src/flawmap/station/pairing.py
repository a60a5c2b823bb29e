"""Masks among the defective photos of a data set, told by their names and looks as in folders (layouts/truth.py).

Names are those that whoever sent the files calls them by; what a picture looks like is noted when it comes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from flawmap.data.drawn import Look, look
from flawmap.data.layouts.names import inner_stems, marked_stem, mask_stems

Photo = dict[str, Any]  # as in a data set's note


def look_of(path: Path) -> dict[str, Any]:
    """What is noted of how a picture looks: kind and calm of `data.drawn.Look`."""
    seen = look(path)
    return {"kind": seen.kind, "calm": round(seen.calm, 4)}


def masks_among(photos: Iterable[Photo]) -> dict[str, str | None]:
    """Ids of the pictures that are masks, each with the id of its photo; None where no photo has its name and size.

    A mask is NAME_mask or NAME_gt, or holds the photo's NAME in another way, or is of the same name, where it is drawn
    as masks are and the photo is not.
    """
    photos = list(photos)
    by_stem: dict[str, list[Photo]] = defaultdict(list)
    for photo in photos:
        if _look(photo).kind not in ("even", "drawn"):
            by_stem[_stem(photo).casefold()].append(photo)
    found: dict[str, str | None] = {}
    for photo in photos:
        seen, stem = _look(photo), _stem(photo)
        named = marked_stem(stem)
        sure = named is not None and named[1]
        if seen.kind == "photo" and not sure:
            continue
        stems = dict.fromkeys((*mask_stems(stem), *inner_stems(stem)))
        others = [one for each in stems for one in by_stem.get(each, ()) if one is not photo]
        of = next((one for one in others if _look(one).size == seen.size and _fits(seen, _look(one), named)), None)
        if of is not None:
            found[photo["id"]] = str(of["id"])
        elif (sure and seen.kind != "photo") or (named is not None and seen.kind == "drawn"):
            found[photo["id"]] = None
    return {mask: None if of in found else of for mask, of in found.items()}


def is_named_as_mask(photo: Photo) -> bool:
    """Whether a picture's name ends or begins as a mask's."""
    return marked_stem(_stem(photo)) is not None


def _fits(seen: Look, photo: Look, named: tuple[str, bool] | None) -> bool:
    if named is not None and named[1]:
        return True
    if seen.kind == "even":  # marks nothing, if it is a mask
        return named is not None
    return seen.is_mask_beside(photo) is True


def _stem(photo: Photo) -> str:
    return PurePosixPath(str(photo["name"]).replace("\\", "/")).stem


def _look(photo: Photo) -> Look:
    """What is noted; pictures of before are photos."""
    noted = photo.get("look") or {"kind": "photo", "calm": 0.0}
    return Look(noted["kind"], noted["calm"], (photo["height"], photo["width"]))

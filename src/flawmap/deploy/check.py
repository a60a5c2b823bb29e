"""Check photos before anyone trusts verdicts on them: which are unlike the good ones, and whether all have drifted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flawmap.bundle import Bundle
from flawmap.data.pictures import pictures_of
from flawmap.data.scope import Scope
from flawmap.devices import pick_device
from flawmap.errors import BundleError, DataError, ImageError
from flawmap.measure.photos import KINDS, MANY, TILES, Drift, Floats, GoodPhotos, Oddity, drift, oddities, take
from flawmap.tables import Figure, TableWriter


@dataclass(frozen=True)
class Checked:
    """One photo. figures: (S,) by the names in KINDS, None with an `error`; odd: what is unlike the good photos."""

    image: Path
    figures: Floats | None
    odd: list[Oddity]
    error: str = ""

    def __repr__(self) -> str:
        told = self.error or ", ".join(str(odd) for odd in self.odd) or "like the good photos"
        return f"<Checked {self.image}: {told}>"


def photos_of(bundle: Bundle, name: str | Path) -> GoodPhotos:
    """What the bundle knows of its good photos. Raises BundleError when that is nothing."""
    if bundle.photos is None:
        raise BundleError(f"{name} does not know what its good photos were like; train it again with this flawmap")
    return bundle.photos


def check_photos(bundle: Bundle, good: GoodPhotos, paths: Sequence[Path], device: str = "auto") -> Iterator[Checked]:
    """Check photos in order, one in memory at a time. One that cannot be read has its error, and the others go on."""
    place = pick_device(device)
    model = bundle.model.to(place).eval()
    recipe, scope = bundle.recipe, Scope(bundle.recipe.image, bundle.ignore)
    for path in paths:
        try:
            raw = take(
                pictures_of(path, recipe.image, scope, TILES, bundle.white), model.discrete, place, model.reduction
            )
        except ImageError as problem:
            yield Checked(path, None, [], str(problem))
            continue
        figures = good.measure(raw)
        yield Checked(path, figures, oddities(good, figures))


def drift_of(good: GoodPhotos, checked: Sequence[Checked]) -> Drift | None:
    """How far the photos have drifted; None for fewer than MANY of them."""
    figures = [photo.figures for photo in checked if photo.figures is not None]
    return drift(good, np.array(figures)) if len(figures) >= MANY else None


def write_table(file: Path, checked: Sequence[Checked]) -> None:
    """A row a photo: its figures, what is odd, what is wrong. Raises DataError when it cannot be written."""
    try:
        with file.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            writer = TableWriter(stream)
            writer.writerow(["image", *KINDS, "odd", "error"])
            for photo in checked:
                values = [None] * len(KINDS) if photo.figures is None else photo.figures
                figures = [None if value is None else Figure(f"{value:.6g}") for value in values]
                writer.writerow([photo.image, *figures, "; ".join(map(str, photo.odd)), photo.error])
    except OSError as problem:
        raise DataError(f"cannot write {file}: {problem.strerror}") from problem

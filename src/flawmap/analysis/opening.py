"""What the functions of this package are given, opened: bundles by their folders, photos by files and folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

from flawmap.bundle import Bundle, load_bundle
from flawmap.data.layouts import gather
from flawmap.deploy.inspector import Inspector
from flawmap.deploy.inspector import inspector_of as inspector_of
from flawmap.errors import ConfigError, DataError
from flawmap.given import place_given

Named: TypeAlias = "str | PathLike[str]"
Photos: TypeAlias = "Named | Iterable[Named]"
Say: TypeAlias = Callable[[str], object]
Item = TypeVar("Item")


class Watch(Protocol):
    """Makes a list of `items`, about `total` of them, and may show meanwhile how far it is with `what`."""

    def __call__(self, items: Iterable[Item], total: int, what: str) -> list[Item]:
        """All of the items."""


def silent(line: str) -> None:
    """Say nothing."""


def unwatched(items: Iterable[Item], total: int, what: str) -> list[Item]:
    """The list without a word."""
    return list(items)


def bundle_of(bundle: Bundle | Inspector | Named) -> tuple[Bundle, str]:
    """A bundle and what messages call it. Raises BundleError."""
    if isinstance(bundle, Inspector):
        return bundle.bundle, bundle.source or "the bundle"
    if isinstance(bundle, Bundle):
        return bundle, "the bundle"
    return load_bundle(bundle), str(bundle)


def photos_of(photos: Photos, say: Say = silent) -> list[Path]:
    """Files, and the images below folders, each once; `say` is told what is passed over. Raises DataError."""
    if not isinstance(photos, str | PathLike | Iterable):
        raise DataError(f"photos are files and folders, as text or Path, not {type(photos).__name__}")
    found = gather([photos] if isinstance(photos, str | PathLike) else list(photos))
    for line in found.sentences():
        say(line)
    return found.images


def place_of(photos: Photos) -> str:
    """Where photos are, as a page tells it: what was given, or the folder that holds all of several."""
    if isinstance(photos, str | PathLike):
        return str(photos)
    several = [os.path.abspath(path) for path in photos]
    return os.path.commonpath(several) if len(several) != 1 else str(several[0])


def out_of(out: Named | None) -> Path | None:
    """Where something is to be written, if anywhere. Raises ConfigError."""
    return None if out is None else place_given(out, "out", ConfigError)


def refuse_file(file: Path, overwrite: bool) -> None:
    """Raises ConfigError for a file that is there, unless `overwrite` is given."""
    if file.exists() and not overwrite:
        raise ConfigError(f"{file} exists; choose another --out, or --overwrite it")

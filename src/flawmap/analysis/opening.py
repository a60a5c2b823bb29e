"""What the functions of this package are given, opened: bundles by their folders, photos by files and folders."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from flawmap.bundle import Bundle, load_bundle
from flawmap.data.layouts import find_images
from flawmap.deploy.inspector import Inspector, load
from flawmap.errors import BundleError

Named: TypeAlias = "str | PathLike[str]"
Photos: TypeAlias = "Named | Iterable[Named]"


def inspector_of(bundle: Inspector | Named, device: str = "auto") -> Inspector:
    """An inspector, or one of the bundle in a folder. Raises BundleError, ConfigError."""
    return bundle if isinstance(bundle, Inspector) else load(bundle, device)


def bundle_of(bundle: Bundle | Inspector | Named) -> tuple[Bundle, str]:
    """A bundle and what messages call it. Raises BundleError."""
    if isinstance(bundle, Inspector):
        return bundle.bundle, "the bundle"
    if isinstance(bundle, Bundle):
        return bundle, "the bundle"
    return load_bundle(Path(bundle)), str(bundle)


def photos_of(photos: Photos) -> list[Path]:
    """Files, and the images below folders, each once. Raises DataError."""
    return find_images([Path(path) for path in ([photos] if isinstance(photos, str | PathLike) else photos)])


def refuse_file(file: Path, overwrite: bool) -> None:
    """Raises BundleError for a file that is there, unless `overwrite` is given."""
    if file.exists() and not overwrite:
        raise BundleError(f"{file} exists; choose another, or overwrite it")

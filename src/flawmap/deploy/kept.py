"""Exports kept for `--runtime`: a bundle is exported on first use, checked as `flawmap export` does, then found again.

They lie in the user's cache, as a bundle may be read-only: XDG_CACHE_HOME/flawmap, else ~/.cache/flawmap; whatever is
there can be deleted at any time, and what was not used for UNUSED days is, when something new is kept. A folder is
named by the hash of all that its artefact follows from: weights, recipe, the code and versions it was made by, and the
CPU it was checked on. So none can be stale, only unused. It appears whole or not at all, and is compared with the note
in it before each use. The threshold is not among these facts: the verdict is the inspector's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from flawmap import __version__
from flawmap.bundle import BACKBONE, WEIGHTS, Bundle, sha256
from flawmap.config import dump_recipe
from flawmap.deploy.artefact import BFLOAT16, PACKAGES, GraphRuntime, package
from flawmap.devices import has_fast_bfloat16
from flawmap.errors import BundleError, ConfigError, DisagreementError

NOTE = "kept.json"
SAVING = ".saving-"  # begins the name of what is being written
DAY = 24 * 60 * 60  # seconds after which what is still being written was left by a killed process
UNUSED = 90  # days after which an export is removed

Facts = dict[str, Any]
Say = Callable[[str], object]


def open_kept(
    source: Path, bundle: Bundle, kind: str, threads: int, say: Say, precision: str = "float32"
) -> GraphRuntime:
    """The runtime `kind`, onnx or openvino, of `bundle`, which was read from `source`; exported when it is not kept.

    `precision`: `float32`, or `bfloat16` of openvino. `say` is told of an export. Raises ConfigError when a package is
    missing or the precision cannot be had, DisagreementError when the export does not find what PyTorch finds,
    BundleError when it cannot be kept.
    """
    facts = {"runtime": kind, **facts_of(source, bundle), "versions": versions(("torch", *PACKAGES[kind]))}
    if precision == BFLOAT16:
        if not has_fast_bfloat16(torch.device("cpu")):
            raise ConfigError("the processor here does not multiply bfloat16, which would be slow; use float32")
        facts["precision"] = precision
    place = cache_folder() / "exports" / f"{kind}-{digest(facts)}"
    file = _whole(place, facts)
    if file is None:
        for name in PACKAGES[kind]:
            package(name)
        say(f"exporting {source} to {kind}, which is done once and takes a while")
        file = _export(source, kind, place, facts, precision == BFLOAT16)
    return GraphRuntime(file, threads)


def cache_folder() -> Path:
    """Where flawmap keeps what it can make again. Raises ConfigError."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:  # a relative path is to be ignored (XDG Base Directory Specification)
        return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "flawmap"
    except RuntimeError as problem:
        raise ConfigError(
            "this user has no home folder; set XDG_CACHE_HOME to a folder to keep exports in"
        ) from problem


def facts_of(source: Path, bundle: Bundle) -> Facts:
    """What the network of a bundle is, what code computes it, and on which CPU. Raises BundleError."""
    try:
        weights = sha256(source / WEIGHTS)
        backbone = sha256(source / BACKBONE) if (source / BACKBONE).is_file() else ""
    except OSError as problem:
        raise BundleError(f"{source / WEIGHTS} cannot be read: {problem.strerror}") from problem
    return {
        "weights_sha256": weights,
        "recipe": dump_recipe(bundle.recipe),
        **({"backbone_json_sha256": backbone} if backbone else {}),
        "flawmap": __version__,
        "code_sha256": _code(),
        "cpu": cpu(),
    }


def versions(names: Iterable[str]) -> dict[str, str]:
    """Versions of packages. Raises ConfigError for one that is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # perhaps installed under another name, as onnxruntime-gpu is
            found[name] = str(package(name).__version__)
    return found


@functools.cache
def cpu() -> str:
    """The model of this machine's CPU, as far as the system tells."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def digest(facts: Facts) -> str:
    """A name for facts: other facts, another name."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def _code() -> str:
    """Hash of the modules that the network and its export are made by; they may change within a version."""
    package_folder = Path(__file__).parents[1]
    files = sorted(file for name in ("model", "deploy") for file in (package_folder / name).glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _whole(place: Path, facts: Facts) -> Path | None:
    """The artefact's file in `place`, None unless all is there as the note says."""
    try:
        note = json.loads((place / NOTE).read_text(encoding="utf-8"))
        if note["facts"] != facts or any(sha256(place / name) != known for name, known in note["files"].items()):
            return None
        with contextlib.suppress(OSError):
            os.utime(place / NOTE)  # when it was last used
        return place / str(note["artefact"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _export(source: Path, kind: str, place: Path, facts: Facts, bfloat16: bool) -> Path:
    """Make `place`, in one move; returns the artefact's file."""
    from flawmap.deploy.export import export

    root = place.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        with tempfile.TemporaryDirectory(prefix=SAVING, dir=root) as folder:
            saving = Path(folder) / place.name
            out = saving / ("network.onnx" if kind == "onnx" else "network")
            made = export(source, kind, out, bfloat16=bfloat16)
            if any(made.about[name] != facts[name] for name in ("weights_sha256", "recipe")):
                raise BundleError(f"{source} changed while it was being exported; try again")
            files = sorted(path for path in saving.rglob("*") if path.is_file())
            note = {
                "facts": facts,
                "check": str(made.check),
                "artefact": made.file.relative_to(saving.absolute()).as_posix(),
                "files": {path.relative_to(saving).as_posix(): sha256(path) for path in files},
            }
            (saving / NOTE).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
            if place.exists() and _whole(place, facts) is None:
                place.rename(Path(folder) / "damaged")
            with contextlib.suppress(OSError):  # another process may have been first
                saving.rename(place)
    except DisagreementError as problem:
        message = f"the export of {source} to {kind} is refused: {problem.fault}; use the runtime torch"
        raise DisagreementError(message, problem.fault) from problem
    except OSError as problem:
        raise BundleError(_unwritable(root, problem)) from problem
    file = _whole(place, facts)
    if file is None:
        raise BundleError(_unwritable(root, None))
    return file


def _unwritable(folder: Path, problem: OSError | None) -> str:
    why = f": {problem.strerror or problem}" if problem else ""
    return f"cannot keep an export in {folder}{why}; set XDG_CACHE_HOME to a folder that can be written"


def _sweep(root: Path) -> None:
    """Remove what killed processes left half-written, and what nobody used for long."""
    kept = [(left, left, DAY) for left in root.glob(f"{SAVING}*")]
    kept += [(note.parent, note, UNUSED * DAY) for note in root.glob(f"*/{NOTE}") if note.parent.name[0] != "."]
    for folder, touched, age in kept:
        with contextlib.suppress(OSError):
            if time.time() - touched.stat().st_mtime > age:
                shutil.rmtree(folder, ignore_errors=True)

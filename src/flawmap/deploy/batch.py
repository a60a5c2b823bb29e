"""Inspect any number of files: a line of results as each image is done, its map and overlay, and a report at the end.

Nothing is skipped in silence: a file that cannot be inspected has its own line, with what is wrong in `error`.
Memory does not grow with the number of images; the report shows the highest scores only.
"""

from __future__ import annotations

import heapq
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.bundle import Bundle
from flawmap.data.images import Stored, colour_map, encode_jpeg, overlay, to_uint8, write_image
from flawmap.data.remarks import collected
from flawmap.data.white import FULL
from flawmap.deploy.inspector import Inspection, Inspector
from flawmap.errors import DataError, ImageError
from flawmap.measure.orientation import LABEL as ORIENTATION_LABEL
from flawmap.measure.orientation import orientation_of
from flawmap.measure.reconstruction import DETAIL, worth_drawing
from flawmap.measure.report import ReportImage, render_report
from flawmap.measure.scores import Region
from flawmap.measure.smallest import LABEL, smallest_of
from flawmap.measure.threshold import Groups
from flawmap.measure.tiled import preview_factor, reduced_map
from flawmap.tables import Figure, TableWriter

COLUMNS = ("image", "score", "threshold", "defective", "regions", "map", "overlay", "error", "p_value", "remarks")
FILES = ("results.csv", "results.jsonl", "report.html", "lot.csv")
FOLDERS = ("maps", "overlays")
SHOWN = 60  # images in the report, highest scores first
STEM = 40  # letters of a file's name kept in the name of its map; file systems allow 255 bytes


@dataclass(frozen=True)
class Result:
    """One image's line. score: in [0, 1], None with an `error`; map, overlay: paths relative to the results' folder.

    p_value: the chance that a good part scores as high (`Inspection.p_value`); remarks: as `Inspection.remarks`
    """

    image: Path
    score: float | None = None
    threshold: float | None = None
    defective: bool | None = None
    regions: tuple[Region, ...] = ()
    map: str = ""
    overlay: str = ""
    error: str = ""
    p_value: float | None = None
    remarks: tuple[str, ...] = ()


def inspect_files(inspector: Inspector, paths: Sequence[Path], batch: int = 0) -> Iterator[Result]:
    """Inspect files in order, keeping nothing."""
    for path, _, found in _inspected(inspector, paths, batch):
        yield _result(path, found)


def inspect_to_folder(
    inspector: Inspector, paths: Sequence[Path], out: Path, batch: int = 0, overwrite: bool = False
) -> Iterator[Result]:
    """Inspect files in order and write to the folder `out`, a line at a time: results.csv, results.jsonl, maps/,
    overlays/, and in the end report.html.

    Raises DataError when `out` is not empty and `overwrite` is not given, or cannot be written.
    """
    prepare_folder(out, (*FILES, *FOLDERS), overwrite)
    try:
        yield from _write_all(inspector, paths, out, batch)
    except OSError as problem:
        raise DataError(f"cannot write to {out}: {problem.strerror or problem}") from problem


def own_images(paths: Sequence[Path], out: Path) -> set[Path]:
    """Those of `paths` that are maps and overlays in the results' folder `out`."""
    folders = [(out / name).resolve() for name in FOLDERS]
    return {path for path in paths if any(path.resolve().is_relative_to(folder) for folder in folders)}


@contextmanager
def unless_refused(out: Path | None) -> Iterator[None]:
    """Take away again the folder `out` and those above it that were made within, where it ends in an error and they
    are empty."""
    new = [] if out is None else [each for each in (out, *out.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        with suppress(OSError):  # it holds something, or was not made
            for each in new:
                each.rmdir()
        raise


def refuse_folder(out: Path, overwrite: bool) -> None:
    """Raises DataError for a folder that is not empty, unless `overwrite` is given. Nothing is changed."""
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
            raise DataError(f"{out} exists and is not empty; choose another --out, or --overwrite it")
    except OSError as problem:
        raise DataError(f"cannot write to {out}: {problem.strerror or problem}") from problem


def prepare_folder(out: Path, own: Sequence[str], overwrite: bool) -> None:
    """Make the folder `out`; when it is not empty, remove what an earlier run left there (the names `own`).

    Raises DataError when it is not empty and `overwrite` is not given.
    """
    refuse_folder(out, overwrite)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in own:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            else:
                (out / name).unlink(missing_ok=True)
    except OSError as problem:
        raise DataError(f"cannot write to {out}: {problem.strerror or problem}") from problem


def _write_all(inspector: Inspector, paths: Sequence[Path], out: Path, batch: int) -> Iterator[Result]:
    for name in FOLDERS:
        (out / name).mkdir()
    worst: list[tuple[float, int, ReportImage]] = []
    scores: list[tuple[float, bool | None]] = []
    total = failed = defective = 0
    drawn = worth_drawing(inspector.bundle.provenance)
    # surrogateescape: a file name that is not valid Unicode is written as the bytes it has.
    with (
        (out / "results.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as table,
        (out / "results.jsonl").open("w", encoding="utf-8") as lines,
    ):
        writer = TableWriter(table)
        writer.writerow(COLUMNS)
        for number, (path, pixels, found) in enumerate(_inspected(inspector, paths, batch), 1):
            result = _result(path, found)
            if pixels is not None and isinstance(found, Inspection):
                result = _draw(result, pixels, found, out, number)
                scores.append((found.score, None))
                row = report_image(str(path), found, reconstructions=drawn)
                item = (result.score or 0.0, -number, row)
                (heapq.heappush if len(worst) < SHOWN else heapq.heappushpop)(worst, item)
            total, failed = total + 1, failed + bool(result.error)
            defective += result.defective is True
            writer.writerow(_cells(result))
            lines.write(json.dumps(_record(result)) + "\n")
            table.flush()
            lines.flush()
            yield result
    shown = [item for _, _, item in sorted(worst, reverse=True)]
    title = f"{total} images: {defective} defective, {failed} could not be inspected"
    page = render_report(title, shown, scores=scores, provenance=page_provenance(inspector.bundle))
    (out / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")


def report_image(
    name: str, found: Inspection, truth: bool | None = None, kind: str = "", reconstructions: bool = True
) -> ReportImage:
    """One image's row of a report: what the network saw, its two reconstructions, the map and the outlined regions.

    `truth`: whether the part is known to be defective, `kind`: of the defect; `reconstructions`: whether to show them.
    """
    size = found.input_image.shape[:2]
    small = found.network_map
    if small.shape != size:  # a large image, whose pictures are reduced
        small = reduced_map(small, preview_factor((small.shape[0], small.shape[1])))
    down, across = (part / whole for part, whole in zip(size, found.map.shape, strict=True))
    lines = [np.rint(np.array(region.polygon) * (across, down)).astype(np.int32) for region in found.regions]
    pictures = {
        "image": to_uint8(found.input_image),
        "as a good part": to_uint8(found.object_image),
        "as it is": to_uint8(found.general_image),
        "map": colour_map(small),
        "regions": overlay(found.input_image, small, lines),
    }
    if not reconstructions:
        del pictures["as a good part"], pictures["as it is"]
    verdict = {True: "defective", False: "good", None: "no threshold"}[found.defective]
    return ReportImage(
        name,
        verdict,
        [(caption, encode_jpeg(pixels)) for caption, pixels in pictures.items()],
        score=found.score,
        threshold=found.threshold,
        truth=truth,
        kind=kind,
        regions=[(*region.box, region.area, region.peak) for region in found.regions],
    )


def page_provenance(bundle: Bundle) -> dict[str, Any]:
    """What a report says of the bundle: the single facts of its provenance, without the lists, and what was measured of
    it at its threshold."""
    facts = {name: fact for name, fact in bundle.provenance.items() if isinstance(fact, str | int | float)}
    if photo := bundle.provenance.get("photo_size"):
        image = bundle.recipe.image
        tiles = "in tiles of" if image.policy == "tile" else "at"
        facts["photos"] = f"{photo[1]}×{photo[0]} pixels, inspected {tiles} {image.width}×{image.height}"
    if not worth_drawing(facts):
        facts["reconstructions"] = (
            f"not shown: of good photos' detail the object-specific one keeps a correlation of {facts.pop(DETAIL):.2f}"
        )
    if parts := orientation_of(bundle.provenance):
        facts[ORIENTATION_LABEL] = parts.words
    if (level := bundle.white.level) != FULL:
        facts["full white of 16 bits"] = level
    limit = bundle.threshold
    if found := smallest_of(bundle.provenance, None if limit is None else limit.score):
        facts[LABEL] = found.words
    groups = Groups.of(bundle.provenance)
    return facts | ({"groups": str(groups)} if groups.count else {})


def _inspected(
    inspector: Inspector, paths: Sequence[Path], batch: int
) -> Iterator[tuple[Path, Stored | None, Inspection | ImageError]]:
    """(path, the image (H, W, 3) as read, what was found), a group of `batch` images in memory at a time."""
    waiting = iter(paths)
    size = batch or inspector.usual_batch
    while group := list(islice(waiting, 1 if inspector.tiled else size)):
        read, usable, names, remarks = [], [], [], []
        for path in group:
            with collected() as said:
                pixels = inspector.read_or_error(path)
            read.append(pixels)
            if not isinstance(pixels, ImageError):
                usable.append(pixels)
                names.append(str(path))
                remarks.append(said)
        found = iter(inspector.inspect_read_or_error(usable, size, names, remarks))
        for path, pixels in zip(group, read, strict=True):
            one = pixels if isinstance(pixels, ImageError) else next(found)
            if isinstance(one, ImageError):
                yield path, None, one if str(one).startswith(str(path)) else ImageError(f"{path}: {one}")
            elif not isinstance(pixels, ImageError):
                yield path, pixels, one


def _result(path: Path, found: Inspection | ImageError) -> Result:
    if isinstance(found, ImageError):
        return Result(path, error=str(found))
    return Result(
        path, found.score, found.threshold, found.defective, tuple(found.regions), p_value=found.p_value,
        remarks=found.remarks,
    )  # fmt: skip


def _draw(result: Result, pixels: Stored, found: Inspection, out: Path, number: int) -> Result:
    """Write the map (grey, 255 for 1) and the overlay; the running number keeps equal file names apart."""
    name = f"{number:06d}-{result.image.stem[:STEM]}.png"
    polygons = [np.array(region.polygon, dtype=np.int32) for region in found.regions]
    write_image(out / "maps" / name, to_uint8(found.map))
    write_image(out / "overlays" / name, overlay(pixels, found.map, polygons))
    return replace(result, map=f"maps/{name}", overlay=f"overlays/{name}")


def _cells(result: Result) -> list[Any]:
    word = {True: "true", False: "false", None: ""}[result.defective]
    count = "" if result.error else len(result.regions)
    chance = None if result.p_value is None else Figure(f"{result.p_value:.6g}")
    return [
        str(result.image),
        result.score,
        result.threshold,
        word,
        count,
        result.map,
        result.overlay,
        result.error,
        chance,
        "; ".join(result.remarks),
    ]


def _record(result: Result) -> dict[str, Any]:
    record = {name: getattr(result, name) for name in COLUMNS}
    return record | {"image": str(result.image), "regions": [asdict(region) for region in result.regions]}

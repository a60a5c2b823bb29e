"""How small a defect is found: defects of known size and contrast drawn into good photos, and a curve through the hits.

A trial is one drawn defect on one good photo that passes without it. It is found when the part is then rejected and an
outlined region touches the defect. Curves and a90/95: measure/detectability.py.

Axes: H, W rows and columns of the image file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.data.images import Image, as_stored, fill_polygon, to_float
from flawmap.data.marks import SHAPES, direction, placed, window_of
from flawmap.deploy.inspector import Inspector
from flawmap.errors import BundleError, ConfigError, DataError
from flawmap.measure.detectability import CONFIDENCE, Curve, fit
from flawmap.measure.report import page_environment
from flawmap.measure.scores import Region
from flawmap.tables import Figure, TableWriter

SIZES = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)  # pixels of the image file
CONTRASTS = (0.05, 0.1, 0.2, 0.4)  # shares of the range from black to white
TOUCH = 2  # pixels between a defect and a region that still belong together
RESAMPLES = 100  # of the photos, for what their trials have in common


@dataclass(frozen=True)
class Trial:
    """One drawn defect. size: diameter of a spot or length of a line, in pixels of the file; contrast: share of the
    range from black to white, darker or brighter by chance, or as there is room; x, y: its middle."""

    image: str
    shape: str
    size: float
    contrast: float
    x: float
    y: float
    found: bool
    score: float


@dataclass(frozen=True)
class Limit:
    """One contrast: its trials' sizes with (found, tried), and the curve through them; None for a single size."""

    contrast: float
    counts: dict[float, tuple[int, int]]
    curve: Curve | None


def run_trials(
    inspector: Inspector,
    paths: Sequence[Path],
    *,
    sizes: Sequence[float] = SIZES,
    contrasts: Sequence[float] = CONTRASTS,
    shape: str = "spot",
    seed: int = 0,
    say: Callable[[str], object] = lambda line: None,
    prepare: Callable[[int], object] = lambda number: None,
) -> Iterator[Trial]:
    """A trial of each size and contrast on each good photo. Photos that are rejected as they are take no part, and
    that is said. `prepare` is called with a photo's number before it is inspected.

    Raises BundleError without a threshold, ConfigError for an unknown shape or a size no photo has room for, ImageError
    for a broken file, DataError when no photo passes.
    """
    if inspector.bundle.threshold is None:
        raise BundleError("the bundle has no threshold, so nothing is rejected; set one with flawmap threshold")
    if shape not in SHAPES:
        raise ConfigError(f"no shape {shape}; there are: {', '.join(SHAPES)}")
    rejected = 0
    for number, path in enumerate(paths):
        rng = np.random.default_rng([seed, number])  # of its own: what happens to other photos changes nothing
        stored = inspector.read(path)
        image = to_float(stored)
        height, width = image.shape[:2]
        if max(sizes) + 4 > min(height, width):
            raise ConfigError(
                f"{path}: a defect of {max(sizes):g} pixels has no room in {width}x{height}; give smaller sizes"
            )
        prepare(number)
        if inspector.inspect_read([stored])[0].defective:
            rejected += 1
            continue
        inside = inspector.scope.inside(height, width)
        for contrast in contrasts:
            for size in sizes:
                angle = rng.uniform(0, math.pi)
                x, y, cover = placed(height, width, size, shape, angle, inside, rng)
                window = window_of(height, width, x, y, size)
                here, part = image[window], cover[window]
                sign = direction(here, part, contrast, rng.uniform())
                changed = np.array(stored)
                changed[window] = as_stored(here + sign * contrast * part[:, :, None], stored)
                found = inspector.inspect_read([changed])[0]
                hit = bool(found.defective) and _touched(found.regions, cover)
                yield Trial(str(path), shape, size, contrast, x, y, hit, found.score)
    if rejected == len(paths):
        raise DataError("none of the photos passes as it is; give good photos, or raise the threshold")
    if rejected:
        say(f"{rejected} of {len(paths)} photos are rejected as they are, and take no part")


def summarise(trials: Sequence[Trial]) -> list[Limit]:
    """A limit for each contrast, the faintest first."""
    limits = []
    for contrast in sorted({trial.contrast for trial in trials}):
        of_it = [trial for trial in trials if trial.contrast == contrast]
        counts = {
            size: (sum(t.found for t in of_it if t.size == size), sum(t.size == size for t in of_it))
            for size in sorted({trial.size for trial in of_it})
        }
        curve = None
        if len(counts) > 1:
            curve = fit([trial.size for trial in of_it], [trial.found for trial in of_it])
            curve = replace(curve, a90_95=_larger(curve.a90_95, _over_photos(of_it)))
        limits.append(Limit(contrast, counts, curve))
    return limits


def _over_photos(trials: Sequence[Trial]) -> float | None:
    """a90 that 95 % of resamples of the photos stay under; None where that is not within the sizes tried.

    Trials on one photo depend on each other, by how near it lies to the threshold: likelihood alone does not know that.
    """
    photos: dict[str, list[Trial]] = {}
    for trial in trials:
        photos.setdefault(trial.image, []).append(trial)
    groups = list(photos.values())
    rng = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = [trial for index in rng.integers(len(groups), size=len(groups)) for trial in groups[index]]
        a90 = fit([trial.size for trial in drawn], [trial.found for trial in drawn], bound=False).a90
        found.append(math.inf if a90 is None else a90)
    value = float(np.quantile(found, CONFIDENCE, method="higher"))
    return None if math.isinf(value) else value


def _larger(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else max(first, second)


def write_limits(folder: Path, trials: Sequence[Trial], limits: Sequence[Limit], facts: dict[str, Any]) -> None:
    """Write trials.csv, limits.json and index.html, a page with the curves. Raises DataError."""
    try:
        with (folder / "trials.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = TableWriter(file)
            writer.writerow(["image", "shape", "size", "contrast", "x", "y", "found", "score"])
            for trial in trials:
                place = [Figure(f"{trial.x:.1f}"), Figure(f"{trial.y:.1f}")]
                words = [str(trial.found).lower(), trial.score]
                writer.writerow([trial.image, trial.shape, trial.size, trial.contrast, *place, *words])
        document = facts | {"limits": [_record(limit) for limit in limits]}
        (folder / "limits.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        page = page_environment().get_template("limits.html.j2").render(facts=facts, plot=_plot(limits), limits=limits)
        (folder / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")
    except OSError as problem:
        raise DataError(f"cannot write to {folder}: {problem.strerror}") from problem


def lines(limits: Sequence[Limit]) -> list[str]:
    """The table for a terminal."""
    sizes = list(limits[0].counts)
    shown = [
        f"{'contrast':<9} {'a90':>7} {'a90/95':>7}   found at " + " ".join(f"{size:>5g}" for size in sizes) + " px"
    ]
    for limit in limits:
        curve = limit.curve
        figures = [None, None] if curve is None else [curve.a90, curve.a90_95]
        a90, bound = ("–" if value is None else f"{value:.1f}" for value in figures)
        shares = " ".join(f"{found / tried:>5.0%}" for found, tried in limit.counts.values())
        shown.append(f"{limit.contrast:<9.0%} {a90:>7} {bound:>7}            {shares}")
    return shown


def _touched(regions: Sequence[Region], cover: Image) -> bool:
    """Whether the outline of a region holds a pixel of the defect, or comes within TOUCH pixels of one."""
    from scipy import ndimage

    rows, columns = np.nonzero(cover > 0.25)
    if not len(rows):
        return False
    sides = zip((rows, columns), cover.shape, strict=True)
    window = tuple(slice(max(at.min() - TOUCH, 0), min(at.max() + TOUCH + 1, length)) for at, length in sides)
    near = ndimage.binary_dilation(cover[window] > 0.25, iterations=TOUCH)
    return any(bool((near & fill_polygon(np.array(region.polygon), *cover.shape)[window]).any()) for region in regions)


def _record(limit: Limit) -> dict[str, Any]:
    record: dict[str, Any] = {
        "contrast": limit.contrast,
        "counts": [{"size": size, "found": found, "tried": tried} for size, (found, tried) in limit.counts.items()],
    }
    return record | ({} if limit.curve is None else vars(limit.curve))


WIDTH, HEIGHT = 1000, 420
COLOURS = ("#0b5c9c", "#e0831f", "#17212b", "#7a4fa3", "#3a8f86", "#a84300")


def _plot(limits: Sequence[Limit]) -> dict[str, Any]:
    """Lines and points of the curves in units of the page's SVG."""
    sizes = sorted({size for limit in limits for size in limit.counts})
    low, high = math.log(sizes[0] * 0.85), math.log(sizes[-1] * 1.18)

    def place(size: float, share: float) -> tuple[float, float]:
        return round((math.log(size) - low) / (high - low) * WIDTH, 1), round((1 - share) * HEIGHT, 1)

    curves = []
    for number, limit in enumerate(limits):
        steps = [math.exp(low + (high - low) * step / 80) for step in range(81)]
        path = "" if limit.curve is None else " ".join("{},{}".format(*place(a, limit.curve.pod(a))) for a in steps)
        points = [place(size, found / tried) for size, (found, tried) in limit.counts.items()]
        bound = None if limit.curve is None or limit.curve.a90_95 is None else place(limit.curve.a90_95, 0.9)
        curves.append(
            {"path": path, "points": points, "bound": bound, "colour": COLOURS[number % len(COLOURS)],
             "label": f"{limit.contrast:.0%}"}
        )  # fmt: skip
    return {
        "curves": curves,
        "width": WIDTH,
        "height": HEIGHT,
        "ticks": [(place(size, 0)[0], f"{size:g}") for size in sizes],
        "levels": [(place(sizes[0], share / 100)[1], f"{share} %") for share in (0, 25, 50, 75, 90, 100)],
    }


def check_photos(paths: Sequence[Path], count: int, seed: int) -> list[Path]:
    """At most `count` of the photos, drawn by `seed`, in their order."""
    if len(paths) <= count:
        return list(paths)
    chosen = np.random.default_rng([seed, 1]).permutation(len(paths))[:count]
    return [paths[index] for index in sorted(chosen)]

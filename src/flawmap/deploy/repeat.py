"""Whether the same part gets the same verdict again: gauge repeatability over several shots of each part.

Shots are photos of the same part in a folder of its own, or, where there is one photo of each, that photo moved, lit
and made noisy a little, as a camera would. Parts whose shots get both verdicts are flipped.

The spread of scores follows the usual analysis of a gauge: repeatability is the pooled deviation of a part's scores,
part to part what is left of the deviation of the parts' means.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flawmap.data.images import Stored, as_stored, to_float
from flawmap.data.layouts import find_images, gather, refuse_no_folder
from flawmap.deploy.inspector import Inspector
from flawmap.errors import BundleError, DataError, LayoutError
from flawmap.measure.report import page_environment, short
from flawmap.tables import Figure, TableWriter

NEAR = 2.0  # repeatabilities from the threshold, within which a part is near it


@dataclass(frozen=True)
class Jitter:
    """What a camera does between two shots: shift in pixels of the file, either way; exposure and noise as shares."""

    shift: float = 1.0
    exposure: float = 0.02
    noise: float = 0.005

    def shoot(self, stored: Stored, rng: np.random.Generator) -> Stored:
        """Another shot of a photo (H, W, 3), of its own depth."""
        from scipy import ndimage

        down, across = rng.uniform(-self.shift, self.shift, 2)
        image = to_float(stored)
        moved = ndimage.shift(image, (down, across, 0), order=1, mode="nearest")
        lit = moved * (1 + rng.uniform(-self.exposure, self.exposure))
        noisy = lit + self.noise * rng.normal(size=(*image.shape[:2], 1))
        return as_stored(np.asarray(noisy, np.float32), stored)


@dataclass(frozen=True)
class Part:
    """One part's shots. rejected: how many of them"""

    name: str
    scores: tuple[float, ...]
    rejected: int

    @property
    def flipped(self) -> bool:
        """Whether its shots got both verdicts."""
        return 0 < self.rejected < len(self.scores)

    @property
    def mean(self) -> float:
        """Of its scores."""
        return float(np.mean(self.scores))

    @property
    def deviation(self) -> float:
        """Sample standard deviation of its scores."""
        return float(np.std(self.scores, ddof=1))


@dataclass(frozen=True)
class Repeatability:
    """What the shots of all parts say together.

    flipped: parts with both verdicts; disagreeing: chance that two shots of a part get different verdicts
    repeatability, part_to_part: deviations of scores, the latter None of one part
    near: parts whose mean is within NEAR repeatabilities of the threshold, of which near_flipped are flipped
    """

    parts: int
    shots: int
    flipped: int
    disagreeing: float
    repeatability: float
    part_to_part: float | None
    threshold: float
    near: int
    near_flipped: int


def shots_of_folders(folder: Path, say: Callable[[str], object] = lambda line: None) -> dict[str, list[Path]]:
    """The photos of each part: each folder in `folder` is a part. `say` is told what is passed over.

    Raises LayoutError unless all have two or more.
    """
    refuse_no_folder(folder, "a folder of photos by part")
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts = {path.name: find_images([path]) for path in inside}
    for line in passed_over(folder)[0]:
        say(line)
    few = [name for name, shots in parts.items() if len(shots) < 2]
    if not parts or few:
        what = f"{few[0]} has one photo" if few else f"{folder} has no folders"
        raise LayoutError(
            f"{what}; put the shots of each part into a folder of its own, or give --shots 5 to make them up"
        )
    return parts


def passed_over(folder: Path) -> tuple[list[str], list[Path]]:
    """What `shots_of_folders` passes over in a folder, a line each; and the images among it, hidden or in no part."""
    found = gather([folder])
    loose = [path for path in found.images if path.parent == folder]
    told = found.sentences()
    if loose:
        names = ", ".join(map(str, loose[:3])) + (", …" if loose[3:] else "")
        told.insert(0, f"passed over {len(loose)} images in no part's folder: {names}")
    return told, [*loose, *found.hidden]


def repeat_folders(inspector: Inspector, parts: Mapping[str, Sequence[Path]]) -> Iterator[Part]:
    """Inspect every shot of each part. Raises ImageError for a broken one, BundleError without a threshold."""
    for name, shots in parts.items():
        yield _part(inspector, name, [inspector.read(path) for path in shots])


def repeat_photos(
    inspector: Inspector, paths: Sequence[Path], shots: int, jitter: Jitter, seed: int = 0
) -> Iterator[Part]:
    """Inspect `shots` made-up shots of each photo; the first is the photo itself. Raises as `repeat_folders`."""
    for number, path in enumerate(paths):
        rng = np.random.default_rng([seed, number])
        image = inspector.read(path)
        made = [image, *(jitter.shoot(image, rng) for _ in range(shots - 1))]
        yield _part(inspector, str(path), made)


def summarise(parts: Sequence[Part], threshold: float) -> Repeatability:
    """What the parts say together."""
    count = np.array([len(part.scores) for part in parts], np.float64)
    rejected = np.array([part.rejected for part in parts], np.float64)
    within = float((np.array([part.deviation**2 for part in parts]) * (count - 1)).sum() / (count - 1).sum())
    means = np.array([part.mean for part in parts])
    between = float(means.var(ddof=1)) - within * float((1 / count).mean()) if len(parts) > 1 else math.nan
    repeatability = math.sqrt(within)
    near = [part for part in parts if abs(part.mean - threshold) <= NEAR * repeatability]
    return Repeatability(
        parts=len(parts),
        shots=int(count.sum()),
        flipped=sum(part.flipped for part in parts),
        disagreeing=float((2 * rejected * (count - rejected) / (count * (count - 1))).mean()),
        repeatability=repeatability,
        part_to_part=None if math.isnan(between) else math.sqrt(max(between, 0.0)),
        threshold=threshold,
        near=len(near),
        near_flipped=sum(part.flipped for part in near),
    )


def lines(found: Repeatability) -> list[str]:
    """The findings for a terminal."""
    share = found.flipped / found.parts
    return [
        f"{found.flipped} of {found.parts} parts ({share:.1%}) get both verdicts over {found.shots} shots",
        f"two shots of a part disagree with a chance of {found.disagreeing:.2%}",
        f"scores: repeatability {found.repeatability:.4f}, part to part "
        + ("unknown" if found.part_to_part is None else f"{found.part_to_part:.4f}"),
        f"{found.near} parts lie within {NEAR:g} repeatabilities of the threshold {short(found.threshold)}, "
        f"{found.near_flipped} of them flipped",
    ]


def write_repeat(folder: Path, parts: Sequence[Part], found: Repeatability, facts: dict[str, Any]) -> None:
    """Write parts.csv, repeat.json and index.html, a page that shows each part's spread. Raises DataError."""
    try:
        with (folder / "parts.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = TableWriter(file)
            writer.writerow(["part", "shots", "rejected", "flipped", "mean", "deviation", "lowest", "highest"])
            for part in parts:
                figures = (part.mean, part.deviation, min(part.scores), max(part.scores))
                counts = [len(part.scores), part.rejected, str(part.flipped).lower()]
                writer.writerow([part.name, *counts, *(Figure(f"{figure:.6g}") for figure in figures)])
        (folder / "repeat.json").write_text(json.dumps(facts | vars(found), indent=2) + "\n", encoding="utf-8")
        page = page_environment().get_template("repeat.html.j2")
        text = page.render(found=found, lines=lines(found), facts=facts, plot=_plot(parts, found.threshold), near=NEAR)
        (folder / "index.html").write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as problem:
        raise DataError(f"cannot write to {folder}: {problem.strerror}") from problem


def _part(inspector: Inspector, name: str, shots: Sequence[Stored]) -> Part:
    """A part's shots inspected, as they are read."""
    if inspector.bundle.threshold is None:
        raise BundleError("the bundle has no threshold, so there are no verdicts; set one with flawmap threshold")
    found = [inspector.inspect_read([shot])[0] for shot in shots]
    return Part(name, tuple(each.score for each in found), sum(bool(each.defective) for each in found))


WIDTH, HEIGHT = 1000, 260


def _plot(parts: Sequence[Part], threshold: float) -> dict[str, Any]:
    """Each part's lowest, mean and highest score, in order of the mean, in units of the page's SVG."""
    ordered = sorted(parts, key=lambda part: part.mean)
    low = min(threshold, *(min(part.scores) for part in ordered))
    high = max(threshold, *(max(part.scores) for part in ordered))
    span = max(high - low, 1e-9)

    def height(score: float) -> float:
        return round(HEIGHT - (score - low) / span * HEIGHT, 1)

    step = WIDTH / len(ordered)
    bars = [
        {
            "x": round((number + 0.5) * step, 1),
            "top": height(max(part.scores)),
            "mean": height(part.mean),
            "bottom": height(min(part.scores)),
            "flipped": part.flipped,
            "name": part.name,
        }
        for number, part in enumerate(ordered)
    ]
    ticks = [(height(low + span * place / 4), f"{low + span * place / 4:.3g}") for place in range(5)]
    return {"bars": bars, "threshold": height(threshold), "width": WIDTH, "height": HEIGHT, "ticks": ticks}

"""The smallest spot that is found in 9 of 10 at a bundle's threshold, by few trials right after its training.

`flawmap limits` in small (deploy/limits.py): one contrast, some sizes in proportion to the photos', some of the good
photos that had a say in the threshold, first those that nothing learnt from. Where the bundle knows what each photo
told (measure/evidence.py), a photo is inspected by what the others tell, as a new part will be.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flawmap.bundle import Bundle, round_weights
from flawmap.data.images import read_shape
from flawmap.deploy.inspector import Inspector
from flawmap.deploy.limits import run_trials
from flawmap.errors import DataError
from flawmap.measure.detectability import fit
from flawmap.measure.smallest import Smallest

CONTRAST = 0.2  # of the range from black to white
SIZES = (1, 2, 3, 5, 8, 13, 20)  # diameters in pixels of the network's input
PHOTOS = (12, 6, 4)  # as many as there are and as the time allows
SECONDS = 20.0  # for all trials, about
TIMED = 3  # inspections, of which the shortest tells the time: what else the machine does only ever adds


def measure_smallest(bundle: Bundle, photos: Sequence[Path], seconds: float = SECONDS) -> Smallest:
    """The smallest spot found in 9 of 10, by up to 12 of the good `photos` that had a say, in the bundle's order.

    The same photos and seed (`run.seed`) give the same; how many photos take part follows from the time of one
    inspection, that all may take about `seconds`. Raises DataError where nothing can be said, ImageError for a broken
    photo.
    """
    assert bundle.threshold is not None, "a training sets one"
    model = copy.deepcopy(bundle.model)
    inspector = Inspector(replace(bundle, model=model), bundle.recipe.run.device)
    held_out = min(int(bundle.provenance.get("held_out") or 0), len(photos))
    first = len(photos) - held_out
    order = [*_evenly(range(first, len(photos)), PHOTOS[0]), *_evenly(range(first), PHOTOS[0])]
    if len(order) < PHOTOS[-1]:
        raise DataError(f"{len(order)} good photos are too few to draw spots into")
    inspector.inspect(photos[order[0]])  # the first call takes longer
    each = min(_seconds(inspector, photos[order[0]]) for _ in range(TIMED))
    room = [min(most, len(order)) for most in PHOTOS]
    count = next((number for number in room if number * (1 + len(SIZES)) * each <= seconds), 0)
    if not count:
        raise DataError(f"an inspection takes {each:.1f} s, too long to try some dozens")
    chosen = order[:count]
    told = bundle.evidence if bundle.evidence is not None and model.familiarity is not None else None

    def leave_out(number: int) -> None:
        if told is not None and model.familiarity is not None:
            told.wear(model.familiarity, int(told.groups[chosen[number]]))
            round_weights(model.familiarity)

    paths = [photos[index] for index in chosen]
    trials = list(
        run_trials(
            inspector, paths, sizes=_sizes(bundle, paths), contrasts=[CONTRAST], seed=bundle.recipe.run.seed,
            prepare=leave_out,
        )
    )  # fmt: skip
    sizes = [trial.size for trial in trials]
    a90 = fit(sizes, [trial.found for trial in trials], bound=False).a90
    return Smallest(
        pixels=None if a90 is None else round(a90, 1),
        tried=(min(sizes), max(sizes)),
        contrast=CONTRAST,
        photos=len({trial.image for trial in trials}),
        trials=len(trials),
        threshold=bundle.threshold.score,
    )


def _seconds(inspector: Inspector, photo: Path) -> float:
    since = time.perf_counter()
    inspector.inspect(photo)
    return time.perf_counter() - since


def _sizes(bundle: Bundle, paths: Sequence[Path]) -> list[float]:
    """SIZES in pixels of the photos, whole ones, as far as there is room. Raises DataError."""
    shapes = [read_shape(path) for path in paths]
    image = bundle.recipe.image
    scale = 1 / image.scale
    if image.policy == "resize":
        areas = sorted(height * width for height, width in shapes)
        scale = math.sqrt(areas[len(areas) // 2] / (image.height * image.width))
    room = min(map(min, shapes)) - 4
    sizes = sorted({float(max(round(scale * size), 1)) for size in SIZES if round(scale * size) <= room})
    if len(sizes) < 2:
        raise DataError("the photos are too small to draw spots into")
    return sizes


def _evenly(numbers: range, count: int) -> list[int]:
    """Up to `count` of the numbers, from first to last."""
    count = min(count, len(numbers))
    return [numbers[turn * len(numbers) // count] for turn in range(count)]

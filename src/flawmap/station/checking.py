"""Which of some good photos are unlike the others: `python -m flawmap.station.checking FOLDER`, JSON lines out.

Standard input: a JSON list of further photos, of defective parts, of which only the depth is looked at.

A process of its own, so that the station's memory and its answers are spared. The figures are those of
measure/photos.py, with the general discrete model's codes; a photo is set against the median of all.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flawmap.station.datasets import Problem, problem

SHARE = {"sharpness": "blurred"}  # every other figure but these and those of light makes an outlier
LIGHT = ("brightness", "contrast", "dark", "bright", "blue", "red")
FEWEST = 8  # photos from which on one can be unlike the others
SIDE = 256  # pixels a side at which photos are compared


def check(folder: Path, others: Sequence[Path] = ()) -> None:
    """Print a line for each fault of a photo: photo, its file's stem, and what `datasets.problem` gives.

    `others`: photos of defective parts, of which only the depth is looked at.
    """
    import torch

    from flawmap.bundle import load_general
    from flawmap.config import ImageSettings
    from flawmap.data.pictures import pictures_of
    from flawmap.data.scope import Scope
    from flawmap.data.white import White
    from flawmap.errors import ImageError
    from flawmap.measure.photos import HARMLESS, KINDS, ODD, learn, take
    from flawmap.train.white import settled_white

    torch.set_num_threads(1)
    paths = sorted(folder.iterdir())
    settings, _ = settled_white(ImageSettings(height=SIDE, width=SIDE), paths, others)  # as a training will read them
    for path, odd in odd_depths([*paths, *others], White.of(settings).level):
        _say(path.stem, odd)
    scope, general, device = Scope(settings, None), load_general(), torch.device("cpu")
    names, raws = [], []
    for path in paths:
        try:
            raws.append(take(pictures_of(path, settings, scope), general, device))
            names.append(path.stem)
        except ImageError as unusable:
            text = str(unusable).removeprefix(f"{path}: ")
            _say(path.stem, problem("unreadable", text, "unreadable"))
    if len(raws) < FEWEST:
        return
    known = learn(raws)
    centre, deviation = known.centre_and_deviation()
    low, high, kinds = centre - 3 * deviation, centre + 3 * deviation, list(KINDS.items())
    for name, figures in zip(names, known.figures, strict=True):
        for number in known.telling():
            kind, words = kinds[number]
            far = (figures[number] - centre[number]) / deviation[number]
            if abs(far) <= ODD or (kind in HARMLESS and (far > 0) == (kind == "likeness")):
                continue
            if kind == "sharpness" and far > 0:
                continue
            fault = "exposure" if kind in LIGHT else SHARE.get(kind, "outlier")
            value, least, most = (float(each[number]) for each in (figures, low, high))
            text = f"{words.more if far > 0 else words.less} ({words.label} {value:.3g}, "
            text += f"most {least:.3g} to {most:.3g})"
            code = f"{kind.replace(' ', '-')}-{'more' if far > 0 else 'less'}"
            _say(name, problem(fault, text, code, value=value, low=least, high=most))


def odd_depths(paths: Sequence[Path], level: int) -> Iterator[tuple[Path, Problem]]:
    """Photos of another depth than most, by what a training will take for full white: `level` of those with 16 bits.

    Cameras that store 10 or 12 bits in 16 do not say so, and a level that is told wrong makes a photo dark.
    """
    from flawmap.data.white import FAR, LEVELS
    from flawmap.train.white import brightnesses

    seen = brightnesses(paths)
    unstated = {path: one for path, one in seen.items() if one.largest is not None}
    usual = (
        statistics.median(one.bright / (level if one.largest is not None else 1) for one in seen.values())
        if seen
        else 0
    )
    for path, one in unstated.items():
        largest = one.largest or 0
        values: dict[str, str | float] = {"largest": largest, "white": level}
        if largest <= LEVELS[-1] and one.bright / level < usual / FAR:
            words = f"16 bits, no pixel above {largest}: at full white {level} less than half as bright as most photos"
            yield path, problem("depth", words, "depth-dark", **values)
        elif 2 * len(unstated) < len(paths):
            words = f"16 bits, no pixel above {largest}, read with full white {level}; most photos have 8 bits"
            yield path, problem("depth", words, "depth-16", **values)
    if 2 * len(unstated) > len(paths):
        for path in seen:
            if path not in unstated:
                yield path, problem("depth", "8 bits, or its full white is stated; most photos have 16", "depth-8")


def _say(photo: str, found: Problem) -> None:
    print(json.dumps({"photo": photo, **found}), flush=True)


if __name__ == "__main__":
    check(Path(sys.argv[1]), [Path(name) for name in json.loads(sys.stdin.read() or "[]")])

"""Which of some good photos are unlike the others: `python -m flawmap.station.checking FOLDER`, JSON lines out.

A process of its own, so that the station's memory and its answers are spared. The figures are those of
measure/photos.py, with the general discrete model's codes; a photo is set against the median of all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flawmap.station.datasets import Problem, problem

SHARE = {"sharpness": "blurred"}  # every other figure but these and those of light makes an outlier
LIGHT = ("brightness", "contrast", "dark", "bright", "blue", "red")
FEWEST = 8  # photos from which on one can be unlike the others
SIDE = 256  # pixels a side at which photos are compared


def check(folder: Path) -> None:
    """Print a line for each fault of a photo: photo, its file's stem, and what `datasets.problem` gives."""
    import torch

    from flawmap.bundle import load_general
    from flawmap.config import ImageSettings
    from flawmap.data.pictures import pictures_of
    from flawmap.data.scope import Scope
    from flawmap.errors import ImageError
    from flawmap.measure.photos import HARMLESS, KINDS, ODD, learn, take
    from flawmap.train.white import settled_white

    torch.set_num_threads(1)
    paths = sorted(folder.iterdir())
    settings, _ = settled_white(ImageSettings(height=SIDE, width=SIDE), paths)  # as a training will read them
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


def _say(photo: str, found: Problem) -> None:
    print(json.dumps({"photo": photo, **found}), flush=True)


if __name__ == "__main__":
    check(Path(sys.argv[1]))

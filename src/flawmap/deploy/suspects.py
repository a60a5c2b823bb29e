"""Good photos that look defective: of those a bundle was trained on, the ones that the others find oddest.

Among the photos given as good, some show defects in practice. Each photo was scored by what the other photos tell
(train/familiar.py), so that a defect on it did not make itself familiar. The score tells the order to look at them in,
not a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from flawmap.bundle import Bundle
from flawmap.data.layouts import gather
from flawmap.errors import BundleError, DataError


class Suspect(NamedTuple):
    """A good photo. image: from the folder that holds all of them, with `/`; score: as of a part not trained on.

    set_aside: whether it has no say in what is familiar and in the threshold (`clean.contamination`).
    """

    image: str
    score: float
    set_aside: bool = False


def suspects(bundle: Bundle, name: str | Path) -> list[Suspect]:
    """The good photos of a bundle, the most suspicious first. Raises BundleError when it does not know their names."""
    images, scores = (bundle.provenance.get(key) or [] for key in ("good_photos", "held_out_scores"))
    if not images or len(images) != len(scores):
        raise BundleError(f"{name} does not know which score each good photo had; train it again with this flawmap")
    aside, theirs = (bundle.provenance.get(key) or [] for key in ("set_aside", "set_aside_scores"))
    if len(aside) != len(theirs):
        raise BundleError(f"{name} does not know the scores of the photos that were set aside; train it again")
    found = [Suspect(str(image), float(score)) for image, score in zip(images, scores, strict=True)]
    found += [Suspect(str(image), float(score), True) for image, score in zip(aside, theirs, strict=True)]
    return sorted(found, key=lambda suspect: -suspect.score)


def find_photos(chosen: Sequence[Suspect], data: Path, say: Callable[[str], object] = lambda line: None) -> list[Path]:
    """Where the photos are, below the folder `data` that was trained on or one that holds it.

    `say` is told what is passed over there. Raises DataError when one is not there, or more than one could be it.
    """
    gathered = gather([data])
    for line in gathered.sentences():
        say(line)
    below = gathered.images
    found = []
    for suspect in chosen:
        parts = Path(suspect.image).parts
        matching = [path for path in below if path.parts[-len(parts) :] == parts]
        if len(matching) != 1:
            how = "is not in" if not matching else f"fits {len(matching)} files in"
            raise DataError(f"{suspect.image} {how} {data}; give the folder of the good photos as it was trained on")
        found += matching
    return found

"""Near-duplicates: the training photos so near a test photo that a good score may be owed to them alone.

Photos of one part, or of one minute, are nearly the same. Where a data set splits them at random, a memory bank knows
the test photos' siblings, and the figures say little about new parts. Which training photos are near is a rule: the
same folder, numbers in file names that lie close together, or pretrained features that do.

Axes: T test photos, P training photos.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from flawmap.errors import ConfigError

Bools = np.ndarray[Any, np.dtype[np.bool_]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

QUANTILE = 0.01  # of the distances between training photos, where no rule is given and folders do not tell
RULES = "folder, number:200 or features:0.01; several values as number:50,200,400"


class Near(NamedTuple):
    """A rule. `within`: for "number" the largest difference, for "features" the quantile of distances, in (0, 1)."""

    rule: Literal["folder", "number", "features"]
    within: float = 0.0

    def __str__(self) -> str:
        """As it is given: number:200."""
        return self.rule if self.rule == "folder" else f"{self.rule}:{self.within:g}"

    @property
    def tag(self) -> str:
        """Part of the names of files: folder, 200, features-0.01."""
        return f"{self.within:g}" if self.rule == "number" else str(self).replace(":", "-")

    @property
    def words(self) -> str:
        """What the photos have in common, in words."""
        if self.rule == "folder":
            return "in the same folder"
        if self.rule == "number":
            return f"whose number in the file name differs from its own by at most {self.within:g}"
        return f"whose features are closer to its own than {100 * self.within:g} % of all pairs of training photos are"


@dataclass(frozen=True)
class Without:
    """How to score test photos without the training photos near them.

    counts: how many are left out, of each test photo; prepare: called with a test photo before it is inspected, and
    with None in the end, when all photos are known again
    """

    near: Near
    counts: Mapping[Path, int]
    prepare: Callable[[Path | None], None]


@dataclass(frozen=True)
class LeftOut:
    """What an evaluation without near-duplicates left out: so many training photos, of each test photo."""

    near: Near
    counts: tuple[int, ...]

    @property
    def sentence(self) -> str:
        """For a terminal and a report."""
        some = [count for count in self.counts if count]
        left_out = f"{_range(some)} for {len(some)} of {len(self.counts)} test photos" if some else "there are none"
        return (
            "Without near-duplicates: for each test photo the memory bank, Gaussians and calibration leave out the "
            f"training photos {self.near.words} ({left_out}); the networks, the weights of sources and the threshold "
            "are as trained"
        )

    def to_json(self) -> dict[str, Any]:
        """As metrics.json holds it."""
        some = [count for count in self.counts if count]
        return {
            "near": str(self.near),
            "photos": len(self.counts),
            "with_near_ones": len(some),
            "left_out_median": statistics.median(some) if some else 0,
            "left_out_most": max(some, default=0),
            "note": self.sentence,
        }


def _range(counts: Sequence[int]) -> str:
    if min(counts) == max(counts):
        return str(counts[0])
    return f"{min(counts)} to {max(counts)}, median {statistics.median(counts):g},"


def parse_near(text: str) -> list[Near]:
    """`folder`, `number:50,200` or `features:0.01` as rules. Raises ConfigError."""
    rule, colon, values = text.strip().partition(":")
    if rule == "folder" and not colon:
        return [Near("folder")]
    found: list[Near] = []
    for value in values.split(",") if rule in ("number", "features") else []:
        try:
            within = float(value)
        except ValueError:
            within = math.nan
        if rule == "number":
            if not (within >= 0 and within.is_integer()):
                raise ConfigError(f"--near {text}: expected whole numbers from 0 on, as number:50,200,400")
            found.append(Near("number", within))
        else:
            if not 0 < within < 1:
                raise ConfigError(
                    f"--near {text}: expected a quantile of the distances between training photos, above 0 and below "
                    "1, as features:0.01"
                )
            found.append(Near("features", within))
    if not found:
        raise ConfigError(f"--near {text}: expected {RULES}")
    return list(dict.fromkeys(found))


def usual_rule(test: Sequence[Path], train: Sequence[Path]) -> Near:
    """Folders where training photos lie in several and test photos beside them, else features closer than QUANTILE."""
    folders = {path.parent for path in train}
    by_folder = len(folders) > 1 and any(path.parent in folders for path in test)
    return Near("folder") if by_folder else Near("features", QUANTILE)


def by_folder(test: Sequence[Path], train: Sequence[Path]) -> Bools:
    """Which training photos lie in the folder of each test photo: (T, P)."""
    folders = np.array([str(path.parent) for path in train])
    return np.array([folders == str(path.parent) for path in test], np.bool_)


def by_number(test: Sequence[Path], train: Sequence[Path], within: float) -> Bools:
    """Which training photos' numbers differ by at most `within` from that of each test photo: (T, P).

    Raises ConfigError for a name without a number.
    """
    numbers = (np.array([number_in(path) for path in paths], np.float64) for paths in (test, train))
    ours, theirs = numbers
    near: Bools = np.abs(ours[:, None] - theirs) <= within
    return near


def number_in(photo: Path) -> int:
    """The last number in the name of a file. Raises ConfigError when there is none."""
    found = re.findall(r"\d+", photo.stem)
    if not found:
        raise ConfigError(f"{photo} has no number in its name, by which --near number goes; use folder or features")
    return int(found[-1])


def by_distance(away: Floats, among: Floats, quantile: float) -> Bools:
    """Which training photos are near each test photo: (T, P), by distances `away` (T, P).

    Near is what is no farther than the `quantile` of the distances `among` training photos, one of each pair: (pairs,).
    """
    near: Bools = away <= (np.quantile(among, quantile) if len(among) else 0.0)
    return near

"""Test whether new good parts are like the good photos that set the threshold: without that it can promise nothing.

Conformal prediction promises an overkill where good parts and these photos are exchangeable (conformal.py). If good
parts score higher than the photos did, their p-values are too small and more of them are rejected than was promised.
Two tests must agree before it is said: the exact binomial test of the parts above the threshold against the promised
share, and Fisher's exact test (1935) of the same parts against the photos above it. The second is what keeps few photos
from a false alarm: a threshold that is an order statistic of n scores is itself uncertain, and with i photos above it
the chance that k or more of m exchangeable parts lie above it is Fisher's one-sided chance, for any scores. A rank test
of all scores (Mann & Whitney 1947) then separates a shift of all parts from a few odd ones.

All tests take photos and parts as independent. Where they come in runs, several of one part, place or day, a run that
is unlike the photos is enough for an alarm, though another run may not be.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flawmap.measure.threshold import UNKNOWN, Groups, Tail, Threshold, promised_share

LEVEL = 1e-3  # chance of a false alarm, at most
ADVICE = "add photos of their kind with `flawmap refine`, or check light and position with `flawmap check`"


@dataclass(frozen=True)
class GoodParts:
    """Good parts compared with the good photos that set the threshold.

    parts, photos: how many; above, photos_above: those of them that score above the threshold
    promised: the overkill that the threshold was set for, or what so few photos can promise
    method, supported: the threshold's
    chance: that so many parts lie above if they are like the photos, the larger of two p-values; chance_higher: that
    they score so high altogether if they are (one-sided Mann-Whitney test); both in [0, 1]
    """

    parts: int
    above: int
    photos: int
    photos_above: int
    promised: float
    method: str
    supported: bool
    chance: float
    chance_higher: float

    @property
    def unlike(self) -> bool:
        """Whether more parts are rejected than was promised, by more than chance."""
        return self.chance < LEVEL

    @property
    def sentence(self) -> str:
        """What to make of it; empty where the parts may be like the photos."""
        if not self.unlike:
            return ""
        known = f"{100 * self.promised:.3g} % were {'promised' if self.supported else 'expected'}"
        if self.method == "given":
            known = f"{self.photos_above} of {self.photos} good photos trained on do"
        said = f"{self.above} of {self.parts} good parts score above the threshold ({known}):"
        if self.chance_higher < LEVEL:
            return f"{said} they are unlike the good photos trained on; {ADVICE}."
        return f"{said} some are unlike the good photos trained on, or not good; look at these, then {ADVICE}."

    def to_json(self) -> dict[str, Any]:
        """As metrics.json holds it."""
        return {**vars(self), "unlike": self.unlike, "sentence": self.sentence}


def compare_good(
    scores: Sequence[float],
    photo_scores: Sequence[float],
    threshold: Threshold,
    groups: Groups = UNKNOWN,
    tail: Tail = "observed",
) -> GoodParts | None:
    """Compare scores of good parts (m,) with those of the good photos (n,) that set the threshold.

    `groups`, `tail`: as the threshold was set with; they limit what it promises. None where there are no parts or
    photos. Scores are numbers, anything else is a mistake of the program (AssertionError).
    """
    if not scores or not photo_scores:
        return None
    assert all(math.isfinite(score) for score in (*scores, *photo_scores)), "a score is a number"
    above, photos_above = (sum(score > threshold.score for score in group) for group in (scores, photo_scores))
    promised = promised_share(threshold.overkill, len(photo_scores), groups, tail)
    return GoodParts(
        parts=len(scores),
        above=above,
        photos=len(photo_scores),
        photos_above=photos_above,
        promised=promised,
        method=threshold.method,
        supported=threshold.supported,
        chance=chance_of(
            above, len(scores), photos_above, len(photo_scores), None if threshold.method == "given" else promised
        ),
        chance_higher=_chance_higher(scores, photo_scores),
    )


def chance_of(above: int, parts: int, photos_above: int, photos: int, promised: float | None) -> float:
    """Chance that so many of the good parts lie above the threshold if they are like the photos, in [0, 1].

    The larger of two p-values: Fisher's, against the photos above it, and binomial, against the share `promised`,
    which is left out where it is None.
    """
    if above == 0:
        return 1.0
    from scipy.stats import binom, hypergeom

    alike = float(hypergeom.cdf(photos_above, photos + parts, photos, photos_above + above))
    return alike if promised is None else max(alike, float(binom.sf(above - 1, parts, promised)))


def _chance_higher(scores: Sequence[float], photo_scores: Sequence[float]) -> float:
    """P-value of the one-sided Mann-Whitney test; 1 where all scores are one."""
    from scipy.stats import mannwhitneyu

    if len({*scores, *photo_scores}) == 1:
        return 1.0
    return float(mannwhitneyu(scores, photo_scores, alternative="greater").pvalue)

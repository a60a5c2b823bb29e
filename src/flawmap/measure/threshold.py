"""Where good ends and defective begins: an order statistic of good parts' scores (split conformal prediction).

Source: Vovk et al. 2005; Angelopoulos & Bates 2021. With n good images that took no part in training, the
ceil((n + 1)(1 - overkill))-th smallest score keeps the chance that the next good part is rejected at or under
`overkill`, if parts are exchangeable. That order exists only when n >= 1 / overkill - 1. With fewer images the largest
score is taken, which the next good part exceeds with a chance of 1 / (n + 1), and that is said. Guessing how far the
tail goes on beyond it would let every defect pass where the scores of good and defective parts crowd (docs/speed.md).

The largest of n scores varies much: one odd photo among the good ones moves it. Where fewer than ENOUGH lie above the
order statistic, a threshold can be read instead off an exponential tail through the tenth of the largest scores (peaks
over threshold: Pickands 1975; of log-odds, as scores lie in [0, 1]), if that is lower. It promises nothing, and says
so.

Photos come in runs, and those of one run are alike: only independent groups of them are exchangeable with the next part
(train/folds.py). Of G groups of one size, the share (1 - overkill)(G + 1) / G of all scores keeps the promise for a
photo of a new group (Dunn, Wasserman & Ramdas 2022; Lee, Barber & Willett 2023); it exists only when G >= 1 / overkill
- 1, and with fewer groups nothing is promised. An order statistic of photos instead lets up to (1 - overkill) / (G + 1)
more be rejected, and far fewer defects pass; where a tail may be estimated, it is taken, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flawmap.errors import DataError

Tail = Literal["observed", "estimated"]
ENOUGH = 3  # scores above an order statistic that make it steady
BY = {"folder": "folder", "order": "order of capture", "near-duplicates": "likeness"}
TAIL, TAIL_MIN = 0.1, 5  # the share of the largest scores that a tail is estimated from, and the least number


@dataclass(frozen=True)
class Groups:
    """The number of independent groups of good photos, 0 where it is not known, and how they were found, as in BY."""

    count: int = 0
    by: str = ""

    @classmethod
    def of(cls, provenance: Mapping[str, Any]) -> Groups:
        """Read them from a bundle's provenance; unknown in one of an older flawmap."""
        facts = provenance.get("groups") or {}
        return cls(int(facts.get("count") or 0), str(facts.get("by") or ""))

    def __str__(self) -> str:
        return f"{self.count} independent groups{f' (by {BY.get(self.by, self.by)})' if self.by else ''}"


UNKNOWN = Groups()


@dataclass(frozen=True)
class Threshold:
    """A part is defective when its score exceeds `score`; its regions are where its map exceeds `pixel`.

    overkill: the share of good parts one accepts to reject; held_out: good images it was set from
    supported: whether these are enough to promise that overkill
    method: "held-out good", "labelled" or "given"; note: the caveat as a sentence, or ""
    """

    score: float
    pixel: float
    overkill: float
    held_out: int
    supported: bool
    method: str
    note: str


def choose_threshold(
    good_scores: Sequence[float],
    good_map_peaks: Sequence[float],
    overkill: float,
    method: str = "held-out good",
    folders: int = 0,
    tail: Tail = "observed",
    set_aside: float = 0.0,
    groups: Groups = UNKNOWN,
) -> Threshold:
    """Threshold from scores of good images that were not trained on, and the largest map value of each.

    With too few images for `overkill`, the largest score, and a note that says how many are needed. `folders`: of how
    many whole folders they are (parts, days or batches), 0 where they are single photos; photos of one folder are
    alike, so that few folders support less than their photos seem to, which the note says too. `tail`: whether the
    threshold is an order statistic whatever the number of images, or is estimated where it would not be steady.
    `set_aside`: the share of the good photos that were taken for defective and have no say; had they been good, more
    good parts than `overkill` would be rejected, which the note says too. `groups`: their independent groups, if these
    are known; then their number, not that of images or folders, must be enough for the overkill.
    Raises DataError without images or with an overkill outside (0, 1). There are as many peaks as scores, and all are
    numbers; anything else is a mistake of the program (AssertionError).
    """
    count = len(good_scores)
    assert len(good_map_peaks) == count, "a peak for each score"
    assert all(math.isfinite(value) for value in (*good_scores, *good_map_peaks)), "scores and peaks are numbers"
    if count == 0:
        raise DataError("a threshold needs good images that were not trained on; there are none")
    if not 0 < overkill < 1:
        raise DataError(f"overkill {overkill:g} must lie between 0 and 1, for example 0.01 or 1%")
    needed = math.ceil(1 / overkill - 1 - 1e-9)
    known = groups.count > 0
    basis: Literal["observed", "photos"] = "observed" if tail == "observed" else "photos"
    of_groups = groups.count if known and basis == "observed" else count
    score, pixel = (_limit(values, overkill, tail, of_groups) for values in (good_scores, good_map_peaks))
    estimated = score < _order_statistic(good_scores, overkill)
    supported, note = (groups.count if known else count) >= needed and not estimated, ""
    if known:
        note = _note_of_groups(groups, count, overkill, needed, "estimated" if estimated else basis)
    elif count < needed and not estimated:
        note = (
            f"{count} good images cannot support an overkill of {100 * overkill:.3g} %: {needed} are needed. The "
            f"threshold is the largest of their scores; expect up to {100 / (count + 1):.1f} % of good parts rejected."
        )
    if estimated:
        note += (
            f"{' ' * bool(note)}The threshold is estimated from the tail of {count} good images' scores; the largest "
            f"is {max(good_scores):.3g}. An overkill of {100 * overkill:.3g} % is expected, not promised."
        )
    if folders and folders < needed and not known:
        supported = False
        note += (
            f"{' ' * bool(note)}They lie in {folders} folder{'s' * (folders > 1)}: that many parts, days or batches."
        )
    if set_aside:
        supported = False
        most = set_aside + (1 - set_aside) * max(overkill, 1 / (count + 1))
        note += (
            f"{' ' * bool(note)}{100 * set_aside:.3g} % of the photos were set aside as suspicious; had all of them "
            f"been good, about {100 * most:.3g} % of good parts would be rejected."
        )
    return Threshold(
        score=score,
        pixel=pixel,
        overkill=overkill,
        held_out=count,
        supported=supported,
        method=method,
        note=note,
    )


def promised_share(overkill: float, images: int, groups: Groups = UNKNOWN, tail: Tail = "observed") -> float:
    """Return the share of good parts that a threshold from so many good images can promise to reject at most.

    On average over draws of the good images, where their `groups` are exchangeable with those of parts to come; without
    known groups each image is one. `tail`: as of choose_threshold; where it may be "estimated", the order statistic is
    one of images rather than of groups, and promises less.
    """
    independent = groups.count or images
    if groups.count and tail == "estimated":
        return overkill + (1 - overkill) / (independent + 1)
    return max(overkill, 1 / (independent + 1))


def threshold_from_labelled(
    good_scores: Sequence[float], bad_scores: Sequence[float], good_map_peaks: Sequence[float], overkill: float
) -> Threshold:
    """Threshold from good and defective images: at `overkill` of the good ones, unless the classes are apart.

    Then halfway between the largest good and the smallest defective score: any value there is right on these images,
    and this one is farthest from both. Raises DataError when either kind is missing.
    """
    if not bad_scores:
        raise DataError("a threshold from labelled images needs defective ones; there are none")
    plain = choose_threshold(good_scores, good_map_peaks, overkill, method="labelled")
    highest, lowest = max(good_scores), min(bad_scores)
    score = (highest + lowest) / 2 if highest < lowest else plain.score
    return Threshold(score, plain.pixel, overkill, plain.held_out, plain.supported, "labelled", plain.note)


def _note_of_groups(
    groups: Groups, images: int, overkill: float, needed: int, basis: Literal["observed", "estimated", "photos"]
) -> str:
    """Say how many independent groups there are and what is promised: less where `photos` give the order statistic."""
    if groups.count < needed:
        note = f"No promise: {groups}; {needed} are needed for {100 * overkill:.3g} %."
    elif groups.count < images:
        note = f"The {images} good images are of {groups}."
    else:
        return ""
    if basis == "estimated":
        return note
    share = promised_share(overkill, images, groups, "observed" if basis == "observed" else "estimated")
    return f"{note} Of new groups, up to {100 * share:.2g} % of good parts are rejected on average."


def _limit(values: Sequence[float], overkill: float, tail: Tail, groups: int) -> float:
    observed = _order_statistic(values, overkill, groups)
    steady = len(values) - _rank(values, overkill) >= ENOUGH
    return observed if steady or tail == "observed" else min(observed, _estimated(values, overkill))


def _estimated(values: Sequence[float], overkill: float) -> float:
    """Where an exponential tail through the largest values has `overkill` above it; infinite with too few of them."""
    odds = sorted(math.log(value / (1 - value)) for value in (min(max(each, 1e-6), 1 - 1e-6) for each in values))
    count = min(max(TAIL_MIN, round(TAIL * len(odds))), len(odds) // 2)
    if count == 0 or count / len(odds) <= overkill:
        return math.inf
    start = odds[-count - 1]
    excess = sum(value - start for value in odds[-count:]) / count
    return 1 / (1 + math.exp(-(start + excess * math.log(count / len(odds) / overkill))))


def _rank(values: Sequence[float], overkill: float, groups: int = 0) -> int:
    """Of the order statistic of values of so many groups, 0 for one each; beyond the last where it does not exist."""
    # 1e-9: (n + 1)(1 - overkill) is meant in exact arithmetic
    return math.ceil(len(values) * (1 + 1 / (groups or len(values))) * (1 - overkill) - 1e-9)


def _order_statistic(values: Sequence[float], overkill: float, groups: int = 0) -> float:
    return float(sorted(values)[min(_rank(values, overkill, groups), len(values)) - 1])

"""Where good ends and defective begins: an order statistic of good parts' scores (split conformal prediction).

Source: Vovk et al. 2005; Angelopoulos & Bates 2021. With n good images that took no part in training, the
ceil((n + 1)(1 - overkill))-th smallest score keeps the chance that the next good part is rejected at or under
`overkill`, if parts are exchangeable. That order exists only when n >= 1 / overkill - 1. With fewer images the largest
score is taken, which the next good part exceeds with a chance of 1 / (n + 1), and that is said. Guessing how far the
tail goes on beyond it would let every defect pass where the scores of good and defective parts crowd (RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flawmap.errors import DataError


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
) -> Threshold:
    """Threshold from scores of good images that were not trained on, and the largest map value of each.

    With too few images for `overkill`, the largest score, and a note that says how many are needed. `folders`: of how
    many whole folders they are (parts, days or batches), 0 where they are single photos; photos of one folder are
    alike, so that few folders support less than their photos seem to, which the note says too.
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
    supported, note = count >= needed, ""
    if not supported:
        note = (
            f"{count} good images cannot support an overkill of {100 * overkill:.3g} %: {needed} are needed. The "
            f"threshold is the largest of their scores; expect up to {100 / (count + 1):.1f} % of good parts rejected."
        )
    if folders and folders < needed:
        supported = False
        note += (
            f"{' ' * bool(note)}They lie in {folders} folder{'s' * (folders > 1)}: that many parts, days or batches."
        )
    return Threshold(
        score=_order_statistic(good_scores, overkill),
        pixel=_order_statistic(good_map_peaks, overkill),
        overkill=overkill,
        held_out=count,
        supported=supported,
        method=method,
        note=note,
    )


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


def _order_statistic(values: Sequence[float], overkill: float) -> float:
    ordered = sorted(values)
    # 1e-9: (n + 1)(1 - overkill) is meant in exact arithmetic
    rank = math.ceil((len(ordered) + 1) * (1 - overkill) - 1e-9)
    return float(ordered[min(rank, len(ordered)) - 1])

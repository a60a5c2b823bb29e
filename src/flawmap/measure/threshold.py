"""Where good ends and defective begins: an order statistic of good parts' scores (split conformal prediction).

Source: Vovk et al. 2005; Angelopoulos & Bates 2021. With n good images that took no part in training, the
ceil((n + 1)(1 - overkill))-th smallest score keeps the chance that the next good part is rejected at or under
`overkill`, if parts are exchangeable. That order exists only when n >= 1 / overkill - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flawmap.errors import DataError

MARGIN = 0.05  # over the largest good score, as a share of what is left to 1, when the images are too few


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
    good_scores: Sequence[float], good_map_peaks: Sequence[float], overkill: float, method: str = "held-out good"
) -> Threshold:
    """Threshold from scores of good images that were not trained on, and the largest map value of each.

    With too few images for `overkill`, the largest score plus a margin, and a note that says how many are needed.
    Raises DataError without images or with an overkill outside (0, 1).
    """
    count = len(good_scores)
    if count == 0:
        raise DataError("a threshold needs good images that were not trained on; there are none")
    if not 0 < overkill < 1:
        raise DataError(f"overkill {overkill:g} must lie between 0 and 1, for example 0.01 or 1%")
    needed = math.ceil(1 / overkill - 1 - 1e-9)
    supported, note = count >= needed, ""
    if not supported:
        note = (
            f"{count} good images cannot support an overkill of {overkill:.3g}: {needed} are needed. The threshold is "
            f"the largest of their scores and a margin; expect up to {1 / (count + 1):.1%} of good parts rejected."
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
    """Threshold from good and defective images: at `overkill` of the good ones, or lower where nothing is lost by it.

    When the classes are apart, halfway between the largest good and the smallest defective score: any value there
    is right on these images. Raises DataError when either kind is missing.
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
    if rank <= len(ordered):
        return float(ordered[rank - 1])
    return float(ordered[-1] + MARGIN * max(0.0, 1 - ordered[-1]))

"""What evidence comes to on good photos: deviations above them, as if its largest values were normally distributed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from flawmap.model.familiarity import KNOTS

# Shares of good photos whose largest evidence lies below a knot; the largest of all is a further one, and at least one
# lies beyond it.
QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995)
APART = 1 / 64  # of evidence between knots, at least: they stay apart in half precision


def calibration(largest: Sequence[float], usual: float) -> tuple[Tensor, Tensor]:
    """(evidence, deviations above good parts), (KNOTS,) each, ascending, from the largest evidence on each good photo.

    A quantile of these is as many deviations up as the same quantile of a normal distribution (normal scores, van der
    Waerden 1952). Beyond the largest it goes on as steeply as the upper quarter of them rises. `usual` deviates the
    evidence from place to place: as few numbers may lie close together by chance, a deviation is never less than a
    twentieth of it.
    """
    values = np.sort(np.asarray(largest, np.float64))
    top = (len(values) - 0.5) / len(values)
    shares = np.array([*(share for share in QUANTILES if share < top), top])
    heights = np.array([NormalDist().inv_cdf(share) for share in shares])
    least = max(usual / 20, 1e-3)  # of evidence, for a deviation
    knots = np.quantile(values, shares, method="hazen")
    apart = np.maximum(least * np.diff(heights), APART)
    middle = min(int(np.searchsorted(shares, 0.5)), len(knots) - 1)  # stays: where all photos are alike, they are usual
    for index in range(middle + 1, len(knots)):
        knots[index] = max(knots[index], knots[index - 1] + apart[index - 1])
    for index in range(middle, 0, -1):
        knots[index - 1] = min(knots[index - 1], knots[index] - apart[index - 1])
    start = min(int(np.searchsorted(shares, 0.75)), len(knots) - 2)
    width = max((knots[-1] - knots[start]) / (heights[-1] - heights[start]), APART)
    further = np.arange(1, KNOTS - len(knots) + 1)
    knots = np.append(knots, knots[-1] + further * width)
    heights = np.append(heights, heights[-1] + further)
    return torch.tensor(knots, dtype=torch.float32), torch.tensor(heights, dtype=torch.float32)

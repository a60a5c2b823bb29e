"""Probability of detection against the size of a defect, and the figure a90/95 of non-destructive testing.

Hit/miss analysis (MIL-HDBK-1823A; Berens 1989): a logistic curve in the logarithm of size, logit POD = b0 + b1 ln a.
a90 is the size that is found with a probability of 0.9, a90/95 the upper end of its one-sided 95 % confidence interval,
by profile likelihood. The likelihood is penalised by Jeffreys' prior (Firth 1993; Heinze & Schemper 2002), so that
there is an answer also where every defect above a size is found and none below.

Axes: N trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

WANTED, CONFIDENCE = 0.9, 0.95
LOGIT = math.log(WANTED / (1 - WANTED))
STEPS = 100


@dataclass(frozen=True)
class Curve:
    """POD(a) = 1 / (1 + exp(-(intercept + slope ln a))); a90, a90_95 in the unit of sizes, None where not reached.

    Not reached: beyond the largest size tried, where a curve is a guess; or a slope that is not positive. Below the
    smallest size tried it would be a guess too: that size then stands for it.
    """

    intercept: float
    slope: float
    a90: float | None
    a90_95: float | None

    def pod(self, size: float) -> float:
        """Probability of detection at a size."""
        return float(_logistic(np.array([self.intercept + self.slope * math.log(size)]))[0])


def fit(sizes: Sequence[float], found: Sequence[bool]) -> Curve:
    """The curve of trials (N,): sizes above 0, and which were found. There is at least one of two sizes."""
    x, y = np.log(np.asarray(sizes, np.float64)), np.asarray(found, np.float64)
    assert len(set(x.tolist())) > 1, "a curve takes two sizes"
    smallest = float(x.min())
    centre = float(x.mean())  # centred, the two coefficients hardly depend on each other
    intercept, slope, best = _maximise(x - centre, y)
    largest = float(x.max())
    a90 = centre + (LOGIT - intercept) / slope if slope > 0 else math.inf
    bound = math.inf
    if a90 <= largest:
        bound = _upper(x - centre, y, a90 - centre, best) + centre
    if y.all():  # there is no slope to tell where POD falls
        a90, bound = smallest, _all_found(x)
    return Curve(
        intercept - slope * centre,
        slope,
        math.exp(max(a90, smallest)) if a90 <= largest else None,
        math.exp(max(bound, smallest)) if bound <= largest else None,
    )


def _all_found(x: Floats) -> float:
    """Logarithm of the smallest size of which WANTED can be said where every trial was found; infinite for none.

    Smaller defects are not found more often, so that trials up to a size speak for it: n of n found have a lower
    confidence bound of (1 - CONFIDENCE)^(1/n) (Clopper & Pearson 1934).
    """
    needed = math.log(1 - CONFIDENCE) / math.log(WANTED)
    for size in np.unique(x):
        if (x <= size).sum() >= needed:
            return float(size)
    return math.inf


def _upper(x: Floats, y: Floats, start: float, best: float) -> float:
    """Upper end of the one-sided interval of a90's logarithm, by bisection; infinite where the data do not bound it."""
    from scipy.stats import chi2

    allowed = float(chi2.ppf(2 * CONFIDENCE - 1, 1)) / 2

    def lost(place: float) -> float:
        """How much likelihood is lost where POD(place) is held at WANTED."""
        return best - _maximise(x, y, held=place)[2]

    low, width = start, 0.1
    while lost(start + width) < allowed:
        low, width = start + width, 2 * width
        if width > 20:  # twenty powers of e
            return math.inf
    high = start + width
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if lost(middle) < allowed else (low, middle)
    return high


def _maximise(x: Floats, y: Floats, held: float | None = None) -> tuple[float, float, float]:
    """(intercept, slope, penalised log-likelihood) where that is largest.

    With `held`, POD(held) is WANTED: intercept = LOGIT - slope * held, and the slope alone is free, at 0 or above.
    """
    from scipy.optimize import minimize, minimize_scalar

    def negative(intercept: float, slope: float) -> float:
        linear = intercept + slope * x
        weight = _logistic(linear) * _logistic(-linear)
        total, first, second = weight.sum(), (weight * x).sum(), (weight * x * x).sum()
        penalty = 0.5 * math.log(max(total * second - first * first, 1e-300))
        return -float((y * linear - np.logaddexp(0, linear)).sum()) - penalty

    if held is not None:
        one = minimize_scalar(lambda slope: negative(LOGIT - slope * held, slope), bounds=(0, 60), method="bounded")
        return LOGIT - float(one.x) * held, float(one.x), -float(one.fun)
    both = minimize(lambda b: negative(b[0], b[1]), np.array([0.0, 1.0]), method="Nelder-Mead",
                    options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})  # fmt: skip
    return float(both.x[0]), float(both.x[1]), -float(both.fun)


def _logistic(linear: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(linear / 2)), np.float64)

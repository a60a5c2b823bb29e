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
FLAT = 0.05  # slope under which a curve is taken to be level


@dataclass(frozen=True)
class Curve:
    """POD(a) = 1 / (1 + exp(-(intercept + slope ln a))); a90, a90_95 in the unit of sizes, None where not reached.

    Not reached: beyond the largest size tried, where a curve is a guess. Below the
    smallest size tried it would be a guess too: that size then stands for it.
    """

    intercept: float
    slope: float
    a90: float | None
    a90_95: float | None

    def pod(self, size: float) -> float:
        """Probability of detection at a size."""
        return float(_logistic(np.array([self.intercept + self.slope * math.log(size)]))[0])


def fit(sizes: Sequence[float], found: Sequence[bool], bound: bool = True) -> Curve:
    """The curve of trials (N,): sizes above 0, and which were found. There is at least one of two sizes.

    Without `bound`, which takes most of the time, a90_95 is None.
    """
    x, y = np.log(np.asarray(sizes, np.float64)), np.asarray(found, np.float64)
    assert len(set(x.tolist())) > 1, "a curve takes two sizes"
    smallest = float(x.min())
    centre = float(x.mean())  # centred, the two coefficients hardly depend on each other
    intercept, slope, best = _maximise(x - centre, y)
    largest, curve = float(x.max()), (intercept - slope * centre, slope)
    if slope < FLAT or y.all():  # found alike at all sizes: there is no telling where POD falls below
        enough = intercept >= LOGIT or bool(y.all())
        upper = _bound_where_flat(x, y)
        return Curve(*curve, math.exp(smallest) if enough else None, math.exp(upper) if upper <= largest else None)
    a90 = centre + (LOGIT - intercept) / slope
    upper = _upper(x - centre, y, a90 - centre, best) + centre if bound and a90 <= largest else math.inf
    return Curve(
        *curve,
        math.exp(max(a90, smallest)) if a90 <= largest else None,
        math.exp(max(upper, smallest)) if upper <= largest else None,
    )


def _bound_where_flat(x: Floats, y: Floats) -> float:
    """Logarithm of the smallest size of which WANTED can be said, with no slope to go by; infinite for none.

    Smaller defects are not found more often, so that trials up to a size speak for it: by the lower confidence bound of
    their share (Clopper & Pearson 1934).
    """
    from scipy.stats import beta

    for size in np.unique(x):
        up_to = x <= size
        found, tried = int(y[up_to].sum()), int(up_to.sum())
        if found and beta.ppf(1 - CONFIDENCE, found, tried - found + 1) >= WANTED:
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
    """(intercept, slope, penalised log-likelihood) where that is largest; larger defects are not found less often.

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
    both = minimize(lambda b: negative(b[0], abs(b[1])), np.array([0.0, 1.0]), method="Nelder-Mead",
                    options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})  # fmt: skip
    return float(both.x[0]), abs(float(both.x[1])), -float(both.fun)


def _logistic(linear: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(linear / 2)), np.float64)

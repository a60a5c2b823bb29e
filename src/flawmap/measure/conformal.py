"""A guarantee instead of a number: conformal p-values of parts, and control of false discoveries in a lot.

The p-value of a part is the chance that a good part scores as high, told from n good parts that took no part in
training: (1 + how many of them score at least as high) / (n + 1). If good parts are exchangeable, rejecting what has
p <= a rejects at most a share `a` of the good ones, at any n (Vovk et al. 2005). In a lot, the procedure of Benjamini
and Hochberg (1995) on these p-values keeps the expected share of good parts among the rejected at or under the wanted
rate (Bates et al. 2023: conformal p-values that share their good parts depend on each other in a way that allows it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flawmap.errors import DataError


def p_value(score: float, good_scores: Sequence[float]) -> float:
    """Conformal p-value in (0, 1] of a part's score, from those of good parts that were not trained on.

    Without any it is 1: nothing is known. The smallest that n good parts can give is 1 / (n + 1).
    """
    assert math.isfinite(score), "a score is a number"
    return (1 + sum(good >= score for good in good_scores)) / (len(good_scores) + 1)


def false_discoveries(p_values: Sequence[float], rate: float) -> list[bool]:
    """Which parts of a lot are rejected so that at most a share `rate` of them is good, on average over lots.

    Benjamini & Hochberg 1995: the k smallest p-values, k the largest number with the k-th at most rate * k / m. Raises
    DataError for a rate outside (0, 1).
    """
    if not 0 < rate < 1:
        raise DataError(f"a false-discovery rate of {rate:g} must lie between 0 and 1, for example 0.1 or 10%")
    total = len(p_values)
    limit = 0.0
    for rank, value in enumerate(sorted(p_values), 1):
        if value <= rate * rank / total + 1e-12:  # ranks and counts are meant in exact arithmetic
            limit = value
    return [value <= limit for value in p_values]


def fewest_rejected(good: int, parts: int, rate: float) -> int:
    """The smallest number of parts of a lot that can be rejected, if any is: with few good parts, many.

    `good`: parts that p-values are told from; more than `parts` means that none can be rejected in such a lot.
    """
    return math.ceil(parts / (rate * (good + 1)) - 1e-9)

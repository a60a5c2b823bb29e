from __future__ import annotations

import numpy as np
import pytest

from flawmap.errors import DataError
from flawmap.measure.conformal import false_discoveries, fewest_rejected, p_value


def test_a_p_value_counts_the_good_parts_that_score_as_high() -> None:
    good = [0.1, 0.2, 0.2, 0.9]
    assert [p_value(score, good) for score in (0.05, 0.1, 0.2, 0.3, 0.95)] == [1.0, 1.0, 0.8, 0.4, 0.2]
    assert p_value(0.5, []) == 1.0


@pytest.mark.parametrize(("count", "level"), [(19, 0.05), (76, 0.02), (30, 0.1), (99, 0.01)])
def test_no_more_good_parts_are_rejected_than_promised(count: int, level: float) -> None:
    """Over many sets of good parts, of a crowded and lopsided distribution; exact where (n + 1) level is whole."""
    rng = np.random.default_rng(count)
    rejected = 0
    trials = 20_000
    for _ in range(trials):
        scores = np.round(rng.gamma(0.4, size=count + 1), 3)  # with ties
        rejected += p_value(float(scores[0]), scores[1:].tolist()) <= level + 1e-12
    promised = np.floor((count + 1) * level + 1e-9) / (count + 1)
    deviation = np.sqrt(promised * (1 - promised) / trials)
    assert rejected / trials <= promised + 4 * deviation
    assert rejected / trials >= 0.8 * promised - 4 * deviation  # ties alone make it shy of it


def test_the_share_of_good_parts_among_the_rejected_is_kept() -> None:
    """30 good and 10 defective parts a lot, p-values from 199 good parts shared by the lot."""
    rng = np.random.default_rng(0)
    rate, shares, found = 0.2, [], []
    for _ in range(1500):
        good = rng.normal(size=199).tolist()
        lot = np.concatenate([rng.normal(size=30), rng.normal(3.0, size=10)])
        rejected = np.array(false_discoveries([p_value(float(score), good) for score in lot], rate))
        shares.append(rejected[:30].sum() / max(rejected.sum(), 1))
        found.append(rejected[30:].mean())
    assert np.mean(shares) <= rate + 3 * np.std(shares) / np.sqrt(len(shares))
    assert np.mean(shares) > 0.1 * rate
    assert np.mean(found) > 0.6
    naive = [np.mean(rng.normal(size=40) > 1.28) for _ in range(100)]  # a lot of good parts alone, at p <= 0.1
    assert np.mean(naive) > 0.05  # without the procedure all that is rejected of it would be good


def test_the_procedure_steps_up() -> None:
    """The second p-value alone is too large for its rank; the third takes it along."""
    assert false_discoveries([0.9, 0.04, 0.05, 0.05], 0.1) == [False, True, True, True]
    assert false_discoveries([0.9, 0.04, 0.8, 0.8], 0.1) == [False, False, False, False]
    assert false_discoveries([], 0.1) == []
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(DataError, match="false-discovery rate"):
            false_discoveries([0.5], rate)


@pytest.mark.parametrize(("good", "parts", "rate"), [(76, 100, 0.1), (199, 40, 0.2), (9, 20, 0.1), (99, 50, 0.05)])
def test_no_fewer_parts_than_said_are_ever_rejected(good: int, parts: int, rate: float) -> None:
    smallest = 1 / (good + 1)
    fewest = fewest_rejected(good, parts, rate)
    for count in range(1, parts + 1):
        rejected = sum(false_discoveries([smallest] * count + [1.0] * (parts - count), rate))
        assert rejected == (count if count >= fewest else 0)

from __future__ import annotations

import math

import numpy as np
import pytest

from flawmap.measure.detectability import fit


def planted(a50: float, slope: float, rng: np.random.Generator, each: int = 40) -> tuple[list[float], list[bool]]:
    sizes = np.repeat([2.0, 3, 4, 6, 8, 12, 16, 24, 32], each)
    chance = 1 / (1 + np.exp(-slope * np.log(sizes / a50)))
    return sizes.tolist(), (rng.random(len(sizes)) < chance).tolist()


def true_a90(a50: float, slope: float) -> float:
    return a50 * math.exp(math.log(9) / slope)


@pytest.mark.parametrize(("a50", "slope"), [(5.0, 4.0), (8.0, 2.5), (3.0, 6.0)])
def test_a_planted_limit_is_found(a50: float, slope: float) -> None:
    sizes, found = planted(a50, slope, np.random.default_rng(1), each=1500)
    curve = fit(sizes, found)
    assert curve.a90 == pytest.approx(true_a90(a50, slope), rel=0.05)
    assert curve.slope == pytest.approx(slope, rel=0.08)
    assert curve.pod(a50) == pytest.approx(0.5, abs=0.03)
    assert curve.a90_95 is not None
    assert curve.a90 is not None
    assert curve.a90 < curve.a90_95 < 1.1 * curve.a90


def test_a90_95_is_an_upper_bound_nineteen_times_in_twenty() -> None:
    a50, slope, trials = 6.0, 3.0, 300
    rng = np.random.default_rng(2)
    truth = true_a90(a50, slope)
    bounds = [fit(*planted(a50, slope, rng, each=20)).a90_95 for _ in range(trials)]
    held = sum(bound is None or bound >= truth for bound in bounds) / trials
    assert 0.92 <= held <= 0.985  # 0.95 within the chance of 300 trials


def test_a_clean_cut_between_found_and_not_has_an_answer() -> None:
    """Without a penalty the slope would be infinite."""
    sizes = [2.0] * 20 + [4.0] * 20 + [8.0] * 20 + [16.0] * 20
    curve = fit(sizes, [size > 5 for size in sizes])
    assert curve.a90 is not None
    assert 4 < curve.a90 < 8.5
    assert curve.a90_95 is not None
    assert curve.a90 < curve.a90_95 < 16


def test_what_is_not_reached_is_not_guessed() -> None:
    rng = np.random.default_rng(3)
    sizes, found = planted(30.0, 3.0, rng)
    curve = fit(sizes, found)
    assert curve.a90 is None
    assert curve.a90_95 is None
    nothing = fit(sizes, [False] * len(sizes))
    assert nothing.a90 is None
    assert nothing.pod(8.0) < 0.1
    falling = fit(sizes, [size < 6 for size in sizes])
    assert falling.a90 is None
    assert falling.slope == pytest.approx(0, abs=1e-3)


def test_everything_found_is_bounded_by_what_was_tried() -> None:
    for each, bound in ((30, 2.0), (15, 4.0), (10, 8.0), (9, None)):  # 29 of 29 speak for nine in ten
        curve = fit([2.0, 4.0, 8.0] * each, [True] * (3 * each))
        assert curve.a90 == pytest.approx(2.0)
        assert curve.a90_95 == (None if bound is None else pytest.approx(bound))
    uneven = fit([4.0, 12.0, 24.0] * 4, [True] * 12)  # the penalty alone gives such sizes a slope
    assert (uneven.a90, uneven.a90_95) == (pytest.approx(4.0), None)
    sizes = [2.0, 4.0, 8.0] * 40
    for missed in ([119], [118, 116]):  # a few misses, wherever they are, do not undo it
        curve = fit(sizes, [number not in missed for number in range(120)])
        assert curve.a90 == pytest.approx(2.0)
        assert curve.a90_95 is not None
    with pytest.raises(AssertionError):
        fit([2.0, 2.0], [True, False])

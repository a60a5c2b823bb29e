"""Good parts compared with the photos that set the threshold: what is said of them, and when nothing is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import betabinom, fisher_exact

from flawmap.measure.exchangeability import LEVEL, GoodParts, chance_of, compare_good
from flawmap.measure.threshold import Groups, Threshold, choose_threshold

PHOTOS = [number / 1000 for number in range(90)]
LIMIT = choose_threshold(PHOTOS, PHOTOS, 0.05)  # the 87th of 90: three photos lie above it


def compared(scores: list[float], photos: list[float] = PHOTOS, threshold: Threshold = LIMIT) -> GoodParts:
    found = compare_good(scores, photos, threshold)
    assert found is not None
    return found


def test_seventeen_of_eighteen_rejected_is_said() -> None:
    found = compared([0.0, *(0.2 + number / 100 for number in range(17))])
    assert (found.parts, found.above, found.photos, found.photos_above) == (18, 17, 90, 3)
    assert found.unlike
    assert found.sentence == (
        "17 of 18 good parts score above the threshold (5 % were promised): they are unlike the good photos trained "
        "on; add photos of their kind with `flawmap refine`, or check light and position with `flawmap check`."
    )
    assert found.to_json()["sentence"] == found.sentence


def test_parts_like_the_photos_are_not_mentioned() -> None:
    found = compared(PHOTOS[::5])
    assert not found.unlike
    assert found.sentence == ""


def test_a_few_odd_ones_among_usual_parts_may_not_be_good() -> None:
    found = compared([*PHOTOS[:86:2], *(0.5 for _ in range(12))])
    assert found.unlike
    assert found.chance_higher > LEVEL
    assert found.sentence.startswith(
        "12 of 55 good parts score above the threshold (5 % were promised): some are unlike the good photos trained "
        "on, or not good; look at these"
    )


def test_parts_that_score_higher_but_pass_are_not_mentioned() -> None:
    found = compared([0.08 + number / 10000 for number in range(30)])
    assert found.chance_higher < LEVEL
    assert found.above == 0
    assert not found.unlike


def test_few_independent_groups_promise_less() -> None:
    scores = [*PHOTOS[:77], *(0.5 for _ in range(23))]
    assert compared(scores).unlike
    found = compare_good(scores, PHOTOS, LIMIT, Groups(9, "folder"))
    assert found is not None
    assert found.promised == pytest.approx(0.1)  # one of ten groups, rather than 5 % of 90 photos
    assert found.chance > compared(scores).chance
    estimated = compare_good(scores, PHOTOS, LIMIT, Groups(9, "folder"), "estimated")
    assert estimated is not None
    assert estimated.promised == pytest.approx(0.05 + 0.95 / 10)


def test_by_hand() -> None:
    """Two photos, one above; both of two parts above: 3 of 4 lie above, and 1 of 4 choices leaves a photo below."""
    assert chance_of(2, 2, 1, 2, None) == pytest.approx(2 / 4)
    assert chance_of(2, 2, 0, 2, None) == pytest.approx(1 / 6)  # of the 6 pairs that may lie above, just this one
    assert chance_of(2, 2, 0, 2, 0.5) == pytest.approx(1 / 4)  # the larger: two heads
    assert chance_of(0, 2, 0, 2, 0.5) == 1


@pytest.mark.parametrize(
    ("above", "parts", "photos_above", "photos"), [(5, 20, 1, 39), (3, 10, 0, 19), (40, 400, 9, 90)]
)
def test_it_is_fishers_test_and_the_law_of_an_order_statistic(
    above: int, parts: int, photos_above: int, photos: int
) -> None:
    found = chance_of(above, parts, photos_above, photos, None)
    table = [[above, parts - above], [photos_above, photos - photos_above]]
    assert found == pytest.approx(fisher_exact(table, alternative="greater").pvalue)
    assert found == pytest.approx(betabinom.sf(above - 1, parts, photos_above + 1, photos - photos_above))


def test_photos_are_too_few_to_blame_the_parts() -> None:
    """Ten photos whose largest score is the threshold: four of 20 above it happen, though 5 % were asked for."""
    photos = PHOTOS[:10]
    limit = choose_threshold(photos, photos, 0.05)
    scores = [*np.linspace(0, 0.008, 16), 0.02, 0.02, 0.02, 0.02]
    found = compared(scores, photos, limit)
    assert found.promised == pytest.approx(1 / 11)
    assert not found.unlike
    worse = compared([0.02] * 18, photos, limit)
    assert "(9.09 % were expected)" in worse.sentence


def test_a_threshold_of_the_users_own_promises_nothing() -> None:
    given = replace(LIMIT, score=0.0445, method="given")
    assert not compared([*PHOTOS[::3]], PHOTOS, given).unlike
    assert (
        "18 of 18 good parts score above the threshold (45 of 90 good photos trained on do)"
        in compared([0.1] * 18, PHOTOS, given).sentence
    )


def test_nothing_is_compared_with_nothing() -> None:
    assert compare_good([], PHOTOS, LIMIT) is None
    assert compare_good([0.5], [], LIMIT) is None
    same = compared([0.5] * 5, [0.5] * 20, replace(LIMIT, score=0.5))
    assert (same.unlike, same.chance_higher) == (False, 1.0)


def test_exchangeable_scores_are_left_in_peace() -> None:
    """In 99.9 % of draws, also where so few photos set the threshold that it is itself a matter of chance."""
    draws, overkill, fired, sizes = 4000, 0.05, 0, [(n, m) for n in (10, 19, 38, 90, 256) for m in (5, 18, 41, 400)]
    for photos, parts in sizes:
        rng = np.random.default_rng(photos + parts)
        rank = min(math.ceil((photos + 1) * (1 - overkill) - 1e-9), photos)
        limits = np.partition(rng.random((draws, photos), np.float32), rank - 1)[:, rank - 1]
        above = (rng.random((draws, parts), np.float32) > limits[:, None]).sum(1).tolist()
        promised = max(overkill, 1 / (photos + 1))
        chances = {count: chance_of(count, parts, photos - rank, photos, promised) for count in set(above)}
        fired += sum(chances[count] < LEVEL for count in above)
    assert 0 < fired <= draws * len(sizes) / 1000


def test_whole_comparisons_are_left_in_peace_too() -> None:
    """With an estimated tail, as in `fast`, and scores that crowd: silent in 99.9 %."""
    rng = np.random.default_rng(1)
    fired = 0
    for _ in range(1000):
        photos, scores = rng.beta(1, 9, 38).round(3).tolist(), rng.beta(1, 9, 60).round(3).tolist()
        fired += compared(scores, photos, choose_threshold(photos, photos, 0.05, tail="estimated")).unlike
    assert fired <= 1

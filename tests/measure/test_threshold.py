from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawmap.errors import DataError
from flawmap.measure.threshold import (
    Groups,
    Tail,
    Threshold,
    choose_threshold,
    promised_share,
    threshold_from_labelled,
)

scores = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def of(values: list[float], overkill: float) -> Threshold:
    return choose_threshold(values, values, overkill)


def test_good_parts_are_rejected_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    # Of uniform scores, 1 - threshold exceed it. 19 images are just enough for 5 %, 30 are some more than enough.
    for count, expected in ((19, 1 - 19 / 20), (30, 1 - 30 / 31), (60, 1 - 58 / 61)):
        rejected = [1 - of(rng.random(count).tolist(), 0.05).score for _ in range(3000)]
        assert np.mean(rejected) == pytest.approx(expected, abs=0.003)
        assert expected <= 0.05 + 1e-12


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=19, max_size=40))
def test_a_supported_threshold_is_the_order_statistic_whatever_the_distribution(values: list[float]) -> None:
    found = of(values, 0.05)
    assert found.supported and found.note == ""
    assert found.score == sorted(values)[math.ceil((len(values) + 1) * 0.95 - 1e-9) - 1]
    assert of([value**3 for value in values], 0.05).score == found.score**3


@pytest.mark.parametrize(("overkill", "needed"), [(0.05, 19), (0.01, 99), (0.005, 199), (0.001, 999), (0.3, 3)])
def test_support_begins_at_one_over_overkill_less_one(overkill: float, needed: int) -> None:
    values = np.linspace(0.1, 0.2, needed).tolist()
    assert of(values, overkill).supported
    few = of(values[:-1], overkill)
    assert not few.supported
    assert f"{needed} are needed" in few.note and f"{needed - 1} good images" in few.note
    assert "\n" not in few.note


@settings(max_examples=100, deadline=None, derandomize=True)
@given(scores)
def test_too_few_images_put_the_threshold_on_the_largest_of_them(values: list[float]) -> None:
    found = of(values, 0.01)
    assert found.score == max(values)
    assert found.held_out == len(values)


def test_with_too_few_images_the_next_good_part_is_rejected_as_often_as_the_note_says() -> None:
    rng = np.random.default_rng(3)
    rejected = [math.exp(-of(rng.exponential(0.005, 12).tolist(), 0.01).score / 0.005) for _ in range(2000)]
    assert np.mean(rejected) == pytest.approx(1 / 13, abs=0.01)
    assert "up to 7.7 % of good parts" in of([0.1] * 12, 0.01).note


def estimated(values: list[float], overkill: float) -> Threshold:
    return choose_threshold(values, values, overkill, tail="estimated")


def test_an_odd_photo_among_the_good_ones_moves_an_estimated_threshold_little() -> None:
    values = np.random.default_rng(5).uniform(0.2, 0.5, 125).tolist()
    odd = [*values, 0.99]
    assert of(odd, 0.01).score == 0.99
    found, calm = estimated(odd, 0.01), estimated(values, 0.01)
    assert found.score < 0.75 and calm.score <= of(values, 0.01).score
    assert not found.supported and "expected, not promised" in found.note and "0.99" in found.note


def test_an_estimated_threshold_rejects_about_the_overkill_of_exponential_tails() -> None:
    rng = np.random.default_rng(6)
    rejected = []
    for _ in range(2000):
        odds = rng.exponential(size=150)
        score = estimated((1 / (1 + np.exp(-odds))).tolist(), 0.01).score
        rejected.append((1 - score) / score)  # exp(-log odds)
    assert np.mean(rejected) == pytest.approx(0.0125, abs=0.003)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=500), st.sampled_from([0.01, 0.05, 0.2]))
def test_an_estimated_threshold_is_never_above_the_order_statistic_and_is_that_where_it_is_steady(
    values: list[float], overkill: float
) -> None:
    found, plain = estimated(values, overkill), of(values, overkill)
    assert found.score <= plain.score
    if len(values) - math.ceil((len(values) + 1) * (1 - overkill)) >= 3:
        assert found == plain


def test_equal_scores_give_a_threshold_that_passes_them() -> None:
    assert of([0.25] * 8, 0.01).score == 0.25
    assert of([1.0] * 8, 0.01).score == 1.0
    assert of([0.5], 0.01).score == 0.5


def test_scores_and_peaks_have_their_own_thresholds() -> None:
    found = choose_threshold([0.1] * 99, [0.7] * 99, 0.01)
    assert (found.score, found.pixel) == (0.1, 0.7)
    assert (found.overkill, found.held_out, found.method) == (0.01, 99, "held-out good")


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="good images"):
        choose_threshold([], [], 0.01)


@pytest.mark.parametrize("overkill", [0.0, 1.0, -0.1, 5.0, math.nan])
def test_an_overkill_outside_0_to_1_is_refused(overkill: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        of([0.1, 0.2], overkill)


def test_a_score_that_is_no_number_is_refused() -> None:
    for values, peaks in (([0.1, math.nan], [0.1, 0.1]), ([0.1, 0.1], [math.inf, 0.1]), ([0.1, 0.1], [0.1])):
        with pytest.raises(AssertionError):
            choose_threshold(values, peaks, 0.01)


def test_classes_apart_are_parted_in_the_middle() -> None:
    found = threshold_from_labelled([0.1, 0.2], [0.6, 0.9], [0.3, 0.4], 0.01)
    assert found.score == pytest.approx(0.4)
    assert found.method == "labelled"
    assert found.pixel == choose_threshold([0.1, 0.2], [0.3, 0.4], 0.01).pixel


def test_overlapping_classes_are_parted_at_the_overkill_of_the_good() -> None:
    good = np.linspace(0, 0.5, 99).tolist()
    found = threshold_from_labelled(good, [0.3, 0.9], good, 0.1)
    assert found.score == choose_threshold(good, good, 0.1).score
    assert sum(score > found.score for score in good) <= 9


def test_labelled_images_of_one_kind_are_refused() -> None:
    with pytest.raises(DataError, match="defective"):
        threshold_from_labelled([0.1], [], [0.1], 0.01)
    with pytest.raises(DataError, match="good"):
        threshold_from_labelled([], [0.9], [], 0.01)


def of_groups(groups: int, each: int, overkill: float = 0.05, tail: Tail = "observed", seed: int = 0) -> Threshold:
    """Threshold of photos of which those of one group are nearly the same."""
    rng = np.random.default_rng(seed)
    scores = (np.repeat(rng.random(groups), each) * 0.99 + 0.01 * rng.random(groups * each)).tolist()
    return choose_threshold(scores, scores, overkill, tail=tail, groups=Groups(groups, "order"))


@pytest.mark.parametrize("tail", ["observed", "estimated"])
@pytest.mark.parametrize(("overkill", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99)])
def test_nothing_is_promised_of_fewer_independent_groups_than_are_needed(
    overkill: float, needed: int, tail: Tail
) -> None:
    few, enough = (of_groups(count, 20, overkill, tail) for count in (needed - 1, needed))
    assert enough.supported and not few.supported
    refusal = f"No promise: {needed - 1} independent groups (by order of capture); {needed} are needed for"
    assert few.note.startswith(f"{refusal} {100 * overkill:g} %.")
    assert f"{20 * needed} good images are of {needed} independent groups" in enough.note


def test_what_is_promised_depends_on_the_groups_alone() -> None:
    for count in (19, 40, 400, 4000):
        scores = np.linspace(0, 1, count).tolist()
        assert not choose_threshold(scores, scores, 0.05, groups=Groups(18, "folder")).supported
        assert choose_threshold(scores, scores, 0.05, groups=Groups(19, "folder")).supported


def test_photos_that_are_groups_of_their_own_need_no_note() -> None:
    scores = np.linspace(0.1, 0.2, 30).tolist()
    alone = choose_threshold(scores, scores, 0.05, groups=Groups(30, "near-duplicates"))
    assert alone == choose_threshold(scores, scores, 0.05)


def test_photos_of_new_groups_are_rejected_as_often_as_promised() -> None:
    for groups in (19, 30):
        observed, photos = (
            [1 - of_groups(groups, 10, tail=tail, seed=seed).score for seed in range(1500)]
            for tail in ("observed", "estimated")
        )
        assert np.mean(observed) <= 0.05 + 0.004
        bound = 0.05 + 0.95 / (groups + 1)
        assert np.mean(observed) < np.mean(photos) <= bound + 0.004
        assert f"up to {100 * bound:.2g} %" in of_groups(groups, 10, tail="estimated").note
        assert "up to 5 %" in of_groups(groups, 10).note


def test_the_note_of_too_few_groups_says_what_to_expect() -> None:
    assert "up to 21 % of good parts" in of_groups(5, 20, tail="estimated").note
    assert "up to 17 % of good parts" in of_groups(5, 20).note


def test_groups_are_read_from_provenance_and_unknown_in_an_old_bundle() -> None:
    assert Groups.of({"groups": {"count": 18, "by": "folder"}}) == Groups(18, "folder")
    assert Groups.of({}) == Groups.of({"groups": {}}) == Groups(0, "")
    assert str(Groups(18, "folder")) == "18 independent groups (by folder)"


@pytest.mark.parametrize(
    ("groups", "tail", "share"),
    [
        (0, "observed", 0.05), (0, "estimated", 0.05), (9, "observed", 0.1), (9, "estimated", 0.05 + 0.95 / 10),
        (19, "observed", 0.05), (99, "observed", 0.05), (99, "estimated", 0.05 + 0.95 / 100),
    ],
)  # fmt: skip
def test_what_is_promised_follows_from_the_independent_groups(groups: int, tail: Tail, share: float) -> None:
    assert promised_share(0.05, 90, Groups(groups), tail) == pytest.approx(share)


def test_few_images_of_unknown_groups_promise_one_of_them() -> None:
    assert promised_share(0.05, 9) == pytest.approx(0.1)

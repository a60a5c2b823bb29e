"""What evidence comes to on good photos, as deviations of a normal distribution."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flawmap.measure.calibration import APART, calibration
from flawmap.model.familiarity import KNOTS


def height(value: float, knots: torch.Tensor, heights: torch.Tensor) -> float:
    return float(np.interp(value, knots.numpy(), heights.numpy()))


@pytest.mark.parametrize("shape", ["normal", "long tail"])
def test_a_quantile_of_good_photos_is_as_far_up_as_that_of_a_normal_distribution(shape: str) -> None:
    values = np.random.default_rng(0).normal(size=4000)
    values = values if shape == "normal" else np.exp(1.5 * values)
    knots, heights = calibration(values.tolist(), 1.0)
    for share in (0.25, 0.5, 0.75, 0.9, 0.99):
        assert height(float(np.quantile(values, share)), knots, heights) == pytest.approx(
            NormalDist().inv_cdf(share), abs=0.01
        )
    if shape == "normal":
        np.testing.assert_allclose(knots[:8], heights[:8], atol=0.1)


def test_beyond_the_largest_it_rises_as_the_upper_quarter_does() -> None:
    values = np.random.default_rng(1).exponential(size=300)
    knots, heights = (tensor.numpy() for tensor in calibration(values.tolist(), 1.0))
    largest = int(np.argmin(abs(knots - values.max())))
    upper = np.quantile(values, 0.75, method="hazen")
    slope = (heights[largest] - NormalDist().inv_cdf(0.75)) / (values.max() - upper)
    assert (heights[-1] - heights[-2]) / (knots[-1] - knots[-2]) == pytest.approx(slope, rel=1e-3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-12, 12), min_size=1, max_size=150), st.floats(0, 5))
def test_knots_rise_even_in_half_precision_and_a_deviation_is_never_next_to_nothing(
    values: list[float], usual: float
) -> None:
    knots, heights = calibration(values, usual)
    assert knots.shape == heights.shape == (KNOTS,)
    assert (knots.half().diff() > 0).all() and (heights.half().diff() > 0).all()
    steepest = (heights.diff() / knots.diff()).max()
    assert steepest <= 1.01 / max(usual / 20, 1e-3) and steepest <= 1.01 * 2 / APART


def test_the_largest_of_a_few_is_where_so_few_can_tell() -> None:
    knots, heights = calibration([1.0, 2.0, 3.0, 4.0], 0.1)
    assert height(4.0, knots, heights) == pytest.approx(NormalDist().inv_cdf(3.5 / 4), abs=1e-3)


@pytest.mark.parametrize("count", [1, 2, 7, 200])
def test_photos_that_are_all_alike_are_usual(count: int) -> None:
    knots, heights = calibration([1.5] * count, 0.3)
    assert height(1.5, knots, heights) == pytest.approx(0.0, abs=1e-6)

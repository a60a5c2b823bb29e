from __future__ import annotations

import math

import numpy as np
import pytest

from flawmap.measure.metrics import escape_at


@pytest.mark.parametrize(
    ("overkill", "expected"),
    [
        (0.0, 0.75),  # none of the good may be rejected: what scores above 0.9 is found
        (0.19, 0.75),  # a fifth would be one of them
        (0.2, 0.5),
        (0.4, 0.25),
    ],
)
def test_escape_at_an_overkill_follows_from_the_good(overkill: float, expected: float) -> None:
    good, bad = [0.1, 0.2, 0.3, 0.6, 0.9], [0.25, 0.5, 0.8, 0.95]
    defective = np.array([False] * 5 + [True] * 4)
    assert escape_at(defective, np.array(good + bad), overkill) == expected


def test_a_defect_that_ties_with_the_threshold_escapes() -> None:
    assert escape_at(np.array([False, True, True]), np.array([0.5, 0.5, 0.6]), 0.01) == 0.5


def test_one_class_gives_no_escape() -> None:
    assert math.isnan(escape_at(np.array([True, True]), np.array([0.5, 0.6]), 0.01))

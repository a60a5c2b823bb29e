"""Whether a reconstruction is worth drawing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from flawmap.measure.reconstruction import DETAIL, WORTH, detail_correlation, worth_drawing

RNG = np.random.default_rng(0)
PHOTO = RNG.random((64, 48, 3))


def test_the_photo_itself_keeps_all_detail_whatever_its_light() -> None:
    assert detail_correlation(PHOTO, PHOTO) == pytest.approx(1)
    assert detail_correlation(PHOTO, 0.3 * PHOTO + 0.5) == pytest.approx(1)


def test_a_blur_and_detail_of_its_own_keep_little() -> None:
    blurred = gaussian_filter(PHOTO, (6, 6, 0))
    assert abs(detail_correlation(PHOTO, blurred)) < 0.2
    assert abs(detail_correlation(PHOTO, RNG.random(PHOTO.shape))) < 0.1
    assert detail_correlation(PHOTO, PHOTO + 0.1 * RNG.random(PHOTO.shape)) > 0.9


def test_a_flat_image_keeps_none() -> None:
    assert detail_correlation(PHOTO, np.full_like(PHOTO, 0.5)) == 0.0
    assert detail_correlation(np.zeros((8, 8)), np.zeros((8, 8))) == 0.0


@pytest.mark.parametrize(
    ("provenance", "drawn"), [({}, True), ({DETAIL: WORTH}, True), ({DETAIL: WORTH - 0.01}, False), ({DETAIL: 1}, True)]
)
def test_reconstructions_are_drawn_where_they_keep_half_and_where_nothing_is_known(
    provenance: dict[str, float], drawn: bool
) -> None:
    assert worth_drawing(provenance) is drawn

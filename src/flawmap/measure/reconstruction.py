"""How much of good photos' detail the object-specific reconstruction keeps: whether it is worth drawing in a report.

A reconstruction that is a blur shows what any blur of the photo would. Its detail, what is left after the mean of a
window about each pixel is subtracted, is compared with that of the photo by Pearson's correlation: 1 for the photo
itself, near 0 for a blur and for detail of its own.

Axes: H, W rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import uniform_filter

WINDOW = 9  # pixels along the side of the window whose mean is no detail
WORTH = 0.5  # correlation from which a reconstruction is drawn
DETAIL = "reconstruction_detail"  # in a bundle's provenance

Pixels = npt.NDArray[np.floating[Any]]


def detail_correlation(photo: Pixels, reconstruction: Pixels) -> float:
    """Correlation of the details of two images of one shape, (H, W) or (H, W, channels): -1 to 1, 0 of a flat one."""
    details = [_detail(image) for image in (photo, reconstruction)]
    lengths = [float(np.linalg.norm(detail)) for detail in details]
    if min(lengths) <= 1e-6 * details[0].size ** 0.5:
        return 0.0
    return float((details[0] * details[1]).sum() / (lengths[0] * lengths[1]))


def worth_drawing(provenance: Mapping[str, Any]) -> bool:
    """Whether a report shows the two reconstructions of a bundle; of a bundle that does not know, it does."""
    known = provenance.get(DETAIL)
    return not isinstance(known, int | float) or known >= WORTH


def _detail(image: Pixels) -> npt.NDArray[np.float64]:
    grey = np.asarray(image, np.float64)
    grey = grey.mean(-1) if grey.ndim == 3 else grey
    return grey - np.asarray(uniform_filter(grey, WINDOW, mode="nearest"), np.float64)

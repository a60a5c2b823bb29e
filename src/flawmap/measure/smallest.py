"""The smallest spot that is found in 9 of 10, as a bundle keeps it: measured after the training (deploy/smallest.py).

It belongs to a threshold. Where that was changed since, it is not known any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SMALLEST_FOUND = "smallest_found"  # in a bundle's provenance
LABEL = "smallest spot found in 9 of 10"


@dataclass(frozen=True)
class Smallest:
    """The smallest spot found in 9 of 10: its diameter in pixels of the photo, None where larger than all tried.

    tried: the smallest and the largest diameter; contrast: share of the range from black to white; photos, trials: how
    many it is told by; threshold: the score above which a part was defective.
    """

    pixels: float | None
    tried: tuple[float, float]
    contrast: float
    photos: int
    trials: int
    threshold: float

    @property
    def words(self) -> str:
        """As `14 pixels of the photo (contrast 20 %, 12 photos)`."""
        if self.pixels is None:
            size = f"larger than {self.tried[1]:g}"
        else:
            size = f"at most {self.tried[0]:g}" if self.pixels <= self.tried[0] else f"{math.ceil(self.pixels)}"
        return f"{size} pixels of the photo (contrast {100 * self.contrast:g} %, {self.photos} photos)"

    def __str__(self) -> str:
        return f"{LABEL}: {self.words}"

    def to_json(self) -> dict[str, Any]:
        """As it stands in a bundle's provenance."""
        return asdict(self) | {"tried": list(self.tried)}


def smallest_of(provenance: Mapping[str, Any], threshold: float | None) -> Smallest | None:
    """What a provenance says of it; None where it does not, or where the score of the threshold is another by now."""
    note: Any = provenance.get(SMALLEST_FOUND)
    try:
        found = Smallest(**{**note, "tried": tuple(note["tried"])})
        return found if found.threshold == threshold and found.words else None
    except (TypeError, ValueError, LookupError):
        return None

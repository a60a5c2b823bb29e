"""Whether parts lie at varying angles, as a bundle keeps it: recognised from the good photos before a training
(train/orientation.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

ORIENTATION = "orientation"  # in a bundle's provenance
LABEL = "orientation of parts"
FEWEST = 8  # photos that can tell
# Chosen on six real sets and five drawn surfaces, as they are and turned at random (docs/results/turned-parts.md).
STANDS_OUT = 0.5  # of the agreement: what turns that fit must have beyond the mean of all turns
BETTER = 0.18  # of the agreement: what it must gain by turning
LEAST = 0.05  # that it must gain at least


@dataclass(frozen=True)
class Orientation:
    """Whether parts lie at varying angles.

    photos: how many tell; apart: the share of these that lie at another angle than most; as_they_lie, turned: mean
    agreement of two photos, in [-1, 1], as they lie and with each photo turned so that all agree best; any_turn: with
    each turned anyhow. All 0 where there are too few photos.
    """

    photos: int
    apart: float = 0.0
    as_they_lie: float = 0.0
    turned: float = 0.0
    any_turn: float = 0.0

    @property
    def stands_out(self) -> bool:
        """Whether the photos show an angle at all."""
        return self.photos >= FEWEST and self.turned - self.any_turn > STANDS_OUT * max(self.turned, 0.0)

    @property
    def varies(self) -> bool:
        """Whether parts lie at varying angles."""
        gain = self.turned - self.as_they_lie
        return self.stands_out and gain > LEAST and gain > BETTER * self.turned

    @property
    def words(self) -> str:
        """As `parts lie at varying angles: 16 of 24 good photos are turned against the rest (…)`."""
        if self.photos < FEWEST:
            return f"{self.photos} good photos are too few to tell whether parts lie at varying angles"
        told = f"agreement {self.as_they_lie:.2f} as they lie, {self.turned:.2f} turned to fit"
        if not self.stands_out:
            return f"parts show no angle: {self.photos} good photos look much the same at any turn ({told})"
        if not self.varies:
            return f"parts lie alike, or look alike as they are turned: {self.photos} good photos tell ({told})"
        apart = f"{round(self.apart * self.photos)} of {self.photos} good photos are turned against the rest"
        return f"parts lie at varying angles: {apart} ({told})"

    def to_json(self) -> dict[str, Any]:
        """As it stands in a bundle's provenance."""
        return asdict(self)


def orientation_of(provenance: Mapping[str, Any]) -> Orientation | None:
    """What a provenance says of it; None where it does not."""
    note: Any = provenance.get(ORIENTATION)
    try:
        found = Orientation(**note)
        return found if found.words else None
    except (TypeError, ValueError):
        return None

"""Whether the last parts look unlike those a model was trained on, from the figures of some of them."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any

UNKNOWN = {"parts": 0, "figure": 0.0, "verdict": "unknown", "sentence": "the model does not know its good photos"}
PHOTOS = "photos.safetensors"


class DriftWatch:
    """The figures of the last measured parts of the model in use. Threads may share it."""

    def __init__(self, parts: int) -> None:
        self._lock = threading.Lock()
        self._figures: deque[list[float]] = deque(maxlen=parts)
        self._ref, self._good = "", None
        self._last: dict[str, Any] = UNKNOWN

    def watch(self, ref: str, bundle: Path) -> None:
        """Begin anew with this model, unless it is watched already."""
        with self._lock:
            if ref == self._ref:
                return
            self._ref, self._good, self._last = ref, _good_photos(bundle), UNKNOWN
            self._figures.clear()
            if self._good is not None:
                self._last = {"parts": 0, "figure": 0.0, "verdict": "too few", "sentence": "no part was measured yet"}

    def add(self, ref: str, figures: list[float] | None) -> None:
        """The figures of one more part."""
        import numpy as np

        from flawmap.measure.photos import MANY, drift

        with self._lock:
            if ref != self._ref or self._good is None or figures is None:
                return
            self._figures.append(figures)
            count = len(self._figures)
            if count < MANY:
                sentence = f"the {count} parts measured are too few to tell a drift from chance"
                self._last = {"parts": count, "figure": 0.0, "verdict": "too few", "sentence": sentence}
                return
            found = drift(self._good, np.array(self._figures))
            self._last = {
                "parts": count,
                "figure": found.figure,
                "verdict": found.verdict,
                "sentence": found.sentence(count),
            }

    def last(self) -> dict[str, Any]:
        """What is known now: parts, figure, verdict, sentence."""
        return self._last


def _good_photos(bundle: Path) -> Any:
    """What the bundle knows of its good photos, None where that is nothing."""
    from safetensors.torch import load_file

    from flawmap.measure.photos import GoodPhotos

    try:
        return GoodPhotos.from_tensors(load_file(bundle / PHOTOS))
    except (OSError, KeyError, ValueError):
        return None

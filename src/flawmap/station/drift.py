"""Whether the last parts look unlike those a model was trained on, from the figures of some of them."""

from __future__ import annotations

import importlib
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
        self._ref, self._good, self._added = "", None, False
        self._last: dict[str, Any] = UNKNOWN

    @staticmethod
    def prepare() -> None:
        """Import what comparing takes, some seconds: before parts come, as Python answers nothing meanwhile."""
        for name in ("scipy.stats", "torch"):
            importlib.import_module(name)

    def watch(self, ref: str, bundle: Path) -> None:
        """Begin anew with this model, unless it is watched already."""
        with self._lock:
            if ref == self._ref:
                return
        good = _good_photos(bundle)
        with self._lock:
            self._ref, self._good, self._last = ref, good, UNKNOWN
            self._figures.clear()
            self._added = False
            if good is not None:
                self._last = {"parts": 0, "figure": 0.0, "verdict": "too few", "sentence": "no part was measured yet"}

    def add(self, ref: str, figures: list[float] | None) -> None:
        """The figures of one more part. Quick: whoever adds has parts to answer; `look` compares."""
        with self._lock:
            if ref == self._ref and self._good is not None and figures is not None:
                self._figures.append(figures)
                self._added = True

    def look(self) -> None:
        """Compare the parts added with the good ones, if there are new ones. Takes a moment."""
        import numpy as np

        from flawmap.measure.photos import MANY, drift

        with self._lock:
            if not self._added or self._good is None:
                return
            self._added = False
            ref, good, figures = self._ref, self._good, np.array(self._figures)
        count = len(figures)
        if count < MANY:
            sentence = f"the {count} parts measured are too few to tell a drift from chance"
            last = {"parts": count, "figure": 0.0, "verdict": "too few", "sentence": sentence}
        else:
            found = drift(good, figures)
            last = {
                "parts": count,
                "figure": found.figure,
                "verdict": found.verdict,
                "sentence": found.sentence(count),
            }
        with self._lock:
            if ref == self._ref:
                self._last = last

    def last(self) -> dict[str, Any]:
        """What was known at the last look: parts, figure, verdict, sentence."""
        return self._last


def _good_photos(bundle: Path) -> Any:
    """What the bundle knows of its good photos, None where that is nothing."""
    from safetensors.torch import load_file

    from flawmap.measure.photos import GoodPhotos

    try:
        return GoodPhotos.from_tensors(load_file(bundle / PHOTOS))
    except (OSError, KeyError, ValueError):
        return None

"""The drift of parts: adding is quick, looking compares with the good photos, another model begins anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from flawmap.measure.photos import MANY
from flawmap.station.drift import DriftWatch


def test_parts_are_compared_when_looked_at(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = models / "part.bundle"
    watched = DriftWatch(2 * MANY)
    watched.watch("part@1", bundle)
    assert watched.last()["parts"] == 0
    good = watched._good
    assert good is not None, "the bundle of the tests knows its good photos"
    usual = good.figures.mean(0).tolist()
    for _ in range(MANY):
        watched.add("part@1", usual)
        watched.add("part@2", usual)  # of a model that is not watched
    assert watched.last()["parts"] == 0
    watched.look()
    assert watched.last()["parts"] == MANY
    watched.watch("part@1", bundle)  # watched already
    assert watched.last()["parts"] == MANY
    watched.watch("part@2", bundle)
    assert watched.last()["parts"] == 0
    watched.look()  # nothing was added
    assert watched.last()["parts"] == 0

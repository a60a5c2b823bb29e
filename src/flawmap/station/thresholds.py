"""Where to draw the line: scores of good photos from the training and of recorded parts, escape and overkill.

`overkill` is the share of good parts rejected, `escape` that of defective parts passed. Both come from parts that
somebody decided, most of them doubtful or rejected, and overkill also from these photos; a defect that nobody
looked at is in neither. Where no passed part was ever checked, escape is not known (station/escape.py), and what the
decided parts alone say, `escape_decided`, is the least it can be.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse
from pydantic import Field, model_validator

from flawmap.errors import StationError
from flawmap.station.models import Version
from flawmap.station.results import Query as Parts
from flawmap.station.results import recorded_time
from flawmap.station.schemas import Note
from flawmap.station.station import Station
from flawmap.station.web import Engineer, Operator, TheStation, json

router = APIRouter()
Score = Annotated[float, Query(ge=0, le=1, allow_inf_nan=False)]
Since = Annotated[str | None, Query(alias="from")]


class Scores:
    """Scores to draw a line through: of the training's good photos, all parts, parts decided good and defective."""

    def __init__(self, station: Station, version: Version, query: Parts) -> None:
        self._results, self._query = station.results, query
        self._alike = [one.ref for one in station.models.versions() if one.weights_sha256 == version.weights_sha256]
        found = station.results.decided_scores(query, self._alike)
        self.held_out = np.sort(np.array(version.held_out_scores))
        self.good = np.sort(np.array([score for score, decided in found if decided == "pass"]))
        self.bad = np.sort(np.array([score for score, decided in found if decided == "reject"]))

    @functools.cached_property
    def parts(self) -> np.ndarray[Any, Any]:
        """Of all parts; read when they are asked for, since there are many."""
        return np.sort(np.array(self._results.scores(self._query, self._alike)))

    @functools.cached_property
    def checked(self) -> int:
        """Passed parts that somebody decided."""
        return self._results.checked_passes(self._query, self._alike)

    def at(self, score: float) -> dict[str, float | None]:
        """What a threshold would do: shares of parts, None where there are none."""
        known = "parts" in vars(self)
        escape = None if (above := _above([self.bad], score)) is None else 1 - above
        return {
            "score": score,
            "overkill": _above([self.held_out, self.good], score),
            "overkill_held_out": _above([self.held_out], score),
            "overkill_decided": _above([self.good], score),
            "escape": None if escape is None or not self.checked else escape,
            "escape_decided": escape,
            "rejected": _above([self.parts], score)
            if known
            else self._results.share_above(self._query, self._alike, score),
        }

    def range(self, threshold: float) -> tuple[float, float]:
        """From the lowest to the highest score, the threshold among them, with a margin."""
        every = np.concatenate([self.held_out, self.parts, [threshold]])
        low, high = float(every.min()), float(every.max())
        margin = max(0.02 * (high - low), 1e-3)
        return max(0.0, low - margin), min(1.0, high + margin)

    def suggested(self) -> dict[str, Any] | None:
        """Where a line would part the decided parts best; None where they say nothing."""
        good, bad = np.concatenate([self.held_out, self.good]), self.bad
        if not len(good) or not len(bad):
            return None
        if good.max() < bad.min():
            why = "halfway between the highest good and the lowest defective part"
            return {"score": float((good.max() + bad.min()) / 2), "why": why, "why_code": "halfway"}
        lines = np.unique(np.concatenate([good, bad]))
        wrong = [
            (float((good > line).mean() + (bad <= line).mean()), abs(line - float(np.median(good)))) for line in lines
        ]
        best = int(min(range(len(lines)), key=lambda place: wrong[place]))
        why = "the least escape and overkill together, of parts decided so far"
        return {"score": float(lines[best]), "why": why, "why_code": "least-wrong"}


def _above(lists: Sequence[np.ndarray[Any, Any]], score: float) -> float | None:
    """The share of sorted scores above `score`."""
    count = sum(len(scores) for scores in lists)
    above = sum(len(scores) - int(np.searchsorted(scores, score, "right")) for scores in lists)
    return above / count if count else None


def _version(station: Station, model: str | None) -> Version:
    if model is not None:
        return station.models.find(model)
    return station.models.for_request(None)


def _scores(station: Station, model: str | None, since: str | None, to: str | None) -> tuple[Version, Scores]:
    version = _version(station, model)
    return version, Scores(station, version, Parts(since=recorded_time(since), until=recorded_time(to)))


@router.get("/api/threshold")
def threshold(
    station: TheStation,
    who: Operator,
    model: str | None = None,
    since: Since = None,
    to: str | None = None,
    bins: Annotated[int, Query(ge=10, le=400)] = 60,
) -> JSONResponse:
    """The histogram of scores, and what each line through it would do."""
    version, scores = _scores(station, model, since, to)
    if version.threshold is None:
        raise StationError(f"the model {version.ref} has no threshold", 409)
    low, high = scores.range(version.threshold.score)
    edges = np.linspace(low, high, bins + 1)
    lists = {
        "held_out": scores.held_out, "parts": scores.parts, "decided_good": scores.good, "decided_bad": scores.bad,
    }  # fmt: skip
    return json(
        {
            "model": version.ref,
            "threshold": version.threshold.score,
            "doubt": station.settings.verdict.doubt,
            "smallest": station.models.facts(version)["smallest"],
            "low": low,
            "high": high,
            "edges": edges.tolist(),
            **{name: np.histogram(values, edges)[0].tolist() for name, values in lists.items()},
            "counts": {**{name: len(values) for name, values in lists.items()}, "checked_passes": scores.checked},
            "curve": [scores.at(float(edge)) for edge in edges],
            "suggested": scores.suggested(),
        }
    )


@router.get("/api/threshold/at")
def at(
    station: TheStation,
    who: Operator,
    score: Score,
    model: str | None = None,
    since: Since = None,
    to: str | None = None,
) -> JSONResponse:
    """Escape and overkill at one line."""
    return json(_scores(station, model, since, to)[1].at(score))


@router.get("/api/threshold/around")
def around(
    station: TheStation,
    who: Operator,
    score: Score,
    count: Annotated[int, Query(ge=1, le=50)] = 6,
    model: str | None = None,
) -> JSONResponse:
    """Recorded parts nearest to a line, on either side."""
    name = _version(station, model).name
    below, above = (station.results.nearest(name, score, count, side) for side in (False, True))
    return json({"below": below, "above": above})


class ThresholdAsked(Note):
    """A new threshold, as a score or for an overkill, or a new smallest place, or both; use: switch to it.

    smallest: an area as `verdict.smallest` of a recipe; mm_per_pixel: what a pixel measures, None: as the model knows
    """

    score: float | None = Field(None, ge=0, le=1)
    overkill: float | None = Field(None, gt=0, lt=1)
    smallest: float | Annotated[str, Field(max_length=100)] | None = None
    mm_per_pixel: float | None = Field(None, ge=0)
    model: str | None = None
    use: bool = True

    @model_validator(mode="after")
    def _one_of_both(self) -> ThresholdAsked:
        given = (self.score is not None) + (self.overkill is not None)
        if given > 1 or (given == 0 and self.smallest is None):
            raise ValueError("give score or overkill, one of them, or smallest")
        if self.mm_per_pixel is not None and self.smallest is None:
            raise ValueError("mm_per_pixel is for smallest; give it too")
        return self


@router.post("/api/threshold", status_code=201)
def apply(station: TheStation, who: Engineer, asked: ThresholdAsked) -> JSONResponse:
    """Make a new version with another threshold, and switch to it unless told not to."""
    base = _version(station, asked.model)
    place = None if asked.smallest is None else (asked.smallest, asked.mm_per_pixel)
    version = station.models.with_threshold(base.ref, asked.score, asked.overkill, who.name, asked.note, place)
    if asked.use:
        version = station.models.use(version.ref, who.name, asked.note)
    return json(station.models.facts(version), 201)

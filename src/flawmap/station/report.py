"""A shift or a lot in figures, and records as csv."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import sqlalchemy as sa
from fastapi import APIRouter, Header
from fastapi import Query as Parameter
from fastapi.responses import JSONResponse, StreamingResponse

from flawmap.errors import StationError
from flawmap.station.escape import Escape
from flawmap.station.models import change_of
from flawmap.station.promise import Rejected, promise_of
from flawmap.station.record import head, now, records, stamp
from flawmap.station.results import Query, recorded_time
from flawmap.station.routes import Words
from flawmap.station.station import Station, shift_start
from flawmap.station.web import Operator, TheStation, json
from flawmap.tables import MARK, Style, line_of, style_of

SHOWN = 200  # parts in a report
COLUMNS = (
    "seq", "id", "time", "verdict", "score", "threshold", "p_value", "model", "label", "lot", "camera", "regions",
    "decision", "decided_by", "decided_at", "note", "final", "image_sha256", "hash",
)  # fmt: skip

router = APIRouter()
Accepted = Annotated[str | None, Header(alias="Accept-Language", max_length=1000)]
Since = Annotated[str | None, Parameter(alias="from")]


@dataclass
class _Sums:
    """What is summed over the parts of a report."""

    counts: Counter[str] = field(default_factory=Counter)
    scores: list[float] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)
    hours: dict[str, Counter[str]] = field(default_factory=dict)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    rejected: dict[str, Rejected] = field(default_factory=dict)
    escape: Escape = field(default_factory=Escape)
    shown: list[dict[str, Any]] = field(default_factory=list)
    noted: int = 0  # parts worth showing, also those beyond SHOWN
    first: int | None = None
    last: int | None = None

    def add(self, part: dict[str, Any]) -> None:
        """One more part."""
        overruled = part["decision"] is not None and part["decision"]["decision"] == "overrule"
        self.counts.update(["inspected", part["verdict"], f"final_{part['final']}"])
        self.counts.update(["decided"] * (part["decision"] is not None) + ["overruled"] * overruled)
        self.counts["undecided_doubt"] += part["final"] == "doubt"
        self.scores.append(part["score"])
        self.durations.append(part["duration_ms"])
        self.hours.setdefault(part["time"][:13], Counter())[part["verdict"]] += 1
        model = self.models.setdefault(
            part["model"]["ref"],
            {**part["model"], "threshold": part["threshold"], "parts": 0, "first": part["time"], "last": ""},
        )
        model["parts"], model["last"] = model["parts"] + 1, part["time"]
        self.rejected.setdefault(part["model"]["ref"], Rejected()).add(part)
        self.escape.add(part["verdict"], None if part["decision"] is None else part["decision"]["verdict"])
        self.first, self.last = self.first or part["seq"], part["seq"]
        if part["verdict"] != "pass" or overruled:
            self.noted += 1
            self.shown.append(part)
            if len(self.shown) >= 2 * SHOWN:
                self.cut()

    def cut(self) -> None:
        """Keep the parts with the highest scores."""
        self.shown = sorted(self.shown, key=lambda part: -part["score"])[:SHOWN]


def _query(
    station: Station, since: str | None, to: str | None, lot: str | None, model: str | None
) -> tuple[Query, str]:  # fmt: skip
    """The parts meant, and a title; without anything, the shift that runs."""
    if since is None and to is None and lot is None:
        start = shift_start(station.settings.shift)
        local = start.strftime("%Y-%m-%d %H:%M")
        return Query(since=stamp(start), model=model), f"Shift of {local} {station.settings.shift.zone}"
    query = Query(since=recorded_time(since), until=recorded_time(to), lot=lot, model=model)
    if lot is not None:
        return query, f"Lot {lot}"
    return query, f"{_minute(query.since)} to {_minute(query.until)} UTC"


def _minute(time: str | None) -> str:
    return "…" if time is None else time[:16].replace("T", " ")


@router.get("/api/report")
def report(
    station: TheStation, who: Operator, since: Since = None, to: str | None = None, lot: Words = None,
    model: Words = None,
) -> JSONResponse:  # fmt: skip
    """A shift or a lot: counts, figures, versions, and the parts that were not simply passed."""
    query, title = _query(station, since, to, lot, model)
    sums = _Sums()
    for part in station.results.every(query):
        sums.add(part)
    sums.cut()
    with station.record.reading() as connection:
        last = connection.execute(sa.select(head.c.seq, head.c.hash)).one()
        began_with, changed = _changes(connection, query, sums)
    total = sums.counts["inspected"]
    unanswered, images = station.results.unanswered(query, SHOWN)
    names = (
        "inspected", "pass", "reject", "doubt", "decided", "overruled", "final_pass", "final_reject",
        "undecided_doubt",
    )  # fmt: skip
    return json(
        {
            "title": title,
            "from": query.since,
            "to": query.until or now(),
            "lot": lot,
            "made": now(),
            "by": who.name,
            "station": station.settings.name,
            "counts": {name: sums.counts[name] for name in names} | unanswered,
            "shares": {name: sums.counts[name] / total if total else None for name in ("reject", "overruled")},
            "escape": sums.escape.facts(),
            "scores": _figures(sums.scores, {"median": 0.5, "p95": 0.95, "highest": 1.0}),
            "durations_ms": _figures(sums.durations, {"median": 0.5, "p99": 0.99}),
            "hours": [
                {"from": f"{hour}:00:00.000000Z", **{name: found[name] for name in ("pass", "reject", "doubt")}}
                for hour, found in sorted(sums.hours.items())
            ],
            "models": [model | {"promise": _promise(station, ref, sums)} for ref, model in sums.models.items()],
            "began_with": began_with,
            "changes": changed,
            "parts": sums.shown,
            "unanswered": images,
            "truncated": sums.noted > len(sums.shown),
            "chain": {"first_seq": sums.first, "last_seq": sums.last, "head_seq": last.seq, "head": last.hash},
        }
    )


def _promise(station: Station, ref: str, sums: _Sums) -> dict[str, Any]:
    try:
        version = station.models.find(ref)
    except StationError:  # it is gone from the folder
        version = None
    return promise_of(sums.rejected[ref], version)


def _changes(
    connection: sa.Connection, query: Query, sums: _Sums
) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    """The switch to the model in use when it began, and the changes until it ended.

    A lot begins with its first part and ends with its last, a period with its times.
    """
    order = records.c.seq
    if query.lot is None:
        earlier = records.c.time < (query.since or "")
        within = ~earlier if query.until is None else ~earlier & (records.c.time < query.until)
    else:
        earlier, within = order < (sums.first or 0), order.between(sums.first or 0, sums.last or 0)
    changes = sa.select(records).where(records.c.kind == "model").order_by(order)
    found = [change_of(dict(row)) for row in connection.execute(changes.where(earlier)).mappings()]
    used = [change for change in found if change["action"] != "add"]
    changed = [change_of(dict(row)) for row in connection.execute(changes.where(within)).mappings()]
    return used[-1] if used else None, changed


def _figures(values: list[float], shares: dict[str, float]) -> dict[str, float | None]:
    return {name: float(np.quantile(values, share)) if values else None for name, share in shares.items()}


@router.get("/api/records.csv", response_class=StreamingResponse)
def records_csv(
    station: TheStation, who: Operator, since: Since = None, to: str | None = None, lot: Words = None,
    model: Words = None, language: Words = None, accepted: Accepted = None,
) -> StreamingResponse:  # fmt: skip
    """A row a part, oldest first, with its last decision; `language`: of the spreadsheet, else the browser's."""
    query, _ = _query(station, since, to, lot, model)
    style = style_of(accepted if language is None else language)
    name = f"flawmap-records-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.csv"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "Cache-Control": "no-store",
        "Vary": "Accept-Language",
    }
    return StreamingResponse(_lines(station, query, style), media_type="text/csv; charset=utf-8", headers=headers)


def _lines(station: Station, query: Query, style: Style) -> Iterator[str]:
    yield (MARK if style.mark else "") + line_of(COLUMNS, style)
    for part in station.results.every(query):
        decision = part["decision"] or {"decision": "", "who": "", "time": "", "note": ""}
        values = (
            part["seq"], part["id"], part["time"], part["verdict"], part["score"], part["threshold"], part["p_value"],
            part["model"]["ref"], part["label"], part["lot"], part["camera"], len(part["regions"]),
            decision["decision"], decision["who"], decision["time"], decision["note"], part["final"],
            part["image"]["sha256"], part["hash"],
        )  # fmt: skip
        yield line_of(values, style)

"""What the record says of parts: by id, by time, by verdict, a page at a time; counts; decisions."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flawmap.errors import StationError
from flawmap.station.files import Pictures
from flawmap.station.record import Record, Row, records, stamp

VERDICTS = ("pass", "reject", "doubt")
MOST = 500  # parts on a page
AT_ONCE = 500

_decisions = records.alias("decisions")
LAST_DECISION = (
    sa.select(_decisions.c.verdict)
    .where(_decisions.c.kind == "decision", _decisions.c.part == records.c.part)
    .order_by(_decisions.c.seq.desc())
    .limit(1)
    .correlate(records)
    .scalar_subquery()
)
FINAL = sa.func.coalesce(LAST_DECISION, records.c.verdict)


@dataclass(frozen=True)
class Query:
    """Which parts. Times as recorded, `until` exclusive; an empty field chooses all."""

    verdicts: tuple[str, ...] = ()
    final: str | None = None
    decided: bool | None = None
    since: str | None = None
    until: str | None = None
    model: str | None = None
    lot: str | None = None
    camera: str | None = None
    label: str | None = None
    min_score: float | None = None
    max_score: float | None = None

    def where(self) -> sa.ColumnElement[bool]:
        """The condition on `records`."""
        column = records.c
        found: list[Any] = [column.kind == "verdict"]  # conditions
        if self.verdicts:
            found.append(column.verdict.in_(self.verdicts))
        if self.final is not None:
            found.append(self.final == FINAL)
        if self.decided is not None:
            found.append(LAST_DECISION.is_not(None) if self.decided else LAST_DECISION.is_(None))
        for name, value in (("lot", self.lot), ("camera", self.camera), ("label", self.label)):
            if value is not None:
                found.append(column[name] == value)
        if self.model is not None:
            name = self.model if "@" in self.model else f"{_escaped(self.model)}@%"
            found.append(column.model == name if "@" in self.model else column.model.like(name, escape="\\"))
        if self.since is not None:
            found.append(column.time >= self.since)
        if self.until is not None:
            found.append(column.time < self.until)
        if self.min_score is not None:
            found.append(column.score >= self.min_score)
        if self.max_score is not None:
            found.append(column.score <= self.max_score)
        return sa.and_(*found)


class Results:
    """Reads parts out of the record. Threads may share it."""

    def __init__(self, record: Record, pictures: Pictures) -> None:
        self.record, self.pictures = record, pictures

    def part(self, ident: str) -> dict[str, Any]:
        """A part. Raises StationError (404)."""
        with self.record.reading() as connection:
            chosen = sa.select(records).where(records.c.kind == "verdict", records.c.part == ident)
            row = connection.execute(chosen).mappings().one_or_none()
        if row is None:
            raise StationError("there is no such part", 404)
        return self.parts([dict(row)])[0]

    def fresh(self, row: Row) -> dict[str, Any]:
        """A part that was recorded just now, so that nobody can have decided on it."""
        return self._part(row, [])

    def parts(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Rows of kind `verdict`, with their decisions."""
        decided = self._decisions([row["part"] for row in rows])
        return [self._part(row, decided.get(row["part"], [])) for row in rows]

    def page(
        self, query: Query, newest: bool = True, limit: int = 50, after: int | None = None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Some parts, and the seq after which the next ones come, None when there are no more."""
        order = records.c.seq.desc() if newest else records.c.seq
        chosen = sa.select(records).where(query.where()).order_by(order).limit(limit + 1)
        if after is not None:
            chosen = chosen.where(records.c.seq < after if newest else records.c.seq > after)
        with self.record.reading() as connection:
            rows = [dict(row) for row in connection.execute(chosen).mappings()]
        parts = self.parts(rows[:limit])
        return parts, (rows[limit - 1]["seq"] if len(rows) > limit else None)

    def every(self, query: Query) -> Iterator[dict[str, Any]]:
        """All parts, oldest first, some in memory at a time."""
        after: int | None = 0
        while after is not None:
            parts, after = self.page(query, newest=False, limit=AT_ONCE, after=after)
            yield from parts

    def nearest(self, query: Query, score: float, count: int, above: bool) -> list[dict[str, Any]]:
        """The parts whose scores are nearest to `score`: those above it, or those up to it."""
        side = records.c.score > score if above else records.c.score <= score
        order = records.c.score if above else records.c.score.desc()
        chosen = sa.select(records).where(query.where(), side).order_by(order, records.c.seq.desc()).limit(count)
        with self.record.reading() as connection:
            rows = [dict(row) for row in connection.execute(chosen).mappings()]
        return self.parts(rows)

    def scores(self, query: Query, models: Sequence[str]) -> list[tuple[float, str | None]]:
        """(score, last decision) of parts that one of `models` (refs) scored."""
        chosen = sa.select(records.c.score, LAST_DECISION.label("decided")).where(query.where())
        chosen = chosen.where(records.c.model.in_(models))
        with self.record.reading() as connection:
            return [(row.score, row.decided) for row in connection.execute(chosen)]

    def counts(self, query: Query) -> dict[str, int]:
        """How many parts of each verdict, `undecided` of the doubtful and rejected, and all as `inspected`."""
        chosen = sa.select(records.c.verdict, sa.func.count()).where(query.where()).group_by(records.c.verdict)
        open_ = sa.select(sa.func.count()).where(
            query.where(), records.c.verdict.in_(("doubt", "reject")), LAST_DECISION.is_(None)
        )
        with self.record.reading() as connection:
            found = {row[0]: row[1] for row in connection.execute(chosen)}
            undecided = connection.execute(open_.select_from(records)).scalar() or 0
        each = {verdict: found.get(verdict, 0) for verdict in VERDICTS}
        return {"inspected": sum(each.values()), **each, "undecided": undecided}

    def last_time(self) -> str | None:
        """When the last part was recorded."""
        with self.record.reading() as connection:
            chosen = sa.select(records.c.time).where(records.c.kind == "verdict")
            found = connection.execute(chosen.order_by(records.c.seq.desc()).limit(1)).scalar()
            return None if found is None else str(found)

    def by_key(self, once: str) -> dict[str, Any] | None:
        """The part that was recorded under a sender's key."""
        with self.record.reading() as connection:
            row = connection.execute(sa.select(records).where(records.c.once == once)).mappings().one_or_none()
        return None if row is None else self.parts([dict(row)])[0]

    def ranks(self, idents: Sequence[str]) -> dict[str, int]:
        """For the thinning of pictures (files.py): 0 for a part that passed, 1 for the others."""
        found: dict[str, int] = {}
        for start in range(0, len(idents), AT_ONCE):
            some = idents[start : start + AT_ONCE]
            chosen = sa.select(records.c.part, records.c.verdict, FINAL.label("final")).where(
                records.c.kind == "verdict", records.c.part.in_(some)
            )
            with self.record.reading() as connection:
                for row in connection.execute(chosen):
                    found[row.part] = 0 if row.verdict == "pass" and row.final == "pass" else 1
        return found

    def _decisions(self, idents: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        chosen = sa.select(records).where(records.c.kind == "decision", records.c.part.in_(list(idents)))
        found: dict[str, list[dict[str, Any]]] = {}
        with self.record.reading() as connection:
            for row in connection.execute(chosen.order_by(records.c.seq)).mappings():
                found.setdefault(str(row["part"]), []).append(decision_of(dict(row)))
        return found

    def _part(self, row: Row, decisions: list[dict[str, Any]]) -> dict[str, Any]:
        body, ident = json.loads(row["body"]), row["part"]
        here = f"/api/parts/{ident}"
        return {
            "id": ident,
            "seq": row["seq"],
            "time": row["time"],
            "verdict": row["verdict"],
            "defective": body["defective"],
            "score": row["score"],
            "threshold": row["threshold"],
            "p_value": body["p_value"],
            "doubt": body["doubt"],
            "model": body["model"],
            "regions": body["regions"],
            "image": body["image"] | {"sha256": row["image_sha256"]},
            "label": row["label"],
            "lot": row["lot"],
            "camera": row["camera"],
            "by": row["who"],
            "duration_ms": body["duration_ms"],
            "decision": decisions[-1] if decisions else None,
            "decisions": decisions,
            "final": decisions[-1]["verdict"] if decisions else row["verdict"],
            "links": {
                "self": here,
                **{name: f"{here}/{name}" for name in ("original", "map", "overlay", "heat", "thumbnail")},
            },
            "kept": self.pictures.original(ident) is not None,
            "hash": row["hash"],
        }


def decision_of(row: Row) -> dict[str, Any]:
    """A row of kind `decision` as the API tells it."""
    body = json.loads(row["body"])
    return {
        "seq": row["seq"],
        "time": row["time"],
        "who": row["who"],
        "verdict": row["verdict"],
        "decision": body["decision"],
        "note": body["note"],
    }


def recorded_time(text: str | None) -> str | None:
    """A time of a query as recorded. Raises StationError (400)."""
    if not text:
        return None
    try:
        time = datetime.datetime.fromisoformat(re.sub(r" (\d\d:?\d\d)$", r"+\1", text))  # a plus that was not encoded
    except ValueError as problem:
        raise StationError(f"{text[:40]!r} is no time; expected one as 2026-11-26T06:00:00Z", 400) from problem
    if time.tzinfo is None:
        raise StationError(f"{text[:40]!r} has no time zone; add Z for UTC, or an offset as +01:00", 400)
    return stamp(time)


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")

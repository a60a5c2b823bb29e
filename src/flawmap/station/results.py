"""What the record says of parts: by id, by time, by verdict, a page at a time; counts; decisions."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from flawmap.errors import StationError
from flawmap.station import testing
from flawmap.station.files import Pictures
from flawmap.station.record import Record, Row, records, stamp

TEST = testing.PART
VERDICTS = ("pass", "reject", "doubt")
UNANSWERED = ("late", "refused")  # kinds of rows of images without a verdict
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
DECIDED = LAST_DECISION.is_not(None)  # one that was taken back has a last decision without a verdict
LAST_LETTER = "\U0010ffff"  # a text that begins alike comes before what ends with it


class _Begins(FunctionElement[int]):
    """Whether a text begins with another, whatever the case; (text, beginning, beginning + LAST_LETTER).

    The beginning is in small letters of ASCII. No Boolean to SQLAlchemy: `(…) = 1` would cost SQLite the index.
    """

    type = sa.Integer()
    inherit_cache = True


@compiles(_Begins, "sqlite")
def _begins_between(element: _Begins, compiler: Any, **options: Any) -> str:
    """As a range, which an index has: SQLite compares texts byte by byte."""
    text, first, last = (compiler.process(each, **options) for each in element.clauses)
    return f"(lower({text}) >= {first} AND lower({text}) < {last})"


@compiles(_Begins, "postgresql")
def _begins(element: _Begins, compiler: Any, **options: Any) -> str:
    """As a function: a range depends on the language by which a database of PostgreSQL sorts."""
    text, first, _ = element.clauses
    return f"starts_with(lower({compiler.process(text, **options)}), {compiler.process(first, **options)})"


class _Place(FunctionElement[int]):
    """Where a text holds another, whatever the case: from 1 on, 0 for nowhere; (text, the other in small letters)."""

    type = sa.Integer()
    inherit_cache = True


class _PlaceOfAscii(_Place):
    """The same for what is ASCII, which SQLite looks for by itself."""

    inherit_cache = True


@compiles(_Place, "sqlite")
def _place(element: _Place, compiler: Any, **options: Any) -> str:
    """By a function of ours (record.py), where letters are not those of English alone."""
    text, other = (compiler.process(each, **options) for each in element.clauses)
    lowered = f"lower({text})"  # the index holds it
    return f"instr({lowered if isinstance(element, _PlaceOfAscii) else f'lower_all({lowered})'}, {other})"


@compiles(_Place, "postgresql")
def _place_of(element: _Place, compiler: Any, **options: Any) -> str:
    text, other = (compiler.process(each, **options) for each in element.clauses)
    return f"strpos(lower({text}), lower({other}))"


def _begins_with(text: sa.ColumnElement[str], beginning: str) -> list[Any]:
    """The conditions that a text begins so, whatever the case."""
    wanted = beginning.lower()
    plain = re.match(r"[\x00-\x7f]*", wanted)
    first = plain[0] if plain else ""
    found: list[Any] = [_Begins(text, sa.literal(first), sa.literal(first + LAST_LETTER))]
    return found if first == wanted else [*found, _Place(text, sa.literal(wanted)) == 1]


def _holds(text: sa.ColumnElement[str], other: str) -> list[Any]:
    """The conditions that a text holds another, whatever the case."""
    wanted = other.lower()
    place = (_PlaceOfAscii if wanted.isascii() else _Place)(text, sa.literal(wanted))
    return [*_begins_with(text, ""), place > 0]  # the first holds for all: an index is walked, not the table


@dataclass(frozen=True)
class Query:
    """Which parts. Times as recorded, `until` exclusive; an empty field chooses all. between: the first and last seq"""

    verdicts: tuple[str, ...] = ()
    final: str | None = None
    decided: bool | None = None
    since: str | None = None
    until: str | None = None
    model: str | None = None
    lot: str | None = None
    camera: str | None = None
    label: str | None = None
    begins: str | None = None  # the first letters of a label, in either case
    contains: str | None = None  # letters that a label holds, in either case
    min_score: float | None = None
    max_score: float | None = None
    between: tuple[int, int] | None = None
    test: bool = False  # parts of the test mode instead of those that count

    @property
    def kind(self) -> str:
        """Of the records meant."""
        return TEST if self.test else "verdict"

    def where(self) -> sa.ColumnElement[bool]:
        """The condition on `records`, but for the model; times by their index."""
        return sa.and_(*self._conditions(), *self._times(records.c.time), *self._between())

    def where_by_seq(self) -> sa.ColumnElement[bool]:
        """The same for parts in the order of seq, `between` given: only the verdict, lot and label by an index."""
        return sa.and_(*self._conditions(), *self._times(_passed_by(records.c.time)), *self._between())

    def _between(self) -> list[sa.ColumnElement[bool]]:
        return [] if self.between is None else [records.c.seq.between(*self.between)]

    def _times(self, column: sa.ColumnElement[str]) -> list[sa.ColumnElement[bool]]:
        found = [] if self.since is None else [column >= self.since]
        return found if self.until is None else [*found, column < self.until]

    def _conditions(self) -> list[Any]:
        column = records.c
        found: list[Any] = [column.kind == self.kind]
        if self.verdicts:
            found.append(column.verdict.in_(self.verdicts))
        if self.final is not None:  # the first condition says no more than the second, but is quick
            said = sa.select(_decisions.c.part).where(
                _decisions.c.kind == "decision", _decisions.c.verdict == self.final
            )
            found += [sa.or_(column.verdict == self.final, column.part.in_(said)), self.final == FINAL]
        if self.decided is not None:
            found.append(DECIDED if self.decided else ~DECIDED)
        for name, value in (("lot", self.lot), ("camera", self.camera)):
            if value is not None:
                found.append(column[name] == value)
        if self.label is not None:  # the first condition says no more than the second, but has an index
            lowered = sa.func.lower(column.label) == sa.func.lower(self.label)
            found += [lowered, _passed_by(column.label) == self.label]
        if self.begins:
            found += _begins_with(column.label, self.begins)
        if self.contains:
            found += _holds(column.label, self.contains)
        if self.min_score is not None:
            found.append(column.score >= self.min_score)
        if self.max_score is not None:
            found.append(column.score <= self.max_score)
        return found


class Results:
    """Reads parts out of the record. Threads may share it."""

    def __init__(self, record: Record, pictures: Pictures) -> None:
        self.record, self.pictures = record, pictures

    def part(self, ident: str) -> dict[str, Any]:
        """A part. Raises StationError (404)."""
        with self.record.reading() as connection:
            chosen = sa.select(records).where(records.c.kind.in_(("verdict", TEST)), records.c.part == ident)
            row = connection.execute(chosen).mappings().one_or_none()
        if row is None:
            raise StationError("there is no such part", 404)
        return self.parts([dict(row)])[0]

    def fresh(self, row: Row) -> dict[str, Any]:
        """A part that was recorded just now, so that nobody can have decided on it."""
        return self._part(row, [])

    def parts(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Rows of kind `verdict` or `test`, with their decisions."""
        decided, unlike = self._said([row["part"] for row in rows])
        return [self._part(row, decided.get(row["part"], []), unlike.get(row["part"])) for row in rows]

    def page(
        self, query: Query, newest: bool = True, limit: int = 50, after: int | None = None
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Some parts, and the seq after which the next ones come, None when there are no more."""
        order = records.c.seq.desc() if newest else records.c.seq
        with self.record.reading() as connection:
            query = _bounded(connection, query)
            chosen = sa.select(records.c.seq).where(query.where_by_seq(), _of_model(connection, query.model))
            if after is not None:
                chosen = chosen.where(records.c.seq < after if newest else records.c.seq > after)
            seqs = list(connection.execute(chosen.order_by(order).limit(limit + 1)).scalars())
            if not seqs:  # the way an empty list is put would walk the whole table
                return [], None
            whole = sa.select(records).where(records.c.seq.in_(seqs[:limit])).order_by(order)
            rows = [dict(row) for row in connection.execute(whole).mappings()]
        return self.parts(rows), (seqs[limit - 1] if len(seqs) > limit else None)

    def every(self, query: Query) -> Iterator[dict[str, Any]]:
        """All parts, oldest first, some in memory at a time."""
        after: int | None = 0
        with self.record.reading() as connection:
            query = _bounded(connection, query)
        while after is not None:
            parts, after = self.page(query, newest=False, limit=AT_ONCE, after=after)
            yield from parts

    def nearest(self, name: str, score: float, count: int, above: bool) -> list[dict[str, Any]]:
        """The parts by any version of a model whose scores are nearest to `score`: above it, or up to it."""
        side = records.c.score > score if above else records.c.score <= score
        order = records.c.score if above else records.c.score.desc()
        rows: list[Row] = []
        with self.record.reading() as connection:
            refs = [ref for ref in _versions(connection) if ref.rpartition("@")[0] == name]
            for ref in refs:  # one after the other, so that an index has them in order
                chosen = sa.select(records).where(records.c.kind == "verdict", records.c.model == ref, side)
                found = connection.execute(chosen.order_by(order, records.c.seq.desc()).limit(count))
                rows += [dict(row) for row in found.mappings()]
        rows.sort(key=lambda row: (abs(row["score"] - score), -row["seq"]))
        return self.parts(rows[:count])

    def scores(self, query: Query, models: Sequence[str]) -> list[float]:
        """The scores of parts that one of `models` (refs) gave."""
        chosen = sa.select(records.c.score).where(records.c.model.in_(models))
        with self.record.reading() as connection:
            chosen = chosen.where(_bounded(connection, query).where_by_seq())
            return list(connection.execute(chosen).scalars())

    def share_above(self, query: Query, models: Sequence[str], score: float) -> float | None:
        """The share of those scores that is above `score`; None where there are none."""
        above = sa.func.sum(sa.case((records.c.score > score, 1), else_=0))
        chosen = sa.select(sa.func.count(), above).where(records.c.model.in_(models))
        with self.record.reading() as connection:
            chosen = chosen.where(_bounded(connection, query).where_by_seq())
            count, over = connection.execute(chosen.select_from(records)).one()
        return over / count if count else None

    def decided_scores(self, query: Query, models: Sequence[str]) -> list[tuple[float, str]]:
        """(score, last decision) of parts that one of `models` (refs) scored and somebody decided."""
        joined = records.join(_decisions, _decisions.c.part == records.c.part)
        chosen = sa.select(records.c.part, records.c.score, _decisions.c.verdict).select_from(joined)
        chosen = chosen.where(_decisions.c.kind == "decision", _passed_by(records.c.model).in_(models))
        with self.record.reading() as connection:
            chosen = chosen.where(_bounded(connection, query).where_by_seq()).order_by(_decisions.c.seq)
            found = {row.part: (row.score, row.verdict) for row in connection.execute(chosen)}  # the last one stays
        return [(score, verdict) for score, verdict in found.values() if verdict is not None]

    def counts(self, query: Query) -> dict[str, int]:
        """How many parts of each verdict, `undecided` of the doubtful and rejected, and all as `inspected`."""
        with self.record.reading() as connection:
            where = sa.and_(query.where(), _of_model(connection, query.model))
            chosen = sa.select(records.c.verdict, sa.func.count()).where(where).group_by(records.c.verdict)
            found = {row[0]: row[1] for row in connection.execute(chosen)}
            left = _passed_by(records.c.verdict).in_(("doubt", "reject"))  # all of them ever are more than the period's
            open_ = sa.select(sa.func.count()).select_from(records).where(where, left, ~DECIDED)
            undecided = connection.execute(open_).scalar() or 0
        each = {verdict: found.get(verdict, 0) for verdict in VERDICTS}
        return {"inspected": sum(each.values()), **each, "undecided": undecided}

    def count(self, query: Query) -> int:
        """How many parts."""
        with self.record.reading() as connection:
            where = sa.and_(query.where(), _of_model(connection, query.model))
            return connection.execute(sa.select(sa.func.count()).select_from(records).where(where)).scalar() or 0

    def decided_rejects(self, query: Query) -> dict[str | None, int]:
        """How many rejected parts have each last decision, None those without one."""
        with self.record.reading() as connection:
            rejected = _passed_by(records.c.verdict) == "reject"
            where = sa.and_(query.where(), rejected, _of_model(connection, query.model))
            said = sa.select(LAST_DECISION.label("said")).select_from(records).where(where).subquery()
            chosen = sa.select(said.c.said, sa.func.count()).group_by(said.c.said)
            return {row[0]: row[1] for row in connection.execute(chosen)}

    def unanswered(self, query: Query, most: int) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """How many images were answered as `late` and `refused`, and the last `most` of them, newest first.

        Of the query only times, lot and camera count: an image without a verdict has nothing else.
        """
        where = [records.c.kind.in_(UNANSWERED), *query._times(records.c.time)]
        for name, value in (("lot", query.lot), ("camera", query.camera)):
            if value is not None:
                where.append(records.c[name] == value)
        with self.record.reading() as connection:
            counted = sa.select(records.c.kind, sa.func.count()).where(*where).group_by(records.c.kind)
            counts = dict.fromkeys(UNANSWERED, 0) | {row[0]: row[1] for row in connection.execute(counted)}
            chosen = sa.select(records).where(*where).order_by(records.c.seq.desc()).limit(most)
            rows = [dict(row) for row in connection.execute(chosen).mappings()] if most else []
        return counts, [unanswered_of(row) for row in rows]

    def decided(self, query: Query) -> dict[tuple[str, str], int]:
        """How many parts have each (verdict, last decision); those without a decision are left out."""
        said = sa.select(_decisions.c.part).where(_decisions.c.kind == "decision")
        with self.record.reading() as connection:
            model = _of_model(connection, query.model)
            where = sa.and_(_bounded(connection, query).where_by_seq(), model, records.c.part.in_(said))
            each = sa.select(records.c.verdict, LAST_DECISION.label("said")).select_from(records).where(where)
            found = each.subquery()
            chosen = sa.select(found.c.verdict, found.c.said, sa.func.count()).group_by(found.c.verdict, found.c.said)
            return {(row[0], row[1]): row[2] for row in connection.execute(chosen) if row[1] is not None}

    def checked_passes(self, query: Query, models: Sequence[str]) -> int:
        """How many parts that one of `models` (refs) passed were decided by somebody, either way."""
        said = sa.select(_decisions.c.part).where(_decisions.c.kind == "decision")
        passed = _passed_by(records.c.verdict) == "pass"
        with self.record.reading() as connection:
            where = sa.and_(_bounded(connection, query).where_by_seq(), passed, records.c.part.in_(said), DECIDED)
            chosen = sa.select(sa.func.count()).select_from(records).where(where)
            return connection.execute(chosen.where(_passed_by(records.c.model).in_(models))).scalar() or 0

    def last_time(self) -> str | None:
        """When the last part was recorded."""
        with self.record.reading() as connection:
            chosen = sa.select(records.c.time).where(records.c.kind == "verdict")
            found = connection.execute(chosen.order_by(records.c.seq.desc()).limit(1)).scalar()
            return None if found is None else str(found)

    def by_key(self, once: str) -> Row | None:
        """The row that was recorded under a sender's key: of a part, or of a batch's claim (repeats.py)."""
        with self.record.reading() as connection:
            row = connection.execute(sa.select(records).where(records.c.once == once)).mappings().one_or_none()
        return None if row is None else dict(row)

    def ranks(self, idents: Sequence[str]) -> dict[str, int]:
        """For the thinning of pictures (files.py): 0 for a part that passed or is a test, 1 for the others."""
        found: dict[str, int] = {}
        for start in range(0, len(idents), AT_ONCE):
            some = idents[start : start + AT_ONCE]
            chosen = sa.select(records.c.part, records.c.kind, records.c.verdict, FINAL.label("final")).where(
                records.c.kind.in_(("verdict", TEST)), records.c.part.in_(some)
            )
            with self.record.reading() as connection:
                for row in connection.execute(chosen):
                    good = row.kind == TEST or (row.verdict == "pass" and row.final == "pass")
                    found[row.part] = 0 if good else 1
        return found

    def seqs(self, idents: Sequence[str]) -> dict[str, int]:
        """The places of parts in the record."""
        found: dict[str, int] = {}
        for start in range(0, len(idents), AT_ONCE):
            some = idents[start : start + AT_ONCE]
            chosen = sa.select(records.c.part, records.c.seq).where(records.c.kind.in_(("verdict", TEST)))
            with self.record.reading() as connection:
                found |= {row.part: row.seq for row in connection.execute(chosen.where(records.c.part.in_(some)))}
        return found

    def _said(self, idents: Iterable[str]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[dict[str, str]]]]:
        """The decisions on parts, and in what these are unlike the good photos, by id."""
        kinds = ("decision", "unlike")
        chosen = sa.select(records).where(records.c.kind.in_(kinds), records.c.part.in_(list(idents)))
        found: dict[str, list[dict[str, Any]]] = {}
        unlike: dict[str, list[dict[str, str]]] = {}
        with self.record.reading() as connection:
            rows = connection.execute(chosen).mappings().all()
            for row in sorted(rows, key=lambda row: int(row["seq"])):  # few: a database would build a tree for it
                if row["kind"] == "decision":
                    found.setdefault(str(row["part"]), []).append(decision_of(dict(row)))
                else:
                    unlike[str(row["part"])] = unlike_of(dict(row))
        return found, unlike

    def _part(
        self, row: Row, decisions: list[dict[str, Any]], unlike: list[dict[str, str]] | None = None
    ) -> dict[str, Any]:
        body, ident = json.loads(row["body"]), row["part"]
        last = decisions[-1] if decisions and decisions[-1]["verdict"] is not None else None
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
            "good_parts": body.get("good_parts"),  # a record of before does not know
            "doubt": body["doubt"],
            "model": body["model"],
            "regions": body["regions"],
            "smallest": body.get("smallest"),
            "unlike": unlike or [],
            "remarks": body.get("remarks", []),
            "image": body["image"] | {"sha256": row["image_sha256"]},
            "label": row["label"],
            "lot": row["lot"],
            "camera": row["camera"],
            "by": row["who"],
            "duration_ms": body["duration_ms"],
            "decision": last,
            "decisions": decisions,
            "final": row["verdict"] if last is None else last["verdict"],
            "links": {
                "self": here,
                **{name: f"{here}/{name}" for name in ("original", "photo", "map", "overlay", "heat", "thumbnail")},
            },
            "test": row["kind"] == TEST,
            "withheld": body.get("withheld", False),
            "kept": self.pictures.keeps(ident, body["image"]["kind"].upper()),
            "hash": row["hash"],
        }


def unanswered_of(row: Row) -> dict[str, Any]:
    """A row of kind `late` or `refused` as the API tells it."""
    return {
        "kind": row["kind"],
        "seq": row["seq"],
        "time": row["time"],
        "label": row["label"],
        "lot": row["lot"],
        "camera": row["camera"],
        "by": row["who"],
        "model": row["model"],
        "image_sha256": row["image_sha256"],
        **json.loads(row["body"]),
        "hash": row["hash"],
    }


def unlike_of(row: Row) -> list[dict[str, str]]:
    """A row of kind `unlike` as the API tells it."""
    found: list[dict[str, str]] = json.loads(row["body"])["unlike"]
    return found


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
    try:
        return stamp(time)
    except OverflowError as problem:
        raise StationError(f"{text[:40]!r} is out of range; expected a time as 2026-11-26T06:00:00Z", 400) from problem


def _passed_by(column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    """The column, but not its index: where one of another order serves better, and a database would guess wrong."""
    return column.concat("")


def _bounded(connection: Connection, query: Query) -> Query:
    """The query with the first and the last seq of its period. A clock may be set back: seq and time are two orders."""
    if query.between is not None or (query.since is None and query.until is None):
        return query
    chosen = sa.select(sa.func.min(records.c.seq), sa.func.max(records.c.seq)).where(records.c.kind == query.kind)
    times = Query(since=query.since, until=query.until, test=query.test).where()
    first, last = connection.execute(chosen.where(times)).one()
    return replace(query, between=(first or 0, last or 0))


def _of_model(connection: Connection, model: str | None) -> sa.ColumnElement[bool]:
    """The condition that a version, by its ref, inspected, or any of a name."""
    if model is None:
        return sa.true()
    refs = [ref for ref in _versions(connection) if model in (ref, ref.rpartition("@")[0])]
    return _passed_by(records.c.model).in_(refs) if refs else sa.false()


def _versions(connection: Connection) -> list[str]:
    """The refs of all versions that inspected parts. A look for each version there is, whatever the parts."""
    found: list[str] = []
    chosen = sa.select(records.c.model).where(records.c.kind == "verdict").order_by(records.c.model).limit(1)
    last: str | None = ""
    while (last := connection.execute(chosen.where(records.c.model > last)).scalar()) is not None:
        found.append(last)
    return found

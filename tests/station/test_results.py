"""What is found in the record, against a plain look at every row; on both databases."""

from __future__ import annotations

import collections
import datetime
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flawmap.station.files import Pictures
from flawmap.station.record import COLUMNS, FORMER, START, Record, hash_of, head, records, stamp
from flawmap.station.results import Query, Results

COUNT = 300
LABELS = ("0", "L-1", "L-1_2", "3", "L-12", "l-10", "Ö%5")
BEGAN = datetime.datetime(2026, 11, 26, 6, tzinfo=datetime.UTC)
BODY = '{"defective": true, "p_value": null, "doubt": 0.0, "model": {}, "regions": [], "image": {"kind": "png"}, '


def at(second: float) -> str:
    return stamp(BEGAN + datetime.timedelta(seconds=second))


def made() -> list[dict[str, Any]]:
    """Rows of a record: parts, some decided once or twice or taken back; the clock was set back in between."""
    rng, rows, parts = random.Random(0), [], []
    for number in range(COUNT):
        second = number - 40 if 100 <= number < 120 else number
        score = rng.choice([rng.random(), 0.25, 0.5])
        verdict = rng.choices(["pass", "reject", "doubt"], [8, 1, 1])[0]
        parts.append(f"{rng.getrandbits(128):032x}")
        rows.append(
            {
                "kind": "verdict", "part": parts[-1], "verdict": verdict, "score": score, "time": at(second),
                "model": rng.choice(["part@1", "part@2", "Part@1", "part 2@1", "p%@1"]), "lot": f"L{number // 50}",
                "camera": f"cam-{number % 3}", "label": LABELS[number % 7], "body": BODY + '"duration_ms": 1.0}',
            }
        )  # fmt: skip
        if rng.random() < 0.3:
            rows.append(
                {
                    "kind": "decision", "part": rng.choice(parts), "verdict": rng.choice(["pass", "reject", None]),
                    "time": at(second), "body": '{"decision": "confirm", "note": ""}',
                }
            )  # fmt: skip
    previous = START
    for seq, row in enumerate(rows, 1):
        row |= {name: None for name in COLUMNS if name not in row} | {"seq": seq, "previous": previous}
        row["hash"] = previous = hash_of(row)
    return rows


@pytest.fixture
def results(database: str, tmp_path: Path) -> Iterator[Results]:
    record, rows = Record(database), made()
    with record.writing() as connection:
        connection.execute(records.insert(), rows)
        connection.execute(head.update().values(seq=len(rows), hash=rows[-1]["hash"]))
    yield Results(record, Pictures(tmp_path / "pictures"))
    record.close()


QUERIES = [
    {}, {"verdicts": ("reject", "doubt")}, {"verdicts": ("reject", "doubt"), "decided": False}, {"decided": True},
    {"final": "pass"}, {"final": "reject"}, {"final": "doubt"}, {"since": at(80)}, {"until": at(80)},
    {"since": at(60), "until": at(110)}, {"since": at(9000)}, {"lot": "L2"}, {"lot": "L2", "verdicts": ("pass",)},
    {"camera": "cam-1"}, {"label": "3"}, {"begins": "L-1"}, {"begins": "l-1"}, {"begins": "L-1_"}, {"begins": "Ö%"},
    {"begins": "ö"}, {"begins": "L-1ö"}, {"contains": "-1"}, {"contains": "L-1"}, {"contains": "_2"},
    {"contains": "ö%"}, {"contains": "%5"}, {"contains": "none"}, {"contains": "1", "begins": "l"}, {"label": "l-1"},
    {"begins": "L-1", "verdicts": ("pass",), "lot": "L2"}, {"between": (30, 60)}, {"model": "part"},
    {"model": "part@2"}, {"model": "p%"}, {"model": "none"},
    {"model": "Part"}, {"min_score": 0.5}, {"max_score": 0.25}, {"since": at(60), "verdicts": ("reject",)},
    {"since": at(60), "lot": "L2", "final": "reject", "model": "part"},
]  # fmt: skip


def plain(query: Query) -> list[dict[str, Any]]:
    """The rows that a query means, by the book."""
    rows = made()
    last: dict[str, str] = {}  # a decision without a verdict takes back the one before it
    for row in rows:
        if row["kind"] == "decision":
            last.pop(row["part"], None)
            last |= {row["part"]: row["verdict"]} if row["verdict"] is not None else {}
    return [
        row | {"final": last.get(row["part"], row["verdict"]), "said": last.get(row["part"])}
        for row in rows
        if row["kind"] == "verdict"
        and (not query.verdicts or row["verdict"] in query.verdicts)
        and query.final in (None, last.get(row["part"], row["verdict"]))
        and query.decided in (None, row["part"] in last)
        and (query.since is None or row["time"] >= query.since)
        and (query.until is None or row["time"] < query.until)
        and query.model in (None, row["model"], row["model"].rpartition("@")[0])
        and row["label"].lower().startswith((query.begins or "").lower())
        and (query.contains or "").lower() in row["label"].lower()
        and (query.between is None or query.between[0] <= row["seq"] <= query.between[1])
        and all(getattr(query, name) in (None, row[name]) for name in ("lot", "camera", "label"))
        and (query.min_score is None or row["score"] >= query.min_score)
        and (query.max_score is None or row["score"] <= query.max_score)
    ]


@pytest.mark.parametrize("asked", QUERIES, ids=str)
def test_pages_and_counts_are_those_of_a_plain_look(results: Results, asked: dict[str, Any]) -> None:
    query = Query(**asked)
    rows = plain(query)
    for newest in (True, False):
        found: list[dict[str, Any]] = []
        after: int | None = None
        while True:
            parts, after = results.page(query, newest, 7, after)
            found += parts
            if after is None:
                break
        assert [part["seq"] for part in found] == [row["seq"] for row in (rows[::-1] if newest else rows)]
    assert [part["final"] for part in results.every(query)] == [row["final"] for row in rows]
    open_ = [row for row in rows if row["verdict"] != "pass" and row["said"] is None]
    counts = results.counts(query)
    assert results.count(query) == len(rows)
    assert (counts["inspected"], counts["undecided"]) == (len(rows), len(open_))
    for verdict in ("pass", "reject", "doubt"):
        assert counts[verdict] == sum(row["verdict"] == verdict for row in rows)
    said = collections.Counter((row["verdict"], row["said"]) for row in rows if row["said"] is not None)
    assert results.decided(query) == said


def test_scores_and_the_nearest_are_those_of_a_plain_look(results: Results) -> None:
    for query in (Query(), Query(since=at(60), until=at(200))):
        rows = [row for row in plain(query) if row["model"] in ("part@1", "part@2")]
        refs = ["part@1", "part@2"]
        assert sorted(results.scores(query, refs)) == sorted(row["score"] for row in rows)
        decided = sorted((row["score"], row["said"]) for row in rows if row["said"] is not None)
        assert sorted(results.decided_scores(query, refs)) == decided
        passed = [row for row in rows if row["verdict"] == "pass" and row["said"] is not None]
        assert results.checked_passes(query, refs) == len(passed) > 0
        assert results.checked_passes(query, ["none@1"]) == 0
        for score in (0.0, 0.25, 0.5, 1.0):
            share = sum(row["score"] > score for row in rows) / len(rows)
            assert results.share_above(query, refs, score) == pytest.approx(share)
    assert results.share_above(Query(), ["none@1"], 0.5) is None
    scores = sorted(row["score"] for row in plain(Query(model="part")))
    for line in (0.0, 0.3, 0.5, 1.0):
        above = [score for score in scores if score > line][:9]
        below = [score for score in scores if score <= line][::-1][:9]
        assert [part["score"] for part in results.nearest("part", line, 9, True)] == above
        assert [part["score"] for part in results.nearest("part", line, 9, False)] == below


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"since": at(9)},
        {"until": at(9)},
        {"lot": "L2"},
        {"label": "3"},
        {"label": "L-1"},
        {"verdicts": ("reject",)},
        {"between": (7, 7)},
    ],
    ids=str,
)
def test_a_page_of_a_large_record_is_read_off_an_index_in_order(results: Results, asked: dict[str, Any]) -> None:
    """No table is walked, and nothing is sorted but one page, and parts of the very same score."""
    plans: list[str] = []

    def explain(connection: Any, _: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.startswith("SELECT"):
            steps = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            text = "; ".join(step[3] for step in steps)
            if "records.seq IN" not in statement:  # the rows of one page, found before
                plans.append(text)

    sa.event.listen(results.record.engine, "before_cursor_execute", explain)
    results.page(Query(**asked), True, 7)
    results.nearest("part", 0.5, 7, True)
    sa.event.remove(results.record.engine, "before_cursor_execute", explain)
    assert plans
    for plan in plans:
        assert "SCAN records" not in plan, plans
        assert "TEMP B-TREE" not in plan.replace("TEMP B-TREE FOR RIGHT PART", ""), plans


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "asked", [{"begins": "l-1"}, {"contains": "-1"}, {"begins": "L-1ö"}, {"contains": "1ö"}], ids=str
)
def test_serial_numbers_are_looked_for_in_their_index(results: Results, asked: dict[str, Any]) -> None:
    query, statements = Query(**asked), []

    def note(connection: Any, _: Any, statement: str, parameters: Any, *__: Any) -> None:
        if statement.startswith("SELECT"):
            steps = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
            statements.append("; ".join(step[3] for step in steps))

    sa.event.listen(results.record.engine, "before_cursor_execute", note)
    results.page(query, True, 7)
    results.count(query)
    sa.event.remove(results.record.engine, "before_cursor_execute", note)
    for plan in (statements[0], statements[-1]):
        assert "INDEX records_by_serial (kind=? AND <expr>>? AND <expr><?)" in plan, statements


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_shift_is_counted_without_a_look_at_its_rows(results: Results) -> None:
    query = Query(since=at(9))
    with results.record.reading() as connection:
        chosen = sa.select(records.c.verdict, sa.func.count()).where(query.where()).group_by(records.c.verdict)
        text = str(chosen.compile(connection, compile_kwargs={"literal_binds": True}))
        (step, *_) = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").fetchall()
    assert "COVERING INDEX records_by_time" in step[3], step


def test_a_record_of_before_gets_the_indexes_of_now(results: Results, database: str) -> None:
    with results.record.writing() as connection:
        for index in list(records.indexes):
            index.drop(connection)
        connection.execute(sa.text(f"CREATE INDEX {FORMER[0]} ON records (kind, time)"))
    again = Record(database)
    with again.reading() as connection:
        lite = connection.dialect.name == "sqlite"
        table = "name FROM sqlite_master WHERE type = 'index'" if lite else "indexname FROM pg_indexes"
        names = set(connection.execute(sa.text(f"SELECT {table}")).scalars())
    again.close()
    assert names >= {index.name for index in records.indexes} and not names & set(FORMER)

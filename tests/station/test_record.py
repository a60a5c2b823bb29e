from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flawmap.errors import StationError
from flawmap.station.audit import audit
from flawmap.station.record import START, Entry, Record, hash_of, head, records


@pytest.fixture
def record(database: str) -> Iterator[Record]:
    opened = Record(database)
    yield opened
    opened.close()


def verdict(number: int, **more: Any) -> Entry:
    return Entry("verdict", {"number": number, "ü": "ß"}, part=f"{number:032x}", score=number / 7, **more)


def rows_of(record: Record) -> list[dict[str, Any]]:
    with record.reading() as connection:
        return [dict(row) for row in connection.execute(sa.select(records).order_by(records.c.seq)).mappings()]


def test_a_row_read_back_has_the_hash_it_was_written_with(record: Record) -> None:
    written = record.append([verdict(1, threshold=0.1 + 0.2), verdict(2, lot="Los ü")])
    assert rows_of(record) == written
    assert [hash_of(row) for row in rows_of(record)] == [row["hash"] for row in written]
    assert written[0]["previous"] == START and written[1]["previous"] == written[0]["hash"]


def test_rows_appended_by_many_threads_and_two_records_are_one_chain(record: Record, database: str) -> None:
    other = Record(database)
    futures = []

    def append(to: Record, start: int) -> None:
        futures.extend(to.submit(verdict(start + number)) for number in range(20))

    threads = [
        threading.Thread(target=append, args=(to, 100 * number)) for number, to in enumerate([record, other] * 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(future.result(60)["seq"] for future in futures) == list(range(1, 121))
    other.close()
    found = audit(record)
    assert (found.whole, found.records, found.faults) == (True, 120, [])


def test_what_was_submitted_before_closing_is_written(database: str) -> None:
    opened = Record(database)
    futures = [opened.submit(verdict(number)) for number in range(200)]
    opened.close()
    assert [future.result(0)["seq"] for future in futures] == list(range(1, 201))


def test_a_key_is_recorded_once(record: Record) -> None:
    first = record.append([verdict(1, once="a"), verdict(2, once="a"), verdict(3, once="b")])
    again = record.append([verdict(4, once="a")])
    assert [row["seq"] for row in (*first, *again)] == [1, 1, 2, 1]
    assert audit(record).whole


def change(record: Record, statement: sa.Executable) -> None:
    with record.engine.connect() as connection:
        connection.execute(statement)
        connection.commit()


def rehashed(record: Record, seq: int, **columns: Any) -> sa.Executable:
    row = rows_of(record)[seq - 1] | columns
    row["hash"] = hash_of(row)
    return records.update().where(records.c.seq == seq).values(**row)


def inserted(record: Record, seq: int, like: int) -> sa.Executable:
    row = rows_of(record)[like - 1] | {"seq": seq}
    row["hash"] = hash_of(row)
    return records.insert().values(**row)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda r: records.update().where(records.c.seq == 5).values(score=0.1), "record 5 was edited"),
        (lambda r: records.update().where(records.c.seq == 5).values(verdict="pass"), "record 5 was edited"),
        (lambda r: records.update().where(records.c.seq == 10).values(body="{}"), "record 10 was edited"),
        (lambda r: rehashed(r, 5, score=0.1), "record 6 does not follow"),
        (lambda r: rehashed(r, 10, score=0.1), "the last record"),
        (lambda r: records.delete().where(records.c.seq == 5), "record 5 is missing"),
        (lambda r: records.delete().where(records.c.seq == 1), "record 1 is missing"),
        (lambda r: records.delete().where(records.c.seq == 10), "the last record should be 10"),
        (lambda r: records.delete().where(records.c.seq > 7), "the last record should be 10"),
        (lambda r: inserted(r, 11, 10), "record 11 does not follow"),
        (lambda r: inserted(r, 0, 1), "record 0 was inserted"),
        (lambda r: head.delete(), "the note of the last record is missing"),
    ],
    ids=[
        "score", "verdict", "body of the last", "score and hash", "score and hash of the last", "one removed",
        "the first removed", "the last removed", "the end removed", "one after the end", "one before", "no head",
    ],
)  # fmt: skip
def test_one_row_edited_removed_or_inserted_is_found(
    record: Record, tamper: Callable[[Record], sa.Executable], words: str
) -> None:
    record.append([verdict(number) for number in range(1, 11)])
    assert audit(record).whole
    change(record, tamper(record))
    found = audit(record)
    assert not found.whole
    assert any(words in fault for fault in found.faults), found.faults


def test_a_whole_new_chain_does_not_hold_a_hash_noted_before(record: Record, tmp_path: Path) -> None:
    record.append([verdict(number) for number in range(1, 4)])
    noted = audit(record).head
    record.append([verdict(4)])
    assert audit(record, noted).whole
    other = Record(f"sqlite:///{tmp_path / 'other.sqlite'}")
    other.append([verdict(number) for number in range(1, 5)])
    assert audit(other).whole
    found = audit(other, noted)
    assert found.linked and not found.whole
    assert found.faults == [
        f"the hash {noted} is not in this record: rows were cut off its end, it was made anew, "
        "or the hash is of another record"
    ]
    other.close()


def test_a_long_chain_is_walked_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flawmap.station.audit.AT_ONCE", 10)
    opened = Record(f"sqlite:///{tmp_path / 'record.sqlite'}")
    for count in (9, 1, 1):
        opened.append([verdict(number) for number in range(count)])
        assert audit(opened).whole
    opened.close()


@pytest.mark.parametrize(
    "url", ["nonsense", "oracle://x/y", "sqlite:////proc/none/record.sqlite", "postgresql://u:secret@127.0.0.1:1/x"]
)
def test_a_database_that_cannot_be_used_is_refused_in_one_line_without_its_password(url: str) -> None:
    with pytest.raises(StationError) as raised:
        Record(url)
    assert "\n" not in str(raised.value) and "secret" not in str(raised.value)


def test_sqlite_writes_ahead_and_waits_for_the_disk(tmp_path: Path) -> None:
    opened = Record(f"sqlite:///{tmp_path / 'record.sqlite'}")
    with opened.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
    opened.close()


def test_a_record_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'record.sqlite'}"
    opened = Record(url)
    change(opened, head.update().values(format=99))
    opened.close()
    with pytest.raises(StationError, match="update flawmap"):
        Record(url)


def test_an_entry_whose_request_was_cut_off_stops_no_others(record: Record) -> None:
    with record.writing():  # while somebody else writes, entries wait
        first = record.submit(verdict(1))
        cut, last = record.submit(verdict(2)), record.submit(verdict(3))
        cut.cancel()
    assert [future.result(30)["seq"] for future in (first, last)] == [1, 2]
    assert record.submit(verdict(4)).result(30)["seq"] == 3
    assert audit(record).whole


def test_an_entry_that_cannot_be_written_takes_no_others_with_it(record: Record) -> None:
    with record.writing():
        futures = [record.submit(verdict(number)) for number in (1, 2)]
        broken = record.submit(Entry("verdict", {}, score=float("nan")))
        futures.append(record.submit(verdict(3)))
    assert sorted(future.result(30)["seq"] for future in futures) == [1, 2, 3]
    with pytest.raises(ValueError, match="Out of range"):
        broken.result(30)
    assert audit(record).whole

"""A clock that leaps costs no pictures, and record and pictures are for the station's user alone."""

from __future__ import annotations

import os
import stat
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flawmap.station.backup import backup, restore
from flawmap.station.files import DAY, Pictures, new_id, thin
from flawmap.station.record import COLUMNS, Record, head, records, stamp, url_of
from flawmap.station.results import Results
from flawmap.station.retention import Clock
from flawmap.station.settings import KeepSettings, StationSettings
from flawmap.station.station import Station

START = 1_800_000_000.0


class Line:
    """A record with pictures in a folder of its own, and a clock that the test sets."""

    def __init__(self, data: Path) -> None:
        self.data, self.at, self.steady = data, START, 0.0
        self.record, self.pictures = Record(url_of(data, None)), Pictures(data / "pictures")
        self.results, self.clock = Results(self.record, self.pictures), Clock(self.record, data)
        self.seq = 0

    def part(self) -> str:
        """A good part, recorded and pictured now."""
        import datetime

        self.seq += 1
        ident, time_ = new_id(), stamp(datetime.datetime.fromtimestamp(self.at, datetime.UTC))
        row = dict.fromkeys(COLUMNS) | {
            "seq": self.seq, "kind": "verdict", "time": time_, "part": ident, "verdict": "pass", "score": 0.0,
            "model": "part@1", "body": "{}", "previous": "", "hash": str(self.seq),
        }  # fmt: skip
        with self.record.writing() as connection:
            connection.execute(records.insert(), [row])
            connection.execute(head.update().values(seq=self.seq))
        self.pictures.write_original(ident, b"x" * 100, "PNG")
        os.utime(self.pictures.original(ident) or "", (self.at, self.at))
        return ident

    def days(self, count: float) -> None:
        """Time that passes, looked at every day."""
        while count > 0:
            step = min(count, 1.0)
            self.at, self.steady, count = self.at + step * DAY, self.steady + step * DAY, count - step
            self.look()

    def again(self) -> None:
        """The station stops and starts."""
        self.clock, self.steady = Clock(self.record, self.data), 5.0

    def look(self, **keep: Any) -> set[str]:
        """What a look at the pictures removes."""
        leaps = self.clock.look(self.at, self.steady)
        settings = KeepSettings(**keep)
        return set(thin(self.pictures, settings, self.results.ranks, self.at, leaps, self.results.seqs))


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.record.close()


def test_a_clock_40_days_ahead_removes_nothing_and_set_right_again_neither(line: Line) -> None:
    old = line.part()
    line.days(29.5)
    new = line.part()
    line.at += 40 * DAY
    assert line.look() == set()
    within = line.part()
    line.at -= 40 * DAY
    assert line.look() == set()
    line.days(0.6)
    assert {one.ident for one in line.pictures.kept()} == {new, within}, "the first is 30 days old by now"
    assert old not in {one.ident for one in line.pictures.kept()}
    line.days(30)
    assert list(line.pictures.kept()) == []


@pytest.mark.parametrize("known", [True, False], ids=["looked before", "never looked"])
def test_a_station_started_with_a_clock_40_days_ahead_removes_nothing(line: Line, known: bool) -> None:
    line.part()
    if known:
        line.look()
    line.again()
    line.at += 40 * DAY
    assert line.look() == set()
    line.part()
    assert line.look() == set()
    line.days(28.5)
    assert len(list(line.pictures.kept())) == 2, "a day counts of the time that it was off"
    line.days(1)
    assert len(list(line.pictures.kept())) == 1


def test_a_leap_between_two_parts_is_known_from_the_record(line: Line) -> None:
    line.part()
    line.at += 40 * DAY
    line.part()
    assert line.look() == set(), "the first look there ever was"


def test_what_is_in_the_way_goes_in_the_records_order_whatever_the_clock_said(line: Line) -> None:
    line.at += 40 * DAY
    first = line.part()
    line.at -= 40 * DAY
    second = line.part()
    assert line.look(gigabytes=150e-9) == {first}
    assert [one.ident for one in line.pictures.kept()] == [second]


def test_pictures_on_their_way_to_the_record_are_left_where_the_clock_leaps(line: Line) -> None:
    line.part()
    line.look()
    writing = new_id()
    line.pictures.write_original(writing, b"x", "PNG")
    os.utime(line.pictures.original(writing) or "", (line.at, line.at))
    line.at += 40 * DAY
    assert line.look() == set()


def test_the_stations_own_look_goes_by_that_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    line = Line(tmp_path)
    line.at = time.time()
    line.part()
    line.record.close()
    station = Station(tmp_path / "models", tmp_path, None, StationSettings())
    ahead = time.time() + 40 * DAY
    monkeypatch.setattr(time, "time", lambda: ahead)
    assert station.thin() == 0
    station.close()


def mode(path: Path) -> str:
    return oct(stat.S_IMODE(path.stat().st_mode))[2:]


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    usual = os.umask(request.param)
    yield
    os.umask(usual)


@pytest.mark.usefixtures("umask")
def test_record_and_pictures_are_for_their_user_alone_whatever_folder_and_umask_are(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    (data / "pictures").mkdir()
    (data / "pictures").chmod(0o755)
    (data / "record.sqlite").touch()
    (data / "record.sqlite").chmod(0o644)  # of an earlier flawmap
    record, pictures, ident = Record(url_of(data, None)), Pictures(data / "pictures"), new_id()
    record.append([])
    pictures.write_original(ident, b"original", "PNG")
    with record.reading() as connection:
        connection.execute(sa.select(head)).one()
        for ending in ("", "-wal", "-shm"):
            assert mode(data / f"record.sqlite{ending}") == "600", ending
    assert mode(data / "pictures") == mode(data / "pictures" / ident[:2]) == "700"
    assert [mode(file) for file in (data / "pictures").rglob("*.png")] == ["600"]
    (data / "pictures" / ident[:2] / f"{ident}.png").chmod(0o644)
    out, again = tmp_path / "station.tar", tmp_path / "again"
    backup(record, data, out, None, False)
    record.close()
    assert mode(out) == "600"
    with tarfile.open(out) as tar:
        assert any(member.name.endswith(".png") for member in tar)
    restore(out, again, None, None)
    assert (mode(again), mode(again / "pictures"), mode(again / "record.sqlite")) == ("700", "700", "600")
    assert [mode(file) for file in (again / "pictures").rglob("*.png")] == ["600"]

from __future__ import annotations

import datetime
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from station_helpers import wait_until

from flawmap.errors import StationError
from flawmap.station.record import COLUMNS, records, stamp
from flawmap.station.results import recorded_time
from flawmap.station.settings import ShiftSettings, StationSettings
from flawmap.station.station import Station, shift_start, verdict_of


def test_a_database_that_is_away_is_a_line_in_the_log_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flawmap.station.station.TELL_S", 0.01)
    (tmp_path / "models").mkdir()
    station = Station(tmp_path / "models", tmp_path / "data", None, StationSettings())
    away, told = threading.Event(), threading.Event()
    counted = station.results.counts

    def counts(*given: Any) -> Any:
        if away.is_set():
            raise OperationalError("SELECT", {}, Exception("connection refused\nis it running?"))
        told.set()
        return counted(*given)

    monkeypatch.setattr(station.results, "counts", counts)
    away.set()
    looking = threading.Thread(target=station._look_after)
    looking.start()
    wait_until(lambda: caplog.records)
    away.clear()
    assert told.wait(60)
    station._stopping.set()
    looking.join()
    station.close()
    assert {record.getMessage() for record in caplog.records} == {"the record: connection refused"}
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    ("score", "doubt", "verdict"),
    [
        (0.5, 0.0, "pass"), (0.5001, 0.0, "reject"), (0.5, 0.1, "doubt"), (0.4, 0.125, "doubt"),
        (0.625, 0.125, "doubt"), (0.37, 0.125, "pass"), (0.63, 0.125, "reject"), (0.0, 1.0, "doubt"),
    ],
)  # fmt: skip
def test_a_score_near_the_threshold_is_a_doubt_and_elsewhere_above_is_a_reject(
    score: float, doubt: float, verdict: str
) -> None:
    assert verdict_of(score, 0.5, doubt) == verdict


@pytest.mark.parametrize(
    ("zone", "at", "start"),
    [
        ("UTC", "2026-11-26T06:00:00+00:00", "2026-11-26T06:00:00+00:00"),
        ("UTC", "2026-11-26T05:59:59+00:00", "2026-11-25T22:00:00+00:00"),
        ("UTC", "2026-11-26T21:59:59+00:00", "2026-11-26T14:00:00+00:00"),
        ("Europe/Berlin", "2026-11-26T05:30:00+00:00", "2026-11-26T05:00:00+00:00"),
        ("Europe/Berlin", "2026-07-26T04:30:00+00:00", "2026-07-26T04:00:00+00:00"),
        ("Europe/Berlin", "2026-07-26T03:30:00+00:00", "2026-07-25T20:00:00+00:00"),
    ],
)
def test_a_shift_starts_at_the_last_of_its_times_on_the_clock_of_its_zone(zone: str, at: str, start: str) -> None:
    found = shift_start(ShiftSettings(zone=zone), datetime.datetime.fromisoformat(at))
    assert found == datetime.datetime.fromisoformat(start)


@pytest.mark.parametrize(
    ("at", "start"),
    [
        ("2026-10-25T00:20:00+00:00", "2026-10-25T00:15:00+00:00"),  # 02:20 in Berlin, for the first time
        ("2026-10-25T01:10:00+00:00", "2026-10-25T00:15:00+00:00"),  # 02:10, for the second time
        ("2026-10-25T04:10:00+00:00", "2026-10-25T00:15:00+00:00"),
        ("2026-03-29T00:59:00+00:00", "2026-03-28T13:00:00+00:00"),
        ("2026-03-29T01:20:00+00:00", "2026-03-29T01:15:00+00:00"),  # 02:15 is 03:15, as the clock is set forward
    ],
)
def test_a_shift_starts_once_when_the_clock_is_changed(at: str, start: str) -> None:
    settings = ShiftSettings(zone="Europe/Berlin", starts=("02:15", "14:00"))
    found = shift_start(settings, datetime.datetime.fromisoformat(at))
    assert found.astimezone(datetime.UTC) == datetime.datetime.fromisoformat(start)


def test_parts_per_hour_are_those_of_the_last_60_minutes(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    station = Station(tmp_path / "models", tmp_path / "data", None, StationSettings())
    here = datetime.datetime.now(datetime.UTC)
    rows = [
        dict.fromkeys(COLUMNS) | {
            "seq": seq, "kind": "verdict", "part": str(seq), "verdict": "pass", "score": 0.0, "model": "part@1",
            "time": stamp(here - datetime.timedelta(minutes=minutes)), "body": "{}", "previous": "", "hash": str(seq),
        }
        for seq, minutes in enumerate((200, 90, 61, 59, 30, 1), 1)
    ]  # fmt: skip
    with station.record.writing() as connection:
        connection.execute(records.insert(), rows)
    assert station.state()["counts"]["per_hour"] == 3
    station.close()


@pytest.mark.parametrize(
    ("text", "recorded"),
    [
        ("2026-11-26T06:00:00Z", "2026-11-26T06:00:00.000000Z"),
        ("2026-11-26T07:00+01:00", "2026-11-26T06:00:00.000000Z"),
        ("2026-11-26T07:00 01:00", "2026-11-26T06:00:00.000000Z"),  # a plus that was not encoded
        ("", None),
        (None, None),
    ],
)
def test_a_time_of_a_query_becomes_the_recorded_form(text: str | None, recorded: str | None) -> None:
    assert recorded_time(text) == recorded


@pytest.mark.parametrize(
    "text", ["yesterday", "2026-11-26", "2026-11-26T06:00", "2026-13-01T00:00Z", "0001-01-01T00:00+14:00"]
)
def test_a_time_that_is_none_or_has_no_zone_is_refused(text: str) -> None:
    with pytest.raises(StationError) as raised:
        recorded_time(text)
    assert raised.value.status == 400


def test_no_camera_is_silent_before_a_part_has_come_or_the_station_has_run_so_long(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    station = Station(tmp_path / "models", tmp_path / "data", None, StationSettings())
    here, limit = datetime.datetime.now(datetime.UTC), StationSettings().shift.silent_s

    def silent(last: float | None, started: float) -> bool:
        station.last_part = None if last is None else stamp(here - datetime.timedelta(seconds=last))
        station.started = stamp(here - datetime.timedelta(seconds=started))
        return bool(station.state()["silent"])

    assert not silent(None, started=100 * limit)
    assert not silent(last=100 * limit, started=limit / 2)  # a station that starts on Monday
    assert silent(last=100 * limit, started=2 * limit)
    assert not silent(last=limit / 2, started=2 * limit)
    station.close()

"""Escape: a pass that somebody decided defective counts everywhere, and without a look at passes nothing is known."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from station_helpers import Server, png, wait_until

from flawmap.station.client import Client
from flawmap.station.escape import Escape, escape_of


def test_without_a_check_of_passes_escape_is_not_known() -> None:
    assert Escape(passed=100, caught=5).share is None
    assert Escape(passed=100, checked=30).share is None, "nothing is defective"
    assert Escape(passed=100, checked=30, caught=5).share == 0.0
    assert Escape(passed=100, checked=30, escaped=1, caught=3).share == 0.25
    found = escape_of(
        {"pass": 100, "reject": 10, "doubt": 4},
        {("pass", "reject"): 2, ("pass", "pass"): 5, ("reject", "pass"): 3, ("reject", "reject"): 1,
         ("doubt", "reject"): 1, ("doubt", "pass"): 1},
    )  # fmt: skip
    assert found == Escape(passed=100, checked=7, escaped=2, caught=8)


@pytest.fixture
def made(station: Server) -> Iterator[tuple[Client, dict[str, list[dict[str, Any]]]]]:
    """A station with some parts, by verdict."""
    with Client(station.url) as client:
        parts = [client.inspect(png(number), label=f"SN-{number}", lot="A") for number in (*range(4), *range(100, 106))]
        yield client, {word: [part for part in parts if part["verdict"] == word] for word in ("pass", "reject")}


def figures(client: Client) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    station, report = client.station(), client.report(lot="A")
    return station["escape"], report["escape"], report


def test_a_pass_decided_defective_counts_everywhere(made: Any, station: Server) -> None:
    client, parts = made
    passed, rejected = len(parts["pass"]), len(parts["reject"])
    assert passed > 2 and rejected > 1
    with httpx.Client(base_url=station.url, trust_env=False) as http:

        def at_the_line() -> dict[str, Any]:
            answer: dict[str, Any] = http.get("/api/threshold/at", params={"score": line}).json()
            return answer

        def metric(name: str) -> float:
            (value,) = re.findall(rf"^{name} (\S+)$", http.get("/metrics").text, re.M)
            return float(value)

        line = client.station()["model"]["threshold"]
        client.decide(parts["reject"][0]["id"], "reject")
        unknown = {"passed": passed, "checked": 0, "escaped": 0, "caught": rejected, "share": None}
        for found in figures(client)[:2]:
            assert found == unknown
        assert (at_the_line()["escape"], at_the_line()["escape_decided"]) == (None, 0.0)
        wait_until(lambda: metric("flawmap_shift_passed") == passed)
        assert math.isnan(metric("flawmap_shift_escape")) and metric("flawmap_shift_passes_checked") == 0

        decided = client.decide(parts["pass"][0]["id"], "reject", "found at assembly")
        assert (decided["verdict"], decided["final"]) == ("pass", "reject")
        assert decided["decision"]["decision"] == "overrule"
        client.decide(parts["pass"][1]["id"], "pass")
        known = unknown | {"checked": 2, "escaped": 1, "share": 1 / (rejected + 1)}
        shift, lot, report = figures(client)
        assert shift == lot == known
        assert decided["id"] in [part["id"] for part in report["parts"]]
        assert report["models"][0]["promise"]["escaped"] == 1
        wait_until(lambda: client.station()["promise"]["escaped"] == 1)
        assert at_the_line()["escape"] == at_the_line()["escape_decided"] == 0.5
        wait_until(lambda: metric("flawmap_shift_escaped") == 1)
        assert metric("flawmap_shift_escape") == pytest.approx(1 / (rejected + 1))
        assert metric("flawmap_shift_passes_checked") == 2

        client.decide(parts["pass"][0]["id"], None)
        assert figures(client)[0] == unknown | {"checked": 1, "share": 0.0}
        assert client._ask("GET", "/api/audit")["whole"]


def test_parts_are_found_by_number_beginning_time_lot_and_verdict_a_page_at_a_time(made: Any) -> None:
    client, parts = made
    every = [*parts["pass"], *parts["reject"]]

    def found(**query: Any) -> set[str]:
        return {part["label"] for part in client.parts(**query)}

    assert found(label="SN-10") == set()
    assert found(label="SN-100") == {"SN-100"}
    assert found(label_begins="SN-10") == {f"SN-{number}" for number in range(100, 106)}
    assert found(label_begins="sn-10") == found(label_contains="n-10") == found(label_begins="SN-10")
    assert found(label_contains="105") == {"SN-105"} and found(label_contains="%") == found(label_contains="_") == set()
    assert found(label="sn-105") == set() and found(label="SN-105") == {"SN-105"}, "all of it, to the letter"
    assert found(label_begins="%") == found(label_begins="SN_") == set()
    assert found(label_begins="SN-", verdict="pass", lot="A") == {part["label"] for part in parts["pass"]}
    assert found(label_begins="SN-", lot="B") == set()
    (one,) = client.parts(seq=every[0]["seq"])
    assert one["id"] == every[0]["id"]
    times = sorted(part["time"] for part in every)
    assert len(found(since=times[2], to=times[5])) == 3
    first = client._ask("GET", "/api/parts", params={"label_begins": "SN-", "limit": 4, "count": True})
    assert (len(first["parts"]), first["count"]) == (4, len(every))
    assert len(found(label_begins="SN-", limit=4)) == len(every)

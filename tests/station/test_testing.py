"""The test mode: parts are inspected and kept, count nowhere, and no verdict reaches the line unless that is said."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from page_helpers import expect, looked_at, open_view
from station_helpers import Server, picture, png, wait_until

from flawmap.data.images import encode_png
from flawmap.errors import StationError
from flawmap.station.client import Client
from flawmap.station.watch import Watch, by_server


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(models, tmp_path_factory.mktemp("testing") / "station")
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as opened:
        opened.test_mode(False)
        yield opened
        opened.test_mode(False)


def counted(client: Client) -> list[Any]:
    """Every figure that a test part must leave as it is."""
    report, line = client.report(), client._ask("GET", "/api/threshold")
    return [
        client.station()["counts"], client.station()["escape"], report["counts"], report["hours"], report["models"],
        line["counts"], line["parts"], len(list(client.parts())),
    ]  # fmt: skip


def test_test_parts_count_nowhere_and_their_senders_are_told_no_verdict(client: Client, server: Server) -> None:
    client.inspect(png(100), label="before", lot="T")
    before = counted(client)
    mode = client.test_mode(True, note="new lamp")
    assert (mode["on"], mode["verdicts"], mode["by"]) == (True, False, "local")
    part = client.inspect(png(7), label="trial", lot="T", key="once")
    assert part["test"] and part["withheld"] and part["score"] > 0
    assert [part[name] for name in ("verdict", "defective", "final")] == [None] * 3
    again = client.inspect(png(7), label="trial", lot="T", key="once")
    assert again | {"unlike": []} == part, "sent again, it is told no more"
    (one,) = client.inspect_batch([png(8)])
    assert one["test"] and one["verdict"] is None
    assert counted(client) == before
    tests = list(client.parts(test=True))
    assert [each["id"] for each in tests] == [one["id"], part["id"]]
    assert tests[1]["verdict"] == "reject" and not [each for each in client.parts() if each["test"]]
    assert client.picture(part["id"], "overlay")
    with pytest.raises(StationError, match="this part was a test and does not count"):
        client.decide(part["id"], "pass")
    assert client._ask("GET", "/api/audit")["whole"]
    text = httpx.get(f"{server.url}/metrics", trust_env=False).text
    assert "flawmap_test_parts_total 2.0" in text

    assert client.test_mode(True, verdicts=True)["verdicts"]
    told = client.inspect(png(7))
    assert told["test"] and not told["withheld"] and told["verdict"] == "reject"
    client.test_mode(False)
    asked = client.inspect(png(7), test=True)  # who says so of a part itself wants to know what comes of it
    assert asked["test"] and asked["verdict"] == "reject"
    assert counted(client) == before
    assert not client.inspect(png(100))["test"]
    assert counted(client)[0]["inspected"] == before[0]["inspected"] + 1


def test_tests_that_are_late_or_refused_count_nowhere_either(client: Client, server: Server) -> None:
    client.inspect(png(100), label="before", key="first")
    before = counted(client)
    client.test_mode(True)
    client.inspect(png(100), label="before", key="first")
    with pytest.raises(StationError, match="no verdict within"):
        client.inspect(png(7), deadline=1e-6)
    with pytest.raises(StationError, match="was used for another image"):
        client.inspect(png(7), label="before", key="first")
    with sqlite3.connect(server.data / "record.sqlite") as record:
        kinds = "SELECT DISTINCT kind FROM records WHERE kind LIKE '%late' OR kind LIKE '%refused'"
        wait_until(lambda: {kind for (kind,) in record.execute(kinds)} == {"test-late", "test-refused"})
    assert counted(client) == before
    assert client._ask("GET", "/api/audit")["whole"]


def test_a_key_used_in_a_test_is_free_for_the_part_that_counts(client: Client) -> None:
    """Serial numbers serve as keys: a trial with one must not take it from its part."""
    client.test_mode(True)
    trials = [client.inspect(png(7), label="SN-77", key="SN-77"), *client.inspect_batch([png(7), png(8)], key="tray 1")]
    client.test_mode(False)
    asked = client.inspect(png(9), label="SN-78", key="SN-78", test=True)
    before = counted(client)
    part = client.inspect(png(7), label="SN-77", key="SN-77")
    other = client.inspect(png(100), label="SN-78", key="SN-78")
    tray = client.inspect_batch([png(7), png(9)], key="tray 1")
    assert not any(each["test"] for each in (part, other, *tray))
    assert (part["verdict"], other["verdict"], len(tray)) == ("reject", "pass", 2)
    known = {each["id"] for each in (*trials, asked)}
    assert known.isdisjoint(each["id"] for each in (part, other, *tray))
    assert counted(client)[0]["inspected"] == before[0]["inspected"] + 4
    client.test_mode(True)
    again = client.inspect(png(7), label="SN-77", key="SN-77")
    assert again["id"] == trials[0]["id"], "sent again as a test it is the test"
    assert client._ask("GET", "/api/audit")["whole"]


def test_events_tell_tests_apart(client: Client) -> None:
    after = client.inspect(png(100))["seq"]
    client.test_mode(True)
    trial = client.inspect(png(7))
    client.test_mode(False)
    part = client.inspect(png(100))
    found = []
    for name, data in client.events(after):  # a program that waits for verdicts sees none of a test
        if name in ("verdict", "test"):
            found.append((name, data["id"]))
        if len(found) == 2:
            break
    assert found == [("test", trial["id"]), ("verdict", part["id"])]


def test_a_watch_sorts_tests_by_themselves(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    (folder / "7.png").write_bytes(png(7))
    client.test_mode(True)
    given: list[dict[str, Any]] = []

    class Sink:
        def give(self, result: dict[str, Any]) -> None:
            given.append(result)

        def close(self) -> None:
            pass

    watch = Watch(folder, by_server(client, None), [Sink()], out=folder, move=True, settle_s=0.05)
    assert watch.run(once=True) == 1 and watch.failed == 0
    watch.close()
    assert (folder / "test" / "7.png").is_file() and given[0]["verdict"] == "test"


def test_the_mode_takes_an_engineer_and_outlives_a_restart(
    guarded: tuple[Server, dict[str, str]],
) -> None:
    server, known = guarded
    with (
        Client(server.url, known["operator"]) as operator,
        pytest.raises(StationError, match="takes the role engineer"),
    ):
        operator.test_mode(True)
    with Client(server.url, known["engineer"]) as engineer:
        engineer.test_mode(True)
    server.stop()
    again = Server(server.models, server.data)
    try:
        with Client(again.url, known["camera"]) as camera:
            part = camera.inspect(png(7))
            assert part["verdict"] is None and camera.part(part["id"])["verdict"] is None
            assert camera.station()["test"]["on"]
        with Client(again.url, known["operator"]) as operator:
            assert operator.part(part["id"])["verdict"] == "reject"
        for wrong, status in (
            ({}, 400), ({"on": None}, 422), ({"on": 1}, 422), ({"on": True, "verdicts": 2}, 422),
            ({"on": True, "more": 1}, 400),
        ):  # fmt: skip
            answer = httpx.post(
                f"{again.url}/api/test", content=json.dumps(wrong), trust_env=False,
                headers={"Authorization": f"Bearer {known['engineer']}", "Content-Type": "application/json"},
            )  # fmt: skip
            assert answer.status_code == status, wrong
    finally:
        again.stop()


def test_the_page_says_so_in_a_banner(page: Any, client: Client, server: Server) -> None:
    client.inspect(png(100), label="before")
    open_view(page, server, "live")
    expect(page.locator(".facts h1")).to_contain_text("before")
    passed = page.locator(".counter b").first.inner_text()
    page.get_by_role("button", name="Test mode …").click()
    looked_at(page, "a question about the test mode")
    page.locator("dialog button[value=yes]").click()
    banner = page.locator(".notice.test")
    expect(banner).to_contain_text("Test mode: parts do not count")
    expect(banner).to_contain_text("The line is told no verdicts.")
    expect(page.get_by_role("button", name="Test mode …")).to_be_hidden()
    client.inspect(png(7), label="trial")
    expect(page.locator(".facts h1")).to_contain_text("trial")
    expect(page.locator(".verdict")).to_contain_text("TEST")
    expect(page.locator(".strip .thumb").first).to_have_attribute("aria-label", "Part trial: REJECT (TEST)")
    expect(page.get_by_role("button", name="Decide …")).to_have_count(0)
    expect(page.locator(".counter b").first).to_have_text(passed)
    looked_at(page, "the test mode")
    page.reload()
    expect(page.locator(".facts h1")).to_contain_text("trial")
    open_view(page, server, "parts")
    page.get_by_label("Verdict").select_option("test")
    expect(page.locator(".entry").first).to_contain_text("trial")
    banner.get_by_role("button", name="End the test mode").click()
    expect(banner).to_have_count(0)
    wait_until(lambda: not client.station()["test"]["on"])


def test_a_part_unlike_the_good_ones_is_told_so_after_its_verdict(page: Any, client: Client, server: Server) -> None:
    dark = encode_png((picture(100) // 8).astype(np.uint8))
    (usual, odd) = (client.inspect(png(100), label="usual"), client.inspect(dark, label="dark"))
    assert odd["unlike"] == []  # it is measured once it was answered
    wait_until(lambda: client.part(odd["id"])["unlike"])
    codes = [each["code"] for each in client.part(odd["id"])["unlike"]]
    assert 1 <= len(codes) <= 3 and "brightness-less" in codes
    assert client.part(usual["id"])["unlike"] == []
    assert client._ask("GET", "/api/audit")["whole"]
    told = next(data for name, data in client.events(odd["seq"] - 1) if name == "unlike")
    assert told["part"] == odd["id"] and [each["code"] for each in told["unlike"]] == codes
    open_view(page, server, "live")
    expect(page.locator(".facts .unlike")).to_contain_text("Unlike those trained on:")
    expect(page.locator(".facts .unlike")).to_contain_text("darker")
    client.inspect(png(100), label="next")
    expect(page.locator(".facts h1")).to_contain_text("next")
    expect(page.locator(".facts .unlike")).to_have_count(0)
    client.inspect(dark, label="again")  # told live
    expect(page.locator(".facts h1")).to_contain_text("again")
    expect(page.locator(".facts .unlike")).to_contain_text("darker")
    looked_at(page, "a part unlike the others")
    assert page.locator(".column").evaluate("box => box.scrollHeight <= box.clientHeight")
